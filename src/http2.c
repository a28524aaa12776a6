/*
 * A stricter end of HTTP/2 streams than libcurl's.
 *
 * A server may end a stream by RST_STREAM with NO_ERROR once its answer is complete, that is, after
 * END_STREAM (RFC 9113 §8.1). libcurl 7.88 takes such a reset for the end of the answer wherever it
 * comes, so what a proxy sends when it loses its server in the middle of a body would pass for the
 * whole of it. libcurl hands its callbacks to nghttp2 through the function below, which stands
 * before nghttp2's own because the program's symbols come first.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct nghttp2_session;
struct nghttp2_session_callbacks;

/* A frame as nghttp2.h describes it: what all of them begin with, and what follows in a RST_STREAM.
 * Both are part of nghttp2's binary interface. */
struct frame {
    size_t length;
    int32_t stream_id;
    uint8_t type;
    uint8_t flags;
    uint8_t reserved;
    uint32_t error_code;
};

enum { RST_STREAM = 3, NO_ERROR = 0, INTERNAL_ERROR = 2 };

typedef int on_frame(struct nghttp2_session *, struct frame *, void *);

void nghttp2_session_callbacks_set_on_frame_recv_callback(struct nghttp2_session_callbacks *,
                                                          on_frame *);

static int (*is_sent)(struct nghttp2_session *, int32_t stream_id);
static on_frame *on_frame_of_libcurl;

/* nghttp2 forgets a stream that has ended on both sides. So a stream whose request is all sent, and
 * that is still there to be reset, has not had the end of its answer. */
static int on_frame_recv(struct nghttp2_session *session, struct frame *frame, void *ctx)
{
    if (frame->type == RST_STREAM && frame->error_code == NO_ERROR &&
        is_sent(session, frame->stream_id) == 1)
        frame->error_code = INTERNAL_ERROR;
    return on_frame_of_libcurl(session, frame, ctx);
}

void nghttp2_session_callbacks_set_on_frame_recv_callback(struct nghttp2_session_callbacks *all,
                                                          on_frame *given)
{
    void (*set)(struct nghttp2_session_callbacks *, on_frame *);
    *(void **)&set = dlsym(RTLD_NEXT, "nghttp2_session_callbacks_set_on_frame_recv_callback");
    *(void **)&is_sent = dlsym(RTLD_NEXT, "nghttp2_session_get_stream_local_close");
    if (!set)
        abort(); /* then libcurl could not have called this */
    on_frame_of_libcurl = given;
    set(all, is_sent ? on_frame_recv : given);
}
