#include "lane.h"

#include "guard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Sockets ------------------------------------------------------------------------------------- */

static void lane_action(struct lane *lane, curl_socket_t fd, int flags);

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;

    if (w->idle) {
        /* The server closed a pooled connection. libcurl finds out before it uses the connection
         * again; until then there is nothing to hear. */
        watch_stop(w);
        if (w->alone)
            watch_spoil(w);
        return;
    }
    int flags = 0;
    if (status < 0) {
        /* The connection was reset, perhaps after a whole answer that is still to be read. libuv
         * does not tell, and has stopped polling. */
        int wanted = w->events;
        w->events = 0;
        watch_start(w, wanted);
        flags = CURL_CSELECT_ERR | CURL_CSELECT_IN | CURL_CSELECT_OUT;
    }
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    struct lane *lane = w->group->lane;
    struct lanes *ls = lane->lanes;
    lane_action(lane, w->fd, flags); /* may close the watch */
    ls->callbacks->on_turn(ls->ctx);
}

static struct watch *watch_new(struct lanes *ls, curl_socket_t fd)
{
    struct watch *w = watch_add(ls->watches, ls->loop, fd, on_poll);
    if (w)
        w->lanes = ls;
    return w;
}

/* A transfer has left its connection, which libcurl may keep. */
static void watch_leave(struct lanes *ls, struct watch *w, CURL *easy)
{
    if (!w->group)
        return; /* it has another socket by now */
    enum lane_use use = ls->callbacks->use(easy);
    w->idle = true;
    w->last = easy;
    w->left = ls->steps;
    w->taken = false;
    w->pooled = w->pooled || use != LANE_UNUSED;
    w->alone = use == LANE_ALONE || use == LANE_PLAIN;
    if (w->alone && watch_has_more(w)) {
        if (use == LANE_PLAIN)
            ls->callbacks->on_overrun(ls->ctx, easy);
        watch_spoil(w);
    }
    if (!w->pooled)
        watch_stop(w);
    else if (w->events != UV_READABLE)
        watch_start(w, UV_READABLE); /* an idle socket is always writable */
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *unused)
{
    struct lane *lane = ctx;
    struct lanes *ls = lane->lanes;
    struct watch *w = watch_of(ls->watches, fd);
    (void)unused;

    ls->steps++;
    if (what == CURL_POLL_REMOVE) {
        if (w && w->foreign)
            watch_close(ls->watches, w);
        else if (w) {
            w->wanted = false;
            watch_leave(ls, w, easy);
        }
        return 0;
    }
    if (!w) {
        w = watch_new(ls, fd);
        if (!w)
            return -1;
        w->foreign = true;
    }
    watch_join(w, &lane->sockets);
    w->idle = false;
    w->wanted = true;
    watch_start(w,
                (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0));
    return 0;
}

static void describe(const struct sockaddr *address, char *text, size_t size)
{
    char name[INET6_ADDRSTRLEN];
    if (uv_ip_name(address, name, sizeof name))
        strcpy(name, "the address");
    snprintf(text, size, "%s is %s", name, guard_reason(address));
}

static curl_socket_t on_open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct lane_user *user = ctx;
    struct lanes *ls = user->lanes;
    (void)purpose;

    int fd = -1;
    if (ls->guard && guard_denies(&address->addr)) {
        describe(&address->addr, user->denied, sizeof user->denied);
        errno = EACCES;
    } else {
        fd = socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    address->protocol);
    }
    if (fd < 0) {
        user->refused = errno;
        return CURL_SOCKET_BAD;
    }
    struct watch *w = watch_of(ls->watches, fd);
    if (w) {
        /* Its socket is gone. If libcurl still waited for it, it takes the new one for the old. */
        int events = w->idle || w->lanes != ls ? 0 : w->events;
        watch_stop(w);
        if (w->lanes != ls)
            watch_join(w, NULL);
        w->lanes = ls;
        w->port = -1;
        w->pooled = w->alone = w->foreign = w->idle = w->taken = w->spoilt = false;
        if (events)
            watch_start(w, events);
        else
            w->wanted = false;
    } else if (!(w = watch_new(ls, fd))) {
        close(fd);
        user->refused = ENOMEM;
        return CURL_SOCKET_BAD;
    }
    w->last = user->easy;
    user->opened[user->opened_count++ % LANE_OPENED] = fd;
    return fd;
}

/* libcurl drops bytes beyond the Content-Length and closes the connection in the step in which it
 * leaves it. Two other things close a connection just left: the next transfer, when it looks for
 * one and finds this one closed by the server; and a full pool, where of those left in the same
 * millisecond any passes for the oldest.
 *
 * When the answer is there as soon as the request is sent, libcurl does not wait for the socket,
 * and so does not say that it leaves it. */
static bool is_overrun(const struct lanes *ls, const struct watch *w)
{
    bool just_left = w->idle ? w->left == ls->steps : w->taken && !w->wanted;
    return w->group && just_left && !ls->tight && w->group->count <= LANE_SIZE &&
           (w->group->lane->beginning == 0 || !watch_at_end(w));
}

static int on_close_socket(void *ctx, curl_socket_t fd)
{
    struct lanes *ls = ctx;
    struct watch *w = watch_of(ls->watches, fd);

    if (w) {
        if (is_overrun(ls, w))
            ls->callbacks->on_overrun(ls->ctx, w->last);
        watch_close(ls->watches, w);
    }
    return close(fd);
}

/* Lanes --------------------------------------------------------------------------------------- */

static void lanes_mark_busy(struct lanes *ls)
{
    if (ls->busy)
        return;
    ls->busy = true;
    TAILQ_INSERT_TAIL(&ls->watches->busy, ls, of_busy);
}

static void lane_mark_dirty(struct lane *lane)
{
    if (lane->dirty)
        return;
    lane->dirty = true;
    TAILQ_INSERT_TAIL(&lane->lanes->dirty, lane, of_dirty);
    lanes_mark_busy(lane->lanes);
}

static void lane_mark_spent(struct lane *lane)
{
    TAILQ_INSERT_TAIL(&lane->lanes->spent, lane, of_room);
    lanes_mark_busy(lane->lanes);
}

static void on_lane_timer(uv_timer_t *timer)
{
    struct lane *lane = timer->data;
    lane->armed = UINT64_MAX;
    if (lane->due != UINT64_MAX)
        lane_mark_dirty(lane); /* perhaps early: the wish may have changed since */
    uv_stop(timer->loop);      /* timers run before the loop waits: there is something to do now */
}

/* Called by libcurl from anywhere inside it: only take the wish down. */
static int on_timeout(CURLM *multi, long ms, void *ctx)
{
    struct lane *lane = ctx;
    (void)multi;

    if (ms < 0) {
        lane->due = UINT64_MAX;
        return 0;
    }
    lane->due = uv_now(lane->lanes->loop) + (uint64_t)ms;
    if (ms == 0)
        lane_mark_dirty(lane);
    else if (lane->due < lane->armed) {
        lane->armed = lane->due;
        uv_timer_start(&lane->timer, on_lane_timer, (uint64_t)ms, 0);
    }
    return 0;
}

static void lane_set_room(struct lane *lane, bool room)
{
    if (lane->room == room)
        return;
    lane->room = room;
    if (room)
        TAILQ_INSERT_HEAD(&lane->lanes->room, lane, of_room);
    else
        TAILQ_REMOVE(&lane->lanes->room, lane, of_room);
}

static void free_lane(uv_handle_t *handle)
{
    free(handle->data);
}

/* Connections that a lane keeps. */
static long pool_size(const struct lanes *ls)
{
    return ls->tight ? 1 : LANE_SIZE;
}

static struct lane *lane_add(struct lanes *ls)
{
    struct lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    lane->lanes = ls;
    lane->due = lane->armed = UINT64_MAX;
    TAILQ_INIT(&lane->routes);
    watch_group_init(&lane->sockets, lane);
    lane->multi = curl_multi_init();
    if (!lane->multi || curl_multi_setopt(lane->multi, CURLMOPT_SOCKETFUNCTION, on_socket) ||
        curl_multi_setopt(lane->multi, CURLMOPT_SOCKETDATA, lane) ||
        curl_multi_setopt(lane->multi, CURLMOPT_TIMERFUNCTION, on_timeout) ||
        curl_multi_setopt(lane->multi, CURLMOPT_TIMERDATA, lane) ||
        curl_multi_setopt(lane->multi, CURLMOPT_MAXCONNECTS, pool_size(ls)) ||
        curl_multi_setopt(lane->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX) ||
        uv_timer_init(ls->loop, &lane->timer)) {
        curl_multi_cleanup(lane->multi);
        free(lane);
        return NULL;
    }
    lane->timer.data = lane;
    TAILQ_INSERT_TAIL(&ls->all, lane, link);
    lane_set_room(lane, true);
    return lane;
}

void lane_drain(struct lane *lane)
{
    struct lanes *ls = lane->lanes;
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(lane->multi, &left)))
        if (message->msg == CURLMSG_DONE)
            ls->callbacks->on_done(ls->ctx, message->easy_handle, message->data.result);
}

static void lane_break(struct lane *lane)
{
    struct lanes *ls = lane->lanes;
    if (lane->hosts < LANE_HOSTS) {
        lane_set_room(lane, false);
        lane->hosts = LANE_HOSTS;
        if (lane->active == 0)
            lane_mark_spent(lane);
    }
    ls->callbacks->on_broken(ls->ctx, lane);
}

static void lane_action(struct lane *lane, curl_socket_t fd, int flags)
{
    int running;
    lane->lanes->steps++;
    if (fd == CURL_SOCKET_TIMEOUT)
        lane->due = UINT64_MAX; /* libcurl says anew what it wants, also when this was early */
    CURLMcode code = curl_multi_socket_action(lane->multi, fd, flags, &running);
    lane_drain(lane);
    if (code != CURLM_OK)
        lane_break(lane);
}

void lane_enter(struct lane *lane)
{
    if (++lane->active == LANE_SIZE)
        lane_set_room(lane, false);
}

void lane_leave(struct lane *lane)
{
    lane->active--;
    if (lane->hosts < LANE_HOSTS)
        lane_set_room(lane, true);
    else if (lane->active == 0)
        lane_mark_spent(lane);
}

void lane_add_host(struct lane *lane)
{
    if (++lane->hosts == LANE_HOSTS)
        lane_set_room(lane, false);
}

void lane_close(struct lane *lane)
{
    struct lanes *ls = lane->lanes;

    if (lane->hosts >= LANE_HOSTS)
        TAILQ_REMOVE(&ls->spent, lane, of_room);
    else
        lane_set_room(lane, false);
    TAILQ_REMOVE(&ls->all, lane, link);
    ls->steps++;                     /* what is closed now says nothing about who used it last */
    curl_multi_cleanup(lane->multi); /* closes its connections by on_close_socket */
    for (size_t fd = 0; fd < ls->watches->cap; fd++) {
        struct watch *w = ls->watches->list[fd];
        if (w && w->group == &lane->sockets)
            watch_close(ls->watches, w);
    }
    if (lane->dirty)
        TAILQ_REMOVE(&ls->dirty, lane, of_dirty);
    uv_close((uv_handle_t *)&lane->timer, free_lane);
}

int lane_start(struct lane *lane, struct lane_user *user)
{
    user->opened_count = 0;
    user->taken = -1;
    if (curl_multi_add_handle(lane->multi, user->easy) != CURLM_OK)
        return -ENOMEM;
    lane->beginning++;
    lane_mark_dirty(lane);
    return 0;
}

void lane_connected(struct lane *lane)
{
    lane->beginning--;
}

/* Of the sockets opened for the transfer the one with that port. */
static struct watch *find_opened(const struct lane_user *user, int port)
{
    for (unsigned i = 0; i < user->opened_count && i < LANE_OPENED; i++) {
        struct watch *w = watch_of(user->lanes->watches, user->opened[i]);
        if (w && w->last == user->easy && !w->idle && !w->taken && watch_local_port(w) == port) {
            w->port = port;
            return w;
        }
    }
    return NULL;
}

/* Of the lane's connections that with the port. Of several without any it may be each: then none.
 */
static struct watch *find_known(const struct lane *lane, int port)
{
    struct watch *w, *found = NULL;
    TAILQ_FOREACH (w, &lane->sockets.list, of_group) {
        if (w->port != port)
            continue;
        if (found)
            return NULL;
        found = w;
        if (port)
            break;
    }
    return found;
}

bool lane_take(struct lane *lane, struct lane_user *user, int port)
{
    struct lanes *ls = lane->lanes;
    struct watch *w = find_opened(user, port);
    bool fresh = w;

    if (!w)
        w = find_known(lane, port);
    if (!w)
        return true;
    if (!fresh && w->taken && w->last != user->easy)
        watch_leave(ls, w, w->last); /* it has ended in this very step */
    if (!fresh && !w->spoilt && w->alone && watch_has_more(w))
        watch_spoil(w);
    watch_join(w, &lane->sockets);
    w->idle = false;
    w->last = user->easy;
    w->taken = true;
    user->taken = w->fd;
    return !w->spoilt;
}

/* The socket that the transfer has taken, if it is still there. */
static struct watch *taken_by(const struct lane_user *user)
{
    struct watch *w = watch_of(user->lanes->watches, user->taken);
    return w && w->taken && w->last == user->easy ? w : NULL;
}

uint64_t lane_received(const struct lane_user *user)
{
    struct watch *w = taken_by(user);
    return w ? watch_received(w) : 0;
}

void lane_leave_socket(struct lane_user *user)
{
    struct watch *w = taken_by(user);
    if (w && !w->wanted)
        watch_leave(user->lanes, w, user->easy);
}

void lane_stop(struct lane *lane, struct lane_user *user)
{
    lane->lanes->steps++;
    curl_multi_remove_handle(lane->multi, user->easy);
    struct watch *w = taken_by(user);
    if (w)
        w->taken = false;
}

/* All of them ------------------------------------------------------------------------------------
 */

void lanes_init(struct lanes *ls, uv_loop_t *loop, struct watches *watches, bool guard,
                const struct lanes_callbacks *callbacks, void *ctx)
{
    memset(ls, 0, sizeof *ls);
    ls->loop = loop;
    ls->watches = watches;
    ls->guard = guard;
    ls->callbacks = callbacks;
    ls->ctx = ctx;
    TAILQ_INIT(&ls->all);
    TAILQ_INIT(&ls->room);
    TAILQ_INIT(&ls->dirty);
    TAILQ_INIT(&ls->spent);
}

int lanes_adopt(struct lanes *ls, CURL *easy, struct lane_user *user)
{
    user->lanes = ls;
    user->easy = easy;
    user->taken = -1;
    if (curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket) ||
        curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, user) ||
        curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close_socket) ||
        curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, ls))
        return -ENOMEM;
    return 0;
}

void lanes_set_tight(struct lanes *ls, bool tight)
{
    struct lane *lane;
    if (ls->tight == tight)
        return;
    ls->tight = tight;
    TAILQ_FOREACH (lane, &ls->all, link)
        curl_multi_setopt(lane->multi, CURLMOPT_MAXCONNECTS, pool_size(ls));
}

struct lane *lanes_with_room(struct lanes *ls)
{
    struct lane *lane = TAILQ_FIRST(&ls->room);
    return lane ? lane : lane_add(ls);
}

void lanes_work(struct lanes *ls)
{
    struct lane_list due;
    struct lane *lane;

    if (TAILQ_EMPTY(&ls->dirty))
        return;
    uv_update_time(ls->loop);
    TAILQ_INIT(&due);
    TAILQ_CONCAT(&due, &ls->dirty, of_dirty);
    while ((lane = TAILQ_FIRST(&due))) {
        TAILQ_REMOVE(&due, lane, of_dirty);
        lane->dirty = false;
        lane_action(lane, CURL_SOCKET_TIMEOUT, 0);
    }
}

void lanes_deinit(struct lanes *ls)
{
    struct lane *lane;
    if (ls->busy)
        TAILQ_REMOVE(&ls->watches->busy, ls, of_busy);
    ls->steps++; /* the transfers are gone */
    while ((lane = TAILQ_FIRST(&ls->all))) {
        TAILQ_REMOVE(&ls->all, lane, link);
        curl_multi_cleanup(lane->multi); /* closes its connections by on_close_socket */
        uv_close((uv_handle_t *)&lane->timer, free_lane);
    }
    for (size_t fd = 0; fd < ls->watches->cap; fd++) {
        struct watch *w = ls->watches->list[fd];
        if (w && w->lanes == ls)
            watch_close(ls->watches, w);
    }
}
