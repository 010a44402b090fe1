/* What the rows of native threads measure: the same work handed to a loop by
   pyloop.h, and by the means of any asyncio loop, for which the thread has to
   take the GIL.  A Python extension; bench/native.py builds it.

   Every job runs its threads, each of which has `finish` called on the loop as
   its last act. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <pyloop_import.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#define THREADS_MAX 16

static const pyloop_api *api; /* constant */

typedef struct job job;

typedef struct {
    pyloop_work work;
    job *all;
    pyloop_task task; /* of calls only: the others end before it */
} item;

typedef struct {
    job *all;
    pthread_t thread;
    char *items; /* count, and one that calls finish */
} runner;

struct job {
    pyloop_loop *loop; /* NULL: by the GIL */
    PyObject *soon;    /* loop.call_soon_threadsafe */
    PyObject *callable;
    PyObject *finish;
    PyObject *submit;  /* run_coroutine_threadsafe */
    PyObject *py_loop;
    PyObject *over;    /* a callable that ends one call or trip */
    uint32_t count, window, flags;
    size_t item_size;
    int threads;
    double seconds; /* of the first thread */
    runner runners[THREADS_MAX];

    /* under lock */
    pthread_mutex_t lock;
    pthread_cond_t ready;
    uint32_t ended;
    uint32_t failed;

    sem_t trip;
};

static item *
item_at(runner *self, uint32_t i)
{
    return (item *)(self->items + i * self->all->item_size);
}

static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int
call(PyObject *callable)
{
    PyObject *result = PyObject_CallNoArgs(callable);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Not attached: the item has run() called, or else what is run by any loop. */
static void
hand_over(job *all, item *one, PyObject *callable)
{
    if (all->loop != NULL) {
        (void)api->post(all->loop, &one->work);
        return;
    }
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *handle = PyObject_CallOneArg(all->soon, callable);

    if (handle == NULL) {
        PyErr_WriteUnraisable(all->soon);
    }
    Py_XDECREF(handle);
    PyGILState_Release(state);
}

static int
run_finish(pyloop_work *work, int status)
{
    return status < 0 ? 0 : call(((item *)work)->all->finish);
}

static void
finish(runner *self)
{
    item *last = item_at(self, self->all->count);

    pyloop_work_init(&last->work, run_finish);
    last->all = self->all;
    hand_over(self->all, last, self->all->finish);
}

/* -- bursts ------------------------------------------------------------- */

static int
run_callable(pyloop_work *work, int status)
{
    return status < 0 ? 0 : call(((item *)work)->all->callable);
}

static void *
burst_main(void *arg)
{
    runner *self = arg;

    for (uint32_t i = 0; i < self->all->count; i++) {
        hand_over(self->all, item_at(self, i), self->all->callable);
    }
    finish(self);
    return NULL;
}

/* -- round trips -------------------------------------------------------- */

static int
run_trip(pyloop_work *work, int status)
{
    job *all = ((item *)work)->all;
    int called = status < 0 ? 0 : call(all->callable);

    sem_post(&all->trip);
    return called;
}

static PyObject *
trip_over(PyObject *capsule, PyObject *unused)
{
    job *all = PyCapsule_GetPointer(capsule, "job");
    int called = call(all->callable);

    sem_post(&all->trip);
    return called < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef trip_method = {"trip", trip_over, METH_NOARGS, NULL};

static void *
trips_main(void *arg)
{
    runner *self = arg;
    job *all = self->all;
    double start = now();

    for (uint32_t i = 0; i < all->count; i++) {
        hand_over(all, item_at(self, i), all->over);
        while (sem_wait(&all->trip) != 0) {
        }
    }
    all->seconds = now() - start;
    finish(self);
    return NULL;
}

/* -- coroutines --------------------------------------------------------- */

static void
call_over(job *all, int failed)
{
    pthread_mutex_lock(&all->lock);
    all->failed += failed;

    int last = ++all->ended % all->window == 0;

    pthread_mutex_unlock(&all->lock);
    if (last) { /* not under the lock, which the woken thread takes */
        pthread_cond_signal(&all->ready);
    }
}

static void
task_done(pyloop_task *task, int status, void *value)
{
    item *self = (item *)((char *)task - offsetof(item, task));

    call_over(self->all, status != PYLOOP_OK);
}

static int
run_call(pyloop_work *work, int status)
{
    item *self = (item *)work;
    PyObject *awaitable =
        status < 0 ? NULL : PyObject_CallNoArgs(self->all->callable);

    pyloop_task_init(&self->task, task_done);
    self->task.flags = self->all->flags;
    if (awaitable == NULL ||
        api->task_start(self->all->loop, &self->task, awaitable) < 0)
    {
        call_over(self->all, 1);
        return PyErr_Occurred() ? -1 : 0;
    }
    return 0;
}

static PyObject *
future_over(PyObject *capsule, PyObject *future)
{
    PyObject *result = PyObject_CallMethod(future, "result", NULL);

    call_over(PyCapsule_GetPointer(capsule, "job"), result == NULL);
    return result;
}

static PyMethodDef future_method = {"over", future_over, METH_O, NULL};

static void
submit(job *all)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *coroutine = PyObject_CallNoArgs(all->callable);
    PyObject *future = coroutine == NULL
                           ? NULL
                           : PyObject_CallFunctionObjArgs(
                                 all->submit, coroutine, all->py_loop, NULL);
    PyObject *added =
        future == NULL
            ? NULL
            : PyObject_CallMethod(future, "add_done_callback", "O", all->over);

    if (added == NULL) {
        PyErr_WriteUnraisable(NULL);
        call_over(all, 1);
    }
    Py_XDECREF(coroutine);
    Py_XDECREF(future);
    Py_XDECREF(added);
    PyGILState_Release(state);
}

static void *
calls_main(void *arg)
{
    runner *self = arg;
    job *all = self->all;
    double start = now();

    for (uint32_t i = 0; i < all->count;) {
        uint32_t end = i + all->window;

        for (; i < end; i++) {
            if (all->loop != NULL) {
                (void)api->post(all->loop, &item_at(self, i)->work);
            }
            else {
                submit(all);
            }
        }
        pthread_mutex_lock(&all->lock);
        while (all->ended < end) {
            pthread_cond_wait(&all->ready, &all->lock);
        }
        pthread_mutex_unlock(&all->lock);
    }
    all->seconds = now() - start;
    finish(self);
    return NULL;
}

/* -- jobs --------------------------------------------------------------- */

static void
job_free(PyObject *capsule)
{
    job *self = PyCapsule_GetPointer(capsule, "job");

    for (int i = 0; i < self->threads; i++) {
        free(self->runners[i].items);
    }
    if (self->loop != NULL) {
        api->release(self->loop);
    }
    Py_XDECREF(self->soon);
    Py_XDECREF(self->callable);
    Py_XDECREF(self->finish);
    Py_XDECREF(self->submit);
    Py_XDECREF(self->py_loop);
    free(self);
}

/* Runs main in threads. */
static PyObject *
start(job *self, PyObject *loop, int native, void *(*main)(void *),
      int (*run)(pyloop_work *, int), PyMethodDef *over)
{
    PyObject *capsule = PyCapsule_New(self, "job", job_free);

    if (capsule == NULL) {
        return NULL;
    }
    Py_INCREF(self->callable);
    Py_INCREF(self->finish);
    Py_XINCREF(self->submit);
    self->py_loop = Py_NewRef(loop);
    self->item_size = run == run_call ? sizeof(item) : offsetof(item, task);
    self->soon = PyObject_GetAttrString(loop, "call_soon_threadsafe");
    self->loop = native ? api->loop_from(loop) : NULL;
    if (self->soon == NULL || (native && self->loop == NULL)) {
        Py_DECREF(capsule);
        return NULL;
    }
    if (over != NULL) { /* a cycle, cut by join() */
        self->over = PyCFunction_New(over, capsule);
    }
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->ready, NULL);
    sem_init(&self->trip, 0, 0);
    for (int t = 0; t < self->threads; t++) {
        runner *one = &self->runners[t];

        one->all = self;
        one->items = calloc(self->count + 1, self->item_size);
        for (uint32_t i = 0; i < self->count; i++) {
            pyloop_work_init(&item_at(one, i)->work, run);
            item_at(one, i)->all = self;
        }
    }
    for (int t = 0; t < self->threads; t++) {
        runner *one = &self->runners[t];

        (void)pthread_create(&one->thread, NULL, main, one);
    }
    return capsule;
}

/* burst(loop, native, threads, count, callable, finish) -> job */
static PyObject *
native_burst(PyObject *module, PyObject *args)
{
    job *self = calloc(1, sizeof(*self));
    PyObject *loop;
    int native;

    if (!PyArg_ParseTuple(args, "OpiIOO", &loop, &native, &self->threads,
                          &self->count, &self->callable, &self->finish))
    {
        free(self);
        return NULL;
    }
    return start(self, loop, native, burst_main, run_callable, NULL);
}

/* trips(loop, native, count, callable, finish) -> job */
static PyObject *
native_trips(PyObject *module, PyObject *args)
{
    job *self = calloc(1, sizeof(*self));
    PyObject *loop;
    int native;

    self->threads = 1;
    if (!PyArg_ParseTuple(args, "OpIOO", &loop, &native, &self->count,
                          &self->callable, &self->finish))
    {
        free(self);
        return NULL;
    }
    return start(self, loop, native, trips_main, run_trip, &trip_method);
}

/* calls(loop, native, eager, count, window, handler, submit, finish) -> job;
   count is a multiple of window */
static PyObject *
native_calls(PyObject *module, PyObject *args)
{
    job *self = calloc(1, sizeof(*self));
    PyObject *loop;
    int native, eager;

    self->threads = 1;
    if (!PyArg_ParseTuple(args, "OppIIOOO", &loop, &native, &eager,
                          &self->count, &self->window, &self->callable,
                          &self->submit, &self->finish))
    {
        free(self);
        return NULL;
    }
    self->flags = eager ? PYLOOP_TASK_EAGER : 0;
    return start(self, loop, native, calls_main, run_call, &future_method);
}

/* join(job) -> (seconds, failed) */
static PyObject *
native_join(PyObject *module, PyObject *capsule)
{
    job *self = PyCapsule_GetPointer(capsule, "job");

    Py_BEGIN_ALLOW_THREADS
    for (int t = 0; t < self->threads; t++) {
        pthread_join(self->runners[t].thread, NULL);
    }
    Py_END_ALLOW_THREADS
    Py_CLEAR(self->over);
    return Py_BuildValue("dI", self->seconds, self->failed);
}

static PyMethodDef methods[] = {
    {"burst", native_burst, METH_VARARGS, NULL},
    {"trips", native_trips, METH_VARARGS, NULL},
    {"calls", native_calls, METH_VARARGS, NULL},
    {"join", native_join, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int
native_exec(PyObject *module)
{
    api = pyloop_import();
    return api == NULL ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, native_exec},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pyloop_bench_native",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit_pyloop_bench_native(void)
{
    return PyModuleDef_Init(&module_def);
}
