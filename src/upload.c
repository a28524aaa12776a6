#include "upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SET(option, value)                                                                         \
    do {                                                                                           \
        CURLcode set_code = curl_easy_setopt(easy, option, value);                                 \
        if (set_code != CURLE_OK)                                                                  \
            return set_code;                                                                       \
    } while (0)

static size_t read_file(struct upload *u, char *to, size_t room)
{
    int64_t left = u->size - u->at;
    if ((int64_t)room > left)
        room = (size_t)left; /* what was added since it was opened is not sent */
    if (room == 0)
        return 0;
    ssize_t n;
    do
        n = pread(u->fd, to, room, (off_t)u->at);
    while (n < 0 && errno == EINTR);
    if (n <= 0) {
        snprintf(u->problem, sizeof u->problem, "cannot read the file to be sent: %s",
                 n < 0 ? strerror(errno) : "it became shorter meanwhile");
        return CURL_READFUNC_ABORT;
    }
    u->at += n;
    return (size_t)n;
}

static size_t read_pulled(struct upload *u, char *to, size_t room)
{
    size_t left = u->text.len - u->taken;
    if (left == 0) {
        if (u->ended)
            return 0;
        u->paused = true;
        u->on_want(u->ctx);
        return CURL_READFUNC_PAUSE;
    }
    size_t n = left < room ? left : room;
    memcpy(to, u->text.data + u->taken, n);
    u->taken += n;
    if (u->taken == u->text.len) {
        bytes_clear(&u->text);
        u->taken = 0;
    }
    return n;
}

static size_t on_read(char *to, size_t size, size_t count, void *ctx)
{
    struct upload *u = ctx;
    return u->kind == UPLOAD_FILE ? read_file(u, to, size * count)
                                  : read_pulled(u, to, size * count);
}

/* libcurl begins anew when a connection that it used again turns out to be dead. */
static int on_seek(void *ctx, curl_off_t offset, int origin)
{
    struct upload *u = ctx;
    if (u->kind != UPLOAD_FILE || origin != SEEK_SET)
        return CURL_SEEKFUNC_CANTSEEK;
    u->at = offset;
    return CURL_SEEKFUNC_OK;
}

/* Has libcurl ask for the body by on_read. */
static CURLcode ask(struct upload *u, CURL *easy, curl_off_t size)
{
    SET(CURLOPT_UPLOAD, 1L);
    u->asks = true;
    SET(CURLOPT_INFILESIZE_LARGE, size);
    SET(CURLOPT_READFUNCTION, on_read);
    SET(CURLOPT_READDATA, u);
    SET(CURLOPT_SEEKFUNCTION, on_seek);
    SET(CURLOPT_SEEKDATA, u);
    return CURLE_OK;
}

static CURLcode begin_text(struct upload *u, CURL *easy, const char *text, size_t len)
{
    /* POSTFIELDS is not copied by libcurl, and NULL would make it ask a callback. */
    bytes_clear(&u->text);
    if (bytes_append(&u->text, len ? text : "", len ? len : 1))
        return CURLE_OUT_OF_MEMORY;
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
    SET(CURLOPT_POSTFIELDS, u->text.data);
    return CURLE_OK;
}

static CURLcode unreadable(struct upload *u, const char *path, const char *why)
{
    snprintf(u->problem, sizeof u->problem, "cannot read %.180s: %s", path, why);
    return CURLE_READ_ERROR;
}

static CURLcode begin_file(struct upload *u, CURL *easy, const char *path)
{
    struct stat info;
    /* Not to wait for the other end of a named pipe. */
    u->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (u->fd < 0 || fstat(u->fd, &info) != 0)
        return unreadable(u, path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return unreadable(u, path, "it is no regular file");
    u->size = info.st_size;
    u->at = 0;
    return ask(u, easy, (curl_off_t)u->size);
}

/* One file of a form. libcurl's own way sends it to its end, wherever that is by then: what is
 * added while it goes out would be the beginning of another request. */
struct part_file {
    int fd;
    int64_t size, at;
    struct upload *upload; /* borrowed; owns the mime that owns this */
};

static size_t read_part(char *to, size_t size, size_t count, void *ctx)
{
    struct part_file *f = ctx;
    size_t room = size * count;
    if ((int64_t)room > f->size - f->at)
        room = (size_t)(f->size - f->at);
    if (room == 0)
        return 0;
    ssize_t n;
    do
        n = pread(f->fd, to, room, (off_t)f->at);
    while (n < 0 && errno == EINTR);
    if (n <= 0) {
        snprintf(f->upload->problem, sizeof f->upload->problem,
                 "cannot read the file to be sent: %s",
                 n < 0 ? strerror(errno) : "it became shorter meanwhile");
        return CURL_READFUNC_ABORT;
    }
    f->at += n;
    return (size_t)n;
}

static int seek_part(void *ctx, curl_off_t offset, int origin)
{
    if (origin != SEEK_SET)
        return CURL_SEEKFUNC_CANTSEEK;
    ((struct part_file *)ctx)->at = offset;
    return CURL_SEEKFUNC_OK;
}

static void free_part(void *ctx)
{
    close(((struct part_file *)ctx)->fd);
    free(ctx);
}

static CURLcode unreadable(struct upload *u, const char *path, const char *why);

static CURLcode add_file(struct upload *u, curl_mimepart *p, const char *path)
{
    struct stat info;
    /* Not to wait for the other end of a named pipe. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return unreadable(u, path, strerror(errno));
    bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    struct part_file *f = regular ? malloc(sizeof *f) : NULL;
    if (!f) {
        close(fd);
        return regular ? CURLE_OUT_OF_MEMORY : unreadable(u, path, "it is no regular file");
    }
    *f = (struct part_file){.fd = fd, .size = info.st_size, .upload = u};
    CURLcode code = curl_mime_data_cb(p, (curl_off_t)f->size, read_part, seek_part, free_part, f);
    if (code != CURLE_OK) {
        free_part(f);
        return code;
    }
    const char *name = strrchr(path, '/');
    return curl_mime_filename(p, name ? name + 1 : path);
}

static CURLcode add_part(struct upload *u, const struct upload_part *part)
{
    curl_mimepart *p = curl_mime_addpart(u->mime);
    if (!p)
        return CURLE_OUT_OF_MEMORY;
    CURLcode code = curl_mime_name(p, part->name);
    if (code == CURLE_OK && part->file) {
        code = add_file(u, p, part->file);
    } else if (code == CURLE_OK) {
        code = curl_mime_data(p, part->value_len ? part->value : "", part->value_len);
    }
    if (code == CURLE_OK && part->filename)
        code = curl_mime_filename(p, part->filename);
    if (code == CURLE_OK && part->type)
        code = curl_mime_type(p, part->type);
    return code;
}

static CURLcode begin_parts(struct upload *u, CURL *easy, const struct upload_part *parts, size_t n)
{
    u->mime = curl_mime_init(easy);
    if (!u->mime)
        return CURLE_OUT_OF_MEMORY;
    for (size_t i = 0; i < n; i++) {
        CURLcode code = add_part(u, &parts[i]);
        if (code != CURLE_OK)
            return code;
    }
    SET(CURLOPT_MIMEPOST, u->mime);
    return CURLE_OK;
}

CURLcode upload_begin(struct upload *u, CURL *easy, const struct upload_source *source,
                      const char *method)
{
    CURLcode code;
    if (source->parts) {
        u->kind = UPLOAD_PARTS;
        code = begin_parts(u, easy, source->parts, source->part_count);
    } else if (source->file) {
        u->kind = UPLOAD_FILE;
        code = begin_file(u, easy, source->file);
    } else if (source->pull) {
        u->kind = UPLOAD_PULL;
        u->ended = u->paused = false;
        u->taken = 0;
        bytes_clear(&u->text);
        code = ask(u, easy, (curl_off_t)source->pull_size);
    } else {
        u->kind = UPLOAD_TEXT;
        code = begin_text(u, easy, source->text, source->len);
    }
    if (code != CURLE_OK)
        return code;
    SET(CURLOPT_CUSTOMREQUEST, method);
    return CURLE_OK;
}

int upload_send(struct upload *u, const char *p, size_t n)
{
    u->paused = false;
    if (n == 0)
        u->ended = true;
    return n ? bytes_append(&u->text, p, n) : 0;
}

void upload_end(struct upload *u, CURL *easy, size_t keep)
{
    if (u->kind == UPLOAD_NONE)
        return;
    /* What only turns an option off cannot fail. */
    if (u->asks) {
        curl_easy_setopt(easy, CURLOPT_UPLOAD, 0L);
        curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)-1);
        u->asks = false;
    }
    if (u->mime) {
        curl_easy_setopt(easy, CURLOPT_MIMEPOST, NULL);
        curl_mime_free(u->mime);
        u->mime = NULL;
    }
    if (u->fd >= 0)
        close(u->fd);
    u->fd = -1;
    bytes_trim(&u->text, keep);
    u->problem[0] = '\0';
    u->kind = UPLOAD_NONE;
}

void upload_init(struct upload *u, void (*on_want)(void *ctx), void *ctx)
{
    memset(u, 0, sizeof *u);
    u->fd = -1;
    u->on_want = on_want;
    u->ctx = ctx;
    bytes_init(&u->text, 0);
}

void upload_deinit(struct upload *u)
{
    if (u->fd >= 0)
        close(u->fd);
    curl_mime_free(u->mime);
    bytes_deinit(&u->text);
}
