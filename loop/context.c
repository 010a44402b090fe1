/* Contexts that callbacks share; see context.h. */

#include "context.h"

static PyObject *
vars_of(PyObject *context)
{
    return ((pl_context_layout *)context)->vars;
}

/* Does the layout say what a variable does to a context and to its copy, and
   is the current context where it is looked for? */
static int
layout_holds(PyObject *var)
{
    PyObject *context = PyContext_New();
    PyObject *copy = NULL, *token = NULL;
    int holds = -1;

    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        return -1;
    }
    PyObject *before = vars_of(context);

    token = PyContextVar_Set(var, Py_None);
    copy = token == NULL ? NULL : PyContext_CopyCurrent();
    if (copy != NULL) {
        holds = PyThreadState_Get()->context == context &&
                vars_of(context) != before &&
                vars_of(copy) == vars_of(context) &&
                ((pl_context_layout *)copy)->previous == NULL &&
                ((pl_context_layout *)copy)->weaklist == NULL &&
                ((pl_context_layout *)context)->weaklist == NULL;
    }
    Py_XDECREF(token);
    if (PyContext_Exit(context) < 0) {
        holds = -1;
    }
    Py_XDECREF(copy);
    Py_DECREF(context);
    return holds;
}

int
pl_context_probe(pl_state *st)
{
    int holds = 0;

    if (PyContext_Type.tp_basicsize >= (Py_ssize_t)sizeof(pl_context_layout)) {
        PyObject *var = PyContextVar_New("pyloop", NULL);

        holds = var == NULL ? -1 : layout_holds(var);
        Py_XDECREF(var);
    }
    if (holds > 0) {
        PyObject *empty = PyContext_New();

        if (empty == NULL) {
            return -1;
        }
        st->no_vars = Py_NewRef(vars_of(empty));
        Py_DECREF(empty);
    }
    return holds < 0 ? -1 : 0;
}

/* In debug mode a handle keeps what it ran. */
static inline bool
may_compare(PlLoop *loop)
{
    return loop->st->no_vars != NULL && !loop->debug;
}

/* May what the loop keeps be used? */
static inline bool
may_share(PlLoop *loop)
{
    return may_compare(loop) && pl_loop_runs_here(loop) &&
           atomic_load_explicit(&loop->thread, memory_order_relaxed) != 0;
}

int
pl_context_share(PlLoop *loop, PyObject **shared)
{
    PyObject *current = PyThreadState_Get()->context;

    *shared = NULL;
    if (!may_compare(loop)) {
        return 0;
    }
    if (current == NULL || vars_of(current) == loop->st->no_vars) {
        return 1;
    }
    if (!may_share(loop)) {
        return 0;
    }
    if (loop->pristine == NULL || vars_of(loop->pristine) != vars_of(current))
    {
        PyObject *copy = PyContext_CopyCurrent();

        if (copy == NULL) {
            PyErr_Clear(); /* the caller's own try will tell */
            return 0;
        }
        PyObject *before = loop->pristine;

        loop->pristine = Py_NewRef(copy);
        *shared = copy;
        Py_XDECREF(before); /* may run user code: which may move pristine */
        return 1;
    }
    *shared = Py_NewRef(loop->pristine);
    return 1;
}

PyObject *
pl_context_copy(PyObject *shared)
{
    return shared == NULL ? PyContext_New() : PyContext_Copy(shared);
}

PyObject *
pl_context_take(PlLoop *loop, PyObject *shared)
{
    PyObject *taken = NULL;

    if (!may_share(loop)) {
        /* a copy it is */
    }
    else if (shared == NULL) {
        taken = loop->empty;
        loop->empty = NULL;
    }
    else if (loop->scratch != NULL &&
             vars_of(loop->scratch) == vars_of(shared))
    {
        taken = loop->scratch;
        loop->scratch = NULL;
    }
    else if (loop->pristine == shared && Py_REFCNT(shared) == 2) {
        /* Scheduled once: no other callback needs it. */
        taken = loop->pristine;
        loop->pristine = NULL;
    }
    if (taken == NULL) {
        taken = pl_context_copy(shared);
        if (taken == NULL) {
            return NULL;
        }
    }
    Py_XDECREF(shared);
    return taken;
}

/* Where a context with these variables is kept, or NULL. */
static PyObject **
place_for(PlLoop *loop, PyObject *vars)
{
    return vars == loop->st->no_vars ? &loop->empty
           : loop->pristine != NULL && vars == vars_of(loop->pristine)
               ? &loop->scratch
               : NULL;
}

void
pl_context_give(PlLoop *loop, PyObject *context)
{
    PyObject **place =
        may_share(loop) ? place_for(loop, vars_of(context)) : NULL;

    if (place != NULL && PL_UNIQUE(context) &&
        ((pl_context_layout *)context)->weaklist == NULL)
    {
        PyObject *before = *place;

        *place = context;
        context = before;
    }
    Py_XDECREF(context);
}

static void
drop_variables(PlLoop *loop)
{
    PyObject *pristine = loop->pristine;
    PyObject *scratch = loop->scratch;

    loop->pristine = loop->scratch = NULL;
    Py_XDECREF(pristine);
    Py_XDECREF(scratch);
}

void
pl_context_rest(PlLoop *loop)
{
    PyObject *current = PyThreadState_Get()->context;
    PyObject *vars = current == NULL ? NULL : vars_of(current);

    if ((loop->pristine != NULL && vars_of(loop->pristine) != vars) ||
        (loop->scratch != NULL && vars_of(loop->scratch) != vars))
    {
        drop_variables(loop);
    }
}

void
pl_context_drop(PlLoop *loop)
{
    drop_variables(loop);
    Py_CLEAR(loop->empty);
}
