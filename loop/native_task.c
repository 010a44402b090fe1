/* A coroutine run for native code: an asyncio.Task whose end is told to a C
   function.

   The task is asyncio's own, so that current_task(), timeouts and task groups
   work in it; what is saved is everything around it: no second future, no
   hand-off back, and for an eager task that never waits not even a callback.

   task->state.  Other threads only ever move RUNNING to POSTED, when they
   post the cancel item.  The loop's thread moves POSTED back to RUNNING when
   that item arrives, or either to ENDED when the task is done.  A task that
   ends while POSTED is told when the item has arrived: from then on pyloop
   holds nothing in the caller's struct. */

#include "native.h"

enum { TASK_RUNNING, TASK_POSTED, TASK_ENDED };

/* -- the loop's list ---------------------------------------------------- */

static void
task_link(PlLoop *loop, pyloop_task *task)
{
    task->previous = NULL;
    task->next = loop->native_tasks;
    if (task->next != NULL) {
        task->next->previous = task;
    }
    loop->native_tasks = task;
}

static void
task_unlink(PlLoop *loop, pyloop_task *task)
{
    if (task->previous != NULL) {
        task->previous->next = task->next;
    }
    else {
        loop->native_tasks = task->next;
    }
    if (task->next != NULL) {
        task->next->previous = task->previous;
    }
}

/* -- the end ------------------------------------------------------------ */

/* New ref (or NULL) to the value, and its status. */
static PyObject *
task_outcome(PlLoop *loop, PyObject *object, int *status)
{
    pl_state *st = loop->st;
    PyObject *value = PyObject_CallMethodNoArgs(object, st->str_result);

    *status = PYLOOP_OK;
    if (value != NULL) {
        return value;
    }
    value = PyErr_GetRaisedException();
    *status = PYLOOP_RAISED;
    if (PyErr_GivenExceptionMatches(value, st->cancelled_error)) {
        PyObject *is = PyObject_CallMethodNoArgs(object, st->str_cancelled);

        if (is == Py_True) {
            *status = PYLOOP_CANCELLED;
            Py_CLEAR(value);
        }
        Py_XDECREF(is);
        PyErr_Clear();
    }
    return value;
}

/* The last use of the struct.  May leave an exception of done()'s. */
static void
task_deliver(PlLoop *loop, pyloop_task *task, int closed)
{
    PyObject *object = task->object;
    PyObject *value = NULL;
    int status = PYLOOP_CLOSED;

    task_unlink(loop, task);
    task->object = NULL;
    if (task->runner != NULL) {
        ((PlWatcher *)task->runner)->subject = NULL;
        Py_CLEAR(task->runner);
    }
    if (!closed) {
        value = task_outcome(loop, object, &status);
    }
    task->done(task, status, value);

    PyObject *exc = PyErr_GetRaisedException();

    Py_XDECREF(value);
    Py_DECREF(object);
    PyErr_SetRaisedException(exc);
}

static int
task_ended(PlLoop *loop, void *subject)
{
    pyloop_task *task = subject;

    if (__atomic_exchange_n(&task->state, TASK_ENDED, __ATOMIC_ACQ_REL) ==
        TASK_POSTED)
    {
        return 0;
    }
    task_deliver(loop, task, 0);
    return pl_native_check(loop);
}

void
pl_native_tasks_abandon(PlLoop *loop)
{
    PyObject *exc = PyErr_GetRaisedException();

    while (loop->native_tasks != NULL) {
        pyloop_task *task = loop->native_tasks;
        int ended = __atomic_exchange_n(&task->state, TASK_ENDED,
                                        __ATOMIC_ACQ_REL) == TASK_ENDED;

        task_deliver(loop, task, !ended);
        if (PyErr_Occurred()) {
            PyErr_WriteUnraisable(NULL);
        }
    }
    PyErr_SetRaisedException(exc);
}

int
pl_native_tasks_traverse(PlLoop *loop, visitproc visit, void *arg)
{
    for (pyloop_task *task = loop->native_tasks; task != NULL;
         task = task->next)
    {
        Py_VISIT((PyObject *)task->object);
        Py_VISIT((PyObject *)task->runner);
    }
    return 0;
}

/* -- cancelling --------------------------------------------------------- */

static int
run_cancel(pyloop_work *work, int status)
{
    pyloop_task *task =
        (pyloop_task *)((char *)work - offsetof(pyloop_task, cancel_work));
    uint32_t posted = TASK_POSTED;

    if (status == PYLOOP_CLOSED) {
        return 0;    /* the loop ends all tasks next */
    }
    PlWatcher *runner = task->runner;
    PlLoop *loop = runner->loop;

    if (!__atomic_compare_exchange_n(&task->state, &posted, TASK_RUNNING, 0,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
    {
        task_deliver(loop, task, 0);
        return 0;
    }
    PyObject *done =
        PyObject_CallMethodNoArgs(task->object, loop->st->str_cancel);

    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
pl_native_task_cancel(pyloop_loop *core, pyloop_task *task)
{
    uint32_t running = TASK_RUNNING;

    if (!__atomic_compare_exchange_n(&task->state, &running, TASK_POSTED, 0,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
    {
        return PYLOOP_OK;    /* asked for already, or over */
    }
    return pl_core_post(core, (pl_link *)&task->cancel_work);
}

/* -- starting ----------------------------------------------------------- */

static int
is_done(PlLoop *loop, PyObject *object)
{
    PyObject *done = PyObject_CallMethodNoArgs(object, loop->st->str_done);
    int truth = done == NULL ? -1 : PyObject_IsTrue(done);

    Py_XDECREF(done);
    return truth;
}

/* New ref to the Task; steals awaitable. */
static PyObject *
make_task(PlLoop *loop, const pyloop_task *task, PyObject *awaitable)
{
    pl_state *st = loop->st;
    PyObject *stack[5] = {NULL, awaitable};
    PyObject *names[3];
    Py_ssize_t count = 0;
    PyObject *object = NULL;
    int is_coroutine = PyCoro_CheckExact(awaitable);

    if (!is_coroutine) {
        PyObject *is = PyObject_CallOneArg(st->iscoroutine, awaitable);

        is_coroutine = is == NULL ? -1 : PyObject_IsTrue(is);
        Py_XDECREF(is);
    }
    if (is_coroutine == 0) {
        stack[2] = (PyObject *)loop;
        object = PyObject_Vectorcall(st->ensure_future, stack + 1,
                                     1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                     st->loop_kwnames);
    }
    else if (is_coroutine > 0) {
        if (task->name != NULL) {
            names[count] = st->str_name;
            stack[2 + count++] = task->name;
        }
        if (task->context != NULL) {
            names[count] = st->str_context;
            stack[2 + count++] = task->context;
        }
        int eager =
            (task->flags & PYLOOP_TASK_EAGER) && PL_EAGER_TASKS &&
            !loop->debug &&
            atomic_load_explicit(&loop->thread, memory_order_relaxed) != 0 &&
            (loop->task_factory == NULL || loop->task_factory == Py_None);

        if (eager) {
            names[count] = st->str_eager_start;
            stack[2 + count++] = Py_True;
        }
        PyObject *kwnames = NULL;

        if (count > 0) {
            kwnames = PyTuple_New(count);
            if (kwnames == NULL) {
                Py_DECREF(awaitable);
                return NULL;
            }
            for (Py_ssize_t i = 0; i < count; i++) {
                PyTuple_SET_ITEM(kwnames, i, Py_NewRef(names[i]));
            }
        }
        /* Eager start is the Task's keyword: not every version's
           create_task() has it. */
        object = eager ? pl_task_new(loop, stack + 1, kwnames)
                       : loop_create_task(loop, stack + 1, 1, kwnames);
        Py_XDECREF(kwnames);
    }
    Py_DECREF(awaitable);
    return object;
}

int
pl_native_task_start(pyloop_loop *core, pyloop_task *task, void *awaitable)
{
    PlLoop *loop = pl_native_loop(core);

    if (loop == NULL) {
        Py_DECREF((PyObject *)awaitable);
        return PYLOOP_RAISED;
    }
    PyObject *object = make_task(loop, task, awaitable);
    int done = object == NULL ? -1 : is_done(loop, object);

    if (done < 0) {
        Py_XDECREF(object);
        return PYLOOP_RAISED;
    }
    task->cancel_work = (pyloop_work){
        .size = sizeof(pyloop_work),
        .run = run_cancel,
    };
    task->object = object;
    task->runner = NULL;
    task->state = TASK_RUNNING;
    if (!done) {
        PlWatcher *runner = pl_watcher_add(loop, object, task_ended, task);

        if (runner == NULL) {
            task->object = NULL;
            Py_DECREF(object);
            return PYLOOP_RAISED;
        }
        task->runner = Py_NewRef(runner);
    }
    task_link(loop, task);
    if (done) {
        task_deliver(loop, task, 0);
        if (pl_native_check(loop) < 0) {
            PyErr_WriteUnraisable((PyObject *)loop);
        }
    }
    return PYLOOP_OK;
}
