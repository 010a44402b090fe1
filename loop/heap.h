/* The timer heap: a 4-ary array heap ordered by (when, seq).

   Keys live in the array, so that comparing touches no other memory; `seq`
   makes entries with equal deadlines leave in the order of their arrival
   (asyncio's heapq leaves that open).  Cancelling does not search: the owner
   marks its item and calls pl_heap_discard_last, which takes back an item
   that is still the last one (the usual timeout that was not needed), or
   sweeps with pl_heap_filter once the marked ones are the majority.
   One owner, no lock, no Python; the count is stored whole, for whoever
   counts. */

#ifndef PL_HEAP_H
#define PL_HEAP_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double when;     /* seconds of the loop's clock; -inf sorts first */
    uint64_t seq;
    void *item;
} pl_heap_entry;

typedef struct {
    pl_heap_entry *entries;
    size_t count;
    size_t capacity;
    uint64_t next_seq;
} pl_heap;

static inline void
pl_heap_init(pl_heap *heap)
{
    memset(heap, 0, sizeof(*heap));
}

static inline void
pl_heap_fini(pl_heap *heap)
{
    free(heap->entries);
    memset(heap, 0, sizeof(*heap));
}

static inline void
pl_heap_set_count(pl_heap *heap, size_t count)
{
    __atomic_store_n(&heap->count, count, __ATOMIC_RELAXED);
}

static inline int
pl_heap_before(const pl_heap_entry *a, const pl_heap_entry *b)
{
    return a->when < b->when || (a->when == b->when && a->seq < b->seq);
}

static inline void
pl_heap_sift_up(pl_heap *heap, size_t index, pl_heap_entry entry)
{
    while (index > 0) {
        size_t parent = (index - 1) / 4;

        if (!pl_heap_before(&entry, &heap->entries[parent])) {
            break;
        }
        heap->entries[index] = heap->entries[parent];
        index = parent;
    }
    heap->entries[index] = entry;
}

static inline void
pl_heap_sift_down(pl_heap *heap, size_t index, pl_heap_entry entry)
{
    for (;;) {
        size_t child = index * 4 + 1;
        size_t end = child + 4 < heap->count ? child + 4 : heap->count;
        size_t least = child;

        if (child >= heap->count) {
            break;
        }
        while (++child < end) {
            if (pl_heap_before(&heap->entries[child], &heap->entries[least])) {
                least = child;
            }
        }
        if (!pl_heap_before(&heap->entries[least], &entry)) {
            break;
        }
        heap->entries[index] = heap->entries[least];
        index = least;
    }
    heap->entries[index] = entry;
}

/* 0, or -1: no memory; then the item is not in the heap. */
static inline int
pl_heap_push(pl_heap *heap, double when, void *item)
{
    pl_heap_entry entry = {when, heap->next_seq, item};

    if (heap->count == heap->capacity) {
        size_t capacity = heap->capacity == 0 ? 32 : heap->capacity * 2;
        pl_heap_entry *entries =
            realloc(heap->entries, capacity * sizeof(*entries));

        if (entries == NULL) {
            return -1;
        }
        heap->entries = entries;
        heap->capacity = capacity;
    }
    heap->next_seq++;
    pl_heap_sift_up(heap, heap->count, entry);
    pl_heap_set_count(heap, heap->count + 1);
    return 0;
}

/* The heap must not be empty. */
static inline void *
pl_heap_pop(pl_heap *heap)
{
    void *item = heap->entries[0].item;

    pl_heap_set_count(heap, heap->count - 1);
    if (heap->count > 0) {
        pl_heap_sift_down(heap, 0, heap->entries[heap->count]);
    }
    return item;
}

/* Takes `item` out if it is the last of the array.  1 if it was, else 0. */
static inline int
pl_heap_discard_last(pl_heap *heap, const void *item)
{
    if (heap->count > 0 && heap->entries[heap->count - 1].item == item) {
        pl_heap_set_count(heap, heap->count - 1);
        return 1;
    }
    return 0;
}

/* Moves the items for which keep() is 0 to `dropped` (room for count of
   them) and restores the order of the rest.  The number of dropped ones. */
static inline size_t
pl_heap_filter(pl_heap *heap, int (*keep)(void *item), void **dropped)
{
    size_t kept = 0;
    size_t gone = 0;

    for (size_t i = 0; i < heap->count; i++) {
        if (keep(heap->entries[i].item)) {
            heap->entries[kept++] = heap->entries[i];
        }
        else {
            dropped[gone++] = heap->entries[i].item;
        }
    }
    pl_heap_set_count(heap, kept);
    for (size_t i = kept; i-- > 0;) {
        pl_heap_sift_down(heap, i, heap->entries[i]);
    }
    return gone;
}

#endif
