/* The plain C core of a loop; see core.h. */

#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Waking a processor that has gone idle takes longer than most answers of a
   peer on the same machine: 20 to 50 us on a virtual one.  After some waits in
   a row that were short (the wake-up is part of them) the next ones look for
   events and posts, for up to DOZE_NS, before they block, until a look was in
   vain; each look in vain doubles the number of short waits that it takes.
   (KVM's halt polling grows and shrinks for the same reason.)  An idle loop
   never looks, and one that shares its processor yields it between looks. */
#define SHORT_WAIT_NS 150000
#define DOZE_AFTER 4            /* short waits in a row … */
#define DOZE_AFTER_MOST 1024    /* … after looks in vain */
#define DOZE_NS 50000
/* A post that ends a doze at once is probably one of many: they are left to
   gather until the doze is this old, or each would be fetched by itself (on a
   free-threaded build a burst fell from 2.7 to 1.3 M/s at times). */
#define GATHER_NS 2000
/* A stray event may be one whose descriptor was given up since the poll. */
#define STRAYS_MOST 4

int64_t
pl_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int
processors(void)
{
    cpu_set_t set;

    /* Fails with more processors than fit in the set. */
    return sched_getaffinity(0, sizeof(set), &set) < 0 ? CPU_SETSIZE
                                                       : CPU_COUNT(&set);
}

pl_core *
pl_core_new(int *err)
{
    pl_core *core = calloc(1, sizeof(*core));

    if (core == NULL) {
        *err = -ENOMEM;
        return NULL;
    }
    atomic_init(&core->refs, 1);
    core->pid = getpid();
    pl_core_set_doze(core, processors() > 1 ? DOZE_NS : 0);
    pl_inbox_init(&core->inbox);
    *err = pl_poller_init(&core->poller);
    if (*err < 0) {
        free(core);
        return NULL;
    }
    *err = pl_wakeup_init(&core->wakeup);
    if (*err < 0) {
        pl_poller_fini(&core->poller);
        free(core);
        return NULL;
    }
    *err = pl_core_watch(core, core->wakeup.read_fd, PL_SLOT_WAKEUP, NULL,
                         PL_WAKEUP_EVENTS);
    if (*err < 0) {
        pl_wakeup_fini(&core->wakeup);
        pl_poller_fini(&core->poller);
        free(core->slots);
        free(core);
        return NULL;
    }
    return core;
}

void
pl_core_acquire(pl_core *core)
{
    atomic_fetch_add_explicit(&core->refs, 1, memory_order_relaxed);
}

void
pl_core_release(pl_core *core)
{
    if (atomic_fetch_sub_explicit(&core->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    free(core->slots);
    free(core);
}

static void
on_walk_close(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

pl_link *
pl_core_close(pl_core *core)
{
    if (core->closed) {
        return NULL;
    }
    core->closed = 1;
    /* A child of fork has neither the pool's threads nor the producers. */
    int forked = getpid() != core->pid;

    if (core->uv_open && !forked) {
        /* Requests on the pool cannot be withdrawn once they run; their
           memory is ours until their callback, so that is waited for. */
        uv_walk(&core->uv, on_walk_close, NULL);
        while (uv_run(&core->uv, UV_RUN_DEFAULT) != 0) {
        }
        (void)uv_loop_close(&core->uv);
        core->uv_open = 0;
    }
    if (core->uring != NULL) {
        pl_uring_free(core->uring);
        core->uring = NULL;
    }

    pl_link *left = pl_inbox_close(&core->inbox);

    /* A producer that came before the close may be sending the wake-up. */
    while (!forked && pl_inbox_waking(&core->inbox)) {
        sched_yield();
    }
    pl_wakeup_fini(&core->wakeup);
    pl_poller_fini(&core->poller);
    return left;
}

/* The write, or where that is refused (a filter of system calls, EIO) a look
   of the poller at the descriptor, which may always be written to: an event
   too.  0 or the negative errno of the write. */
static int
send_wakeup(pl_core *core)
{
    int status = pl_wakeup_send(&core->wakeup);

    if (status < 0) {
        int saved = errno;

        if (pl_poller_set(&core->poller, core->wakeup.write_fd, 0, PL_READ,
                          PL_READ | PL_WRITE | PL_EDGE) == 0)
        {
            status = 0;
        }
        errno = saved;
    }
    pl_inbox_woken(&core->inbox, status == 0);
    return status;
}

int
pl_core_wake(pl_core *core)
{
    return pl_inbox_must_wake(&core->inbox) ? send_wakeup(core) : 0;
}

int
pl_core_post(pl_core *core, pl_link *link)
{
    return pl_core_post_chain(core, link, link);
}

int
pl_core_post_chain(pl_core *core, pl_link *newest, pl_link *oldest)
{
    switch (pl_inbox_push_chain(&core->inbox, newest, oldest)) {
    case PL_PUSH_CLOSED:
        return -1;
    case PL_PUSH_DONE:
        return 0;
    case PL_PUSH_WAKE:
        break;
    }
    int status = send_wakeup(core);

    if (status < 0) {
        errno = -status;
        return 1;
    }
    return 0;
}

void
pl_core_set_doze(pl_core *core, int64_t limit_ns)
{
    __atomic_store_n(&core->doze_limit_ns, limit_ns, __ATOMIC_RELAXED);
    core->doze_ns = 0;
    core->short_waits = 0;
    core->doze_after = DOZE_AFTER;
}

int
pl_core_lie_down(pl_core *core)
{
    core->dozing_ns = core->doze_ns;
    return core->dozing_ns > 0 ? pl_inbox_doze(&core->inbox)
                               : pl_inbox_sleep(&core->inbox);
}

/* The events that came, 0 when a producer called, or -EAGAIN when neither. */
static int
doze(pl_core *core, int64_t most_ns, int64_t *now_ns)
{
    int64_t start = *now_ns;

    for (;;) {
        if (!pl_inbox_dozing(&core->inbox)) {
            while (*now_ns - start < GATHER_NS) {
                *now_ns = pl_now_ns();
            }
            core->poller.count = 0;
            return 0;
        }
        int n = pl_poller_wait(&core->poller, 0);

        *now_ns = pl_now_ns();
        if (n != 0) {
            return n;
        }
        if (*now_ns - start >= most_ns) {
            return -EAGAIN;
        }
        sched_yield();
    }
}

int
pl_core_wait(pl_core *core, int64_t timeout_ns, int64_t *now_ns)
{
    int64_t start = *now_ns;
    int n;

    if (core->dozing_ns > 0) {
        int64_t most = core->dozing_ns;

        if (timeout_ns >= 0 && timeout_ns < most) {
            most = timeout_ns;
        }
        n = doze(core, most, now_ns);
        pl_inbox_wake(&core->inbox);
        pl_counter_add(&core->dozed_ns, (uint64_t)(*now_ns - start));
        if (n != -EAGAIN) {
            if (core->doze_after > DOZE_AFTER) {
                core->doze_after--;
            }
            return n;
        }
        /* In vain.  The caller looks for signals before it comes to sleep. */
        core->doze_ns = 0;
        core->short_waits = 0;
        if (core->doze_after < DOZE_AFTER_MOST) {
            core->doze_after *= 2;
        }
        return 0;
    }
    n = pl_poller_wait(&core->poller, timeout_ns);
    pl_inbox_wake(&core->inbox);
    *now_ns = pl_now_ns();
    if (*now_ns - start > SHORT_WAIT_NS) {
        core->short_waits = 0;
    }
    else if (n > 0 && core->doze_limit_ns > 0 &&
             ++core->short_waits >= core->doze_after)
    {
        core->doze_ns = core->doze_limit_ns;
    }
    return n;
}

static int
ensure_slot(pl_core *core, int fd)
{
    size_t count = core->slot_count == 0 ? 64 : (size_t)core->slot_count;

    if (fd < core->slot_count) {
        return 0;
    }
    /* The table grows with real descriptors only. */
    if (fcntl(fd, F_GETFD) < 0) {
        return -errno;
    }
    while (count <= (size_t)fd) {
        count *= 2;
    }
    pl_slot *slots = realloc(core->slots, count * sizeof(*slots));

    if (slots == NULL) {
        return -ENOMEM;
    }
    memset(slots + core->slot_count, 0,
           (count - (size_t)core->slot_count) * sizeof(*slots));
    core->slots = slots;
    core->slot_count = (int)count;
    return 0;
}

int
pl_core_watch(pl_core *core, int fd, enum pl_slot_kind kind, void *owner,
              uint32_t events)
{
    pl_slot *slot = pl_core_slot(core, fd);

    if (fd < 0 || core->closed) {
        return -EBADF;
    }
    if (slot == NULL) {
        int err = ensure_slot(core, fd);

        if (err < 0) {
            return err;
        }
        slot = &core->slots[fd];
    }
    if (slot->events != events) {
        int err = pl_poller_set(&core->poller, fd, slot->generation,
                                slot->events, events);

        if (err < 0 && events != 0) {
            return err;
        }
        core->poller.changed |= events != 0;
    }
    if (slot->kind != kind) {
        pl_counter_add(&core->used[slot->kind], (uint64_t)-1);
        pl_counter_add(&core->used[kind], 1);
    }
    slot->kind = (uint8_t)kind;
    slot->owner = owner;
    slot->events = (uint8_t)events;
    return 0;
}

void
pl_core_forget(pl_core *core, int fd)
{
    pl_slot *slot = pl_core_slot(core, fd);

    if (slot == NULL || slot->kind == PL_SLOT_FREE) {
        return;
    }
    if (slot->events != 0 && !core->closed) {
        (void)pl_poller_set(&core->poller, fd, 0, slot->events, 0);
    }
    pl_counter_add(&core->used[slot->kind], (uint64_t)-1);
    slot->kind = PL_SLOT_FREE;
    slot->events = 0;
    slot->owner = NULL;
    slot->generation++;
}

void
pl_core_note_stray(pl_core *core, bool stray)
{
    if (!stray) {
        core->strays = 0;
        return;
    }
    if (++core->strays < STRAYS_MOST) {
        return;
    }
    core->strays = 0;
    if (pl_poller_renew(&core->poller) < 0) {
        return;
    }
    for (int fd = 0; fd < core->slot_count; fd++) {
        pl_slot *slot = &core->slots[fd];

        if (slot->kind != PL_SLOT_FREE && (slot->events & ~PL_PARKED) != 0) {
            (void)pl_poller_set(&core->poller, fd, slot->generation, 0,
                                slot->events);
        }
    }
}

uv_loop_t *
pl_core_uv(pl_core *core, int *err)
{
    if (core->uv_open) {
        return &core->uv;
    }
    *err = uv_loop_init(&core->uv);
    if (*err < 0) {
        return NULL;
    }
    *err = pl_core_watch(core, uv_backend_fd(&core->uv), PL_SLOT_UV, NULL,
                         PL_READ);
    if (*err < 0) {
        (void)uv_loop_close(&core->uv);
        return NULL;
    }
    core->uv_open = 1;
    return &core->uv;
}
