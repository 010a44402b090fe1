/* The inbox: how every thread but the loop's own hands it work.

   A stack of links that many producers push and one consumer takes whole and
   reverses, so that each producer's order is kept; the link lives in the
   work itself, nothing is allocated.  Taking everything at once leaves no
   ABA problem.  A closed inbox holds the PL_INBOX_CLOSED mark for ever and
   refuses every push.

   Sleeping.  The consumer stores PL_DOZING or PL_ASLEEP, then looks at the
   head once more, then waits; a producer pushes, then looks at the state.
   All four are seq_cst, so at least one side sees the other: either the
   consumer finds the item, or the producer finds the state and makes it
   PL_AWAKE.  A consumer that dozes watches the state and needs nothing more;
   one that is asleep blocks, and of many producers the one that has changed
   its state sends it a wake-up: one a burst.  The wake-up itself comes after
   that change; a consumer that has gone back to sleep by then wakes once for
   nothing, which is better than waiting for a producer that may have lost its
   processor (then a round trip took milliseconds).  `wakers` counts the
   producers in between, so that whoever closes can wait for them. */

#ifndef PL_INBOX_H
#define PL_INBOX_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* The head of a pyloop_work (include/pyloop.h), whose size is never 0, or
   part of a handle, which says 0 here. */
typedef struct pl_link {
    struct pl_link *next;
    uint32_t size;
} pl_link;

enum pl_inbox_state {
    PL_AWAKE,
    PL_DOZING,    /* the consumer has nothing to do, but watches the state */
    PL_ASLEEP,    /* the consumer blocks or is about to */
    PL_GONE,      /* closed: nobody is to be woken any more */
};

typedef struct {
    /* any thread, atomic */
    _Atomic(pl_link *) head;    /* newest first; or PL_INBOX_CLOSED */
    atomic_int state;
    atomic_int wakers;          /* producers about to send a wake-up */
} pl_inbox;

#define PL_INBOX_CLOSED ((pl_link *)(void *)1)

enum pl_inbox_push {
    PL_PUSH_CLOSED = -1,    /* refused: the link is the caller's still */
    PL_PUSH_DONE = 0,       /* in; the consumer will see it */
    PL_PUSH_WAKE = 1,       /* in; the caller has to wake the consumer and
                               then call pl_inbox_woken */
};

static inline void
pl_inbox_init(pl_inbox *inbox)
{
    atomic_init(&inbox->head, NULL);
    atomic_init(&inbox->state, PL_AWAKE);
    atomic_init(&inbox->wakers, 0);
}

/* Any thread, async-signal-safe: 1 when the consumer sleeps and this caller
   has to wake it, and to call pl_inbox_woken afterwards. */
static inline int
pl_inbox_must_wake(pl_inbox *inbox)
{
    /* partner: pl_inbox_sleep and pl_inbox_doze */
    int state = atomic_load_explicit(&inbox->state, memory_order_seq_cst);

    while (state == PL_DOZING) {
        if (atomic_compare_exchange_weak_explicit(
                &inbox->state, &state, PL_AWAKE, memory_order_seq_cst,
                memory_order_seq_cst))
        {
            return 0;
        }
    }
    if (state != PL_ASLEEP) {
        return 0;
    }
    /* Counted before the state changes: partner pl_inbox_waking, which looks
       after the state is PL_GONE. */
    atomic_fetch_add_explicit(&inbox->wakers, 1, memory_order_seq_cst);
    if (atomic_compare_exchange_strong_explicit(&inbox->state, &state,
                                                PL_AWAKE, memory_order_seq_cst,
                                                memory_order_seq_cst))
    {
        return 1;
    }
    atomic_fetch_sub_explicit(&inbox->wakers, 1, memory_order_release);
    return 0;
}

/* The wake-up was sent, or could not be: then the next producer tries. */
static inline void
pl_inbox_woken(pl_inbox *inbox, int sent)
{
    int awake = PL_AWAKE;

    if (!sent) {
        (void)atomic_compare_exchange_strong_explicit(
            &inbox->state, &awake, PL_ASLEEP, memory_order_relaxed,
            memory_order_relaxed);
    }
    atomic_fetch_sub_explicit(&inbox->wakers, 1, memory_order_release);
}

/* Any thread, async-signal-safe.  Pushes the chain first … last, linked
   newest first: for a single link both are the same. */
static inline enum pl_inbox_push
pl_inbox_push_chain(pl_inbox *inbox, pl_link *newest, pl_link *oldest)
{
    pl_link *head = atomic_load_explicit(&inbox->head, memory_order_relaxed);

    do {
        if (head == PL_INBOX_CLOSED) {
            /* What the closing thread did before is seen: partner
               pl_inbox_close. */
            (void)atomic_load_explicit(&inbox->head, memory_order_acquire);
            return PL_PUSH_CLOSED;
        }
        oldest->next = head;
    } while (!atomic_compare_exchange_weak_explicit(
        &inbox->head, &head, newest, memory_order_seq_cst,
        memory_order_relaxed));
    return pl_inbox_must_wake(inbox) ? PL_PUSH_WAKE : PL_PUSH_DONE;
}

static inline enum pl_inbox_push
pl_inbox_push(pl_inbox *inbox, pl_link *link)
{
    return pl_inbox_push_chain(inbox, link, link);
}

/* Any thread: is there something to take? */
static inline int
pl_inbox_pending(pl_inbox *inbox)
{
    pl_link *head = atomic_load_explicit(&inbox->head, memory_order_relaxed);

    return head != NULL && head != PL_INBOX_CLOSED;
}

static inline pl_link *
pl_inbox_reverse(pl_link *link)
{
    pl_link *oldest = NULL;

    while (link != NULL) {
        pl_link *next = link->next;

        link->next = oldest;
        oldest = link;
        link = next;
    }
    return oldest;
}

/* Consumer: all that is there, oldest first, or NULL. */
static inline pl_link *
pl_inbox_take(pl_inbox *inbox)
{
    pl_link *head = atomic_load_explicit(&inbox->head, memory_order_relaxed);

    do {
        if (head == NULL || head == PL_INBOX_CLOSED) {
            return NULL;
        }
    } while (!atomic_compare_exchange_weak_explicit(&inbox->head, &head, NULL,
                                                    memory_order_acquire,
                                                    memory_order_relaxed));
    return pl_inbox_reverse(head);
}

/* Consumer: closes for ever; what was queued, oldest first, goes to the
   caller.  NULL when it was closed before. */
static inline pl_link *
pl_inbox_close(pl_inbox *inbox)
{
    pl_link *head = atomic_exchange_explicit(&inbox->head, PL_INBOX_CLOSED,
                                             memory_order_acq_rel);

    atomic_store_explicit(&inbox->state, PL_GONE, memory_order_seq_cst);
    return head == PL_INBOX_CLOSED ? NULL : pl_inbox_reverse(head);
}

/* Consumer: 1 when it may wait now, 0 when something has arrived. */
static inline int
pl_inbox_rest(pl_inbox *inbox, enum pl_inbox_state how)
{
    if (atomic_load_explicit(&inbox->head, memory_order_relaxed) != NULL) {
        return 0;
    }
    /* partner: pl_inbox_must_wake, after pl_inbox_push_chain */
    atomic_store_explicit(&inbox->state, how, memory_order_seq_cst);
    return atomic_load_explicit(&inbox->head, memory_order_seq_cst) == NULL;
}

/* … and block. */
static inline int
pl_inbox_sleep(pl_inbox *inbox)
{
    return pl_inbox_rest(inbox, PL_ASLEEP);
}

/* … and ask pl_inbox_dozing over and over. */
static inline int
pl_inbox_doze(pl_inbox *inbox)
{
    return pl_inbox_rest(inbox, PL_DOZING);
}

/* Consumer that dozes: 0 when a producer has ended it. */
static inline int
pl_inbox_dozing(pl_inbox *inbox)
{
    return atomic_load_explicit(&inbox->state, memory_order_acquire) ==
           PL_DOZING;
}

/* Consumer, not closed: awake again, whatever the above have said. */
static inline void
pl_inbox_wake(pl_inbox *inbox)
{
    atomic_store_explicit(&inbox->state, PL_AWAKE, memory_order_relaxed);
}

/* Consumer, after pl_inbox_close: is a wake-up still under way? */
static inline int
pl_inbox_waking(pl_inbox *inbox)
{
    return atomic_load_explicit(&inbox->wakers, memory_order_seq_cst) != 0;
}

#endif
