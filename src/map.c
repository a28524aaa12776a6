#include "map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, 64 bits. Keys are host names out of scripts, not what an attacker may choose freely. */
static uint64_t hash_of(const char *key, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)key[i]) * 0x100000001b3u;
    return h;
}

void map_init(struct map *m)
{
    memset(m, 0, sizeof *m);
}

struct map_node *map_find(const struct map *m, const char *key, size_t key_len)
{
    if (m->size == 0)
        return NULL;
    uint64_t hash = hash_of(key, key_len);
    struct map_node *node = m->buckets[hash & (m->size - 1)];
    while (node && !(node->hash == hash && node->key_len == key_len &&
                     memcmp(node->key, key, key_len) == 0))
        node = node->next;
    return node;
}

static int grow(struct map *m)
{
    size_t size = m->size ? m->size * 2 : 16;
    struct map_node **buckets = calloc(size, sizeof *buckets);
    if (!buckets)
        return -ENOMEM;
    for (size_t i = 0; i < m->size; i++) {
        struct map_node *node = m->buckets[i];
        while (node) {
            struct map_node *next = node->next;
            struct map_node **slot = &buckets[node->hash & (size - 1)];
            node->next = *slot;
            *slot = node;
            node = next;
        }
    }
    free(m->buckets);
    m->buckets = buckets;
    m->size = size;
    return 0;
}

int map_add(struct map *m, struct map_node *node, const char *key, size_t key_len)
{
    if (m->count >= m->size) {
        int rc = grow(m);
        if (rc)
            return rc;
    }
    node->key = key;
    node->key_len = key_len;
    node->hash = hash_of(key, key_len);
    struct map_node **slot = &m->buckets[node->hash & (m->size - 1)];
    node->next = *slot;
    *slot = node;
    m->count++;
    return 0;
}

void map_remove(struct map *m, struct map_node *node)
{
    struct map_node **slot = &m->buckets[node->hash & (m->size - 1)];
    while (*slot && *slot != node)
        slot = &(*slot)->next;
    if (!*slot)
        return;
    *slot = node->next;
    m->count--;
}

void map_deinit(struct map *m)
{
    free(m->buckets);
    memset(m, 0, sizeof *m);
}
