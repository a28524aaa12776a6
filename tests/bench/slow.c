/*
 * A server that answers GET /MS after MS milliseconds, however many wait. GET /MS/N takes no more
 * than N at once: the others get 503, or with /MS/Nq wait for their turn.
 *
 *     slow
 *
 * Listens on a free loopback port and prints it. Those it works for hang in a wheel with a slot for
 * every millisecond of the next eight seconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 16384,
    EVENTS = 512,
    SLOTS = 8192,
};

enum reading { METHOD, DELAY, LIMIT, REST };

struct conn {
    int fd;
    int waiting;       /* hangs in the wheel or the queue, and is freed there */
    struct conn *next; /* in the same slot or the queue; owned through it */
    enum reading reading;
    int delay;
    int limit;        /* 0 for none */
    int queues;       /* rather than being refused */
    unsigned matched; /* how much of the empty line that ends a request has been seen */
};

struct server {
    int epoll;
    int listener;
    int waiting;
    int64_t ticked;            /* slots up to this millisecond are done */
    struct conn *wheel[SLOTS]; /* owned */
    struct conn *queue;        /* owned */
    struct conn **queue_end;
};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void conn_close(struct conn *c)
{
    close(c->fd);
    c->fd = -1;
    if (!c->waiting)
        free(c);
}

static void conn_hang(struct server *s, struct conn *c)
{
    int64_t due = now_ms() + (c->delay > 0 ? c->delay : 1);
    if (s->waiting++ == 0)
        s->ticked = now_ms();
    c->next = s->wheel[due % SLOTS];
    s->wheel[due % SLOTS] = c;
}

static void conn_send(struct conn *c, const char *answer, size_t size)
{
    c->waiting = 0;
    if (c->fd < 0)
        free(c);
    else if (send(c->fd, answer, size, MSG_NOSIGNAL) < 0)
        shutdown(c->fd, SHUT_RDWR); /* it is closed where it is read */
}

static void conn_wait(struct server *s, struct conn *c)
{
    static const char answer[] = "HTTP/1.1 503 Service Unavailable\r\n"
                                 "Content-Length: 0\r\n"
                                 "\r\n";
    if (c->waiting)
        return;
    c->waiting = 1;
    if (!c->limit || s->waiting < c->limit) {
        conn_hang(s, c);
    } else if (c->queues) {
        c->next = NULL;
        *s->queue_end = c;
        s->queue_end = &c->next;
    } else {
        conn_send(c, answer, sizeof answer - 1);
    }
}

static void conn_answer(struct server *s, struct conn *c)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\n"
                                 "Content-Type: application/json\r\n"
                                 "Content-Length: 12\r\n"
                                 "\r\n"
                                 "{\"ok\": true}";
    struct conn *next = s->queue;
    if (next) {
        s->queue = next->next;
        if (!s->queue)
            s->queue_end = &s->queue;
        conn_hang(s, next);
    }
    conn_send(c, answer, sizeof answer - 1);
}

static void tick(struct server *s)
{
    int64_t now = now_ms();
    while (s->waiting && s->ticked < now) {
        struct conn *c = s->wheel[++s->ticked % SLOTS];
        s->wheel[s->ticked % SLOTS] = NULL;
        while (c) {
            struct conn *next = c->next;
            s->waiting--;
            conn_answer(s, c);
            c = next;
        }
    }
}

static void take_byte(struct server *s, struct conn *c, char byte)
{
    static const char end[] = "\r\n\r\n";
    if (c->reading == METHOD && byte == '/') {
        c->reading = DELAY;
        c->delay = c->limit = c->queues = 0;
    } else if (c->reading == DELAY && byte >= '0' && byte <= '9') {
        c->delay = (c->delay * 10 + byte - '0') % SLOTS;
    } else if (c->reading == DELAY && byte == '/') {
        c->reading = LIMIT;
    } else if (c->reading == LIMIT && byte >= '0' && byte <= '9') {
        c->limit = c->limit * 10 + byte - '0';
    } else if (c->reading != METHOD) {
        c->queues |= c->reading == LIMIT && byte == 'q';
        c->reading = REST;
    }
    c->matched = byte == end[c->matched] ? c->matched + 1 : byte == '\r';
    if (c->matched == 4) {
        c->matched = 0;
        c->reading = METHOD;
        conn_wait(s, c);
    }
}

static void conn_read(struct server *s, struct conn *c)
{
    char buf[4096];
    ssize_t n = read(c->fd, buf, sizeof buf);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        conn_close(c);
        return;
    }
    for (ssize_t i = 0; i < n; i++)
        take_byte(s, c, buf[i]);
}

static void accept_all(struct server *s)
{
    int fd;
    while ((fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        int on = 1;
        if (!c || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) ||
            epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event)) {
            close(fd);
            free(c);
            continue;
        }
        c->fd = fd;
    }
}

static int serve(struct server *s)
{
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(s->epoll, events, EVENTS, s->waiting ? 1 : -1);
        if (n < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                conn_read(s, events[i].data.ptr);
            else
                accept_all(s);
        }
        tick(s);
    }
}

static int listen_on_loopback(struct server *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    struct epoll_event event = {.events = EPOLLIN};

    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->epoll < 0 || s->listener < 0 || bind(s->listener, (void *)&address, size) ||
        listen(s->listener, BACKLOG) || getsockname(s->listener, (void *)&address, &size) ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &event))
        return -errno;
    printf("%d\n", ntohs(address.sin_port));
    return fflush(stdout) ? -errno : 0;
}

int main(void)
{
    struct server s = {0};
    s.queue_end = &s.queue;
    int error = listen_on_loopback(&s);
    if (!error)
        error = serve(&s);
    fprintf(stderr, "slow: %s\n", strerror(-error));
    return 1;
}
