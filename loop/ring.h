/* The ready ring: a circular array of entries that run in the order in which
   they were pushed.

   Power-of-two capacity, free-running indices, so that the entry count is a
   subtraction and no slot is wasted.  Growing doubles.  One owner (the thread
   that runs the loop, or whoever holds the GIL while nobody runs it): no lock
   and no atomic, but that the indices are stored whole, for whoever counts.
   Knows nothing of Python, so that it is tested without it. */

#ifndef PL_RING_H
#define PL_RING_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PL_RING_MIN 64u

typedef struct {
    void **slots;    /* mask + 1 of them; NULL before the first push */
    size_t mask;     /* capacity - 1 */
    size_t head;     /* next to pop; free-running */
    size_t tail;     /* next to push; free-running */
} pl_ring;

static inline void
pl_ring_init(pl_ring *ring)
{
    memset(ring, 0, sizeof(*ring));
}

/* Frees the slots; the entries are the caller's business. */
static inline void
pl_ring_fini(pl_ring *ring)
{
    free(ring->slots);
    memset(ring, 0, sizeof(*ring));
}

static inline size_t
pl_ring_count(const pl_ring *ring)
{
    return ring->tail - ring->head;
}

/* Doubles the capacity.  0, or -1 with the ring unchanged: no memory. */
static inline int
pl_ring_grow(pl_ring *ring)
{
    size_t count = pl_ring_count(ring);
    size_t old = ring->slots == NULL ? 0 : ring->mask + 1;
    size_t capacity = old == 0 ? PL_RING_MIN : old * 2;
    void **slots = malloc(capacity * sizeof(*slots));

    if (slots == NULL) {
        return -1;
    }
    if (count > 0) {
        size_t first = ring->head & ring->mask;
        size_t run = old - first < count ? old - first : count;

        memcpy(slots, ring->slots + first, run * sizeof(*slots));
        memcpy(slots + run, ring->slots, (count - run) * sizeof(*slots));
    }
    free(ring->slots);
    ring->slots = slots;
    ring->mask = capacity - 1;
    __atomic_store_n(&ring->head, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&ring->tail, count, __ATOMIC_RELAXED);
    return 0;
}

/* 0, or -1: no memory; then the entry is not in the ring. */
static inline int
pl_ring_push(pl_ring *ring, void *entry)
{
    if (ring->slots == NULL || pl_ring_count(ring) > ring->mask) {
        if (pl_ring_grow(ring) < 0) {
            return -1;
        }
    }
    ring->slots[ring->tail & ring->mask] = entry;
    __atomic_store_n(&ring->tail, ring->tail + 1, __ATOMIC_RELAXED);
    return 0;
}

/* The ring must not be empty. */
static inline void *
pl_ring_pop(pl_ring *ring)
{
    void *entry = ring->slots[ring->head & ring->mask];

    __atomic_store_n(&ring->head, ring->head + 1, __ATOMIC_RELAXED);
    return entry;
}

/* Any thread: about how many entries there are. */
static inline size_t
pl_ring_look(const pl_ring *ring)
{
    size_t head = __atomic_load_n(&ring->head, __ATOMIC_RELAXED);
    size_t tail = __atomic_load_n(&ring->tail, __ATOMIC_RELAXED);

    /* It has grown in between, and counts anew. */
    return tail - head > SIZE_MAX / 2 ? tail : tail - head;
}

/* The entry `index` places behind the next one to pop. */
static inline void *
pl_ring_at(const pl_ring *ring, size_t index)
{
    return ring->slots[(ring->head + index) & ring->mask];
}

#endif
