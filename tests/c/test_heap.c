/* The timer heap against a sorted array: by deadline, then by arrival. */

#include <math.h>

#include "check.h"
#include "heap.h"

typedef struct {
    double when;
    int number; /* of arrival */
    int cancelled;
    int gone;
} timer;

static int
is_live(void *item)
{
    return !((timer *)item)->cancelled;
}

static int
compare(const void *left, const void *right)
{
    const timer *a = *(timer *const *)left;
    const timer *b = *(timer *const *)right;

    if (a->when != b->when) {
        return a->when < b->when ? -1 : 1;
    }
    return a->number - b->number;
}

static void
check_order(const pl_heap *heap)
{
    for (size_t i = 1; i < heap->count; i++) {
        CHECK(!pl_heap_before(&heap->entries[i], &heap->entries[(i - 1) / 4]));
    }
}

static void
test_empty(void)
{
    pl_heap heap;

    pl_heap_init(&heap);
    CHECK(heap.count == 0);
    CHECK(!pl_heap_discard_last(&heap, &heap));
    CHECK(pl_heap_filter(&heap, is_live, NULL) == 0);
    pl_heap_fini(&heap);
    pl_heap_fini(&heap);
}

static void
test_equal_deadlines_keep_their_order(void)
{
    enum { MANY = 1000 };
    static timer timers[MANY];
    pl_heap heap;

    pl_heap_init(&heap);
    for (int i = 0; i < MANY; i++) {
        timers[i] = (timer){.when = i % 3, .number = i};
        CHECK(pl_heap_push(&heap, timers[i].when, &timers[i]) == 0);
    }
    for (int third = 0; third < 3; third++) {
        for (int i = third; i < MANY; i += 3) {
            CHECK(pl_heap_pop(&heap) == &timers[i]);
        }
    }
    CHECK(heap.count == 0);
    pl_heap_fini(&heap);
}

static void
test_extremes(void)
{
    static const double whens[] = {INFINITY, 1e300, 0.0,       -0.0,  5e-324,
                                   -1.0,     1.0,   -INFINITY, -1e300};
    enum { MANY = sizeof(whens) / sizeof(whens[0]) };
    timer timers[MANY];
    pl_heap heap;
    double last = -INFINITY;

    pl_heap_init(&heap);
    for (int i = 0; i < MANY; i++) {
        timers[i] = (timer){.when = whens[i], .number = i};
        CHECK(pl_heap_push(&heap, whens[i], &timers[i]) == 0);
    }
    for (int i = 0; i < MANY; i++) {
        timer *next = pl_heap_pop(&heap);

        CHECK(next->when >= last);
        last = next->when;
    }
    CHECK(last == INFINITY);
    pl_heap_fini(&heap);
}

/* A timeout that was not needed: armed last, cancelled first. */
static void
test_discard_last(void)
{
    timer first = {.when = 1};
    timer later = {.when = 2};
    timer sooner = {.when = 0};
    pl_heap heap;

    pl_heap_init(&heap);
    CHECK(pl_heap_push(&heap, first.when, &first) == 0);
    CHECK(pl_heap_push(&heap, later.when, &later) == 0);
    CHECK(!pl_heap_discard_last(&heap, &first));
    CHECK(pl_heap_discard_last(&heap, &later));
    CHECK(!pl_heap_discard_last(&heap, &later));
    CHECK(heap.count == 1);
    CHECK(pl_heap_push(&heap, sooner.when, &sooner) == 0);
    CHECK(!pl_heap_discard_last(&heap, &sooner)); /* it is at the top */
    CHECK(pl_heap_discard_last(&heap, &first));
    CHECK(pl_heap_pop(&heap) == &sooner);
    CHECK(heap.count == 0);
    pl_heap_fini(&heap);
}

static void
test_filter(void)
{
    enum { MANY = 500 };
    static timer timers[MANY];
    static void *dropped[MANY];
    uint64_t seed = 42;

    for (int eighths = 0; eighths <= 8; eighths++) {
        pl_heap heap;
        size_t live = 0;
        timer *last = NULL;

        pl_heap_init(&heap);
        for (int i = 0; i < MANY; i++) {
            timers[i] = (timer){
                .when = (double)(check_random(&seed) % 50),
                .number = i,
                .cancelled = (int)(check_random(&seed) % 8) < eighths,
            };
            live += !timers[i].cancelled;
            CHECK(pl_heap_push(&heap, timers[i].when, &timers[i]) == 0);
        }
        CHECK(pl_heap_filter(&heap, is_live, dropped) == MANY - live);
        CHECK(heap.count == live);
        check_order(&heap);
        for (size_t i = 0; i < MANY - live; i++) {
            timer *out = dropped[i];

            CHECK(out->cancelled && !out->gone);
            out->gone = 1;
        }
        while (heap.count > 0) {
            timer *next = pl_heap_pop(&heap);

            CHECK(!next->cancelled && !next->gone);
            next->gone = 1;
            CHECK(last == NULL || compare(&last, &next) < 0);
            last = next;
        }
        for (int i = 0; i < MANY; i++) {
            CHECK(timers[i].gone);
        }
        pl_heap_fini(&heap);
    }
}

/* Pushes, pops, cancellations and sweeps at random. */
static void
test_random(void)
{
    enum { MANY = 3000 };
    static timer timers[MANY];
    static timer *model[MANY];
    static void *dropped[MANY];
    uint64_t seed = 7;
    int pushed = 0;
    size_t count = 0;
    pl_heap heap;

    pl_heap_init(&heap);
    while (pushed < MANY || count > 0) {
        uint64_t dice = check_random(&seed) % 16;

        if (dice < 9 && pushed < MANY) {
            timer *next = &timers[pushed];

            next->when = (double)(check_random(&seed) % 200) / 8;
            next->number = pushed++;
            CHECK(pl_heap_push(&heap, next->when, next) == 0);
            model[count++] = next;
            qsort(model, count, sizeof(model[0]), compare);
        }
        else if (dice < 14 && count > 0) {
            CHECK(pl_heap_pop(&heap) == model[0]);
            memmove(model, model + 1, --count * sizeof(model[0]));
        }
        else if (dice == 14 && count > 0) {
            timer *last = heap.entries[heap.count - 1].item;
            size_t at = 0;

            CHECK(pl_heap_discard_last(&heap, last));
            while (model[at] != last) {
                at++;
            }
            count--;
            memmove(model + at, model + at + 1,
                    (count - at) * sizeof(model[0]));
        }
        else if (count > 0) {
            size_t kept = 0;

            for (size_t i = 0; i < count; i++) {
                model[i]->cancelled = check_random(&seed) % 4 == 0;
            }
            pl_heap_filter(&heap, is_live, dropped);
            for (size_t i = 0; i < count; i++) {
                if (is_live(model[i])) {
                    model[kept++] = model[i];
                }
            }
            count = kept;
        }
        CHECK(heap.count == count);
        CHECK(count == 0 || heap.entries[0].item == model[0]);
        check_order(&heap);
    }
    pl_heap_fini(&heap);
}

int
main(void)
{
    test_empty();
    test_equal_deadlines_keep_their_order();
    test_extremes();
    test_discard_last();
    test_filter();
    test_random();
    return 0;
}
