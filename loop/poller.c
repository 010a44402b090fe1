/* epoll behind poller.h. */

#include "poller.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/syscall.h>

int
pl_poller_init(pl_poller *poller)
{
    poller->fd = epoll_create1(EPOLL_CLOEXEC);
    poller->no_pwait2 = 0;
    poller->count = 0;
    poller->changed = false;
    return poller->fd < 0 ? -errno : 0;
}

int
pl_poller_renew(pl_poller *poller)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    int err = fd < 0 || dup3(fd, poller->fd, O_CLOEXEC) < 0 ? -errno : 0;

    if (fd >= 0) {
        close(fd);
    }
    return err;
}

void
pl_poller_fini(pl_poller *poller)
{
    if (poller->fd >= 0) {
        close(poller->fd);
    }
    poller->fd = -1;
}

int
pl_poller_set(pl_poller *poller, int fd, uint32_t generation, uint32_t before,
              uint32_t events)
{
    struct epoll_event event = {
        .events = (events & PL_READ ? EPOLLIN : 0) |
                  (events & PL_WRITE ? EPOLLOUT : 0) |
                  (events & PL_EDGE ? EPOLLET : 0) |
                  (events & PL_ONCE ? EPOLLONESHOT : 0),
        .data.u64 = (uint64_t)generation << 32 | (uint32_t)fd,
    };
    int op = events == 0   ? EPOLL_CTL_DEL
             : before == 0 ? EPOLL_CTL_ADD
                           : EPOLL_CTL_MOD;

    if (epoll_ctl(poller->fd, op, fd, &event) == 0) {
        return 0;
    }
    /* The number was closed and reused behind our back, or a dup of it is
       still there: what counts is the state asked for. */
    if (op == EPOLL_CTL_MOD && errno == ENOENT) {
        op = EPOLL_CTL_ADD;
    }
    else if (op == EPOLL_CTL_ADD && errno == EEXIST) {
        op = EPOLL_CTL_MOD;
    }
    else {
        return -errno;
    }
    return epoll_ctl(poller->fd, op, fd, &event) == 0 ? 0 : -errno;
}

/* Kernels before 5.11, or a filter that does not know the call. */
static int
wait_without_pwait2(pl_poller *poller, struct epoll_event *events,
                    const struct timespec *timeout)
{
    struct pollfd self = {.fd = poller->fd, .events = POLLIN};
    int ready = ppoll(&self, 1, timeout, NULL);

    return ready <= 0 ? ready
                      : epoll_wait(poller->fd, events, PL_POLL_BATCH, 0);
}

int
pl_poller_wait(pl_poller *poller, int64_t timeout_ns)
{
    struct epoll_event events[PL_POLL_BATCH];
    int n;

    poller->count = 0;
    poller->changed = false;
    if (timeout_ns <= 0) {
        n = epoll_wait(poller->fd, events, PL_POLL_BATCH,
                       timeout_ns == 0 ? 0 : -1);
    }
    else {
        struct timespec timeout = {
            .tv_sec = (time_t)(timeout_ns / 1000000000),
            .tv_nsec = (long)(timeout_ns % 1000000000),
        };

        n = -1;
        errno = ENOSYS;
#ifdef SYS_epoll_pwait2
        if (!poller->no_pwait2) {
            n = (int)syscall(SYS_epoll_pwait2, poller->fd, events,
                             PL_POLL_BATCH, &timeout, NULL, 0);
        }
#endif
        if (n < 0 && (errno == ENOSYS || errno == EPERM)) {
            poller->no_pwait2 = 1;
            n = wait_without_pwait2(poller, events, &timeout);
        }
    }
    if (n < 0) {
        return errno == EINTR ? 0 : -errno;
    }
    for (int i = 0; i < n; i++) {
        uint32_t mask = events[i].events;
        pl_event *event = &poller->batch[i];

        event->fd = (int)(uint32_t)events[i].data.u64;
        event->generation = (uint32_t)(events[i].data.u64 >> 32);
        /* As selectors.EpollSelector reads the mask: an error or a hang-up
           is news for both sides. */
        event->events = (mask & ~(uint32_t)EPOLLOUT ? PL_READ : 0) |
                        (mask & ~(uint32_t)EPOLLIN ? PL_WRITE : 0);
    }
    poller->count = n;
    return n;
}
