/* Load generator for the scoreboard's I/O rows, so that the client is not
 * what is measured.  One thread, plain sockets, epoll; every client waits for
 * its answer before it sends again (a closed loop).  Reports one line of JSON.
 *
 *   load echo HOST PORT CONNECTIONS SIZE WARM SECONDS
 *   load http HOST PORT CONNECTIONS WARM SECONDS
 *   load udp HOST PORT WINDOW SIZE WARM SECONDS
 *   load accept HOST         prints a port, accepts and closes until killed
 *
 * load.py does the same where there is no C compiler or no epoll.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RESPONSE_MAX 65536
#define STALL_MS 5000

typedef struct {
    int fd;
    size_t sent, got; /* of the message under way */
    uint64_t start;
    uint32_t interest;
    /* http only */
    char *buffer;
    size_t need; /* whole response; 0 while the head is incomplete */
} client;

static struct sockaddr_in address;
static uint64_t begin_at, end_at; /* the measured window */

/* Latencies: 64 linear steps in each power of two, under 1.6 % error. */
static uint64_t histogram[64 * 64];
static uint64_t counted, bad;

static void
fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static void
die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static uint64_t
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void
count(uint64_t start, uint64_t end)
{
    if (end < begin_at || end >= end_at) {
        return;
    }
    uint64_t ns = end - start;
    unsigned shift = 0;
    while (ns >> shift >= 128) {
        shift++;
    }
    histogram[shift * 64 + (ns >> shift)]++;
    counted++;
}

static double
percentile(double part)
{
    uint64_t left = (uint64_t)((double)counted * part);
    for (unsigned i = 0; i < 64 * 64; i++) {
        if (histogram[i] > left) {
            unsigned shift = i < 128 ? 0 : i / 64 - 1;
            return (double)((uint64_t)(i - shift * 64) << shift) / 1000.0;
        }
        left -= histogram[i];
    }
    return 0;
}

static void
set_window(const char *warm, const char *seconds)
{
    begin_at = now() + (uint64_t)(atof(warm) * 1e9);
    end_at = begin_at + (uint64_t)(atof(seconds) * 1e9);
}

static void
report(void)
{
    if (!counted) {
        die("no answer within the measured time");
    }
    double seconds = (double)(end_at - begin_at) / 1e9;
    printf("{\"rate\": %.3f, \"count\": %llu, \"errors\": %llu, "
           "\"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f}\n",
           (double)counted / seconds, (unsigned long long)counted,
           (unsigned long long)bad, percentile(0.5), percentile(0.99),
           percentile(0.999));
}

static int
open_socket(int type)
{
    int fd = socket(AF_INET, type, 0), one = 1;
    if (fd < 0) {
        fail("socket");
    }
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        fail("connect");
    }
    if (type == SOCK_STREAM) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    return fd;
}

/* One connection needs no epoll: blocking calls are the shorter way. */
static void
echo_one(size_t size, char *out, char *in)
{
    int fd = open_socket(SOCK_STREAM);
    struct timeval limit = {STALL_MS / 1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    for (;;) {
        uint64_t start = now();
        if (start >= end_at) {
            break;
        }
        for (size_t done = 0; done < size;) {
            ssize_t n = send(fd, out + done, size - done, MSG_NOSIGNAL);
            if (n < 0) {
                fail("send");
            }
            done += (size_t)n;
        }
        for (size_t done = 0; done < size;) {
            ssize_t n = recv(fd, in + done, size - done, 0);
            if (n <= 0) {
                n ? fail("recv") : die("closed by the server");
            }
            done += (size_t)n;
        }
        if (memcmp(in, out, size)) {
            die("echo differs");
        }
        count(start, now());
    }
    close(fd);
}

static void
want(int poll, client *c, uint32_t interest)
{
    if (c->interest != interest) {
        struct epoll_event event = {interest, {.ptr = c}};
        int op = c->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
        if (epoll_ctl(poll, op, c->fd, &event) < 0) {
            fail("epoll_ctl");
        }
        c->interest = interest;
    }
}

static void
send_some(int poll, client *c, const char *out, size_t size)
{
    while (c->sent < size) {
        ssize_t n = send(c->fd, out + c->sent, size - c->sent,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) {
                fail("send");
            }
            break;
        }
        c->sent += (size_t)n;
    }
    want(poll, c, EPOLLIN | (c->sent < size ? (uint32_t)EPOLLOUT : 0u));
}

static void
begin(int poll, client *c, const char *out, size_t size)
{
    c->sent = c->got = c->need = 0;
    c->start = now();
    send_some(poll, c, out, size);
}

/* Length of the response whose head is complete, else 0. */
static size_t
response_length(client *c)
{
    char *end = memmem(c->buffer, c->got, "\r\n\r\n", 4);
    if (!end) {
        return 0;
    }
    if (memcmp(c->buffer, "HTTP/1.1 200", 12)) {
        bad++;
    }
    for (char *line = c->buffer; line < end;) {
        if (!strncasecmp(line, "content-length:", 15)) {
            return (size_t)(end + 4 - c->buffer) +
                   strtoul(line + 15, NULL, 10);
        }
        line = (char *)memmem(line, (size_t)(end + 2 - line), "\r\n", 2) + 2;
    }
    die("response without Content-Length");
    return 0;
}

/* 1: answer complete, 0: not yet, -1: closed */
static int
receive(client *c, char *in, size_t size)
{
    size_t room = c->buffer ? RESPONSE_MAX - c->got : size - c->got;
    char *to = c->buffer ? c->buffer + c->got : in;
    ssize_t n = recv(c->fd, to, room, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno == ECONNRESET)) {
        return -1;
    }
    if (n < 0) {
        return 0;
    }
    c->got += (size_t)n;
    if (!c->buffer) {
        return c->got == size;
    }
    if (!c->need) {
        c->need = response_length(c);
    }
    if (c->got == RESPONSE_MAX && c->got != c->need) {
        die("response too long");
    }
    return c->need && c->got >= c->need;
}

static void
run_many(int connections, int http, const char *out, size_t size, char *in)
{
    int poll = epoll_create1(0);
    client *clients = calloc((size_t)connections, sizeof(*clients));
    struct epoll_event events[256];
    for (int i = 0; i < connections; i++) {
        clients[i].fd = open_socket(SOCK_STREAM);
        clients[i].buffer = http ? malloc(RESPONSE_MAX) : NULL;
    }
    for (int i = 0; i < connections; i++) {
        begin(poll, &clients[i], out, size);
    }
    while (now() < end_at) {
        int n = epoll_wait(poll, events, 256, STALL_MS);
        if (n == 0) {
            die("server stalled");
        }
        for (int i = 0; i < n; i++) {
            client *c = events[i].data.ptr;
            if (c->sent < size) {
                send_some(poll, c, out, size);
            }
            if (!(events[i].events & ~(uint32_t)EPOLLOUT)) {
                continue;
            }
            int state = receive(c, in, size);
            if (state > 0) {
                count(c->start, now());
                begin(poll, c, out, size);
            }
            else if (state < 0) {
                bad++;
                if (!http) {
                    die("closed by the server");
                }
                close(c->fd);
                c->fd = open_socket(SOCK_STREAM);
                c->interest = 0;
                begin(poll, c, out, size);
            }
        }
    }
}

static void
run_udp(int window, size_t size, char *out, char *in)
{
    int fd = open_socket(SOCK_DGRAM);
    struct timeval limit = {0, 200000};
    int misses = 0;
    uint64_t *starts = calloc((size_t)window, sizeof(*starts));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    for (uint32_t i = 0; i < (uint32_t)window; i++) {
        memcpy(out, &i, sizeof(i)); /* which of the window this is */
        starts[i] = now();
        send(fd, out, size, 0);
    }
    while (now() < end_at) {
        uint32_t i;
        ssize_t n = recv(fd, in, size, 0);
        if (n == (ssize_t)size) {
            memcpy(&i, in, sizeof(i));
            if (i >= (uint32_t)window) {
                die("echo differs");
            }
            count(starts[i], now());
            starts[i] = now();
            send(fd, in, size, 0);
        }
        else if (++misses > 10) {
            die("datagrams lost");
        }
        else {
            for (i = 0; i < (uint32_t)window; i++) {
                memcpy(out, &i, sizeof(i));
                starts[i] = now();
                send(fd, out, size, 0);
            }
        }
    }
}

static void
run_accept(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t length = sizeof(address);
    address.sin_port = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, 1024) < 0)
    {
        fail("listen");
    }
    getsockname(fd, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    /* Closed by reset, and four connections late: the other side, done with
     * it by then, leaves no port in TIME_WAIT. */
    int held[4] = {-1, -1, -1, -1};
    for (unsigned i = 0;; i++) {
        struct linger drop = {1, 0};
        int peer = accept(fd, NULL, NULL);
        if (held[i % 4] >= 0) {
            close(held[i % 4]);
        }
        held[i % 4] = peer;
        setsockopt(peer, SOL_SOCKET, SO_LINGER, &drop, sizeof(drop));
    }
}

int
main(int argc, char **argv)
{
    if (argc < 3) {
        die("see the head of load.c");
    }
    const char *mode = argv[1];
    address.sin_family = AF_INET;
    if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) {
        die("numeric IPv4 address wanted");
    }
    if (!strcmp(mode, "accept")) {
        run_accept();
    }
    if (argc < 6) {
        die("see the head of load.c");
    }
    address.sin_port = htons((uint16_t)atoi(argv[3]));
    set_window(argv[argc - 2], argv[argc - 1]);
    if (argc == 7 && !strcmp(mode, "http")) {
        char request[256];
        int size = snprintf(request, sizeof(request),
                            "GET / HTTP/1.1\r\nHost: %s:%s\r\n"
                            "User-Agent: load\r\nAccept: */*\r\n\r\n",
                            argv[2], argv[3]);
        run_many(atoi(argv[4]), 1, request, (size_t)size, NULL);
    }
    else if (argc == 8 && (*mode == 'e' || *mode == 'u')) {
        int many = atoi(argv[4]);
        size_t size = (size_t)atol(argv[5]);
        char *out = malloc(size), *in = malloc(size);
        for (size_t i = 0; i < size; i++) {
            out[i] = (char)(i * 7);
        }
        if (*mode == 'u') {
            run_udp(many, size, out, in);
        }
        else if (many == 1) {
            echo_one(size, out, in);
        }
        else {
            run_many(many, 0, out, size, in);
        }
    }
    else {
        die("see the head of load.c");
    }
    report();
    return 0;
}
