/* pyloop_import.h: the table of pyloop.h, from the installed package.  The
   only public header that needs Python.h. */

#ifndef PYLOOP_IMPORT_H
#define PYLOOP_IMPORT_H

#include <Python.h>

#include "pyloop.h"

#define PYLOOP_CAPSULE "pyloop._core._C_API"

/* Attached.  The table, which is constant and lives as long as the process,
   or NULL with ImportError: no pyloop, or one older than this header. */
static inline const pyloop_api *
pyloop_import(void)
{
    PyObject *module = PyImport_ImportModule("pyloop._core");
    PyObject *capsule;
    const pyloop_api *api;

    if (module == NULL) {
        return NULL;
    }
    capsule = PyObject_GetAttrString(module, "_C_API");
    Py_DECREF(module);
    if (capsule == NULL) {
        return NULL;
    }
    api = (const pyloop_api *)PyCapsule_GetPointer(capsule, PYLOOP_CAPSULE);
    Py_DECREF(capsule);
    if (api != NULL &&
        (api->version < PYLOOP_API_VERSION || api->size < sizeof(pyloop_api)))
    {
        PyErr_SetString(PyExc_ImportError,
                        "pyloop is older than the pyloop.h this was built "
                        "with");
        return NULL;
    }
    return api;
}

#endif
