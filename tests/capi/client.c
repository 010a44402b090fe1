/* A client of pyloop.h as a Python extension: threads that have no thread
   state post work, run coroutines and complete futures; an echo protocol in
   C.  The tests and the benchmarks drive it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <pyloop_import.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

static const pyloop_api *api;    /* the same in every interpreter */

static int64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* -- a burst: threads that post --------------------------------------------- */

typedef struct burst burst;
typedef struct producer producer;

typedef struct {
    pyloop_work work;
    producer *from;
    uint32_t number;
} item;

struct producer {
    burst *all;
    pthread_t thread;
    item *items;
    uint32_t next; /* loop thread: the number expected next */
    uint32_t refused; /* posts that were answered "closed" */
    uint32_t discarded; /* loop thread: handed back */
    uint32_t disorder; /* loop thread */
};

struct burst {
    pyloop_loop *loop;
    PyObject *callable; /* NULL: count only */
    uint32_t count; /* items of each producer */
    uint32_t chain; /* 0, or how many are posted at once */
    int threads;
    int joined;
    producer producers[16];
};

static int
run_item(pyloop_work *work, int status)
{
    item *self = (item *)work;
    producer *from = self->from;

    if (status == PYLOOP_CLOSED) {
        from->discarded++;
        return 0;
    }
    from->disorder += self->number != from->next;
    from->next = self->number + 1;
    if (from->all->callable != NULL) {
        PyObject *result = PyObject_CallNoArgs(from->all->callable);

        if (result == NULL) {
            return -1;
        }
        Py_DECREF(result);
    }
    return 0;
}

static void *
produce(void *arg)
{
    producer *self = arg;
    burst *all = self->all;

    for (uint32_t i = 0; i < all->count;) {
        uint32_t many = all->chain > 0 ? all->chain : 1;

        if (many > all->count - i) {
            many = all->count - i;
        }
        for (uint32_t k = 0; k < many; k++) {
            item *one = &self->items[i + k];

            one->work.next =
                k + 1 < many ? &self->items[i + k + 1].work : NULL;
        }
        int status = all->chain > 0
                         ? api->post_chain(all->loop, &self->items[i].work)
                         : api->post(all->loop, &self->items[i].work);

        if (status < 0) {
            self->refused += many;
        }
        i += many;
    }
    return NULL;
}

static void
burst_free(PyObject *capsule)
{
    burst *self = PyCapsule_GetPointer(capsule, "burst");

    for (int i = 0; i < self->threads; i++) {
        free(self->producers[i].items);
    }
    api->release(self->loop);
    Py_XDECREF(self->callable);
    free(self);
}

/* burst(loop, threads, count, chain=0, callable=None) -> handle.  With no
   threads the caller posts. */
static PyObject *
client_burst(PyObject *module, PyObject *args)
{
    PyObject *loop, *callable = Py_None;
    int threads;
    unsigned int count, chain = 0;

    if (!PyArg_ParseTuple(args, "OiI|IO", &loop, &threads, &count, &chain,
                          &callable))
    {
        return NULL;
    }
    burst *self = calloc(1, sizeof(*self));

    if (self == NULL || threads < 0 || threads > 16) {
        free(self);
        return PyErr_NoMemory();
    }
    self->loop = api->loop_from(loop);
    if (self->loop == NULL) {
        free(self);
        return NULL;
    }
    self->joined = threads == 0;
    threads += self->joined;
    self->callable = callable == Py_None ? NULL : Py_NewRef(callable);
    self->count = count;
    self->chain = chain;
    self->threads = threads;
    for (int t = 0; t < threads; t++) {
        producer *one = &self->producers[t];

        one->all = self;
        one->items = calloc(count, sizeof(item));
        for (uint32_t i = 0; one->items != NULL && i < count; i++) {
            pyloop_work_init(&one->items[i].work, run_item);
            one->items[i].from = one;
            one->items[i].number = i;
        }
    }
    PyObject *handle = PyCapsule_New(self, "burst", burst_free);

    for (int t = 0; handle != NULL && t < threads; t++) {
        producer *one = &self->producers[t];

        if (self->joined) {
            (void)produce(one);
        }
        else if (pthread_create(&one->thread, NULL, produce, one) != 0) {
            Py_DECREF(handle);
            PyErr_SetString(PyExc_OSError, "no thread");
            return NULL;
        }
    }
    return handle;
}

/* Holds the GIL on purpose: a post must not need it. */
static PyObject *
client_join(PyObject *module, PyObject *handle)
{
    burst *self = PyCapsule_GetPointer(handle, "burst");

    if (self == NULL) {
        return NULL;
    }
    for (int t = 0; t < self->threads && !self->joined; t++) {
        (void)pthread_join(self->producers[t].thread, NULL);
    }
    self->joined = 1;
    Py_RETURN_NONE;
}

/* (run, refused, discarded, out of order) */
static PyObject *
client_counts(PyObject *module, PyObject *handle)
{
    burst *self = PyCapsule_GetPointer(handle, "burst");
    unsigned long run = 0, refused = 0, discarded = 0, disorder = 0;

    if (self == NULL) {
        return NULL;
    }
    for (int t = 0; t < self->threads; t++) {
        producer *one = &self->producers[t];

        run += one->next;
        refused += one->refused;
        discarded += one->discarded;
        disorder += one->disorder;
    }
    return Py_BuildValue("kkkk", run, refused, discarded, disorder);
}

/* -- a loop held from C ------------------------------------------------------ */

static void
held_free(PyObject *capsule)
{
    api->release(PyCapsule_GetPointer(capsule, "loop"));
}

static PyObject *
client_hold(PyObject *module, PyObject *loop)
{
    pyloop_loop *held = api->loop_from(loop);

    return held == NULL ? NULL : PyCapsule_New(held, "loop", held_free);
}

static PyObject *
client_hold_running(PyObject *module, PyObject *unused)
{
    pyloop_loop *held = api->loop_running();

    return held == NULL ? NULL : PyCapsule_New(held, "loop", held_free);
}

static PyObject *
client_is_alive(PyObject *module, PyObject *capsule)
{
    return PyBool_FromLong(
        api->is_alive(PyCapsule_GetPointer(capsule, "loop")));
}

/* -- one callable, posted by this thread -------------------------------------- */

typedef struct {
    pyloop_work work;
    PyObject *callable;
    PyObject *context;
} call;

static int
run_call(pyloop_work *work, int status)
{
    call *self = (call *)work;
    PyObject *callable = self->callable;
    PyObject *context = self->context;
    PyObject *result = PyObject_CallFunction(callable, "i", status);

    free(self);
    Py_DECREF(callable);
    Py_XDECREF(context);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* post(held, callable, context=None) -> status; callable(status) is run.
   OSError if it was posted and the loop could not be woken. */
static PyObject *
client_post(PyObject *module, PyObject *args)
{
    PyObject *capsule, *callable, *context = Py_None;
    call *self = calloc(1, sizeof(*self));

    if (self == NULL ||
        !PyArg_ParseTuple(args, "OO|O", &capsule, &callable, &context))
    {
        free(self);
        return NULL;
    }
    pyloop_work_init(&self->work, run_call);
    self->callable = Py_NewRef(callable);
    if (context != Py_None) {
        self->context = Py_NewRef(context);
        self->work.context = context;
    }
    int status = api->post(PyCapsule_GetPointer(capsule, "loop"), &self->work);

    if (status < 0) {
        Py_DECREF(self->callable);
        Py_XDECREF(self->context);
        free(self);
    }
    if (status == PYLOOP_UNWOKEN) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(status);
}

/* -- posts from a signal handler ---------------------------------------------- */

static pyloop_loop *alarm_loop;
static pyloop_work alarm_items[100000];
#define ALARMS (sizeof(alarm_items) / sizeof(alarm_items[0]))
static unsigned alarms, alarms_run, alarms_refused;

static int
run_alarm(pyloop_work *work, int status)
{
    alarms_run += status == PYLOOP_OK;
    return 0;
}

static void
on_alarm(int number)
{
    unsigned i = __atomic_fetch_add(&alarms, 1, __ATOMIC_RELAXED);

    if (i >= ALARMS || api->post(alarm_loop, &alarm_items[i]) != PYLOOP_OK) {
        __atomic_fetch_add(&alarms_refused, 1, __ATOMIC_RELAXED);
    }
}

/* alarm(held, us): each time, SIGALRM posts an item; 0 ends it */
static PyObject *
client_alarm(PyObject *module, PyObject *args)
{
    PyObject *capsule;
    int us;

    if (!PyArg_ParseTuple(args, "Oi", &capsule, &us)) {
        return NULL;
    }
    if (us > 0) {
        struct sigaction action = {.sa_handler = on_alarm,
                                   .sa_flags = SA_RESTART};

        alarm_loop = PyCapsule_GetPointer(capsule, "loop");
        for (size_t i = 0; i < ALARMS; i++) {
            pyloop_work_init(&alarm_items[i], run_alarm);
        }
        sigaction(SIGALRM, &action, NULL);
    }
    struct itimerval timer = {{0, us}, {0, us}};

    setitimer(ITIMER_REAL, &timer, NULL);
    Py_RETURN_NONE;
}

/* (posted, run, refused) */
static PyObject *
client_alarms(PyObject *module, PyObject *unused)
{
    return Py_BuildValue("III", __atomic_load_n(&alarms, __ATOMIC_RELAXED),
                         alarms_run, alarms_refused);
}

/* -- coroutines ------------------------------------------------------------- */

typedef struct {
    pyloop_task task;
    pyloop_loop *loop;
    PyObject *callback;
    pthread_t canceller;
    int has_canceller;
    int delay_us;
} run;

static void
run_done(pyloop_task *task, int status, void *value)
{
    run *self = (run *)task;
    PyObject *callback = self->callback;
    PyObject *result = PyObject_CallFunction(
        callback, "iO", status, value == NULL ? Py_None : (PyObject *)value);

    Py_XDECREF(result);
    Py_DECREF(callback);
    if (!self->has_canceller) {
        api->release(self->loop);
        free(self);
    }
    /* else: cancel_done, when the other thread has let go too */
}

/* start(held, awaitable, callback, eager=False, context=None, name=None);
   callback(status, value) */
static PyObject *
client_start(PyObject *module, PyObject *args)
{
    PyObject *capsule, *awaitable, *callback;
    PyObject *context = Py_None, *name = Py_None;
    int eager = 0;

    if (!PyArg_ParseTuple(args, "OOO|pOO", &capsule, &awaitable, &callback,
                          &eager, &context, &name))
    {
        return NULL;
    }
    run *self = calloc(1, sizeof(*self));

    if (self == NULL) {
        return PyErr_NoMemory();
    }
    self->loop = PyCapsule_GetPointer(capsule, "loop");
    api->acquire(self->loop);
    pyloop_task_init(&self->task, run_done);
    self->task.flags = eager ? PYLOOP_TASK_EAGER : 0;
    self->task.context = context == Py_None ? NULL : context;
    self->task.name = name == Py_None ? NULL : name;
    self->callback = Py_NewRef(callback);
    if (api->task_start(self->loop, &self->task, Py_NewRef(awaitable)) < 0) {
        Py_DECREF(callback);
        api->release(self->loop);
        free(self);
        return NULL;
    }
    Py_RETURN_NONE;
}

static void *
cancel_soon(void *arg)
{
    run *self = arg;
    struct timespec delay = {0, self->delay_us * 1000L};

    nanosleep(&delay, NULL);
    (void)api->task_cancel(self->loop, &self->task);
    (void)api->task_cancel(self->loop, &self->task);
    return NULL;
}

/* start_and_cancel(held, awaitable, callback, delay_us) -> handle: a thread
   cancels; then free_run(handle), after callback. */
static PyObject *
client_start_and_cancel(PyObject *module, PyObject *args)
{
    PyObject *capsule, *awaitable, *callback;
    int delay_us;

    if (!PyArg_ParseTuple(args, "OOOi", &capsule, &awaitable, &callback,
                          &delay_us))
    {
        return NULL;
    }
    run *self = calloc(1, sizeof(*self));

    if (self == NULL) {
        return PyErr_NoMemory();
    }
    self->loop = PyCapsule_GetPointer(capsule, "loop");
    api->acquire(self->loop);
    pyloop_task_init(&self->task, run_done);
    self->callback = Py_NewRef(callback);
    self->has_canceller = 1;
    self->delay_us = delay_us;
    if (api->task_start(self->loop, &self->task, Py_NewRef(awaitable)) < 0) {
        Py_DECREF(callback);
        api->release(self->loop);
        free(self);
        return NULL;
    }
    (void)pthread_create(&self->canceller, NULL, cancel_soon, self);
    return PyCapsule_New(self, "run", NULL);
}

static PyObject *
client_free_run(PyObject *module, PyObject *handle)
{
    run *self = PyCapsule_GetPointer(handle, "run");

    (void)pthread_join(self->canceller, NULL);
    api->release(self->loop);
    free(self);
    Py_RETURN_NONE;
}

/* -- a server's side: post, run a coroutine, be told -------------------------- */

typedef struct calls calls;

typedef struct {
    pyloop_work work;
    pyloop_task task;
    calls *all;
    int64_t started;
} request;

struct calls {
    pyloop_loop *loop;
    PyObject *handler; /* called for each request's awaitable */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ready;
    uint32_t count, window, flags;
    uint32_t finished; /* under lock */
    uint32_t failed; /* under lock */
    int64_t elapsed;
    request *requests;
};

static void
request_over(request *self, int failed)
{
    calls *all = self->all;

    pthread_mutex_lock(&all->lock);
    all->finished++;
    all->failed += failed;
    if (all->window == 1 || all->finished % all->window == 0 ||
        all->finished == all->count)
    {
        pthread_cond_signal(&all->ready);
    }
    pthread_mutex_unlock(&all->lock);
}

static void
request_done(pyloop_task *task, int status, void *value)
{
    request *self = (request *)((char *)task - offsetof(request, task));

    request_over(self, status != PYLOOP_OK);
}

static int
request_run(pyloop_work *work, int status)
{
    request *self = (request *)work;

    if (status == PYLOOP_CLOSED) {
        request_over(self, 1);
        return 0;
    }
    PyObject *awaitable = PyObject_CallNoArgs(self->all->handler);

    if (awaitable == NULL) {
        request_over(self, 1);
        return -1;
    }
    pyloop_task_init(&self->task, request_done);
    self->task.flags = self->all->flags;
    if (api->task_start(self->all->loop, &self->task, awaitable) < 0) {
        request_over(self, 1);
        return -1;
    }
    return 0;
}

static void *
serve_calls(void *arg)
{
    calls *self = arg;
    int64_t start = now_ns();

    for (uint32_t i = 0; i < self->count;) {
        uint32_t end = i + self->window;

        if (end > self->count) {
            end = self->count;
        }
        for (; i < end; i++) {
            request *one = &self->requests[i];

            pyloop_work_init(&one->work, request_run);
            one->all = self;
            if (api->post(self->loop, &one->work) < 0) {
                request_over(one, 1);
            }
        }
        pthread_mutex_lock(&self->lock);
        while (self->finished < end) {
            pthread_cond_wait(&self->ready, &self->lock);
        }
        pthread_mutex_unlock(&self->lock);
    }
    self->elapsed = now_ns() - start;
    return NULL;
}

static void
calls_free(PyObject *capsule)
{
    calls *self = PyCapsule_GetPointer(capsule, "calls");

    api->release(self->loop);
    Py_DECREF(self->handler);
    free(self->requests);
    free(self);
}

/* calls(loop, handler, count, window, eager=False) -> handle: a thread runs
   handler()'s awaitables, `window` at a time. */
static PyObject *
client_calls(PyObject *module, PyObject *args)
{
    PyObject *loop, *handler;
    unsigned int count, window;
    int eager = 0;

    if (!PyArg_ParseTuple(args, "OOII|p", &loop, &handler, &count, &window,
                          &eager))
    {
        return NULL;
    }
    calls *self = calloc(1, sizeof(*self));

    if (self == NULL) {
        return PyErr_NoMemory();
    }
    self->loop = api->loop_from(loop);
    self->requests = calloc(count, sizeof(request));
    if (self->loop == NULL || self->requests == NULL) {
        free(self->requests);
        free(self);
        return NULL;
    }
    self->handler = Py_NewRef(handler);
    self->count = count;
    self->window = window;
    self->flags = eager ? PYLOOP_TASK_EAGER : 0;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->ready, NULL);
    (void)pthread_create(&self->thread, NULL, serve_calls, self);
    return PyCapsule_New(self, "calls", calls_free);
}

/* (seconds, failed) */
static PyObject *
client_join_calls(PyObject *module, PyObject *handle)
{
    calls *self = PyCapsule_GetPointer(handle, "calls");

    Py_BEGIN_ALLOW_THREADS(void)
    pthread_join(self->thread, NULL);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("dI", (double)self->elapsed * 1e-9, self->failed);
}

/* -- futures ------------------------------------------------------------------ */

typedef struct {
    pyloop_promise promise;
    pyloop_loop *loop;
    PyObject *value;
    PyObject *log; /* a list */
    pthread_t thread;
    int delay_us;
} operation;

static void *
operation_value(pyloop_promise *promise)
{
    PyObject *value = ((operation *)promise)->value;

    if (PyExceptionInstance_Check(value)) {
        PyErr_SetObject((PyObject *)Py_TYPE(value), value);
        return NULL;
    }
    return Py_NewRef(value);
}

static void
operation_log(operation *self, const char *what, int status)
{
    PyObject *entry = Py_BuildValue("(si)", what, status);

    if (entry == NULL || PyList_Append(self->log, entry) < 0) {
        PyErr_WriteUnraisable(NULL);
    }
    Py_XDECREF(entry);
}

static void
operation_cancelled(pyloop_promise *promise)
{
    operation_log((operation *)promise, "cancelled", 0);
}

static void
operation_end(operation *self)
{
    (void)pthread_join(self->thread, NULL);
    api->release(self->loop);
    Py_DECREF(self->value);
    Py_DECREF(self->log);
    free(self);
}

static void
operation_released(pyloop_promise *promise, int status)
{
    operation *self = (operation *)promise;

    operation_log(self, "released", status);
    operation_end(self);
}

static unsigned completions; /* calls of promise_complete() */

static PyObject *
client_completions(PyObject *module, PyObject *unused)
{
    return PyLong_FromUnsignedLong(
        __atomic_load_n(&completions, __ATOMIC_ACQUIRE));
}

static void *
operate(void *arg)
{
    operation *self = arg;
    struct timespec delay = {self->delay_us / 1000000,
                             self->delay_us % 1000000 * 1000L};

    nanosleep(&delay, NULL);

    int status = api->promise_complete(self->loop, &self->promise);

    __atomic_fetch_add(&completions, 1, __ATOMIC_RELEASE);
    if (status < 0) {
        /* Closed: ours again.  Python objects need the GIL to go, so this
           client leaks two references; a real one would keep none. */
        api->release(self->loop);
        pthread_detach(self->thread);
        free(self);
    }
    return NULL;
}

/* operation(held, delay_us, value, log, future=None) -> future */
static PyObject *
client_operation(PyObject *module, PyObject *args)
{
    PyObject *capsule, *value, *log, *given = Py_None;
    int delay_us;

    if (!PyArg_ParseTuple(args, "OiOO|O", &capsule, &delay_us, &value, &log,
                          &given))
    {
        return NULL;
    }
    operation *self = calloc(1, sizeof(*self));

    if (self == NULL) {
        return PyErr_NoMemory();
    }
    pyloop_promise_init(&self->promise, operation_value, operation_released);
    self->promise.cancelled = operation_cancelled;
    self->loop = PyCapsule_GetPointer(capsule, "loop");
    api->acquire(self->loop);
    self->value = Py_NewRef(value);
    self->log = Py_NewRef(log);
    self->delay_us = delay_us;

    PyObject *future = api->promise_start(self->loop, &self->promise,
                                          given == Py_None ? NULL : given);

    if (future == NULL) {
        api->release(self->loop);
        Py_DECREF(value);
        Py_DECREF(log);
        free(self);
        return NULL;
    }
    (void)pthread_create(&self->thread, NULL, operate, self);
    return future;
}

/* -- many futures, completed by threads as fast as they can -------------------- */

typedef struct {
    pyloop_promise promise;
    int ends; /* [loop] */
    int status; /* [loop] of the last */
    int refused;
} pledge;

typedef struct {
    pyloop_loop *loop;
    pledge *pledges;
    int count, threads;
    pthread_t thread[16];
    unsigned turn;
} completers;

static void
pledge_released(pyloop_promise *promise, int status)
{
    ((pledge *)promise)->ends++;
    ((pledge *)promise)->status = status;
    memset(promise, 0x55, sizeof(*promise)); /* ours again */
}

static void *
complete(void *arg)
{
    completers *self = arg;
    int first = (int)__atomic_fetch_add(&self->turn, 1, __ATOMIC_RELAXED);

    for (int i = first; i < self->count; i += self->threads) {
        pledge *one = &self->pledges[i];

        if (api->promise_complete(self->loop, &one->promise) < 0) {
            one->refused = 1;
            memset(&one->promise, 0x55, sizeof(one->promise));
        }
        sched_yield(); /* or they would be through before anything else */
    }
    return NULL;
}

static void
completers_free(PyObject *capsule)
{
    completers *self = PyCapsule_GetPointer(capsule, "completers");

    api->release(self->loop);
    free(self->pledges);
    free(self);
}

/* complete(loop, threads, count) -> handle, when they have begun */
static PyObject *
client_complete(PyObject *module, PyObject *args)
{
    PyObject *loop;
    int threads, count;

    if (!PyArg_ParseTuple(args, "Oii", &loop, &threads, &count)) {
        return NULL;
    }
    completers *self = calloc(1, sizeof(*self));

    if (self == NULL || threads < 1 || threads > 16) {
        free(self);
        return PyErr_NoMemory();
    }
    self->loop = api->loop_from(loop);
    if (self->loop == NULL) {
        free(self);
        return NULL;
    }
    self->pledges = calloc((size_t)count, sizeof(pledge));
    self->count = count;
    self->threads = threads;
    for (int i = 0; i < count; i++) {
        pyloop_promise *promise = &self->pledges[i].promise;

        pyloop_promise_init(promise, NULL, pledge_released);
        Py_XDECREF(api->promise_start(self->loop, promise, NULL));
    }
    for (int t = 0; t < threads; t++) {
        (void)pthread_create(&self->thread[t], NULL, complete, self);
    }
    while (__atomic_load_n(&self->turn, __ATOMIC_RELAXED) == 0) {
        sched_yield();
    }
    return PyCapsule_New(self, "completers", completers_free);
}

/* Joins: (fulfilled, handed back, refused, neither or more than one) */
static PyObject *
client_completed(PyObject *module, PyObject *handle)
{
    completers *self = PyCapsule_GetPointer(handle, "completers");
    int fulfilled = 0, closed = 0, refused = 0, wrong = 0;

    for (int t = 0; t < self->threads; t++) {
        (void)pthread_join(self->thread[t], NULL);
    }
    for (int i = 0; i < self->count; i++) {
        pledge *one = &self->pledges[i];

        wrong += one->ends + one->refused != 1;
        refused += one->refused;
        fulfilled += one->ends && one->status == PYLOOP_OK;
        closed += one->ends && one->status == PYLOOP_CLOSED;
    }
    return Py_BuildValue("iiii", fulfilled, closed, refused, wrong);
}

/* -- a native echo protocol ----------------------------------------------------- */

typedef struct {
    uint64_t received;
    int paused;
} echo;

typedef struct {
    uint32_t made, lost, eof, paused, resumed, errors;
    uint64_t received;
} echo_totals;

static int
echo_made(pyloop_stream *stream, void *arg, void **data)
{
    ((echo_totals *)arg)->made++;
    *data = calloc(1, sizeof(echo) + sizeof(void *));
    *(void **)((echo *)*data + 1) = arg;
    return 0;
}

static echo_totals *
totals_of(void *data)
{
    return *(void **)((echo *)data + 1);
}

static int
echo_received(pyloop_stream *stream, void *data, const void *bytes,
              size_t size)
{
    echo *self = data;

    self->received += size;
    totals_of(data)->received += size;
    if (size == 5 && memcmp(bytes, "abort", 5) == 0) {
        return api->stream_abort(stream);
    }
    if (size == 5 && memcmp(bytes, "close", 5) == 0) {
        pyloop_buffer parts[] = {{"b", 1}, {"ye", 2}};

        return api->stream_writev(stream, parts, 2) < 0
                   ? -1
                   : api->stream_close(stream);
    }
    if (size == 5 && memcmp(bytes, "raise", 5) == 0) {
        PyErr_SetString(PyExc_ValueError, "as asked");
        return -1;
    }
    return api->stream_write(stream, bytes, size);
}

static int
echo_eof(pyloop_stream *stream, void *data)
{
    totals_of(data)->eof++;
    return 0;
}

static void
echo_lost(pyloop_stream *stream, void *data, void *exception)
{
    totals_of(data)->lost++;
    totals_of(data)->errors += exception != NULL;
    free(data);
}

static void
echo_paused(pyloop_stream *stream, void *data)
{
    totals_of(data)->paused++;
    (void)api->stream_pause_reading(stream);
}

static void
echo_resumed(pyloop_stream *stream, void *data)
{
    totals_of(data)->resumed++;
    (void)api->stream_resume_reading(stream);
}

static const pyloop_protocol echo_protocol = {
    .size = sizeof(pyloop_protocol),
    .made = echo_made,
    .received = echo_received,
    .eof = echo_eof,
    .lost = echo_lost,
    .paused = echo_paused,
    .resumed = echo_resumed,
};

/* echo() -> (factory, totals) */
static PyObject *
client_echo(PyObject *module, PyObject *unused)
{
    PyObject *memory = PyByteArray_FromStringAndSize(NULL, 64);

    if (memory == NULL) {
        return NULL;
    }
    memset(PyByteArray_AS_STRING(memory), 0, 64);
    PyObject *factory =
        api->protocol_factory(&echo_protocol, PyByteArray_AS_STRING(memory));

    if (factory == NULL) {
        Py_DECREF(memory);
        return NULL;
    }
    return Py_BuildValue("NN", factory, memory);
}

static PyObject *
client_echo_totals(PyObject *module, PyObject *memory)
{
    echo_totals *all = (echo_totals *)PyByteArray_AsString(memory);

    return Py_BuildValue(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:K}", "made", all->made, "lost", all->lost,
        "eof", all->eof, "paused", all->paused, "resumed", all->resumed,
        "errors", all->errors, "received", (unsigned long long)all->received);
}

/* ---------------------------------------------------------------------------- */

static PyMethodDef client_methods[] = {
    {"burst", client_burst, METH_VARARGS, NULL},
    {"join", client_join, METH_O, NULL},
    {"counts", client_counts, METH_O, NULL},
    {"hold", client_hold, METH_O, NULL},
    {"hold_running", client_hold_running, METH_NOARGS, NULL},
    {"is_alive", client_is_alive, METH_O, NULL},
    {"post", client_post, METH_VARARGS, NULL},
    {"alarm", client_alarm, METH_VARARGS, NULL},
    {"alarms", client_alarms, METH_NOARGS, NULL},
    {"start", client_start, METH_VARARGS, NULL},
    {"start_and_cancel", client_start_and_cancel, METH_VARARGS, NULL},
    {"free_run", client_free_run, METH_O, NULL},
    {"calls", client_calls, METH_VARARGS, NULL},
    {"join_calls", client_join_calls, METH_O, NULL},
    {"operation", client_operation, METH_VARARGS, NULL},
    {"completions", client_completions, METH_NOARGS, NULL},
    {"complete", client_complete, METH_VARARGS, NULL},
    {"completed", client_completed, METH_O, NULL},
    {"echo", client_echo, METH_NOARGS, NULL},
    {"echo_totals", client_echo_totals, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int
client_exec(PyObject *module)
{
    const pyloop_api *table = pyloop_import();

    if (table == NULL) {
        return -1;
    }
    api = table;
    return 0;
}

static PyModuleDef_Slot client_slots[] = {
    {Py_mod_exec, client_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef client_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "capi_client",
    .m_methods = client_methods,
    .m_slots = client_slots,
};

PyMODINIT_FUNC
PyInit_capi_client(void)
{
    return PyModuleDef_Init(&client_module);
}
