/* A client of pyloop.h in C++17: what a server's C++ side would wrap around
   the table, and the functions that contract.py drives.  Each piece of native
   work is an object that frees itself in the callback that ends it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pyloop_import.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace {

const pyloop_api *api; // the same in every interpreter

// One reference to a loop; may outlive the loop.
class Loop {
  public:
    explicit Loop(pyloop_loop *stolen) : loop(stolen)
    {
    }
    explicit Loop(PyObject *object) : loop(api->loop_from(object))
    {
    }
    Loop(const Loop &other) : loop(other.loop)
    {
        if (loop != nullptr) {
            api->acquire(loop);
        }
    }
    Loop(Loop &&other) noexcept : loop(std::exchange(other.loop, nullptr))
    {
    }
    Loop &
    operator=(Loop other) noexcept
    {
        std::swap(loop, other.loop);
        return *this;
    }
    ~Loop()
    {
        if (loop != nullptr) {
            api->release(loop);
        }
    }
    explicit
    operator bool() const
    {
        return loop != nullptr;
    }
    pyloop_loop *
    get() const
    {
        return loop;
    }

  private:
    pyloop_loop *loop;
};

// A work item that holds a function object: function(status) is run, once.
template <class Function> struct Work : pyloop_work {
    Function function;

    explicit Work(Function f) : function(std::move(f))
    {
        pyloop_work_init(this, [](pyloop_work *work, int status) {
            std::unique_ptr<Work> self(static_cast<Work *>(work));

            return self->function(status);
        });
    }
};

template <class Function>
int
post(const Loop &loop, Function function)
{
    auto work = std::make_unique<Work<Function>>(std::move(function));
    int status = api->post(loop.get(), work.get());

    if (status >= 0) {
        (void)work.release(); // run() frees it
    }
    return status;
}

// A coroutine whose end is told to a function object: (status, value).
template <class Function> struct Task : pyloop_task {
    Function function;

    explicit Task(Function f) : function(std::move(f))
    {
        pyloop_task_init(this, [](pyloop_task *task, int status, void *value) {
            std::unique_ptr<Task> self(static_cast<Task *>(task));

            self->function(status, static_cast<PyObject *>(value));
        });
        flags = PYLOOP_TASK_EAGER;
    }
};

template <class Function>
int
start(const Loop &loop, PyObject *awaitable, Function function)
{
    auto task = std::make_unique<Task<Function>>(std::move(function));
    int status = api->task_start(loop.get(), task.get(), awaitable);

    if (status >= 0) {
        (void)task.release(); // done() frees it, and may have
    }
    return status;
}

template <class State>
State *
state_of(PyObject *handle)
{
    return static_cast<State *>(PyCapsule_GetPointer(handle, State::name));
}

template <class State>
PyObject *
handle_of(std::unique_ptr<State> state)
{
    PyObject *handle =
        PyCapsule_New(state.get(), State::name, [](PyObject *capsule) {
            delete state_of<State>(capsule);
        });

    if (handle != nullptr) {
        (void)state.release();
    }
    return handle;
}

// -- a burst -----------------------------------------------------------------

struct Burst {
    static constexpr const char *name = "burst";

    struct Producer {
        std::thread thread;
        unsigned next = 0;      // loop thread: the number expected next
        unsigned disorder = 0;  // loop thread
        unsigned discarded = 0; // loop thread
        unsigned refused = 0;   // own thread
    };
    Loop loop;
    PyObject *callable;
    std::vector<Producer> producers;

    Burst(Loop l, PyObject *c, unsigned threads)
        : loop(std::move(l)), callable(Py_NewRef(c)), producers(threads)
    {
    }
    ~Burst()
    {
        Py_DECREF(callable);
    }

    void
    produce(Producer &from, unsigned count)
    {
        for (unsigned number = 0; number < count; number++) {
            int status = post(loop, [this, &from, number](int outcome) {
                if (outcome == PYLOOP_CLOSED) {
                    from.discarded++;
                    return 0;
                }
                from.disorder += number != from.next;
                from.next = number + 1;
                PyObject *result = PyObject_CallNoArgs(callable);

                Py_XDECREF(result);
                return result == nullptr ? -1 : 0;
            });

            from.refused += status < 0;
        }
    }
};

PyObject *
client_burst(PyObject *, PyObject *args)
{
    PyObject *object, *callable;
    unsigned threads, count;

    if (!PyArg_ParseTuple(args, "OIIO", &object, &threads, &count, &callable))
    {
        return nullptr;
    }
    Loop loop(object);

    if (!loop) {
        return nullptr;
    }
    auto burst = std::make_unique<Burst>(std::move(loop), callable, threads);
    Burst &all = *burst;
    PyObject *handle = handle_of(std::move(burst));

    for (auto &one : all.producers) {
        one.thread = std::thread([&, count] { all.produce(one, count); });
    }
    return handle;
}

/* Holds the GIL on purpose: a post must not need it. */
PyObject *
client_join(PyObject *, PyObject *handle)
{
    for (auto &one : state_of<Burst>(handle)->producers) {
        one.thread.join();
    }
    Py_RETURN_NONE;
}

PyObject *
client_counts(PyObject *, PyObject *handle)
{
    unsigned run = 0, refused = 0, discarded = 0, disorder = 0;

    for (auto &one : state_of<Burst>(handle)->producers) {
        run += one.next;
        refused += one.refused;
        discarded += one.discarded;
        disorder += one.disorder;
    }
    return Py_BuildValue("IIII", run, refused, discarded, disorder);
}

// -- coroutines of a native thread -------------------------------------------

struct Calls {
    static constexpr const char *name = "calls";

    Loop loop;
    PyObject *handler;
    std::thread thread;
    std::atomic<unsigned> left;
    long total = 0; // loop thread: sum of the results
    unsigned by_status[4] = {}; // loop thread: by minus the status

    Calls(Loop l, PyObject *h, unsigned count)
        : loop(std::move(l)), handler(Py_NewRef(h)), left(count)
    {
    }
    ~Calls()
    {
        if (thread.joinable()) {
            thread.join();
        }
        Py_DECREF(handler);
    }

    void
    over(int status)
    {
        by_status[-status]++;
        left.fetch_sub(1, std::memory_order_release);
    }

    int
    call(unsigned number)
    {
        PyObject *awaitable = PyObject_CallFunction(handler, "I", number);
        int status =
            awaitable == nullptr
                ? PYLOOP_RAISED
                : start(loop, awaitable, [this](int status, PyObject *value) {
                      if (status == PYLOOP_OK) {
                          total += PyLong_AsLong(value);
                      }
                      over(status);
                  });

        if (status < 0) {
            over(status);
            return -1;
        }
        return 0;
    }

    void
    produce(unsigned count)
    {
        for (unsigned number = 0; number < count; number++) {
            int status = post(loop, [this, number](int outcome) {
                if (outcome == PYLOOP_CLOSED) {
                    over(outcome);
                    return 0;
                }
                return call(number);
            });

            if (status < 0) {
                left.fetch_sub(1, std::memory_order_release);
            }
        }
    }
};

/* calls(loop, handler, count): a thread has handler(number) run to its end,
   count times. */
PyObject *
client_calls(PyObject *, PyObject *args)
{
    PyObject *object, *handler;
    unsigned count;

    if (!PyArg_ParseTuple(args, "OOI", &object, &handler, &count)) {
        return nullptr;
    }
    Loop loop(object);

    if (!loop) {
        return nullptr;
    }
    auto calls = std::make_unique<Calls>(std::move(loop), handler, count);
    Calls &all = *calls;
    PyObject *handle = handle_of(std::move(calls));

    all.thread = std::thread([&all, count] { all.produce(count); });
    return handle;
}

/* calls_left(handle): not ended yet */
PyObject *
client_calls_left(PyObject *, PyObject *handle)
{
    return PyLong_FromLong(
        state_of<Calls>(handle)->left.load(std::memory_order_acquire));
}

/* calls_outcome(handle) -> (sum of the results, ok, closed, cancelled,
   raised) */
PyObject *
client_calls_outcome(PyObject *, PyObject *handle)
{
    auto &all = *state_of<Calls>(handle);

    return Py_BuildValue(
        "lIIII", all.total, all.by_status[0], all.by_status[-PYLOOP_CLOSED],
        all.by_status[-PYLOOP_CANCELLED], all.by_status[-PYLOOP_RAISED]);
}

// -- an operation that Python awaits -----------------------------------------

struct Operation : pyloop_promise {
    Loop loop;
    long number;
    std::thread thread;

    Operation(Loop l, long n) : loop(std::move(l)), number(n)
    {
        pyloop_promise_init(
            this,
            [](pyloop_promise *promise) -> void * {
                return PyLong_FromLong(
                    static_cast<Operation *>(promise)->number);
            },
            [](pyloop_promise *promise, int) {
                auto *self = static_cast<Operation *>(promise);

                self->thread.join();
                delete self;
            });
    }

    void
    operate()
    {
        number *= 2;
        if (api->promise_complete(loop.get(), this) < 0) {
            thread.detach(); // closed: ours again
            delete this;
        }
    }
};

/* doubled(loop, number) -> future of number * 2, which a thread works out */
PyObject *
client_doubled(PyObject *, PyObject *args)
{
    PyObject *object;
    long number;

    if (!PyArg_ParseTuple(args, "Ol", &object, &number)) {
        return nullptr;
    }
    Loop loop(object);

    if (!loop) {
        return nullptr;
    }
    auto operation = std::make_unique<Operation>(std::move(loop), number);
    void *future =
        api->promise_start(operation->loop.get(), operation.get(), nullptr);

    if (future != nullptr) {
        Operation *self = operation.release(); // released() frees it

        self->thread = std::thread([self] { self->operate(); });
    }
    return static_cast<PyObject *>(future);
}

// -- a loop held from C++ ----------------------------------------------------

struct Held {
    static constexpr const char *name = "held";

    Loop loop;
};

PyObject *
client_hold(PyObject *, PyObject *object)
{
    Loop loop(object);

    if (!loop) {
        return nullptr;
    }
    return handle_of(std::unique_ptr<Held>(new Held{std::move(loop)}));
}

PyObject *
client_is_alive(PyObject *, PyObject *handle)
{
    return PyBool_FromLong(api->is_alive(state_of<Held>(handle)->loop.get()));
}

/* post(held) -> status, of an item that does nothing */
PyObject *
client_post(PyObject *, PyObject *handle)
{
    return PyLong_FromLong(
        post(state_of<Held>(handle)->loop, [](int) { return 0; }));
}

// 

PyMethodDef methods[] = {
    {"burst", client_burst, METH_VARARGS, nullptr},
    {"join", client_join, METH_O, nullptr},
    {"counts", client_counts, METH_O, nullptr},
    {"calls", client_calls, METH_VARARGS, nullptr},
    {"calls_left", client_calls_left, METH_O, nullptr},
    {"calls_outcome", client_calls_outcome, METH_O, nullptr},
    {"doubled", client_doubled, METH_VARARGS, nullptr},
    {"hold", client_hold, METH_O, nullptr},
    {"is_alive", client_is_alive, METH_O, nullptr},
    {"post", client_post, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

int
exec(PyObject *)
{
    const pyloop_api *table = pyloop_import();

    if (table == nullptr) {
        return -1;
    }
    api = table;
    return 0;
}

PyModuleDef_Slot slots[] = {
    {Py_mod_exec, reinterpret_cast<void *>(exec)},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    "cpp_client",
    nullptr,
    0,
    methods,
    slots,
    nullptr,
    nullptr,
    nullptr,
};

} // namespace

PyMODINIT_FUNC
PyInit_cpp_client()
{
    return PyModuleDef_Init(&module);
}
