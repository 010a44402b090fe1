/* Counters that the loop's thread keeps and any thread may read.

   One writer, so no locked instruction: a load, an add and a store, of which
   only the store has to be whole.  A reader sees each number as it was at
   some recent moment, not all of them at the same one. */

#ifndef PL_STATS_H
#define PL_STATS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    /* loop thread writes by the functions below, any thread reads */
    uint64_t turns;
    uint64_t polls;
    uint64_t callbacks;
    uint64_t handoffs;           /* call_soon_threadsafe, native posts */
    uint64_t batched_sends;      /* by io_uring, several at a time */
    uint64_t idle_ns;            /* spent blocked in the poll */
    uint64_t longest_turn_ns;    /* between two looks at the clock */
    uint64_t longest_callback_ns;    /* while the slow hook is on */
} pl_counters;

static inline uint64_t
pl_counter_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static inline void
pl_counter_set(uint64_t *counter, uint64_t value)
{
    __atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

static inline void
pl_counter_add(uint64_t *counter, uint64_t by)
{
    pl_counter_set(counter, *counter + by);
}

static inline void
pl_counter_max(uint64_t *counter, int64_t value)
{
    if (value > (int64_t)*counter) {
        pl_counter_set(counter, (uint64_t)value);
    }
}

#endif
