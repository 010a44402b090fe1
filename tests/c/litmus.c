/* The whole way of a post, many times: litmus [POSTS]

   Four threads post to a core whose thread dozes or falls asleep whenever it
   has caught up, which with few items in flight is all the time. None may be
   lost, run twice or overtake another of its producer; a wake-up that is
   lost ends the program. Prints the posts, sleeps and dozes.

   Not run with the other C tests but for a short while; `make litmus`. */

#include "check.h"
#include "core.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PRODUCERS = 4, MOST = 64 };

typedef struct {
    pl_link link;
    atomic_int busy;    /* posted and not yet run */
    int producer;
    uint64_t number;
} item;

typedef struct {
    pthread_t thread;
    pl_core *core;
    int index;
    int items;             /* in flight at most */
    uint64_t count;
    uint64_t next;         /* consumer: the number expected */
    item pool[MOST];
} producer;

static void *
produce(void *argument)
{
    producer *self = argument;

    for (uint64_t i = 0; i < self->count; i++) {
        item *one = &self->pool[i % (uint64_t)self->items];

        while (atomic_load_explicit(&one->busy, memory_order_acquire)) {
            sched_yield();
        }
        one->number = i;
        one->link.size = 1;
        atomic_store_explicit(&one->busy, 1, memory_order_relaxed);
        CHECK(pl_core_post(self->core, &one->link) == 0);
    }
    return NULL;
}

int
main(int argc, char **argv)
{
    uint64_t posts = argc > 1 ? strtoull(argv[1], NULL, 10) : 400000;
    uint64_t left = posts / PRODUCERS * PRODUCERS;
    uint64_t sleeps = 0, dozed = 0, naps = 0;
    producer *producers = calloc(PRODUCERS, sizeof(*producers));
    int err;
    pl_core *core = pl_core_new(&err);

    CHECK(core != NULL && producers != NULL);
    for (int i = 0; i < PRODUCERS; i++) {
        producer *one = &producers[i];

        one->core = core;
        one->index = i;
        one->items = 1 << (2 * i); /* 1, 4, 16, 64 */
        one->count = posts / PRODUCERS;
        for (int k = 0; k < MOST; k++) {
            one->pool[k].producer = i;
        }
        CHECK(pthread_create(&one->thread, NULL, produce, one) == 0);
    }
    while (left > 0) {
        pl_link *link = pl_inbox_take(&core->inbox);

        while (link != NULL) {
            item *one = (item *)link;

            link = link->next;
            CHECK(atomic_load_explicit(&one->busy, memory_order_relaxed));
            CHECK(one->number == producers[one->producer].next++);
            atomic_store_explicit(&one->busy, 0, memory_order_release);
            left--;
        }
        if (left > 0 && pl_core_lie_down(core)) {
            int64_t start = pl_now_ns(), now = start;
            int dozes = core->doze_ns > 0;
            int n = pl_core_wait(core, 20 * INT64_C(1000000000), &now);

            CHECK(n == 1 || (n == 0 && dozes)); /* else: nothing came */
            if ((sleeps + dozed) % 4096 == 0) {
                pl_core_set_doze(core, core->doze_limit_ns > 0 ? 0 : 50000);
            }
            CHECK(now - start < 19 * INT64_C(1000000000));
            if (n == 1) {
                pl_wakeup_clear(&core->wakeup);
                sleeps++;
            }
            else {
                dozed++;
            }
        }
        else {
            naps++;
            pl_inbox_wake(&core->inbox);
        }
    }
    for (int i = 0; i < PRODUCERS; i++) {
        CHECK(pthread_join(producers[i].thread, NULL) == 0);
    }
    CHECK(pl_core_close(core) == NULL);
    pl_core_release(core);
    printf("%llu posts, %llu sleeps, %llu dozes, %llu called off\n",
           (unsigned long long)posts, (unsigned long long)sleeps,
           (unsigned long long)dozed, (unsigned long long)naps);
    free(producers);
    return 0;
}
