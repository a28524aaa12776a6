/*
 * A hash table from byte strings to elements that embed a map_node. The map owns nothing: keys
 * live in the elements, and the elements belong to whoever put them in.
 */
#ifndef MAP_H
#define MAP_H

#include <stddef.h>
#include <stdint.h>

struct map_node {
    struct map_node *next; /* borrowed, the next in the same bucket */
    const char *key;       /* borrowed until map_remove */
    size_t key_len;
    uint64_t hash;
};

struct map {
    struct map_node **buckets; /* owned */
    size_t size;               /* buckets, a power of two, or 0 */
    size_t count;
};

void map_init(struct map *m);

/* NULL when there is no such key. */
struct map_node *map_find(const struct map *m, const char *key, size_t key_len);

/* Adds a node whose key is not in the map. Returns 0 or -ENOMEM. */
int map_add(struct map *m, struct map_node *node, const char *key, size_t key_len);

void map_remove(struct map *m, struct map_node *node);

/* Frees the table, not the elements. */
void map_deinit(struct map *m);

#endif
