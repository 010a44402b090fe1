/* The extension module pyloop._core: multi-phase initialisation, so that
   each interpreter gets its own copy of the state. */

#include "context.h"
#include "handle.h"
#include "native.h"
#include "stream.h"
#include "udp.h"

static int
import_attribute(PyObject **field, const char *module, const char *attribute)
{
    PyObject *imported = PyImport_ImportModule(module);

    if (imported == NULL) {
        return -1;
    }
    *field = PyObject_GetAttrString(imported, attribute);
    Py_DECREF(imported);
    return *field == NULL ? -1 : 0;
}

/* Server._attach(): 3.13 and some 3.12 pass the transport. */
static int
server_takes_transport(pl_state *st)
{
    PyObject *attach = NULL, *server = NULL, *code = NULL, *count = NULL;
    int status = -1;

    if (import_attribute(&server, "asyncio.base_events", "Server") < 0) {
        return -1;
    }
    attach = PyObject_GetAttr(server, st->str__attach);
    code = attach == NULL ? NULL : PyObject_GetAttrString(attach, "__code__");
    count = code == NULL ? NULL : PyObject_GetAttrString(code, "co_argcount");
    if (count != NULL) {
        st->attach_takes_transport = PyLong_AsLong(count) > 1;
        status = PyErr_Occurred() ? -1 : 0;
    }
    Py_XDECREF(server);
    Py_XDECREF(attach);
    Py_XDECREF(code);
    Py_XDECREF(count);
    return status;
}

/* BaseEventLoop.create_task(coro, **kwargs): 3.14 and later releases of 3.13. */
static int
create_task_hands_on(pl_state *st)
{
    PyObject *code = PyObject_GetAttrString(st->create_task, "__code__");
    PyObject *flags =
        code == NULL ? NULL : PyObject_GetAttrString(code, "co_flags");
    int status = -1;

    if (flags != NULL) {
        st->create_task_hands_on =
            (PyLong_AsLong(flags) & CO_VARKEYWORDS) != 0;
        status = PyErr_Occurred() ? -1 : 0;
    }
    Py_XDECREF(code);
    Py_XDECREF(flags);
    return status;
}

/* _format_callback_source(func, args, *, debug=False): 3.13. */
static int
source_takes_debug(pl_state *st)
{
    PyObject *defaults =
        PyObject_GetAttrString(st->format_callback_source, "__kwdefaults__");
    int takes = defaults == NULL ? -1
                : defaults == Py_None
                    ? 0
                    : PySequence_Contains(defaults, st->str_debug);

    Py_XDECREF(defaults);
    if (takes <= 0) {
        return takes;
    }
    st->debug_kwnames = PyTuple_Pack(1, st->str_debug);
    return st->debug_kwnames == NULL ? -1 : 0;
}

static int
module_exec(PyObject *module)
{
    pl_state *st = PyModule_GetState(module);

#define X(name)                                                               \
    if ((st->str_##name = PyUnicode_InternFromString(#name)) == NULL) {       \
        return -1;                                                            \
    }
    PL_NAMES(X)
#undef X
#define X(field, name, attribute)                                             \
    if (import_attribute(&st->field, name, attribute) < 0) {                  \
        return -1;                                                            \
    }
    PL_IMPORTS(X)
#undef X
    if (import_attribute(&st->asyncio_threadsafe_handle, "asyncio.events",
                         "_ThreadSafeHandle") < 0)
    {
        PyErr_Clear();
        st->asyncio_threadsafe_handle = Py_NewRef(st->asyncio_handle);
    }
    PyObject *base;

    if (import_attribute(&base, "asyncio.base_events", "BaseEventLoop") < 0) {
        return -1;
    }
    st->create_task = PyObject_GetAttrString(base, "create_task");
    st->ensure_fd_no_transport =
        PyObject_GetAttrString(st->selector_loop, "_ensure_fd_no_transport");
    Py_DECREF(base);
    st->loop_kwnames = PyTuple_Pack(1, st->str_loop);
    st->socket_fileno = PyObject_GetAttr(st->socket_base, st->str_fileno);
    if (st->create_task == NULL || st->ensure_fd_no_transport == NULL ||
        st->loop_kwnames == NULL || st->socket_fileno == NULL ||
        create_task_hands_on(st) < 0 || source_takes_debug(st) < 0 ||
        server_takes_transport(st) < 0 || pl_dns_enums(st) < 0 ||
        pl_context_probe(st) < 0)
    {
        return -1;
    }
    pl_socket_probe(st);
    return pl_loop_type(module, st) < 0 || pl_handle_types(module, st) < 0 ||
                   pl_stream_type(module, st) < 0 ||
                   pl_listener_type(module, st) < 0 ||
                   pl_stats_type(module, st) < 0 ||
                   pl_watcher_type(module, st) < 0 ||
                   pl_native_protocol_types(module, st) < 0 ||
                   pl_datagram_type(module, st) < 0 || pl_capi_add(module) < 0
               ? -1
               : 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    pl_state *st = PyModule_GetState(module);

    Py_VISIT(st->LoopType);
    Py_VISIT(st->HandleType);
    Py_VISIT(st->DebugHandleType);
    Py_VISIT(st->TimerHandleType);
    Py_VISIT(st->ThreadSafeHandleType);
    Py_VISIT(st->StreamType);
    Py_VISIT(st->ListenerType);
    Py_VISIT(st->StatsType);
    Py_VISIT(st->WatcherType);
    Py_VISIT(st->NativeProtocolType);
    Py_VISIT(st->NativeFactoryType);
    Py_VISIT(st->DatagramType);
    Py_VISIT(st->asyncio_threadsafe_handle);
    Py_VISIT(st->create_task);
    Py_VISIT(st->ensure_fd_no_transport);
    Py_VISIT(st->loop_kwnames);
    Py_VISIT(st->debug_kwnames);
    Py_VISIT(st->socket_fileno);
    Py_VISIT(st->no_vars);
    for (int i = 0; i < PL_FAMILIES; i++) {
        Py_VISIT(st->families[i]);
    }
    for (int i = 0; i < PL_KINDS; i++) {
        Py_VISIT(st->kinds[i]);
    }
#define X(field, name, attribute) Py_VISIT(st->field);
    PL_IMPORTS(X)
#undef X
    return 0;
}

static int
module_clear(PyObject *module)
{
    pl_state *st = PyModule_GetState(module);

    Py_CLEAR(st->LoopType);
    Py_CLEAR(st->HandleType);
    Py_CLEAR(st->DebugHandleType);
    Py_CLEAR(st->TimerHandleType);
    Py_CLEAR(st->ThreadSafeHandleType);
    Py_CLEAR(st->StreamType);
    Py_CLEAR(st->ListenerType);
    Py_CLEAR(st->StatsType);
    Py_CLEAR(st->WatcherType);
    Py_CLEAR(st->NativeProtocolType);
    Py_CLEAR(st->NativeFactoryType);
    Py_CLEAR(st->DatagramType);
    Py_CLEAR(st->asyncio_threadsafe_handle);
    Py_CLEAR(st->create_task);
    Py_CLEAR(st->ensure_fd_no_transport);
    Py_CLEAR(st->loop_kwnames);
    Py_CLEAR(st->debug_kwnames);
    Py_CLEAR(st->socket_fileno);
    Py_CLEAR(st->no_vars);
    for (int i = 0; i < PL_FAMILIES; i++) {
        Py_CLEAR(st->families[i]);
    }
    for (int i = 0; i < PL_KINDS; i++) {
        Py_CLEAR(st->kinds[i]);
    }
#define X(field, name, attribute) Py_CLEAR(st->field);
    PL_IMPORTS(X)
#undef X
#define X(name) Py_CLEAR(st->str_##name);
    PL_NAMES(X)
#undef X
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pyloop._core",
    .m_doc = "The C half of pyloop; use the package.",
    .m_size = sizeof(pl_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

pl_state *
pl_state_by_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &module_def);

    return module == NULL ? NULL : PyModule_GetState(module);
}

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_def);
}
