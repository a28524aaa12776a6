/*
 * A profile: how connections are made — certificates, proxy, guard, Unix socket, cookie jar — with
 * the lanes and origins of its own. Transfers of different profiles never share a connection, so
 * none goes over one that was made under laxer rules.
 */
#ifndef PROFILE_H
#define PROFILE_H

#include "lane.h"
#include "origin.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <sys/queue.h>

/* All texts are NULL for none. */
struct profile_options {
    const char *ca;   /* path; PEM authorities instead of the system's */
    const char *crl;  /* path; PEM revocation lists, then every chain must be covered */
    const char *cert; /* path; our certificate, PEM */
    const char *key;  /* path; its key, PEM */
    const char *key_password;
    const char *tls_min;    /* "1.0" to "1.3"; "1.2" unless given */
    bool insecure;          /* certificates are not checked */
    const char *proxy;      /* "http://…", "https://…" or "socks5h://host:port" */
    const char *proxy_user; /* used with the password */
    const char *proxy_password;
    bool guard;            /* private addresses are not connected to */
    const char *unix_path; /* a socket to connect to, whatever the host */
    bool http1;            /* HTTP/1.1 only */
    int jar;               /* profiles of the same number > 0 share their cookies */
};

struct hop;

struct profile {
    int id;                         /* its owner's */
    unsigned active;                /* its owner's: hops that are not free */
    bool closing;                   /* in its owner's list of those to be closed */
    TAILQ_ENTRY(profile) link;      /* there */
    struct profile_options options; /* its texts are owned */
    CURLSH *jar;                    /* borrowed, outlives the easy handles; or NULL */
    struct lanes lanes;
    struct origins origins;
    TAILQ_HEAD(, hop) free_hops; /* whose handles are set up for it; the client's */
};

/* Copies the options; the rest is for lanes_init. Returns 0 or -ENOMEM. */
int profile_create(struct profile **out, const struct profile_options *options, CURLSH *jar,
                   uv_loop_t *loop, struct watches *watches,
                   const struct lanes_callbacks *callbacks, void *ctx);

/* Sets up a new easy handle. Returns 0, -EINVAL when libcurl cannot do what the options say, or
 * -ENOMEM. */
int profile_apply(const struct profile *p, CURL *easy);

/* Closes all connections. No transfer may be left on it, no handle set up for it be in use. */
void profile_destroy(struct profile *p);

#endif
