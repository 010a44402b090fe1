/* The request reader; see http.h for what it leaves out. */

#include "http.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static int
is_token(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)bytes[i];

        if (c <= ' ' || c >= 127 || strchr("\"(),/:;<=>?@[\\]{}", c) != NULL) {
            return 0;
        }
    }
    return size > 0;
}

static int
is(const char *bytes, size_t size, const char *word)
{
    return size == strlen(word) && strncasecmp(bytes, word, size) == 0;
}

/* Is word in the comma-separated list? */
static int
has(const char *bytes, size_t size, const char *word)
{
    const char *end = bytes + size;

    while (bytes < end) {
        const char *comma = memchr(bytes, ',', (size_t)(end - bytes));
        const char *last = comma == NULL ? end : comma;

        while (bytes < last && (*bytes == ' ' || *bytes == '\t')) {
            bytes++;
        }
        size_t length = (size_t)(last - bytes);

        while (length > 0 &&
               (bytes[length - 1] == ' ' || bytes[length - 1] == '\t'))
        {
            length--;
        }
        if (is(bytes, length, word)) {
            return 1;
        }
        bytes = last + 1;
    }
    return 0;
}

/* 0, or the status to refuse with. */
static int
read_request_line(http_request *request, const char *line, size_t size)
{
    const char *space = memchr(line, ' ', size);
    const char *end = line + size;

    if (space == NULL) {
        return 400;
    }
    request->method = line;
    request->method_size = (size_t)(space - line);
    request->target = space + 1;
    space = memchr(space + 1, ' ', (size_t)(end - space - 1));
    if (space == NULL || space == request->target ||
        !is_token(request->method, request->method_size))
    {
        return 400;
    }
    request->target_size = (size_t)(space - request->target);
    for (const char *c = request->target; c < space; c++) {
        if ((unsigned char)*c <= ' ' || *c == 127) {
            return 400;
        }
    }
    if (end - space != 9 || memcmp(space, " HTTP/", 6) != 0) {
        return 400;
    }
    if (memcmp(space + 6, "1.1", 3) == 0) {
        request->keep_alive = 1;
    }
    else if (memcmp(space + 6, "1.0", 3) != 0) {
        return 505;
    }
    return 0;
}

static int
read_length(http_request *request, const char *value, size_t size, int again)
{
    size_t length = 0;

    if (size == 0) {
        return 400;
    }
    for (size_t i = 0; i < size; i++) {
        if (value[i] < '0' || value[i] > '9') {
            return 400;
        }
        length = length * 10 + (size_t)(value[i] - '0');
        if (length > HTTP_BODY_MAX) {
            return 413;
        }
    }
    if (again && length != request->body_size) {
        return 400;
    }
    request->body_size = length;
    return 0;
}

/* 0, or the status to refuse with. */
static int
read_field(http_request *request, const char *line, size_t size, int *lengths)
{
    const char *colon = memchr(line, ':', size);

    if (colon == NULL || !is_token(line, (size_t)(colon - line))) {
        return 400;
    }
    size_t name = (size_t)(colon - line);
    const char *value = colon + 1;
    size_t length = size - name - 1;

    while (length > 0 && (*value == ' ' || *value == '\t')) {
        value++;
        length--;
    }
    while (length > 0 &&
           (value[length - 1] == ' ' || value[length - 1] == '\t'))
    {
        length--;
    }
    if (is(line, name, "content-length")) {
        return read_length(request, value, length, (*lengths)++);
    }
    if (is(line, name, "transfer-encoding")) {
        return 501;
    }
    if (is(line, name, "expect")) {
        return 417;
    }
    if (is(line, name, "connection") && has(value, length, "close")) {
        request->keep_alive = 0;
    }
    return 0;
}

int
http_read(http_request *request, const char *bytes, size_t size)
{
    const char *end = memmem(
        bytes, size < HTTP_HEAD_MAX ? size : HTTP_HEAD_MAX, "\r\n\r\n", 4);
    int lengths = 0, status;

    memset(request, 0, sizeof(*request));
    if (end == NULL) {
        request->size = HTTP_HEAD_MAX;
        return size < HTTP_HEAD_MAX ? 0 : 431;
    }
    if (memchr(bytes, 0, (size_t)(end - bytes)) != NULL) {
        return 400;
    }
    for (const char *line = bytes; line <= end;) {
        const char *stop = memchr(line, '\n', (size_t)(end + 2 - line));

        if (stop == line || stop[-1] != '\r') {
            return 400;
        }
        size_t length = (size_t)(stop - 1 - line);

        status = line == bytes ? read_request_line(request, line, length)
                               : read_field(request, line, length, &lengths);
        if (status != 0) {
            return status;
        }
        line = stop + 1;
    }
    request->body = end + 4;
    request->size = (size_t)(request->body - bytes) + request->body_size;
    return size >= request->size;
}

static const char *
reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 413:
        return "Content Too Large";
    case 417:
        return "Expectation Failed";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "";
    }
}

size_t
http_response_head(char *to, int status, const char *type, size_t body_size,
                   int keep_alive)
{
    return (size_t)snprintf(to, HTTP_RESPONSE_HEAD_MAX,
                            "HTTP/1.1 %d %s\r\nContent-Type: %s\r\n"
                            "Content-Length: %zu\r\n%s\r\n",
                            status, reason(status), type, body_size,
                            keep_alive ? "" : "Connection: close\r\n");
}
