/* The plain C core of a loop; see core.h. */

#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    pl_poller_fini(&core->poller);

    pl_link *left = pl_inbox_close(&core->inbox);

    /* A producer that came before the close may be writing the wake-up. */
    while (!forked && pl_inbox_waking(&core->inbox)) {
        sched_yield();
    }
    pl_wakeup_fini(&core->wakeup);
    return left;
}

int
pl_core_wake(pl_core *core)
{
    if (!pl_inbox_must_wake(&core->inbox)) {
        return 0;
    }
    int status = pl_wakeup_send(&core->wakeup);

    pl_inbox_woken(&core->inbox, status == 0);
    return status;
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
    int status = pl_wakeup_send(&core->wakeup);

    pl_inbox_woken(&core->inbox, status == 0);
    if (status < 0) {
        errno = -status;
        return 1;
    }
    return 0;
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
