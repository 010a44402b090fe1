/* The ready ring against what a queue is: first in, first out. */

#include <stdint.h>

#include "check.h"
#include "ring.h"

static void *
entry(uintptr_t number)
{
    return (void *)(number + 1);
}

static void
test_empty(void)
{
    pl_ring ring;

    pl_ring_init(&ring);
    CHECK(pl_ring_count(&ring) == 0);
    CHECK(ring.slots == NULL); /* an unused ring costs nothing */
    pl_ring_fini(&ring);
    pl_ring_fini(&ring);
}

static void
test_order_while_growing(void)
{
    pl_ring ring;
    const size_t many = 10 * PL_RING_MIN + 3;

    pl_ring_init(&ring);
    for (size_t i = 0; i < many; i++) {
        CHECK(pl_ring_push(&ring, entry(i)) == 0);
        CHECK(pl_ring_count(&ring) == i + 1);
    }
    for (size_t i = 0; i < many; i++) {
        CHECK(pl_ring_at(&ring, i) == entry(i));
    }
    for (size_t i = 0; i < many; i++) {
        CHECK(pl_ring_pop(&ring) == entry(i));
    }
    CHECK(pl_ring_count(&ring) == 0);
    pl_ring_fini(&ring);
}

/* Growth at each possible place of the head. */
static void
test_growth_while_wrapped(void)
{
    for (size_t shift = 0; shift <= PL_RING_MIN; shift++) {
        pl_ring ring;

        pl_ring_init(&ring);
        for (size_t i = 0; i < shift; i++) {
            CHECK(pl_ring_push(&ring, entry(i)) == 0);
            CHECK(pl_ring_pop(&ring) == entry(i));
        }
        for (size_t i = 0; i < PL_RING_MIN; i++) {
            CHECK(pl_ring_push(&ring, entry(i)) == 0);
        }
        CHECK(ring.mask == PL_RING_MIN - 1); /* every slot is used */
        CHECK(pl_ring_push(&ring, entry(PL_RING_MIN)) == 0);
        CHECK(ring.mask == 2 * PL_RING_MIN - 1);
        for (size_t i = 0; i <= PL_RING_MIN; i++) {
            CHECK(pl_ring_at(&ring, 0) == entry(i));
            CHECK(pl_ring_pop(&ring) == entry(i));
        }
        pl_ring_fini(&ring);
    }
}

/* The indices run freely: they wrap around the end of size_t unnoticed. */
static void
test_index_overflow(void)
{
    pl_ring ring;

    pl_ring_init(&ring);
    CHECK(pl_ring_push(&ring, entry(0)) == 0);
    CHECK(pl_ring_pop(&ring) == entry(0));
    ring.head = ring.tail = SIZE_MAX - 5;
    for (size_t i = 0; i < 3 * PL_RING_MIN; i++) {
        CHECK(pl_ring_push(&ring, entry(i)) == 0);
        CHECK(pl_ring_count(&ring) == i + 1);
    }
    for (size_t i = 0; i < 3 * PL_RING_MIN; i++) {
        CHECK(pl_ring_pop(&ring) == entry(i));
    }
    pl_ring_fini(&ring);
}

static void
test_random(void)
{
    pl_ring ring;
    uint64_t seed = 0x9e3779b97f4a7c15;
    uintptr_t pushed = 0;
    uintptr_t popped = 0;

    pl_ring_init(&ring);
    for (int i = 0; i < 300000; i++) {
        /* drifts up and down, so that it is empty and full now and then */
        unsigned bias = (i / 5000) % 2 ? 3 : 5;

        if (check_random(&seed) % 8 < bias) {
            CHECK(pl_ring_push(&ring, entry(pushed++)) == 0);
        }
        else if (pl_ring_count(&ring) > 0) {
            CHECK(pl_ring_pop(&ring) == entry(popped++));
        }
        CHECK(pl_ring_count(&ring) == pushed - popped);
    }
    pl_ring_fini(&ring);
}

int
main(void)
{
    test_empty();
    test_order_while_growing();
    test_growth_while_wrapped();
    test_index_overflow();
    test_random();
    return 0;
}
