/* Sends of many sockets by one system call; see uring.h. */

#include "uring.h"

#include <errno.h>
#include <stdlib.h>

#if defined(__has_include)
#if __has_include(<linux/io_uring.h>)
#define PL_HAS_URING 1
#endif
#endif

#ifdef PL_HAS_URING

#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct pl_uring {
    int fd;
    pid_t pid;    /* whose it is: a child of fork shares the memory, and is
                     not to write to it */

    /* The kernel's two rings and the entries, shared with it. */
    void *rings;
    size_t rings_size;
    struct io_uring_sqe *entries;
    size_t entries_size;
    unsigned *tail;          /* ours: how many were ever submitted */
    unsigned *done_head;     /* ours: how many results were ever taken */
    unsigned *done_tail;     /* the kernel's */
    unsigned mask;
    unsigned done_mask;
    struct io_uring_cqe *results;

    pl_send batch[PL_URING_BATCH];
    struct msghdr messages[PL_URING_BATCH];
};

static int
ring_setup(unsigned entries, struct io_uring_params *params)
{
    return (int)syscall(__NR_io_uring_setup, entries, params);
}

static int
ring_enter(int fd, unsigned submit, unsigned wait)
{
    return (int)syscall(__NR_io_uring_enter, fd, submit, wait,
                        IORING_ENTER_GETEVENTS, NULL, 0);
}

/* Does the kernel know both kinds of send? */
static int
ring_sends(int fd)
{
    enum { OPS = IORING_OP_SEND + 1 };
    struct {
        struct io_uring_probe head;
        struct io_uring_probe_op ops[OPS];
    } probe;

    memset(&probe, 0, sizeof(probe));
    return syscall(__NR_io_uring_register, fd, IORING_REGISTER_PROBE, &probe,
                   OPS) == 0 &&
           (probe.ops[IORING_OP_SENDMSG].flags & IO_URING_OP_SUPPORTED) &&
           (probe.ops[IORING_OP_SEND].flags & IO_URING_OP_SUPPORTED);
}

static int
map_rings(pl_uring *self, const struct io_uring_params *params)
{
    const struct io_sqring_offsets *sq = &params->sq_off;
    const struct io_cqring_offsets *cq = &params->cq_off;
    size_t sq_size = sq->array + params->sq_entries * sizeof(unsigned);
    size_t cq_size =
        cq->cqes + params->cq_entries * sizeof(struct io_uring_cqe);

    self->rings_size = sq_size > cq_size ? sq_size : cq_size;
    self->rings =
        mmap(NULL, self->rings_size, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_POPULATE, self->fd, IORING_OFF_SQ_RING);
    if (self->rings == MAP_FAILED) {
        return -errno;
    }
    self->entries_size = params->sq_entries * sizeof(struct io_uring_sqe);
    self->entries = mmap(NULL, self->entries_size, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_POPULATE, self->fd, IORING_OFF_SQES);
    if (self->entries == MAP_FAILED) {
        return -errno;
    }
    char *rings = self->rings;
    unsigned *order = (unsigned *)(rings + sq->array);

    self->tail = (unsigned *)(rings + sq->tail);
    self->mask = *(unsigned *)(rings + sq->ring_mask);
    self->done_head = (unsigned *)(rings + cq->head);
    self->done_tail = (unsigned *)(rings + cq->tail);
    self->done_mask = *(unsigned *)(rings + cq->ring_mask);
    self->results = (struct io_uring_cqe *)(rings + cq->cqes);
    for (unsigned i = 0; i < params->sq_entries; i++) {
        order[i] = i;
    }
    return 0;
}

pl_uring *
pl_uring_new(int *err)
{
    struct io_uring_params params;

    /* 0: none.  Where even this question is forbidden, one is in force. */
    if (prctl(PR_GET_SECCOMP) != 0) {
        *err = -EPERM;
        return NULL;
    }
    pl_uring *self = calloc(1, sizeof(*self));

    if (self == NULL) {
        *err = -ENOMEM;
        return NULL;
    }
    self->rings = self->entries = MAP_FAILED;
    self->pid = getpid();
    memset(&params, 0, sizeof(params));
    self->fd = ring_setup(PL_URING_BATCH, &params);
    if (self->fd < 0) {
        *err = -errno;
    }
    else if (!(params.features & IORING_FEAT_SINGLE_MMAP) ||
             !(params.features & IORING_FEAT_FAST_POLL) ||
             !ring_sends(self->fd))
    {
        *err = -ENOSYS;
    }
    else {
        *err = map_rings(self, &params);
    }
    if (*err < 0) {
        pl_uring_free(self);
        return NULL;
    }
    return self;
}

void
pl_uring_free(pl_uring *self)
{
    if (self->entries != MAP_FAILED) {
        (void)munmap(self->entries, self->entries_size);
    }
    if (self->rings != MAP_FAILED) {
        (void)munmap(self->rings, self->rings_size);
    }
    if (self->fd >= 0) {
        (void)close(self->fd);
    }
    free(self);
}

pl_send *
pl_uring_batch(pl_uring *self)
{
    return self->batch;
}

static void
fill(pl_uring *self, unsigned place, int index)
{
    pl_send *send = &self->batch[index];
    struct io_uring_sqe *entry = &self->entries[place & self->mask];

    memset(entry, 0, sizeof(*entry));
    entry->fd = send->fd;
    entry->msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    entry->user_data = (uint64_t)index;
    if (send->count == 1) {
        entry->opcode = IORING_OP_SEND;
        entry->addr = (uint64_t)(uintptr_t)send->iov[0].iov_base;
        entry->len = (uint32_t)send->iov[0].iov_len;
    }
    else {
        struct msghdr *message = &self->messages[index];

        memset(message, 0, sizeof(*message));
        message->msg_iov = send->iov;
        message->msg_iovlen = (size_t)send->count;
        entry->opcode = IORING_OP_SENDMSG;
        entry->addr = (uint64_t)(uintptr_t)message;
        entry->len = 1;
    }
}

static int
take_results(pl_uring *self)
{
    unsigned head = *self->done_head;
    unsigned tail = __atomic_load_n(self->done_tail, __ATOMIC_ACQUIRE);
    int taken = (int)(tail - head);

    for (; head != tail; head++) {
        struct io_uring_cqe *result = &self->results[head & self->done_mask];

        self->batch[result->user_data].sent = result->res;
    }
    __atomic_store_n(self->done_head, head, __ATOMIC_RELEASE);
    return taken;
}

int
pl_uring_send(pl_uring *self, int n)
{
    for (int i = 0; i < n; i++) {
        self->batch[i].sent = -EAGAIN;
    }
    if (self->pid != getpid()) {
        return -1;
    }
    unsigned tail = *self->tail;
    int submitted;
    int taken = 0;

    for (int i = 0; i < n; i++) {
        fill(self, tail + (unsigned)i, i);
    }
    __atomic_store_n(self->tail, tail + (unsigned)n, __ATOMIC_RELEASE);
    do {
        submitted = ring_enter(self->fd, (unsigned)n, (unsigned)n);
    } while (submitted < 0 && errno == EINTR);

    /* Until no result is owed: the buffers are lent as long. */
    while (taken < submitted) {
        taken += take_results(self);
        if (taken < submitted &&
            ring_enter(self->fd, 0, (unsigned)(submitted - taken)) < 0 &&
            errno != EINTR)
        {
            break;
        }
    }
    return submitted == n && taken == n ? 0 : -1;
}

#else

pl_uring *
pl_uring_new(int *err)
{
    *err = -ENOSYS;
    return NULL;
}

void
pl_uring_free(pl_uring *self)
{
    (void)self;
}

pl_send *
pl_uring_batch(pl_uring *self)
{
    (void)self;
    return NULL;
}

int
pl_uring_send(pl_uring *self, int n)
{
    (void)self;
    (void)n;
    return -1;
}

#endif
