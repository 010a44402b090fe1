/* The arguments of methods as the interpreter hands them over (vectorcall):
   positions, and names for some of them.  Errors are asyncio's TypeErrors. */

#ifndef PL_ARGS_H
#define PL_ARGS_H

#include "state.h"

#include <stdbool.h>
#include <string.h>

/* Of a method that takes a callback and what it is to be called with. */
typedef struct {
    const char *method;
    const char *params[2];   /* before those, may be named */
    int nparams;
    bool context;            /* takes the keyword `context` too */
} pl_signature;

/* All borrowed from the caller's.  args begins with the params. */
typedef struct {
    PyObject *const *args;
    Py_ssize_t nargs;
    PyObject *context;       /* or NULL */
    PyObject *named[2];      /* where args points to when some were named */
} pl_call;

/* By its text: _asyncio, which calls for each step of a task, does not intern
   the name (56 instructions of 4,850 for an `await sleep(0)`). */
static inline int
pl_names_context(pl_state *st, PyObject *name)
{
    return name == st->str_context ||
           (PyUnicode_IS_COMPACT_ASCII(name) &&
            PyUnicode_GET_LENGTH(name) == 7 &&
            memcmp(PyUnicode_1BYTE_DATA(name), "context", 7) == 0);
}

/* The rest of pl_call_parse: other keywords, or something missing. */
int pl_call_parse_named(pl_state *st, const pl_signature *signature,
                        PyObject *kwnames, pl_call *call);

static inline int
pl_call_parse(pl_state *st, const pl_signature *signature,
              PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
              pl_call *call)
{
    *call = (pl_call){.args = args, .nargs = nargs};
    if (nargs >= signature->nparams) {
        if (kwnames == NULL) {
            return 0;
        }
        if (signature->context && PyTuple_GET_SIZE(kwnames) == 1 &&
            pl_names_context(st, PyTuple_GET_ITEM(kwnames, 0)))
        {
            call->context = args[nargs];
            return 0;
        }
    }
    return pl_call_parse_named(st, signature, kwnames, call);
}

/* Borrowed: the one argument of a method that may also be named. */
PyObject *pl_only_argument(const char *method, const char *name,
                           PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);

#endif
