/* The parts of the server and who may touch what.

   http.c      reads requests, writes response heads; knows nothing else
   io.c        I/O threads: sockets and epoll; never attached to Python
   worker.c    what runs on the loops' threads, attached; the Python module

   A connection has one request under way at a time, whose structs (the work
   item, the task) are part of it: nothing is allocated for a request, but for
   what Python does.  From the post of the item to the connection's arrival in
   the I/O thread's list of done ones, the request and the response are the
   worker's; else they are the I/O thread's.

       I/O thread                        loop's thread, attached
       epoll, read, http_read
         post_chain  ------------------> request_run: the handler is called,
         (one for a batch and loop)      a coroutine started as a task
                                         request_end: response copied out
         done, one wake-up  <----------- end of the turn: worker_flush
       http_response_head, send */

#ifndef NATIVE_SERVER_SERVER_H
#define NATIVE_SERVER_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include <pyloop.h>

#include "http.h"

#define MAX_THREADS 64
#define MAX_WORKERS 64
#define TYPE_MAX 64

typedef struct server server;
typedef struct io_thread io_thread;
typedef struct connection connection;

/* One loop with its handler. */
typedef struct {
    /* set once */
    server *server;
    pyloop_loop *loop;
    void *handler; /* a Python callable, of the loop's interpreter */
    void *get;     /* its str "GET" */

    /* loop thread only */
    pyloop_work flush; /* posted when the turn's first response is done */
    int flush_posted;
    uint64_t touched; /* I/O threads to be woken then */
} worker;

/* A Python future that waits for the end of the server. */
typedef struct waiter {
    pyloop_promise promise;
    pyloop_loop *loop;
    server *server;
    worker *worker; /* NULL, or whose end it is */
    struct waiter *next;
} waiter;

struct connection {
    /* set once */
    io_thread *io;
    worker *worker;

    /* any thread, atomic: the I/O thread, the request, the cancel item */
    atomic_int refs;

    /* I/O thread's, the worker's while `busy` (see above) */
    pyloop_work work;
    pyloop_task task;
    http_request request;
    char *out; /* HTTP_RESPONSE_HEAD_MAX bytes of room, then the body */
    size_t out_room;
    size_t body_size;
    int status;
    char type[TYPE_MAX];
    connection *next_done;

    /* loop thread only */
    int task_runs;

    /* I/O thread only */
    pyloop_work cancel; /* posted when the peer is gone; then pyloop's */
    int fd;
    int busy;
    int gone;
    int readable; /* edge-triggered: there may be more to read */
    int closing;  /* after what is being sent */
    char *in;
    size_t in_size;
    size_t in_room;
    const char *sending;
    size_t left; /* to be sent; 0: nothing */
    connection *previous;
    connection *next;
};

struct io_thread {
    /* set once */
    server *server;
    int index;
    int poll;
    int event; /* eventfd; only ever written, as its event is edge-triggered */
    pthread_t thread;

    /* any thread, atomic */
    _Atomic(connection *) done; /* newest first */
    atomic_int asleep;

    /* I/O thread only */
    connection *connections;
    int next_worker;
    int accepting;
    struct {
        pyloop_work *first;
        pyloop_work *last;
    } chains[MAX_WORKERS]; /* posted at the end of the batch */
};

struct server {
    /* set once */
    const pyloop_api *api;
    int listener;
    int port;
    int thread_count;
    int worker_count; /* the threads start when so many have come */
    io_thread threads[MAX_THREADS];

    /* any thread, atomic */
    atomic_int refs; /* Python's, the threads', the waiters' */
    atomic_int stopping; /* 1: finish what is under way; 2: drop it */
    atomic_int running; /* I/O threads */
    atomic_ullong requests;
    atomic_ullong chains;
    atomic_ullong wakeups; /* of I/O threads */

    /* under lock */
    pthread_mutex_t lock;
    worker *workers[MAX_WORKERS];
    int workers_here;
    int started;
    waiter *waiters;
};

/* io.c; any thread.  NULL and errno. */
server *server_new(const pyloop_api *api, const char *host, int port,
                   int threads, int workers);
void server_release(server *self);
/* With the last worker the threads start.  0 or an errno; ECANCELED, EALREADY:
   stopped before that, or complete; the worker is the caller's still. */
int server_add_worker(server *self, worker *one);
/* Has the waiter's promise completed at the end, or now. */
void server_add_waiter(server *self, waiter *one);
/* Requests under way are answered; the second call cancels them. */
void server_stop(server *self);

/* io.c; the worker's side, which then no longer touches the connection. */
void connection_done(connection *self);
void connection_release(connection *self);
void io_wake(io_thread *self);

/* worker.c */
int request_run(pyloop_work *work, int status);
int request_cancel(pyloop_work *work, int status);

#endif
