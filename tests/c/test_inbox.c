/* The inbox, alone and with many producers against one consumer that sleeps:
   nothing is lost, nothing comes twice, each producer's order is kept, no
   wake-up is missed, and after close every push is refused.  Under
   ThreadSanitizer this is also the proof of its memory orders. */

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "check.h"
#include "inbox.h"

typedef struct {
    pl_link link; /* first, so that a link is its item */
    int producer;
    int number;
    int taken; /* plain on purpose: the inbox itself has to order it */
} item;

static void
test_empty(void)
{
    pl_inbox inbox;

    pl_inbox_init(&inbox);
    CHECK(!pl_inbox_pending(&inbox));
    CHECK(pl_inbox_take(&inbox) == NULL);
    CHECK(pl_inbox_sleep(&inbox));
    pl_inbox_wake(&inbox);
    CHECK(pl_inbox_close(&inbox) == NULL);
    CHECK(pl_inbox_close(&inbox) == NULL);
}

static void
test_order(void)
{
    item items[5] = {0};
    pl_inbox inbox;
    pl_link *link;

    pl_inbox_init(&inbox);
    for (int i = 0; i < 5; i++) {
        CHECK(pl_inbox_push(&inbox, &items[i].link) == PL_PUSH_DONE);
        CHECK(pl_inbox_pending(&inbox));
    }
    link = pl_inbox_take(&inbox);
    CHECK(!pl_inbox_pending(&inbox));
    for (int i = 0; i < 5; i++) {
        CHECK(link == &items[i].link);
        link = link->next;
    }
    CHECK(link == NULL);
    CHECK(pl_inbox_take(&inbox) == NULL);
}

static void
test_chain(void)
{
    item items[4] = {0};
    pl_inbox inbox;
    pl_link *link;

    pl_inbox_init(&inbox);
    CHECK(pl_inbox_push(&inbox, &items[0].link) == PL_PUSH_DONE);
    items[3].link.next = &items[2].link; /* linked newest first */
    items[2].link.next = &items[1].link;
    CHECK(pl_inbox_push_chain(&inbox, &items[3].link, &items[1].link) ==
          PL_PUSH_DONE);
    link = pl_inbox_take(&inbox);
    for (int i = 0; i < 4; i++) {
        CHECK(link == &items[i].link);
        link = link->next;
    }
    CHECK(link == NULL);
}

static void
test_one_wake_up_a_burst(void)
{
    item items[4] = {0};
    pl_inbox inbox;

    pl_inbox_init(&inbox);
    CHECK(pl_inbox_sleep(&inbox));
    CHECK(pl_inbox_push(&inbox, &items[0].link) == PL_PUSH_WAKE);
    CHECK(pl_inbox_waking(&inbox));
    CHECK(pl_inbox_push(&inbox, &items[1].link) == PL_PUSH_DONE);
    pl_inbox_wake(&inbox);
    CHECK(!pl_inbox_sleep(&inbox)); /* there is work: no sleep */
    pl_inbox_woken(&inbox, 1);
    CHECK(!pl_inbox_waking(&inbox));
    pl_inbox_wake(&inbox);
    CHECK(pl_inbox_push(&inbox, &items[2].link) == PL_PUSH_DONE);
    CHECK(pl_inbox_take(&inbox) == &items[0].link);
    CHECK(pl_inbox_sleep(&inbox));
    pl_inbox_wake(&inbox); /* woken by something else */
    CHECK(pl_inbox_push(&inbox, &items[3].link) == PL_PUSH_DONE);
    CHECK(pl_inbox_take(&inbox) == &items[3].link);
}

/* The consumer is not kept from its sleep by a slow producer, whose wake-up
   then ends that sleep. */
static void
test_sleep_with_a_wake_up_under_way(void)
{
    item items[2] = {0};
    pl_inbox inbox;

    pl_inbox_init(&inbox);
    CHECK(pl_inbox_sleep(&inbox));
    CHECK(pl_inbox_push(&inbox, &items[0].link) == PL_PUSH_WAKE);
    pl_inbox_wake(&inbox);
    CHECK(pl_inbox_take(&inbox) == &items[0].link);
    CHECK(pl_inbox_sleep(&inbox));
    CHECK(pl_inbox_waking(&inbox));
    CHECK(pl_inbox_push(&inbox, &items[1].link) == PL_PUSH_WAKE);
    pl_inbox_woken(&inbox, 1);
    CHECK(pl_inbox_waking(&inbox)); /* the other's */
    pl_inbox_woken(&inbox, 1);
    CHECK(!pl_inbox_waking(&inbox));
}

/* A wake-up without work, as a signal handler sends it. */
static void
test_bare_wake_up(void)
{
    pl_inbox inbox;

    pl_inbox_init(&inbox);
    CHECK(!pl_inbox_must_wake(&inbox));
    CHECK(pl_inbox_sleep(&inbox));
    CHECK(pl_inbox_must_wake(&inbox));
    CHECK(!pl_inbox_must_wake(&inbox));
    pl_inbox_woken(&inbox, 1);
    CHECK(!pl_inbox_must_wake(&inbox));
}

/* A wake-up that could not be sent is the next producer's to send. */
static void
test_wake_up_that_fails(void)
{
    item items[2] = {0};
    pl_inbox inbox;

    pl_inbox_init(&inbox);
    CHECK(pl_inbox_sleep(&inbox));
    CHECK(pl_inbox_push(&inbox, &items[0].link) == PL_PUSH_WAKE);
    pl_inbox_woken(&inbox, 0);
    CHECK(pl_inbox_push(&inbox, &items[1].link) == PL_PUSH_WAKE);
    pl_inbox_woken(&inbox, 1);
    CHECK(pl_inbox_take(&inbox) == &items[0].link);
    CHECK(pl_inbox_sleep(&inbox));
}

/* A consumer that dozes is called without a wake-up. */
static void
test_doze(void)
{
    item items[3] = {0};
    pl_inbox inbox;

    pl_inbox_init(&inbox);
    CHECK(pl_inbox_doze(&inbox));
    CHECK(pl_inbox_dozing(&inbox));
    CHECK(pl_inbox_push(&inbox, &items[0].link) == PL_PUSH_DONE);
    CHECK(!pl_inbox_waking(&inbox));
    CHECK(!pl_inbox_dozing(&inbox));
    pl_inbox_wake(&inbox);
    CHECK(!pl_inbox_doze(&inbox)); /* there is work: no rest */
    pl_inbox_wake(&inbox);
    CHECK(pl_inbox_take(&inbox) == &items[0].link);

    CHECK(pl_inbox_doze(&inbox));
    CHECK(!pl_inbox_must_wake(&inbox)); /* without work */
    CHECK(!pl_inbox_dozing(&inbox));
    pl_inbox_wake(&inbox);

    CHECK(pl_inbox_doze(&inbox));
    pl_inbox_wake(&inbox);
    CHECK(pl_inbox_sleep(&inbox));
    CHECK(pl_inbox_push(&inbox, &items[1].link) == PL_PUSH_WAKE);
    pl_inbox_woken(&inbox, 1);
    pl_inbox_wake(&inbox);
    CHECK(pl_inbox_take(&inbox) == &items[1].link);

    CHECK(pl_inbox_doze(&inbox));
    CHECK(pl_inbox_close(&inbox) == NULL);
    CHECK(!pl_inbox_dozing(&inbox));
    CHECK(!pl_inbox_doze(&inbox));
    CHECK(pl_inbox_push(&inbox, &items[2].link) == PL_PUSH_CLOSED);
}

static void
test_close(void)
{
    item items[3] = {0};
    pl_inbox inbox;
    pl_link *left;

    pl_inbox_init(&inbox);
    CHECK(pl_inbox_push(&inbox, &items[0].link) == PL_PUSH_DONE);
    CHECK(pl_inbox_push(&inbox, &items[1].link) == PL_PUSH_DONE);
    left = pl_inbox_close(&inbox);
    CHECK(left == &items[0].link);
    CHECK(left->next == &items[1].link);
    CHECK(left->next->next == NULL);
    CHECK(pl_inbox_push(&inbox, &items[2].link) == PL_PUSH_CLOSED);
    CHECK(!pl_inbox_pending(&inbox));
    CHECK(pl_inbox_take(&inbox) == NULL);
    CHECK(pl_inbox_close(&inbox) == NULL);
    CHECK(!pl_inbox_sleep(&inbox)); /* nobody would end it */
    CHECK(!pl_inbox_must_wake(&inbox));
}

/* -- with threads ------------------------------------------------------- */

enum { PRODUCERS = 4, EACH = 20000 };

typedef struct {
    pl_inbox inbox;
    int pipe[2];
    atomic_int started; /* the producers begin together */
    atomic_int wakes;
    item items[PRODUCERS][EACH];
    int accepted[PRODUCERS]; /* read after the join */
} scene;

typedef struct {
    scene *scene;
    int producer;
} part;

/* A pause now and then lets the consumer fall asleep. */
static void *
produce(void *argument)
{
    part *mine = argument;
    scene *all = mine->scene;
    uint64_t seed = 1000 + (uint64_t)mine->producer;

    atomic_fetch_add(&all->started, 1);
    while (atomic_load(&all->started) < PRODUCERS) {
        sched_yield();
    }
    for (int i = 0; i < EACH;) {
        item *items = &all->items[mine->producer][i];
        int chain = check_random(&seed) % 8 == 0 && i + 3 <= EACH ? 3 : 1;
        enum pl_inbox_push pushed;

        for (int j = 0; j < chain; j++) {
            items[j].producer = mine->producer;
            items[j].number = i + j;
            if (j > 0) {
                items[j].link.next = &items[j - 1].link;
            }
        }
        pushed = pl_inbox_push_chain(&all->inbox, &items[chain - 1].link,
                                     &items[0].link);
        if (pushed == PL_PUSH_CLOSED) {
            break;
        }
        if (pushed == PL_PUSH_WAKE) {
            atomic_fetch_add(&all->wakes, 1);
            CHECK(write(all->pipe[1], "", 1) == 1);
            pl_inbox_woken(&all->inbox, 1);
        }
        i += chain;
        all->accepted[mine->producer] = i;
        if (check_random(&seed) % 64 == 0) {
            usleep(20);
        }
    }
    return NULL;
}

/* The number of items; each checked against the order of its producer. */
static int
consume(pl_link *link, int *next)
{
    int count = 0;

    while (link != NULL) {
        item *this = (item *)link;

        link = link->next;
        CHECK(this->number == next[this->producer]);
        next[this->producer]++;
        CHECK(this->taken++ == 0);
        count++;
    }
    return count;
}

static int
doze_and_sleep(pl_inbox *inbox)
{
    if (!pl_inbox_doze(inbox)) {
        return 0;
    }
    for (int i = 0; i < 100 && pl_inbox_dozing(inbox); i++) {
        sched_yield();
    }
    pl_inbox_wake(inbox);
    return pl_inbox_sleep(inbox);
}

/* Takes until `enough` items have come, then closes. */
static void
run(int enough)
{
    scene *all = calloc(1, sizeof(*all));
    pthread_t threads[PRODUCERS];
    part parts[PRODUCERS];
    int next[PRODUCERS] = {0};
    int count = 0;
    int accepted = 0;
    int sleeps = 0;

    CHECK(all != NULL);
    CHECK(pipe(all->pipe) == 0);
    pl_inbox_init(&all->inbox);
    for (int i = 0; i < PRODUCERS; i++) {
        parts[i] = (part){all, i};
        CHECK(pthread_create(&threads[i], NULL, produce, &parts[i]) == 0);
    }
    while (count < enough) {
        count += consume(pl_inbox_take(&all->inbox), next);
        if (count >= enough) {
            break;
        }
        sleeps++; /* counted even if it is called off: a push may be
                     between the two looks, and rightly wake */
        if (sleeps % 2 ? pl_inbox_sleep(&all->inbox)
                       : doze_and_sleep(&all->inbox))
        {
            struct pollfd wake = {all->pipe[0], POLLIN, 0};
            char bytes[64];

            /* a wake-up that was lost would end here */
            CHECK(poll(&wake, 1, 20000) == 1);
            CHECK(read(all->pipe[0], bytes, sizeof(bytes)) > 0);
        }
        pl_inbox_wake(&all->inbox);
    }
    count += consume(pl_inbox_close(&all->inbox), next);
    while (pl_inbox_waking(&all->inbox)) {
        sched_yield(); /* as whoever closes for good has to */
    }
    for (int i = 0; i < PRODUCERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        accepted += all->accepted[i];
        CHECK(next[i] == all->accepted[i]);
    }
    CHECK(count == accepted);
    CHECK(atomic_load(&all->wakes) <= sleeps);
    CHECK(pl_inbox_take(&all->inbox) == NULL);
    CHECK(close(all->pipe[0]) == 0 && close(all->pipe[1]) == 0);
    free(all);
}

int
main(void)
{
    test_empty();
    test_order();
    test_chain();
    test_one_wake_up_a_burst();
    test_sleep_with_a_wake_up_under_way();
    test_bare_wake_up();
    test_wake_up_that_fails();
    test_doze();
    test_close();
    run(PRODUCERS * EACH);         /* all of it, then close */
    run(PRODUCERS * EACH / 2);     /* closed under the producers' hands */
    for (int i = 0; i < 20; i++) { /* closed while they start */
        run(i);
    }
    return 0;
}
