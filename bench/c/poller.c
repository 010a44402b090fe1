/* What a poll and a registration cost: libuv's uv_poll_t against epoll by
   hand, as docs/architecture.md quotes them.

   cc -O2 poller.c $(pkg-config --cflags --libs libuv) && ./a.out */

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#define ROUNDS 7
#define POLLS 200000
#define OPENS 20000

static double
now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int
compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void
report(const char *name, double *uv, double *epoll)
{
    qsort(uv, ROUNDS, sizeof(*uv), compare);
    qsort(epoll, ROUNDS, sizeof(*epoll), compare);
    printf("%-32s uv %7.0f ns  epoll %7.0f ns  ratio %.2f\n", name,
           uv[ROUNDS / 2], epoll[ROUNDS / 2], uv[ROUNDS / 2] / epoll[ROUNDS / 2]);
}

static void
on_event(uv_poll_t *handle, int status, int events)
{
    (void)handle;
    (void)status;
    (void)events;
}

static void
pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) < 0) {
        perror("socketpair");
        exit(1);
    }
}

/* Polls that find `ready` descriptors of one readable. */
static void
polls(int ready, double *uv_ns, double *epoll_ns)
{
    uv_loop_t loop;
    uv_poll_t handle;
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    int fds[2], epfd = epoll_create1(0);

    pair(fds);
    uv_loop_init(&loop);
    uv_poll_init(&loop, &handle, fds[0]);
    uv_poll_start(&handle, UV_READABLE, on_event);
    epoll_ctl(epfd, EPOLL_CTL_ADD, fds[0], &event);
    if (ready && write(fds[1], "x", 1) != 1) {
        exit(1);
    }
    for (int round = 0; round < ROUNDS; round++) {
        double start = now_ns();

        for (int i = 0; i < POLLS; i++) {
            uv_run(&loop, UV_RUN_NOWAIT);
        }
        uv_ns[round] = (now_ns() - start) / POLLS;
        start = now_ns();
        for (int i = 0; i < POLLS; i++) {
            epoll_wait(epfd, events, 256, 0);
        }
        epoll_ns[round] = (now_ns() - start) / POLLS;
    }
}

static void
opens(double *uv_ns, double *epoll_ns)
{
    uv_loop_t loop;
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    int fds[2], epfd = epoll_create1(0);

    pair(fds);
    uv_loop_init(&loop);
    for (int round = 0; round < ROUNDS; round++) {
        double start = now_ns();

        for (int i = 0; i < OPENS; i++) {
            uv_poll_t handle;

            uv_poll_init(&loop, &handle, fds[0]);
            uv_poll_start(&handle, UV_READABLE, on_event);
            uv_run(&loop, UV_RUN_NOWAIT);
            uv_close((uv_handle_t *)&handle, NULL);
            uv_run(&loop, UV_RUN_NOWAIT);
        }
        uv_ns[round] = (now_ns() - start) / OPENS;
        start = now_ns();
        for (int i = 0; i < OPENS; i++) {
            epoll_ctl(epfd, EPOLL_CTL_ADD, fds[0], &event);
            epoll_wait(epfd, events, 256, 0);
            epoll_ctl(epfd, EPOLL_CTL_DEL, fds[0], &event);
            epoll_wait(epfd, events, 256, 0);
        }
        epoll_ns[round] = (now_ns() - start) / OPENS;
    }
}

int
main(void)
{
    double uv_ns[ROUNDS], epoll_ns[ROUNDS];

    polls(0, uv_ns, epoll_ns);
    report("poll, nothing ready", uv_ns, epoll_ns);
    polls(1, uv_ns, epoll_ns);
    report("poll, one descriptor ready", uv_ns, epoll_ns);
    opens(uv_ns, epoll_ns);
    report("watch, 2 polls, forget", uv_ns, epoll_ns);
    return 0;
}
