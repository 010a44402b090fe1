/* An io_uring of one loop's: what many sockets are to be sent leaves by one
   system call.  Off unless asked for (loop.io_uring).

   Nothing is left to the kernel for later: each send is MSG_DONTWAIT, and
   pl_uring_send returns when all have their results.  So this is a sendmsg of
   many sockets, and the buffers are free again when it returns.  Loop thread
   only.

   Format and calls: io_uring(7), <linux/io_uring.h>. */

#ifndef PL_URING_H
#define PL_URING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define PL_URING_BATCH 64    /* sends a call */
#define PL_URING_IOV 4       /* buffers a send */

typedef struct {
    int fd;
    int count;               /* of iov, at least 1 */
    size_t total;            /* bytes in them */
    ssize_t sent;            /* afterwards: bytes, or a negative errno */
    struct iovec iov[PL_URING_IOV];
} pl_send;

typedef struct pl_uring pl_uring;

/* NULL and *err: -ENOSYS of an older kernel (before 5.7) or build, -EPERM
   where the system forbids it or a seccomp filter is in force (which may kill
   whoever tries, so nobody does), or what the kernel says. */
pl_uring *pl_uring_new(int *err);
void pl_uring_free(pl_uring *uring);

/* Room for PL_URING_BATCH. */
pl_send *pl_uring_batch(pl_uring *uring);

/* Sends the first n of the batch.  Those that the kernel would not take have
   -EAGAIN: they are to be sent in the ordinary way.  -1 when it refuses to go
   on, or this is a child of fork; the uring is then to be freed. */
int pl_uring_send(pl_uring *uring, int n);

#endif
