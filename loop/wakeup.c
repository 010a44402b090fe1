/* Wake-up descriptors; see wakeup.h. */

#include "wakeup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#ifdef __linux__

#include <sys/eventfd.h>

int
pl_wakeup_init(pl_wakeup *wakeup)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    if (fd < 0) {
        return -errno;
    }
    wakeup->read_fd = wakeup->write_fd = fd;
    return 0;
}

#else

int
pl_wakeup_init(pl_wakeup *wakeup)
{
    int fds[2];

    if (pipe(fds) < 0) {
        return -errno;
    }
    for (int i = 0; i < 2; i++) {
        if (fcntl(fds[i], F_SETFD, FD_CLOEXEC) < 0 ||
            fcntl(fds[i], F_SETFL, O_NONBLOCK) < 0)
        {
            int err = -errno;

            close(fds[0]);
            close(fds[1]);
            return err;
        }
    }
    wakeup->read_fd = fds[0];
    wakeup->write_fd = fds[1];
    return 0;
}

#endif

void
pl_wakeup_fini(pl_wakeup *wakeup)
{
    close(wakeup->read_fd);
    if (wakeup->write_fd != wakeup->read_fd) {
        close(wakeup->write_fd);
    }
    wakeup->read_fd = wakeup->write_fd = -1;
}

int
pl_wakeup_send(pl_wakeup *wakeup)
{
    uint64_t one = 1;
    int saved = errno;
    int status = 0;

    while (write(wakeup->write_fd, &one, sizeof(one)) < 0) {
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            status = -errno;
        }
        break;
    }
    errno = saved;
    return status;
}

void
pl_wakeup_clear(pl_wakeup *wakeup)
{
#ifdef __linux__
    (void)wakeup;
#else
    char buffer[512];
    int saved = errno;

    while (read(wakeup->read_fd, buffer, sizeof(buffer)) ==
           (ssize_t)sizeof(buffer))
    {
    }
    errno = saved;
#endif
}
