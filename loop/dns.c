/* Names on libuv's thread pool.

   A request holds its future until the answer is there, which happens
   attached, within the turn (PL_SLOT_UV).  The pool is the process's, so the
   request is plain memory; when the loop closes first, the future is let go
   and the memory waits for the pool. */

#include "loop.h"

#include <netdb.h>
#include <stdlib.h>

typedef struct pl_resolve {
    uv_getaddrinfo_t request;
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

/* [(family, type, proto, canonname, sockaddr), …] with plain ints. */
static PyObject *
resolve_list(const struct addrinfo *answer)
{
    PyObject *list = PyList_New(0);

    for (; list != NULL && answer != NULL; answer = answer->ai_next) {
        PyObject *address =
            pl_sockaddr_object(answer->ai_addr, answer->ai_addrlen);
        PyObject *entry =
            address == NULL
                ? NULL
                : Py_BuildValue(
                      "iiisN", answer->ai_family, answer->ai_socktype,
                      answer->ai_protocol,
                      answer->ai_canonname == NULL ? "" : answer->ai_canonname,
                      address);

        if (entry == NULL || PyList_Append(list, entry) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
    }
    return list;
}

static void
complete(pl_resolve *resolve, int status, struct addrinfo *answer)
{
    pl_state *st = resolve->loop->st;
    PyObject *future = resolve->future;
    PyObject *done = PyObject_CallMethodNoArgs(future, st->str_done);

    if (done == Py_False) {
        PyObject *value =
            status < 0 ? resolve_error(st, status) : resolve_list(answer);

        Py_DECREF(done);
        done =
            value == NULL
                ? NULL
                : PyObject_CallMethodOneArg(future,
                                            status < 0 ? st->str_set_exception
                                                       : st->str_set_result,
                                            value);
        Py_XDECREF(value);
    }
    if (done == NULL) {
        PyErr_WriteUnraisable(future);
    }
    Py_XDECREF(done);
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
        unlink_resolve(resolve);
        complete(resolve, status, answer);
        Py_DECREF(resolve->future);
    }
    uv_freeaddrinfo(answer);
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
        (void)uv_cancel((uv_req_t *)&resolve->request);
        Py_DECREF(future);
    }
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
    err = uv_getaddrinfo(uv, &resolve->request, on_resolved, text[0], text[1],
                         &hints);
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
    resolve->future = Py_NewRef(args[0]);
    resolve->next = self->resolving;
    resolve->link = &self->resolving;
    if (self->resolving != NULL) {
        self->resolving->link = &resolve->next;
    }
    self->resolving = resolve;
    /* uv registers what it watches only when it runs. */
    (void)uv_run(uv, UV_RUN_NOWAIT);
    Py_RETURN_NONE;
}
