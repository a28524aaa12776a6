#include "watch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { DRAIN_MAX = 16 /* pieces of what nobody asked for that are read */ };

static void free_watch(uv_handle_t *handle)
{
    free(handle->data);
}

void watches_init(struct watches *ws)
{
    memset(ws, 0, sizeof *ws);
    TAILQ_INIT(&ws->busy);
}

void watches_deinit(struct watches *ws)
{
    free(ws->list);
}

struct watch *watch_of(const struct watches *ws, curl_socket_t fd)
{
    return fd >= 0 && (size_t)fd < ws->cap ? ws->list[fd] : NULL;
}

struct watch *watch_add(struct watches *ws, uv_loop_t *loop, curl_socket_t fd, uv_poll_cb on_poll)
{
    if ((size_t)fd >= ws->cap) {
        size_t cap = ws->cap ? ws->cap : 64;
        while (cap <= (size_t)fd)
            cap *= 2;
        struct watch **list = realloc(ws->list, cap * sizeof(struct watch *));
        if (!list)
            return NULL;
        memset(list + ws->cap, 0, (cap - ws->cap) * sizeof(struct watch *));
        ws->list = list;
        ws->cap = cap;
    }
    struct watch *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->fd = fd;
    w->port = -1;
    w->on_poll = on_poll;
    w->poll.data = w;
    if (uv_poll_init_socket(loop, &w->poll, fd)) {
        free(w);
        return NULL;
    }
    ws->list[fd] = w;
    return w;
}

void watch_close(struct watches *ws, struct watch *w)
{
    watch_join(w, NULL);
    ws->list[w->fd] = NULL;
    uv_close((uv_handle_t *)&w->poll, free_watch);
}

void watch_group_init(struct watch_group *group, struct lane *lane)
{
    group->lane = lane;
    group->count = 0;
    TAILQ_INIT(&group->list);
}

void watch_join(struct watch *w, struct watch_group *group)
{
    if (w->group == group)
        return;
    if (w->group) {
        TAILQ_REMOVE(&w->group->list, w, of_group);
        w->group->count--;
    }
    w->group = group;
    if (group) {
        TAILQ_INSERT_HEAD(&group->list, w, of_group);
        group->count++;
    }
}

void watch_start(struct watch *w, int events)
{
    if (w->events == events)
        return;
    w->events = uv_poll_start(&w->poll, events, w->on_poll) ? 0 : events;
}

void watch_stop(struct watch *w)
{
    uv_poll_stop(&w->poll);
    w->events = 0;
}

static ssize_t peek(const struct watch *w)
{
    char byte;
    return recv(w->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

bool watch_has_more(const struct watch *w)
{
    return peek(w) > 0;
}

bool watch_at_end(const struct watch *w)
{
    ssize_t n = peek(w);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

void watch_spoil(struct watch *w)
{
    char scrap[4096];
    for (int n = 0; n < DRAIN_MAX && recv(w->fd, scrap, sizeof scrap, MSG_DONTWAIT) > 0; n++)
        ;
    shutdown(w->fd, SHUT_RDWR);
    w->spoilt = true;
}

int watch_local_port(const struct watch *w)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_storage room;
    } address;
    socklen_t len = sizeof address;
    if (getsockname(w->fd, &address.any, &len))
        return -1;
    return address.any.sa_family == AF_INET    ? ntohs(address.v4.sin_port)
           : address.any.sa_family == AF_INET6 ? ntohs(address.v6.sin6_port)
                                               : 0;
}

uint64_t watch_received(const struct watch *w)
{
    /* The kernel's struct tcp_info, of which the C library knows only the beginning. */
    struct {
        char before[128];
        uint64_t bytes_received;
    } info;
    socklen_t len = sizeof info;
    if (getsockopt(w->fd, IPPROTO_TCP, TCP_INFO, &info, &len) || len < sizeof info)
        return 0;
    return info.bytes_received;
}
