#include "client.h"
#include "loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MANY = 200 };

/* A server on the same loop. "/silent" gets no answer. */
struct server {
    uv_tcp_t listener;
    int port, connections, requests;
    struct peer *peers; /* owned, those that are open */
};

struct peer {
    uv_tcp_t tcp;
    struct server *server;
    struct peer *next;
    char text[4096];
    size_t len;
};

struct fixture {
    struct loop loop;
    struct server server;
    struct client *client;
    char origin[64], host[32], url[128];
};

static void free_peer(uv_handle_t *handle)
{
    free(handle->data);
}

static void peer_close(struct peer *p)
{
    for (struct peer **at = &p->server->peers; *at; at = &(*at)->next) {
        if (*at == p) {
            *at = p->next;
            break;
        }
    }
    uv_close((uv_handle_t *)&p->tcp, free_peer);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer)
{
    struct peer *p = handle->data;
    (void)size;
    *buffer = uv_buf_init(p->text + p->len, (unsigned)(sizeof p->text - p->len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
    static char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    struct peer *p = stream->data;
    (void)buffer;
    if (n < 0) {
        peer_close(p);
        return;
    }
    p->len += (size_t)n;
    if (p->len < 4 || memcmp(p->text + p->len - 4, "\r\n\r\n", 4) != 0)
        return;
    p->server->requests++;
    p->text[p->len] = '\0';
    uv_buf_t out = uv_buf_init(answer, sizeof answer - 1);
    if (!strstr(p->text, "/silent"))
        assert_int_equal(uv_try_write(stream, &out, 1), sizeof answer - 1);
    p->len = 0;
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct server *s = listener->data;
    struct peer *p = calloc(1, sizeof *p);
    assert_int_equal(status, 0);
    assert_non_null(p);
    p->server = s;
    p->tcp.data = p;
    p->next = s->peers;
    s->peers = p;
    s->connections++;
    assert_int_equal(uv_tcp_init(listener->loop, &p->tcp), 0);
    assert_int_equal(uv_accept(listener, (uv_stream_t *)&p->tcp), 0);
    assert_int_equal(uv_read_start((uv_stream_t *)&p->tcp, on_alloc, on_read), 0);
}

static void on_ended(void *ctx)
{
    (void)ctx; /* the tests look by themselves */
}

static int setup(void **state)
{
    static struct fixture f;
    struct sockaddr_in address;
    int len = sizeof address;

    memset(&f, 0, sizeof f);
    *state = &f;
    uv_tcp_t *listener = &f.server.listener;
    listener->data = &f.server;
    if (loop_init(&f.loop) || uv_tcp_init(&f.loop.uv, listener) ||
        uv_ip4_addr("127.0.0.1", 0, &address) ||
        uv_tcp_bind(listener, (struct sockaddr *)&address, 0) ||
        uv_listen((uv_stream_t *)listener, 1024, on_connection) ||
        uv_tcp_getsockname(listener, (struct sockaddr *)&address, &len))
        return -1;
    f.server.port = ntohs(address.sin_port);
    return client_create(&f.client, &f.loop.uv, on_ended, &f);
}

/* Whatever a test left behind, everything closes. */
static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->client)
        client_destroy(f->client);
    while (f->server.peers)
        peer_close(f->server.peers);
    uv_close((uv_handle_t *)&f->server.listener, NULL);
    return loop_close(&f->loop);
}

static uint64_t begin(struct fixture *f, const char *scheme, const char *host, int port,
                      const char *path, double timeout)
{
    snprintf(f->host, sizeof f->host, "%s", host);
    snprintf(f->origin, sizeof f->origin, "%s://%s:%d", scheme, host, port);
    snprintf(f->url, sizeof f->url, "%s%s", f->origin, path);
    struct client_target target = {
        .origin = f->origin,
        .origin_len = strlen(f->origin),
        .host = f->host,
        .port = port,
        .tls = strcmp(scheme, "https") == 0,
    };
    struct transfer_request request = {.url = f->url, .method = "GET", .timeout = timeout};
    uint64_t id = 0;
    assert_int_equal(client_start(f->client, &target, &request, &id), 0);
    assert_true(id < (uint64_t)1 << 53);    /* exact as a Lua number */
    memset(f->url, 'x', sizeof f->url - 1); /* all of it was copied */
    memset(f->host, 'x', sizeof f->host - 1);
    memset(f->origin, 'x', sizeof f->origin - 1);
    return id;
}

static uint64_t ask(struct fixture *f, const char *path)
{
    return begin(f, "http", "127.0.0.1", f->server.port, path, 30);
}

static void turn(struct fixture *f)
{
    bool busy = client_work(f->client);
    loop_wait(&f->loop, busy ? 0 : 0.02);
}

/* The next hop that ends. */
static struct transfer *next(struct fixture *f, uint64_t *id)
{
    struct transfer *t;
    unsigned news;
    double until = loop_now() + 30;
    while (!(t = client_next(f->client, id, &news))) {
        assert_true(loop_now() < until);
        turn(f);
    }
    return t;
}

static void expect_hello(struct fixture *f, uint64_t id)
{
    uint64_t got;
    struct transfer *t = next(f, &got);
    assert_int_equal(got, id);
    assert_int_equal(t->fault, FAULT_NONE);
    assert_int_equal(t->body.len, 5);
    assert_memory_equal(t->body.data, "hello", 5);
    client_release(f->client, id);
}

static void one_after_another_on_one_connection(void **state)
{
    struct fixture *f = *state;
    uint64_t last = 0;
    for (int i = 0; i < MANY; i++) {
        uint64_t id = ask(f, "/");
        assert_int_not_equal(id, last);
        last = id;
        expect_hello(f, id);
    }
    assert_int_equal(f->server.requests, MANY);
    assert_int_equal(f->server.connections, 1);
}

static void many_at_once_and_again_on_the_same_connections(void **state)
{
    struct fixture *f = *state;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < MANY; i++)
            ask(f, "/");
        for (int i = 0; i < MANY; i++) {
            uint64_t id;
            assert_int_equal(next(f, &id)->fault, FAULT_NONE);
            client_release(f->client, id);
        }
    }
    assert_int_equal(f->server.requests, 3 * MANY);
    assert_int_equal(f->server.connections, MANY);
}

static void an_id_names_its_hop_alone(void **state)
{
    struct fixture *f = *state;
    uint64_t first = ask(f, "/");
    expect_hello(f, first);
    uint64_t second = ask(f, "/"); /* in the same slot */
    client_cancel(f->client, first);
    client_release(f->client, first);
    client_release(f->client, second); /* it has not ended */
    client_cancel(f->client, 0);
    client_cancel(f->client, UINT64_MAX);
    expect_hello(f, second);
    client_release(f->client, second);
    assert_false(client_has_next(f->client));
}

static void cancelled_at_any_time(void **state)
{
    struct fixture *f = *state;
    for (int turns = 0; turns < 12; turns++) {
        uint64_t silent = ask(f, "/silent"), ended = ask(f, "/"), kept = ask(f, "/");
        for (int i = 0; i < turns; i++)
            turn(f);
        client_cancel(f->client, silent);
        client_cancel(f->client, ended); /* perhaps it has */
        expect_hello(f, kept);
        for (int i = 0; i < 3; i++)
            turn(f);
        assert_false(client_has_next(f->client));
    }
}

static void a_descriptor_is_used_again_after_a_cancelled_connection(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 50; i++) {
        uint64_t connecting = ask(f, "/");
        (void)client_work(f->client); /* it has a socket, and no connection yet */
        client_cancel(f->client, connecting);
        uint64_t id = ask(f, "/");
        expect_hello(f, id);
        id = ask(f, "/");
        expect_hello(f, id);
    }
}

static void refused(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_in address;
    int len = sizeof address;
    uv_tcp_t bound; /* but not listening */
    assert_int_equal(uv_tcp_init(&f->loop.uv, &bound), 0);
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &address), 0);
    assert_int_equal(uv_tcp_bind(&bound, (struct sockaddr *)&address, 0), 0);
    assert_int_equal(uv_tcp_getsockname(&bound, (struct sockaddr *)&address, &len), 0);
    for (int i = 0; i < 3; i++) {
        uint64_t id, got;
        id = begin(f, "http", "127.0.0.1", ntohs(address.sin_port), "/", 30);
        struct transfer *t = next(f, &got);
        assert_int_equal(got, id);
        assert_int_equal(t->fault, FAULT_CONNECT_FAILED);
        assert_non_null(t->reason);
        client_release(f->client, id);
        expect_hello(f, ask(f, "/"));
    }
    uv_close((uv_handle_t *)&bound, NULL);
    turn(f);
}

static void times_out(void **state)
{
    struct fixture *f = *state;
    uint64_t got, id = begin(f, "http", "127.0.0.1", f->server.port, "/silent", 0.05);
    assert_int_equal(next(f, &got)->fault, FAULT_TIMEOUT);
    assert_int_equal(got, id);
    client_release(f->client, id);
    expect_hello(f, ask(f, "/"));
}

static void tells_at_once_what_cannot_be_sent(void **state)
{
    struct fixture *f = *state;
    uint64_t got, id = begin(f, "gopher", "127.0.0.1", 70, "/", 30);
    struct transfer *t = next(f, &got);
    assert_int_equal(got, id);
    assert_int_not_equal(t->fault, FAULT_NONE);
    client_release(f->client, id);
    assert_int_equal(f->server.connections, 0);
}

/* The first hop to an https host goes alone. Here it gets no answer to its handshake. */
static void those_who_wait_for_the_first_may_be_cancelled(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[10];
    for (int order = 0; order < 2; order++) {
        for (int i = 0; i < 10; i++)
            ids[i] = begin(f, "https", "127.0.0.1", f->server.port, "/", 30);
        for (int i = 0; i < 5; i++)
            turn(f);
        for (int i = 0; i < 10; i++)
            client_cancel(f->client, ids[order ? i : 9 - i]);
    }
    expect_hello(f, ask(f, "/"));
}

static void destroyed_with_hops_in_every_state(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 100; i++)
        ask(f, i % 2 ? "/silent" : "/");
    for (int i = 0; i < 5; i++)
        begin(f, "https", "127.0.0.1", f->server.port, "/", 30);
    for (int i = 0; i < 10; i++)
        turn(f);
    ask(f, "/"); /* not begun */
    client_destroy(f->client);
    f->client = NULL;
    while (uv_loop_alive(&f->loop.uv) && f->server.peers)
        loop_wait(&f->loop, 0.02); /* the server hears of it */
}

static void international_names(void **state)
{
    (void)state;
    char ascii[64];
    assert_int_equal(client_idn("b\xc3\xbc\x63her.example", ascii, sizeof ascii), 0);
    assert_string_equal(ascii, "xn--bcher-kva.example");
    assert_true(client_idn("b\xc3\xbc\x63her.example", ascii, 10) < 0);
    assert_true(client_idn("\xff.example", ascii, sizeof ascii) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_after_another_on_one_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(many_at_once_and_again_on_the_same_connections, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_id_names_its_hop_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelled_at_any_time, setup, teardown),
        cmocka_unit_test_setup_teardown(a_descriptor_is_used_again_after_a_cancelled_connection,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(refused, setup, teardown),
        cmocka_unit_test_setup_teardown(times_out, setup, teardown),
        cmocka_unit_test_setup_teardown(tells_at_once_what_cannot_be_sent, setup, teardown),
        cmocka_unit_test_setup_teardown(those_who_wait_for_the_first_may_be_cancelled, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(destroyed_with_hops_in_every_state, setup, teardown),
        cmocka_unit_test_setup_teardown(international_names, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
