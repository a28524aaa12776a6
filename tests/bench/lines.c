/*
 * A server that answers GET /COUNT with COUNT lines of 100 bytes, as fast as they are taken.
 *
 *     lines
 *
 * Listens on a free loopback port and prints it. One connection at a time; it is closed after the
 * answer, whose length is told.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    LINE = 100,
    LINES = 10000, /* in the text that is sent again and again */
};

static char text[LINES * LINE];

static void make_text(void)
{
    char line[LINE + 1];
    for (size_t i = 0; i < LINES; i++) {
        int n = snprintf(line, sizeof line, "{\"id\":%zu,\"name\":\"", 100000 + i);
        memset(line + n, 'a' + (int)(i % 26), (size_t)(LINE - n));
        memcpy(line + LINE - 3, "\"}\n", 3);
        memcpy(text + i * LINE, line, LINE);
    }
}

static int send_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        if (sent < 0)
            return -errno;
        p += sent;
        n -= (size_t)sent;
    }
    return 0;
}

/* The request comes in one piece: it is short, and the other end is on this machine. */
static int answer(int fd)
{
    char request[4096], head[200];
    ssize_t n = recv(fd, request, sizeof request - 1, 0);
    if (n <= 0)
        return -ECONNRESET;
    request[n] = '\0';
    long long left = strncmp(request, "GET /", 5) == 0 ? atoll(request + 5) : 0;
    if (left < 0)
        return -EINVAL;
    left *= LINE;

    int len = snprintf(head, sizeof head,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
                       "Content-Length: %lld\r\nConnection: close\r\n\r\n",
                       left);
    int rc = send_all(fd, head, (size_t)len);
    while (rc == 0 && left > 0) {
        size_t part = left < (long long)sizeof text ? (size_t)left : sizeof text;
        rc = send_all(fd, text, part);
        left -= (long long)part;
    }
    return rc;
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    make_text();
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (void *)&address, size) || listen(listener, 16) ||
        getsockname(listener, (void *)&address, &size) ||
        printf("%d\n", ntohs(address.sin_port)) < 0 || fflush(stdout)) {
        perror("lines");
        return 1;
    }
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && errno != EINTR && errno != ECONNABORTED) {
            perror("lines");
            return 1;
        }
        if (fd < 0)
            continue;
        (void)answer(fd); /* one that goes away early ends its own answer */
        close(fd);
    }
}
