/* Names and addresses: what is numeric at once, names on libuv's thread pool.

   A numeric host is answered by the C library's own getaddrinfo(), told not
   to look anything up: 0.3 µs, and the answer is what the socket module would
   have given.  Where it finds that there is something to look up or to
   complain about, the slower ways do it.

   A request holds its future until the answer is there, which happens
   attached, within the turn (PL_SLOT_UV).  The pool is the process's, so the
   request is plain memory; when the loop closes first, the future is let go
   and the memory waits for the pool. */

#include "loop.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

typedef struct pl_resolve {
    union {
        uv_req_t any;
        uv_getaddrinfo_t names;
        uv_getnameinfo_t address;
    } request;
    PlLoop *loop;            /* borrowed while future is set */
    PyObject *future;        /* owned; NULL once abandoned */
    struct pl_resolve *next;
    struct pl_resolve **link;
} pl_resolve;

static const struct {
    int uv;
    int eai;
} gai_errors[] = {
    {UV_EAI_AGAIN, EAI_AGAIN},
    {UV_EAI_BADFLAGS, EAI_BADFLAGS},
    {UV_EAI_FAIL, EAI_FAIL},
    {UV_EAI_FAMILY, EAI_FAMILY},
    {UV_EAI_MEMORY, EAI_MEMORY},
    {UV_EAI_NONAME, EAI_NONAME},
    {UV_EAI_OVERFLOW, EAI_OVERFLOW},
    {UV_EAI_SERVICE, EAI_SERVICE},
    {UV_EAI_SOCKTYPE, EAI_SOCKTYPE},
#ifdef EAI_NODATA
    {UV_EAI_NODATA, EAI_NODATA},
#endif
#ifdef EAI_ADDRFAMILY
    {UV_EAI_ADDRFAMILY, EAI_ADDRFAMILY},
#endif
};

/* The exception socket.getaddrinfo() would raise; new ref. */
static PyObject *
resolve_error(pl_state *st, int status)
{
    for (size_t i = 0; i < sizeof(gai_errors) / sizeof(*gai_errors); i++) {
        if (gai_errors[i].uv == status) {
            return PyObject_CallFunction(st->gaierror, "is", gai_errors[i].eai,
                                         gai_strerror(gai_errors[i].eai));
        }
    }
    if (status == UV_EINVAL || status == UV_ENAMETOOLONG) {
        /* libuv looks at the name before getaddrinfo() does. */
        return PyObject_CallFunction(st->gaierror, "is", EAI_NONAME,
                                     gai_strerror(EAI_NONAME));
    }
    return pl_oserror(status);
}

/* -- answers ------------------------------------------------------------- */

/* enum(value), or the plain number where the enum does not know it. */
static PyObject *
as_enum(PyObject *type, PyObject *const *known, int count, int value)
{
    if (value >= 0 && value < count && known[value] != NULL) {
        return Py_NewRef(known[value]);
    }
    PyObject *number = PyLong_FromLong(value);
    PyObject *member =
        number == NULL ? NULL : PyObject_CallOneArg(type, number);

    if (member == NULL && number != NULL &&
        PyErr_ExceptionMatches(PyExc_ValueError))
    {
        PyErr_Clear();
        return number;
    }
    Py_XDECREF(number);
    return member;
}

static int
keep_members(PyObject *type, PyObject **known, int count)
{
    for (int i = 0; i < count; i++) {
        known[i] = PyObject_CallFunction(type, "i", i);
        if (known[i] == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
                return -1;
            }
            PyErr_Clear();
        }
    }
    return 0;
}

int
pl_dns_enums(pl_state *st)
{
    return keep_members(st->address_family, st->families, PL_FAMILIES) < 0
               ? -1
               : keep_members(st->socket_kind, st->kinds, PL_KINDS);
}

static PyObject *
answer_entry(pl_state *st, const struct addrinfo *answer, PyObject *address)
{
    PyObject *parts[5] = {
        as_enum(st->address_family, st->families, PL_FAMILIES,
                answer->ai_family),
        as_enum(st->socket_kind, st->kinds, PL_KINDS, answer->ai_socktype),
        PyLong_FromLong(answer->ai_protocol),
        PyUnicode_FromString(
            answer->ai_canonname == NULL ? "" : answer->ai_canonname),
        Py_NewRef(address),
    };
    PyObject *entry = PyTuple_New(5);

    for (int i = 0; i < 5; i++) {
        if (parts[i] == NULL) {
            Py_CLEAR(entry);
        }
    }
    for (int i = 0; i < 5; i++) {
        if (entry == NULL) {
            Py_XDECREF(parts[i]);
        }
        else {
            PyTuple_SET_ITEM(entry, i, parts[i]);
        }
    }
    return entry;
}

/* [(family, type, proto, canonname, sockaddr), …] */
static PyObject *
answer_list(pl_state *st, const struct addrinfo *answer)
{
    const struct addrinfo *last = NULL;
    PyObject *list = PyList_New(0);
    PyObject *address = NULL;

    for (; list != NULL && answer != NULL; answer = answer->ai_next) {
        /* One address comes once for each type of socket. */
        if (last == NULL || last->ai_addrlen != answer->ai_addrlen ||
            memcmp(last->ai_addr, answer->ai_addr, last->ai_addrlen) != 0)
        {
            Py_XSETREF(address, pl_sockaddr_object(answer->ai_addr,
                                                   answer->ai_addrlen));
        }
        last = answer;

        PyObject *entry =
            address == NULL ? NULL : answer_entry(st, answer, address);

        if (entry == NULL || PyList_Append(list, entry) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
    }
    Py_XDECREF(address);
    return list;
}

/* -- requests ------------------------------------------------------------ */

/* Steals value, which is an exception when failed; NULL: it could not be
   made, and the exception for that is raised. */
static void
complete(pl_resolve *resolve, PyObject *value, bool failed)
{
    pl_state *st = resolve->loop->st;
    PyObject *future = resolve->future;

    if (value == NULL) {
        value = PyErr_GetRaisedException();
        failed = true;
    }
    PyObject *done = PyObject_CallMethodNoArgs(future, st->str_done);

    if (done == Py_False) {
        Py_SETREF(done,
                  PyObject_CallMethodOneArg(future,
                                            failed ? st->str_set_exception
                                                   : st->str_set_result,
                                            value));
    }
    if (done == NULL) {
        PyErr_WriteUnraisable(future);
    }
    Py_XDECREF(done);
    Py_DECREF(value);
}

static void
unlink_resolve(pl_resolve *resolve)
{
    *resolve->link = resolve->next;
    if (resolve->next != NULL) {
        resolve->next->link = resolve->link;
    }
}

static void
on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *answer)
{
    pl_resolve *resolve = (pl_resolve *)request;

    if (resolve->future != NULL) {
        pl_state *st = resolve->loop->st;

        unlink_resolve(resolve);
        complete(resolve,
                 status < 0 ? resolve_error(st, status)
                            : answer_list(st, answer),
                 status < 0);
        Py_DECREF(resolve->future);
    }
    uv_freeaddrinfo(answer);
    free(resolve);
}

static void
on_named(uv_getnameinfo_t *request, int status, const char *host,
         const char *service)
{
    pl_resolve *resolve = (pl_resolve *)request;

    if (resolve->future != NULL) {
        unlink_resolve(resolve);
        complete(resolve,
                 status < 0
                     ? resolve_error(resolve->loop->st, status)
                     : Py_BuildValue("Ns", PyUnicode_DecodeFSDefault(host),
                                     service),
                 status < 0);
        Py_DECREF(resolve->future);
    }
    free(resolve);
}

int
pl_resolve_traverse(PlLoop *loop, visitproc visit, void *arg)
{
    for (pl_resolve *resolve = loop->resolving; resolve != NULL;
         resolve = resolve->next)
    {
        Py_VISIT(resolve->future);
    }
    return 0;
}

void
pl_resolve_abandon(PlLoop *loop)
{
    while (loop->resolving != NULL) {
        pl_resolve *resolve = loop->resolving;
        PyObject *future = resolve->future;

        unlink_resolve(resolve);
        resolve->future = NULL;
        (void)uv_cancel(&resolve->request.any);
        Py_DECREF(future);
    }
}

/* The pool has the request, or refused it with err. */
static PyObject *
submitted(PlLoop *self, pl_resolve *resolve, int err, PyObject *future)
{
    if (err < 0) {
        PyObject *exc = resolve_error(self->st, err);

        free(resolve);
        if (exc != NULL) {
            PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
            Py_DECREF(exc);
        }
        return NULL;
    }
    resolve->loop = self;
    resolve->future = Py_NewRef(future);
    resolve->next = self->resolving;
    resolve->link = &self->resolving;
    if (self->resolving != NULL) {
        self->resolving->link = &resolve->next;
    }
    self->resolving = resolve;
    /* uv registers what it watches only when it runs. */
    (void)uv_run(&self->core->uv, UV_RUN_NOWAIT);
    Py_RETURN_TRUE;
}

/* _resolve(future, host, port, family, type, proto, flags): host and port
   bytes or None.  OSError when the request cannot be made. */
PyObject *
loop_resolve(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    const char *text[2] = {NULL, NULL};
    int numbers[4];
    int err;

    if (nargs != 7) {
        PyErr_SetString(PyExc_TypeError, "_resolve takes 7 arguments");
        return NULL;
    }
    for (int i = 0; i < 2; i++) {
        if (args[1 + i] != Py_None) {
            text[i] = PyBytes_AsString(args[1 + i]);
            if (text[i] == NULL) {
                return NULL;
            }
        }
    }
    for (int i = 0; i < 4; i++) {
        numbers[i] = PyLong_AsInt(args[3 + i]);
        if (numbers[i] == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    if (pl_loop_check_closed(self) < 0) {
        return NULL;
    }
    uv_loop_t *uv = pl_core_uv(self->core, &err);

    if (uv == NULL) {
        return pl_raise_errno(err);
    }
    pl_resolve *resolve = calloc(1, sizeof(*resolve));
    struct addrinfo hints = {
        .ai_family = numbers[0],
        .ai_socktype = numbers[1],
        .ai_protocol = numbers[2],
        .ai_flags = numbers[3],
    };

    if (resolve == NULL) {
        return PyErr_NoMemory();
    }
    err = uv_getaddrinfo(uv, &resolve->request.names, on_resolved, text[0],
                         text[1], &hints);
    return submitted(self, resolve, err, args[0]);
}

/* _resolve_address(future, sockaddr, flags) -> False for an address that is
   not plain */
PyObject *
loop_resolve_address(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct sockaddr_storage name;
    int flags =
        nargs == 3 && PyLong_Check(args[2]) ? PyLong_AsInt(args[2]) : -1;
    int err;

    if (flags < 0 || (pl_sockaddr_numeric(args[1], AF_INET, &name) == 0 &&
                      pl_sockaddr_numeric(args[1], AF_INET6, &name) == 0))
    {
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    if (pl_loop_check_closed(self) < 0 ||
        PySys_Audit("socket.getnameinfo", "(O)", args[1]) < 0)
    {
        return NULL;
    }
    uv_loop_t *uv = pl_core_uv(self->core, &err);
    pl_resolve *resolve = uv == NULL ? NULL : calloc(1, sizeof(*resolve));

    if (resolve == NULL) {
        return uv == NULL ? pl_raise_errno(err) : PyErr_NoMemory();
    }
    err = uv_getnameinfo(uv, &resolve->request.address, on_named,
                         (struct sockaddr *)&name, flags);
    return submitted(self, resolve, err, args[0]);
}

/* -- numeric hosts ------------------------------------------------------- */

/* Borrowed text of a str or bytes that is plain ASCII; NULL without an
   exception. */
static const char *
plain_text(PyObject *object)
{
    const char *text = NULL;
    Py_ssize_t length = 0;

    if (PyUnicode_CheckExact(object) && PyUnicode_IS_ASCII(object)) {
        text = PyUnicode_AsUTF8AndSize(object, &length);
    }
    else if (PyBytes_CheckExact(object)) {
        text = PyBytes_AS_STRING(object);
        length = PyBytes_GET_SIZE(object);
    }
    return text != NULL && length > 0 && strlen(text) == (size_t)length ? text
                                                                        : NULL;
}

/* The longest that can be numeric: a scope is the name of an interface. */
#define NUMERIC_MAX 64

/* *host: NULL for None.  False: something to look up, or an error. */
static bool
numeric_host(PyObject *object, const char **host)
{
    *host = object == Py_None ? NULL : plain_text(object);
    return object == Py_None || (*host != NULL && strlen(*host) < NUMERIC_MAX);
}

static bool
numeric_port(PyObject *object, char *buffer, size_t size, const char **port)
{
    *port = buffer;
    if (object == Py_None) {
        *port = NULL;
        return true;
    }
    if (PyLong_CheckExact(object)) {
        long number = PyLong_AsLong(object);

        snprintf(buffer, size, "%ld", number);
        return number != -1 || !PyErr_Occurred();
    }
    *port = plain_text(object);
    return *port != NULL && strspn(*port, "0123456789") == strlen(*port);
}

/* _getaddrinfo(host, port, family, type, proto, flags) -> the answer, or None
   when somebody has to be asked or something is wrong */
PyObject *
loop_numeric_getaddrinfo(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    const char *host, *port;
    char digits[24];
    int numbers[4] = {0};
    struct addrinfo *answer;

    if (nargs != 6 || !numeric_host(args[0], &host) ||
        !numeric_port(args[1], digits, sizeof(digits), &port))
    {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    for (int i = 0; i < 4; i++) {
        numbers[i] = PyLong_AsInt(args[2 + i]);
        if (numbers[i] == -1 && PyErr_Occurred()) {
            PyErr_Clear();
            Py_RETURN_NONE;
        }
    }
    struct addrinfo hints = {
        .ai_family = numbers[0],
        .ai_socktype = numbers[1],
        .ai_protocol = numbers[2],
        .ai_flags = numbers[3] | AI_NUMERICHOST,
    };

    if (getaddrinfo(host, port, &hints, &answer) != 0) {
        Py_RETURN_NONE;
    }
    PyObject *list =
        PySys_Audit("socket.getaddrinfo", "OOiii", args[0], args[1],
                    numbers[0], numbers[1], numbers[2]) < 0
            ? NULL
            : answer_list(self->st, answer);

    freeaddrinfo(answer);
    return list;
}
