/* The core: the part of a loop that is plain C, so that threads without a
   Python thread state can hold it.

   Reference-counted and free of Python types.  The loop object holds one
   reference, each native user its own; a post to a core whose loop is closed
   is refused, never a touch of freed memory. */

#ifndef PL_CORE_H
#define PL_CORE_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "inbox.h"
#include "poller.h"
#include "stats.h"
#include "uring.h"
#include "wakeup.h"

enum pl_slot_kind {
    PL_SLOT_FREE,
    PL_SLOT_WAKEUP,       /* the core's own */
    PL_SLOT_UV,           /* libuv's backend descriptor */
    PL_SLOT_CALLBACKS,    /* owner: PlWatch, add_reader and add_writer */
    PL_SLOT_STREAM,       /* owner: PlStream */
    PL_SLOT_LISTENER,     /* owner: PlListener */
    PL_SLOT_DATAGRAM,     /* owner: PlDatagram */
};

/* In a slot's `events` after a report of PL_ONCE: the kernel still has the
   descriptor, but looks away.  A hint, which the kernel knows better: the
   descriptor may be closed and its number another's. */
#define PL_PARKED 16u
#define PL_SLOT_KINDS (PL_SLOT_DATAGRAM + 1)

/* What the loop knows of one descriptor; the table is indexed by its
   number.  `generation` changes with each use of the slot, so that an event
   for a descriptor that was closed and reused finds no owner. */
typedef struct {
    void *owner;
    uint32_t generation;
    uint8_t kind;
    uint8_t events;    /* registered with the poller */
} pl_slot;

typedef struct pyloop_loop {
    /* any thread, atomic */
    atomic_int refs;
    pl_inbox inbox;

    /* set once */
    pl_wakeup wakeup;
    pid_t pid;              /* of the process that made it */

    /* loop thread only */
    void *owner;            /* the PlLoop, until it is closed */
    pl_poller poller;
    pl_uring *uring;        /* NULL unless asked for */
    pl_slot *slots;
    int slot_count;
    int closed;
    int uv_open;            /* uv is initialised: made on first use */
    int uv_requests;        /* submitted and not yet done */
    uv_loop_t uv;
    int64_t doze_limit_ns;  /* loop.busy_poll; 0: never doze; any thread may
                               read it, atomically */
    int64_t doze_ns;        /* before the next sleep: 0, or doze_limit_ns */
    int64_t dozing_ns;      /* the same of the rest that has begun */
    int short_waits;        /* in a row, up to now */
    int doze_after;         /* so many of them */
    int strays; /* polls in a row with an event that is nobody's */

    /* loop thread writes, any thread reads: stats.h */
    uint64_t dozed_ns;
    uint64_t wakeups; /* times a sleeping loop was woken */
    uint64_t used[PL_SLOT_KINDS]; /* slots of each kind but FREE */
} pl_core;

/* NULL and *err, a negative errno.  One reference, the caller's.  A core is
   what include/pyloop.h calls pyloop_loop. */
pl_core *pl_core_new(int *err);
void pl_core_acquire(pl_core *core);
void pl_core_release(pl_core *core);

/* Loop thread: refuses posts from now on, closes the descriptors.  Returns
   what the inbox held, oldest first. */
pl_link *pl_core_close(pl_core *core);

/* Any thread, async-signal-safe, never blocks: 0, or -1 when closed (the
   link stays the caller's), or 1 when the link is in but the wake-up could
   not be sent (errno tells why).  As a chain: linked newest first. */
int pl_core_post(pl_core *core, pl_link *link);
int pl_core_post_chain(pl_core *core, pl_link *newest, pl_link *oldest);

/* Any thread, async-signal-safe: wakes a sleeping loop without giving it
   work.  0 or a negative errno. */
int pl_core_wake(pl_core *core);

/* Loop thread, attached: 1 when nothing has arrived and pl_core_wait may be
   called.  Who pushes from here on ends that wait. */
int pl_core_lie_down(pl_core *core);

/* Loop thread, detached.  Waits for events for at most timeout_ns (< 0 for
   ever), dozing first where that has paid; awake when it returns.  *now_ns is
   the clock before, and then after.  The number of events or a negative
   errno. */
int pl_core_wait(pl_core *core, int64_t timeout_ns, int64_t *now_ns);
/* How long it may doze; 0: not at all. */
void pl_core_set_doze(pl_core *core, int64_t limit_ns);

/* The clock of time.monotonic(). */
int64_t pl_now_ns(void);

/* Loop thread.  The slot of a descriptor, or NULL when it never had one. */
static inline pl_slot *
pl_core_slot(pl_core *core, int fd)
{
    return fd >= 0 && fd < core->slot_count ? &core->slots[fd] : NULL;
}

/* Loop thread: claims fd's slot for owner and watches it for `events`
   (PL_READ | PL_WRITE; 0: claimed but not watched, which cannot fail for a
   claimed slot).  0 or a negative errno, the slot then unchanged. */
int pl_core_watch(pl_core *core, int fd, enum pl_slot_kind kind, void *owner,
                  uint32_t events);

/* Loop thread: gives the slot up. */
void pl_core_forget(pl_core *core, int fd);

/* Loop thread, after each dispatch: was there an event that is nobody's?  A
   number that was closed while a copy of it lives on (dup(), a child of fork)
   cannot be taken off the poller any more; when its events keep coming, all
   that is watched is registered anew. */
void pl_core_note_stray(pl_core *core, bool stray);

/* Loop thread: the same for a slot that is parked, without a system call. */
static inline void
pl_core_park(pl_slot *slot)
{
    slot->kind = PL_SLOT_FREE;
    slot->events = PL_PARKED;
    slot->owner = NULL;
    slot->generation++;
}

/* Loop thread: the uv loop, opened and nested in the poller on first use.
   NULL and *err. */
uv_loop_t *pl_core_uv(pl_core *core, int *err);

#endif
