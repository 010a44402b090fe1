/* Readiness of descriptors: the poll at the end of a turn.

   epoll by hand and not libuv's uv_poll_t, for two reasons.  A uv_poll_t
   registers with the next poll, and libuv aborts the process when that fails
   (a descriptor closed without remove_reader, a regular file); here each
   change is a system call whose error the caller gets, as in asyncio.  And a
   connection costs one epoll_ctl instead of five calls (docs/architecture.md
   has the measurement).  libuv's own loop hangs below this one by its
   backend descriptor.

   Loop thread only, but for a change to the wake-up descriptor; the batch is
   plain memory that no garbage collector looks at, so it is filled without a
   thread state. */

#ifndef PL_POLLER_H
#define PL_POLLER_H

#include <stdbool.h>
#include <stdint.h>

#define PL_READ 1u
#define PL_WRITE 2u
#define PL_EDGE 4u    /* with PL_READ: report each arrival once */
#define PL_ONCE 8u    /* report once; the kernel then looks away by itself */
#define PL_POLL_BATCH 256

typedef struct {
    int fd;
    uint32_t generation;
    uint32_t events;    /* PL_READ | PL_WRITE */
} pl_event;

typedef struct {
    int fd;
    int no_pwait2;      /* the kernel or a filter lacks epoll_pwait2 */
    int count;          /* events in the batch */
    bool changed;       /* pl_core_watch: more is watched than at the last
                           wait */
    pl_event batch[PL_POLL_BATCH];
} pl_poller;

/* All return 0 (wait: the count) or a negative errno. */
int pl_poller_init(pl_poller *poller);
void pl_poller_fini(pl_poller *poller);
/* Forgets all that is registered; the number stays. */
int pl_poller_renew(pl_poller *poller);
int pl_poller_set(pl_poller *poller, int fd, uint32_t generation,
                  uint32_t before, uint32_t events);

/* Blocks for at most timeout_ns (0 not at all, < 0 for ever).  Never returns
   early on a signal but with a count of 0. */
int pl_poller_wait(pl_poller *poller, int64_t timeout_ns);

#endif
