/* The least of HTTP/1.1 that a server can read: enough to measure and to show,
   not to put before the world.

   Supported: a request line with a target of any form, header fields one a
   line, Content-Length bodies, keep-alive and pipelining (a connection's
   requests are served one after another), HEAD, HTTP/1.0 without keep-alive.

   Not supported, and refused: chunked bodies and other transfer codings (501),
   Expect (417), heads of more than 16 KiB (431), bodies of more than 1 MiB
   (413), folded header lines and bare line feeds (400), HTTP before 1.0 and
   after 1.1 (505).  Not looked at: every header field but Content-Length,
   Transfer-Encoding, Connection and Expect. */

#ifndef NATIVE_SERVER_HTTP_H
#define NATIVE_SERVER_HTTP_H

#include <stddef.h>

#define HTTP_HEAD_MAX 16384
#define HTTP_BODY_MAX (1 << 20)
#define HTTP_RESPONSE_HEAD_MAX 256

typedef struct {
    /* into the bytes that were read */
    const char *method;
    const char *target;
    const char *body;
    size_t method_size;
    size_t target_size;
    size_t body_size;
    size_t size; /* of the whole request */
    int keep_alive;
} http_request;

/* 1: *request is filled.  0: not all there yet; `size` says how much more is
   worth having room for.  Else the status to refuse the request with. */
int http_read(http_request *request, const char *bytes, size_t size);

/* Writes at most HTTP_RESPONSE_HEAD_MAX bytes; returns how many. */
size_t http_response_head(char *to, int status, const char *type,
                          size_t body_size, int keep_alive);

#endif
