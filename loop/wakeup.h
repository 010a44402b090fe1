/* What a producer writes to when the loop sleeps: an eventfd on Linux, a
   pipe elsewhere.  The only place that knows which. */

#ifndef PL_WAKEUP_H
#define PL_WAKEUP_H

#ifdef __linux__
/* An eventfd need not be read: each write is an edge of its own. */
#define PL_WAKEUP_EVENTS (PL_READ | PL_EDGE)
#else
#define PL_WAKEUP_EVENTS PL_READ
#endif

typedef struct {
    /* set once */
    int read_fd;
    int write_fd;    /* the same as read_fd for an eventfd */
} pl_wakeup;

/* 0 or a negative errno. */
int pl_wakeup_init(pl_wakeup *wakeup);
void pl_wakeup_fini(pl_wakeup *wakeup);

/* Any thread, async-signal-safe.  0 or a negative errno; a wake-up that is
   already pending (EAGAIN) is success. */
int pl_wakeup_send(pl_wakeup *wakeup);

/* Loop thread: takes pending wake-ups back. */
void pl_wakeup_clear(pl_wakeup *wakeup);

#endif
