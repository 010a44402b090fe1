/* Arguments by position and by name; see args.h. */

#include "args.h"

static int
set_named(const pl_signature *signature, PyObject *name, PyObject *value,
          pl_call *call)
{
    int index = 0;

    while (index < signature->nparams &&
           PyUnicode_CompareWithASCIIString(name, signature->params[index]) !=
               0)
    {
        index++;
    }
    if (index == signature->nparams) {
        PyErr_Format(PyExc_TypeError,
                     "%s() got an unexpected keyword argument '%U'",
                     signature->method, name);
        return -1;
    }
    if (index < call->nargs) {
        PyErr_Format(PyExc_TypeError,
                     "%s() got multiple values for argument '%U'",
                     signature->method, name);
        return -1;
    }
    call->named[index] = value;
    return 0;
}

int
pl_call_parse_named(pl_state *st, const pl_signature *signature,
                    PyObject *kwnames, pl_call *call)
{
    Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);

    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        PyObject *value = call->args[call->nargs + i];

        if (signature->context && pl_names_context(st, name)) {
            call->context = value;
        }
        else if (set_named(signature, name, value, call) < 0) {
            return -1;
        }
    }
    if (call->nargs >= signature->nparams) {
        return 0;
    }
    for (int i = 0; i < signature->nparams; i++) {
        if (i < call->nargs) {
            call->named[i] = call->args[i];
        }
        else if (call->named[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing 1 required positional argument: '%s'",
                         signature->method, signature->params[i]);
            return -1;
        }
    }
    call->args = call->named;
    call->nargs = signature->nparams;
    return 0;
}

PyObject *
pl_only_argument(const char *method, const char *name, PyObject *const *args,
                 Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);

    if (nargs + named == 1 &&
        (named == 0 || PyUnicode_CompareWithASCIIString(
                           PyTuple_GET_ITEM(kwnames, 0), name) == 0))
    {
        return args[0];
    }
    PyErr_Format(PyExc_TypeError, "%s() takes exactly one argument: '%s'",
                 method, name);
    return NULL;
}
