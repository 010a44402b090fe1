/* The datagram transport; see udp.c. */

#ifndef PL_UDP_H
#define PL_UDP_H

#include "transport.h"

int pl_datagram_type(PyObject *module, pl_state *st);
PyObject *loop_make_datagram(PlLoop *self, PyObject *const *args,
                             Py_ssize_t nargs);

#endif
