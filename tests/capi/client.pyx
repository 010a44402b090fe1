# cython: language_level=3, freethreading_compatible=True
"""A client of pyloop.pxd in Cython: threads without the GIL that post, and
the functions that contract.py drives.  Objects of cdef classes own the native
structs, and each callback finds its way back from the struct it is given."""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from pyloop cimport (
    PYLOOP_CLOSED,
    PYLOOP_OK,
    PYLOOP_RAISED,
    PYLOOP_TASK_EAGER,
    pyloop_api,
    pyloop_import,
    pyloop_loop,
    pyloop_promise,
    pyloop_promise_init,
    pyloop_task,
    pyloop_task_init,
    pyloop_work,
    pyloop_work_init,
)

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *, void *, void *(*)(void *) noexcept nogil,
                       void *)
    int pthread_join(pthread_t, void **)
    int pthread_detach(pthread_t)

cdef extern from *:
    """
    #define LOAD(counter) __atomic_load_n(&(counter), __ATOMIC_ACQUIRE)
    #define LESS_ONE(counter) \
        __atomic_fetch_sub(&(counter), 1, __ATOMIC_RELEASE)
    """
    uint32_t LOAD(uint32_t) noexcept nogil
    void LESS_ONE(uint32_t) noexcept nogil

cdef const pyloop_api *api = pyloop_import()


cdef class Held:
    """One reference to a loop; may outlive the loop."""

    cdef pyloop_loop *loop

    def __cinit__(self, loop):
        self.loop = api.loop_from(<void *>loop)

    def __dealloc__(self):
        if self.loop != NULL:
            api.release(self.loop)


def hold(loop):
    return Held(loop)


def is_alive(Held held):
    return bool(api.is_alive(held.loop))


cdef int run_nothing(pyloop_work *work, int status) except -1:
    free(work)
    return 0


def post(Held held):
    """The status of posting an item that does nothing."""
    cdef pyloop_work *work = <pyloop_work *>calloc(1, sizeof(pyloop_work))
    pyloop_work_init(work, run_nothing)
    status = api.post(held.loop, work)
    if status < 0:
        free(work)
    return status


# -- a burst ------------------------------------------------------------------

cdef struct producer:
    pthread_t thread
    item *items
    PyObject *callable
    pyloop_loop *loop
    uint32_t count
    uint32_t next  # loop thread: the number expected next
    uint32_t disorder  # loop thread
    uint32_t discarded  # loop thread
    uint32_t refused  # own thread

cdef struct item:
    pyloop_work work
    producer *source
    uint32_t number


cdef int run_item(pyloop_work *work, int status) except -1:
    self = <item *>work
    source = self.source
    if status == PYLOOP_CLOSED:
        source.discarded += 1
        return 0
    source.disorder += self.number != source.next
    source.next = self.number + 1
    (<object>source.callable)()
    return 0


cdef void *produce(void *arg) noexcept nogil:
    self = <producer *>arg
    cdef uint32_t number
    for number in range(self.count):
        if api.post(self.loop, &self.items[number].work) < 0:
            self.refused += 1
    return NULL


cdef class Burst:
    cdef Held held
    cdef object callable
    cdef producer *producers
    cdef uint32_t threads

    def __cinit__(self, loop, uint32_t threads, uint32_t count, callable):
        cdef uint32_t t, number
        cdef producer *one
        self.held = Held(loop)
        self.callable = callable
        self.producers = <producer *>calloc(threads, sizeof(producer))
        self.threads = threads
        for t in range(threads):
            one = &self.producers[t]
            one.items = <item *>calloc(count, sizeof(item))
            one.callable = <PyObject *>callable
            one.loop = self.held.loop
            one.count = count
            for number in range(count):
                pyloop_work_init(&one.items[number].work, run_item)
                one.items[number].source = one
                one.items[number].number = number
        for t in range(threads):
            one = &self.producers[t]
            pthread_create(&one.thread, NULL, produce, one)

    def __dealloc__(self):
        cdef uint32_t t
        for t in range(self.threads):
            free(self.producers[t].items)
        free(self.producers)


def burst(loop, threads, count, callable):
    return Burst(loop, threads, count, callable)


def join(Burst burst):
    """Holds the GIL on purpose: a post must not need it."""
    cdef uint32_t t
    for t in range(burst.threads):
        pthread_join(burst.producers[t].thread, NULL)


def counts(Burst burst):
    """(run, refused, discarded, out of order)"""
    cdef uint32_t t
    run = refused = discarded = disorder = 0
    for t in range(burst.threads):
        run += burst.producers[t].next
        refused += burst.producers[t].refused
        discarded += burst.producers[t].discarded
        disorder += burst.producers[t].disorder
    return run, refused, discarded, disorder


# -- coroutines of a native thread --------------------------------------------

cdef struct request:
    pyloop_work work  # first: a work item is its request
    pyloop_task task
    PyObject *calls
    uint32_t number


cdef request *request_of(pyloop_task *task) noexcept:
    return <request *>(<char *>task - <size_t>&(<request *>NULL).task)


cdef int run_request(pyloop_work *work, int status) except -1:
    self = <request *>work
    calls = <Calls>self.calls
    if status == PYLOOP_CLOSED:
        calls.over(status)
        return 0
    try:
        awaitable = calls.handler(self.number)
        pyloop_task_init(&self.task, request_done)
        self.task.flags = PYLOOP_TASK_EAGER
        Py_INCREF(awaitable)  # task_start() steals one
        api.task_start(calls.held.loop, &self.task, <void *>awaitable)
    except BaseException:
        calls.over(PYLOOP_RAISED)
        raise
    return 0


cdef void request_done(pyloop_task *task, int status, void *value) except *:
    calls = <Calls>request_of(task).calls
    if status == PYLOOP_OK:
        calls.total += <object>value
    calls.over(status)


cdef void *produce_calls(void *arg) noexcept nogil:
    cdef call_list *self = <call_list *>arg
    cdef uint32_t number
    for number in range(self.count):
        if api.post(self.loop, &self.requests[number].work) < 0:
            LESS_ONE(self.left)
    return NULL


cdef struct call_list:
    pyloop_loop *loop
    request *requests
    uint32_t count
    uint32_t left  # atomic


cdef class Calls:
    cdef Held held
    cdef object handler
    cdef pthread_t thread
    cdef call_list all
    cdef object total
    cdef uint32_t by_status[4]

    def __cinit__(self, loop, handler, uint32_t count):
        cdef uint32_t number
        self.held = Held(loop)
        self.handler = handler
        self.total = 0
        self.all.loop = self.held.loop
        self.all.count = self.all.left = count
        self.all.requests = <request *>calloc(count, sizeof(request))
        for number in range(count):
            pyloop_work_init(&self.all.requests[number].work, run_request)
            self.all.requests[number].calls = <PyObject *>self
            self.all.requests[number].number = number
        pthread_create(&self.thread, NULL, produce_calls, &self.all)

    def __dealloc__(self):
        with nogil:
            pthread_join(self.thread, NULL)
        free(self.all.requests)

    cdef void over(self, int status) noexcept:
        self.by_status[-status] += 1
        LESS_ONE(self.all.left)


def calls(loop, handler, count):
    """A thread has handler(number) run to its end, count times."""
    return Calls(loop, handler, count)


def calls_left(Calls calls):
    return LOAD(calls.all.left)


def calls_outcome(Calls calls):
    """(sum of the results, ok, closed, cancelled, raised)"""
    return (calls.total, *[calls.by_status[i] for i in range(4)])


# -- an operation that Python awaits ------------------------------------------

cdef struct operation:
    pyloop_promise promise
    pyloop_loop *loop
    pthread_t thread
    long number


cdef void *operation_value(pyloop_promise *promise) except NULL:
    value = (<operation *>promise).number
    result = <object>value
    Py_INCREF(result)
    return <void *>result


cdef void operation_released(pyloop_promise *promise, int status) except *:
    self = <operation *>promise
    pthread_join(self.thread, NULL)
    api.release(self.loop)
    free(self)


cdef void *operate(void *arg) noexcept nogil:
    self = <operation *>arg
    self.number *= 2
    if api.promise_complete(self.loop, &self.promise) < 0:
        pthread_detach(self.thread)  # closed: ours again
        api.release(self.loop)
        free(self)
    return NULL


def doubled(loop, long number):
    """A future of number * 2, which a thread works out."""
    cdef operation *self = <operation *>calloc(1, sizeof(operation))
    pyloop_promise_init(&self.promise, operation_value, operation_released)
    self.number = number
    try:
        self.loop = api.loop_from(<void *>loop)
        future = <object>api.promise_start(self.loop, &self.promise, NULL)
    except BaseException:
        if self.loop != NULL:
            api.release(self.loop)
        free(self)
        raise
    Py_DECREF(future)  # it came as a new reference, and Cython took another
    pthread_create(&self.thread, NULL, operate, self)
    return future
