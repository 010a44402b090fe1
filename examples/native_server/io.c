/* The I/O threads: each has its own epoll and its connections for life, and
   never a Python thread state.  Sockets are watched edge-triggered, so that a
   request costs a recv and a send and no epoll_ctl; what one batch of events
   brings for a loop is posted as one chain.

   A peer that closes its side is taken to be gone: its request is cancelled.
   There are no timeouts. */

#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 256
#define ROOM 4096 /* what a connection starts with, each way */

static void server_acquire(server *self);
static void connection_advance(connection *self);

/* -- connections -------------------------------------------------------- */

void
connection_release(connection *self)
{
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    free(self->in);
    free(self->out);
    free(self);
}

static void
watch_listener(io_thread *io, int on)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLEXCLUSIVE,
        .data.ptr = io->server,
    };

    if (io->accepting != on) {
        io->accepting = on;
        (void)epoll_ctl(io->poll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL,
                        io->server->listener, &event);
    }
}

static void
connection_open(io_thread *io, int fd)
{
    connection *self = calloc(1, sizeof(*self));
    int one = 1;

    if (self == NULL) {
        close(fd);
        return;
    }
    self->io = io;
    self->worker = io->server->workers[io->next_worker];
    io->next_worker = (io->next_worker + 1) % io->server->worker_count;
    self->fd = fd;
    self->in = malloc(ROOM);
    self->in_room = ROOM;
    self->out = malloc(HTTP_RESPONSE_HEAD_MAX + ROOM);
    self->out_room = ROOM;
    atomic_init(&self->refs, 1);
    pyloop_work_init(&self->work, request_run);
    pyloop_work_init(&self->cancel, request_cancel);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        .data.ptr = self,
    };

    if (self->in == NULL || self->out == NULL ||
        epoll_ctl(io->poll, EPOLL_CTL_ADD, fd, &event) < 0)
    {
        close(fd);
        connection_release(self);
        return;
    }
    self->next = io->connections;
    if (self->next != NULL) {
        self->next->previous = self;
    }
    io->connections = self;
}

static void
connection_hang_up(connection *self)
{
    if (self->fd >= 0) {
        close(self->fd);
        self->fd = -1;
        if (!atomic_load_explicit(&self->io->server->stopping,
                                  memory_order_relaxed))
        {
            watch_listener(self->io, 1); /* if there was no descriptor */
        }
    }
}

static void
connection_close(connection *self)
{
    connection_hang_up(self);
    if (self->previous != NULL) {
        self->previous->next = self->next;
    }
    else {
        self->io->connections = self->next;
    }
    if (self->next != NULL) {
        self->next->previous = self->previous;
    }
    connection_release(self);
}

/* Nobody will read the response: the request, if there is one, is cancelled,
   and the connection goes when it has ended. */
static void
connection_lost(connection *self)
{
    const pyloop_api *api = self->io->server->api;

    if (!self->busy) {
        connection_close(self);
        return;
    }
    if (self->gone) {
        return;
    }
    self->gone = 1;
    connection_hang_up(self);
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    if (api->post(self->worker->loop, &self->cancel) < 0) {
        connection_release(self);
    }
}

/* 0, or -1: the connection is lost, and has been told. */
static int
connection_send(connection *self)
{
    while (self->left > 0) {
        ssize_t n = send(self->fd, self->sending, self->left, MSG_NOSIGNAL);

        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EAGAIN) {
                return 0; /* EPOLLOUT tells */
            }
            connection_lost(self);
            return -1;
        }
        self->sending += n;
        self->left -= (size_t)n;
    }
    if (self->closing) {
        (void)shutdown(self->fd, SHUT_WR); /* then read to the peer's end */
    }
    return 0;
}

/* As connection_send. */
static int
connection_respond(connection *self, int keep_alive)
{
    char head[HTTP_RESPONSE_HEAD_MAX];
    size_t size = http_response_head(head, self->status, self->type,
                                     self->body_size, keep_alive);
    char *start = self->out + HTTP_RESPONSE_HEAD_MAX - size;
    int is_head = self->request.method_size == 4 &&
                  memcmp(self->request.method, "HEAD", 4) == 0;

    memcpy(start, head, size);
    self->sending = start;
    self->left = size + (is_head ? 0 : self->body_size);
    self->closing = !keep_alive;
    return connection_send(self);
}

/* Without a handler: a status and nothing else. */
static int
connection_refuse(connection *self, int status)
{
    self->status = status;
    self->body_size = 0;
    strcpy(self->type, "text/plain");
    return connection_respond(self, 0);
}

static void
connection_dispatch(connection *self)
{
    io_thread *io = self->io;
    int which = 0;

    while (io->server->workers[which] != self->worker) {
        which++;
    }
    self->busy = 1;
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    self->work.next = NULL;
    if (io->chains[which].first == NULL) {
        io->chains[which].first = &self->work;
    }
    else {
        io->chains[which].last->next = &self->work;
    }
    io->chains[which].last = &self->work;
}

/* The response is there: sends it, and goes on with what came meanwhile. */
static void
connection_answer(connection *self)
{
    int stopping = atomic_load_explicit(&self->io->server->stopping,
                                        memory_order_relaxed);

    self->busy = 0;
    connection_release(self);
    if (self->gone) {
        connection_close(self);
        return;
    }
    if (connection_respond(self, self->request.keep_alive && !stopping) < 0) {
        return;
    }
    self->in_size -= self->request.size;
    memmove(self->in, self->in + self->request.size, self->in_size);
    connection_advance(self);
}

static int
ensure_room(connection *self, size_t size)
{
    char *in = size > self->in_room ? realloc(self->in, size) : self->in;

    if (in == NULL) {
        return -1;
    }
    self->in = in;
    self->in_room = size > self->in_room ? size : self->in_room;
    return 0;
}

/* Reads, until there is a request to dispatch or no more to read. */
static void
connection_advance(connection *self)
{
    while (!self->busy && self->left == 0) {
        size_t wanted = ROOM;

        if (self->closing) {
            self->in_size = 0; /* whatever comes is thrown away */
        }
        else if (self->in_size > 0) {
            int status = http_read(&self->request, self->in, self->in_size);

            if (status == 1) {
                connection_dispatch(self);
                return;
            }
            if (status > 1) {
                if (connection_refuse(self, status) < 0) {
                    return;
                }
                continue;
            }
            wanted = self->request.size;
        }
        if (!self->readable) {
            return;
        }
        if (ensure_room(self, wanted) < 0) {
            connection_lost(self);
            return;
        }
        size_t room = self->in_room - self->in_size;
        ssize_t n = recv(self->fd, self->in + self->in_size, room, 0);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            self->readable = 0;
            return;
        }
        if (n <= 0) {
            connection_lost(self);
            return;
        }
        self->in_size += (size_t)n;
        self->readable = (size_t)n == room;
    }
}

static void
connection_event(connection *self, uint32_t events)
{
    if (self->gone) {
        return;
    }
    if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
        connection_lost(self);
        return;
    }
    if (events & EPOLLIN) {
        self->readable = 1;
    }
    if (self->left > 0 && connection_send(self) < 0) {
        return;
    }
    connection_advance(self);
}

static void
accept_some(io_thread *io)
{
    for (int i = 0; i < BATCH; i++) {
        int fd = accept4(io->server->listener, NULL, NULL,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            connection_open(io, fd);
        }
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
                 errno == ENOBUFS)
        {
            watch_listener(io, 0); /* until a connection has gone */
            return;
        }
        else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}

/* -- hand-over ---------------------------------------------------------- */

static void
post_chains(io_thread *io)
{
    server *all = io->server;

    for (int i = 0; i < all->worker_count; i++) {
        pyloop_work *work = io->chains[i].first;

        if (work == NULL) {
            continue;
        }
        io->chains[i].first = NULL;
        atomic_fetch_add_explicit(&all->chains, 1, memory_order_relaxed);
        if (all->api->post_chain(all->workers[i]->loop, work) >= 0) {
            continue;
        }
        while (work != NULL) { /* closed: ours again */
            connection *one =
                (connection *)((char *)work - offsetof(connection, work));

            work = work->next;
            one->status = 503;
            one->body_size = 0;
            strcpy(one->type, "text/plain");
            one->request.keep_alive = 0;
            connection_answer(one);
        }
    }
}

void
connection_done(connection *self)
{
    io_thread *io = self->io;
    connection *head = atomic_load_explicit(&io->done, memory_order_relaxed);

    do {
        self->next_done = head;
    } while (!atomic_compare_exchange_weak_explicit(
        &io->done, &head, self, memory_order_seq_cst, memory_order_relaxed));
}

void
io_wake(io_thread *self)
{
    uint64_t one = 1;

    /* partner: io_wait */
    if (atomic_exchange(&self->asleep, 0)) {
        atomic_fetch_add_explicit(&self->server->wakeups, 1,
                                  memory_order_relaxed);
        (void)!write(self->event, &one, sizeof(one));
    }
}

static int
io_wait(io_thread *self, struct epoll_event *events, int stopping)
{
    atomic_store(&self->asleep, 1);

    /* partner: connection_done, server_stop; then io_wake */
    int awake = atomic_load(&self->done) != NULL ||
                atomic_load(&self->server->stopping) != stopping;
    int n = epoll_wait(self->poll, events, BATCH, awake ? 0 : -1);

    atomic_store(&self->asleep, 0);
    return n;
}

static void
answer_done(io_thread *self)
{
    connection *head = atomic_exchange(&self->done, NULL);
    connection *oldest = NULL;

    while (head != NULL) {
        connection *next = head->next_done;

        head->next_done = oldest;
        oldest = head;
        head = next;
    }
    while (oldest != NULL) {
        connection *one = oldest;

        oldest = one->next_done;
        connection_answer(one);
    }
}

/* Closes what waits for requests; later also what is under way. */
static void
close_idle(io_thread *self, int all)
{
    connection *next;

    watch_listener(self, 0);
    for (connection *one = self->connections; one != NULL; one = next) {
        next = one->next;
        if (all || (!one->busy && one->left == 0)) {
            connection_lost(one);
        }
    }
}

static void
complete_waiters(server *self)
{
    waiter *one = self->waiters;

    self->waiters = NULL;
    while (one != NULL) {
        waiter *next = one->next;

        if (self->api->promise_complete(one->loop, &one->promise) < 0) {
            self->api->release(one->loop); /* closed: ours again */
            free(one);
            server_release(self);
        }
        one = next;
    }
}

static void
io_end(io_thread *self)
{
    server *all = self->server;

    close(self->poll);
    close(self->event);
    if (atomic_fetch_sub(&all->running, 1) == 1) {
        close(all->listener);
        pthread_mutex_lock(&all->lock);
        complete_waiters(all);
        pthread_mutex_unlock(&all->lock);
    }
    server_release(all);
}

static void *
io_main(void *arg)
{
    io_thread *self = arg;
    server *all = self->server;
    struct epoll_event events[BATCH];
    sigset_t signals; /* are Python's main thread's */

    sigfillset(&signals);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    for (;;) {
        int stopping = atomic_load(&all->stopping);

        if (stopping) {
            close_idle(self, stopping > 1);
            if (self->connections == NULL) {
                break;
            }
        }
        int n = io_wait(self, events, stopping);

        /* Before answer_done, which may free a connection that has an event
           here; an event frees none that is busy. */
        for (int i = 0; i < n; i++) {
            void *what = events[i].data.ptr;

            if (what == all) {
                accept_some(self);
            }
            else if (what != self) {
                connection_event(what, events[i].events);
            }
        }
        answer_done(self);
        post_chains(self);
    }
    io_end(self);
    return NULL;
}

/* -- the server --------------------------------------------------------- */

static void
server_acquire(server *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
}

void
server_release(server *self)
{
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    for (int i = 0; i < self->workers_here; i++) {
        self->api->release(self->workers[i]->loop);
        free(self->workers[i]);
    }
    pthread_mutex_destroy(&self->lock);
    free(self);
}

server *
server_new(const pyloop_api *api, const char *host, int port, int threads,
           int workers)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
    };
    socklen_t size = sizeof(address);
    int one = 1;

    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 || threads < 1 ||
        threads > MAX_THREADS || workers < 1 || workers > MAX_WORKERS)
    {
        errno = EINVAL;
        return NULL;
    }
    server *self = calloc(1, sizeof(*self));

    if (self == NULL) {
        return NULL;
    }
    self->api = api;
    self->thread_count = threads;
    self->worker_count = workers;
    atomic_init(&self->refs, 1);
    self->listener =
        socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (self->listener < 0) {
        free(self);
        return NULL;
    }
    (void)setsockopt(self->listener, SOL_SOCKET, SO_REUSEADDR, &one,
                     sizeof(one));
    if (bind(self->listener, (struct sockaddr *)&address, size) < 0 ||
        listen(self->listener, 1024) < 0 ||
        getsockname(self->listener, (struct sockaddr *)&address, &size) < 0)
    {
        int saved = errno;

        close(self->listener);
        free(self);
        errno = saved;
        return NULL;
    }
    self->port = ntohs(address.sin_port);
    pthread_mutex_init(&self->lock, NULL);
    return self;
}

static int
start_thread(server *self, int index)
{
    io_thread *one = &self->threads[index];
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = one};

    one->server = self;
    one->index = index;
    one->next_worker = index % self->worker_count;
    one->poll = epoll_create1(EPOLL_CLOEXEC);
    one->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (one->poll < 0 || one->event < 0 ||
        epoll_ctl(one->poll, EPOLL_CTL_ADD, one->event, &event) < 0)
    {
        return errno;
    }
    watch_listener(one, 1);
    server_acquire(self);
    atomic_fetch_add(&self->running, 1);

    int err = pthread_create(&one->thread, NULL, io_main, one);

    if (err != 0) {
        atomic_fetch_sub(&self->running, 1);
        server_release(self);
        return err;
    }
    pthread_detach(one->thread);
    return 0;
}

int
server_add_worker(server *self, worker *one)
{
    int err = 0;

    pthread_mutex_lock(&self->lock);
    if (self->started) {
        err = atomic_load(&self->stopping) ? ECANCELED : EALREADY;
    }
    else {
        self->workers[self->workers_here++] = one;
        if (self->workers_here == self->worker_count) {
            self->started = 1;
            for (int i = 0; i < self->thread_count && err == 0; i++) {
                err = start_thread(self, i);
            }
        }
    }
    pthread_mutex_unlock(&self->lock);
    return err;
}

void
server_add_waiter(server *self, waiter *one)
{
    pthread_mutex_lock(&self->lock);
    server_acquire(self);
    one->next = self->waiters;
    self->waiters = one;
    if (self->started && atomic_load(&self->running) == 0) {
        complete_waiters(self);
    }
    pthread_mutex_unlock(&self->lock);
}

void
server_stop(server *self)
{
    pthread_mutex_lock(&self->lock);
    if (atomic_load(&self->stopping) < 2) {
        atomic_fetch_add(&self->stopping, 1);
    }
    if (!self->started) { /* not all workers have come: nor will they */
        self->started = 1;
        close(self->listener);
        complete_waiters(self);
    }
    else if (atomic_load(&self->running) > 0) {
        for (int i = 0; i < self->thread_count; i++) {
            io_wake(&self->threads[i]);
        }
    }
    pthread_mutex_unlock(&self->lock);
}
