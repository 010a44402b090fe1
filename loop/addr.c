/* Socket addresses as the socket module shows them. */

#include "loop.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static PyObject *
unix_object(const struct sockaddr_un *address, size_t length)
{
    size_t offset = offsetof(struct sockaddr_un, sun_path);
    size_t path = length > offset ? length - offset : 0;

    if (path > 0 && address->sun_path[0] == '\0') {
        return PyBytes_FromStringAndSize(address->sun_path, (Py_ssize_t)path);
    }
    return PyUnicode_DecodeFSDefaultAndSize(
        address->sun_path, (Py_ssize_t)strnlen(address->sun_path, path));
}

/* By hand, in 700 instructions: inet_ntop and Py_BuildValue took 2,700, as
   many as all else for a datagram. */
static PyObject *
inet_object(const struct sockaddr_in *address)
{
    const uint8_t *numbers = (const uint8_t *)&address->sin_addr;
    char text[INET_ADDRSTRLEN];
    char *end = text;

    for (int i = 0; i < 4; i++) {
        unsigned number = numbers[i];

        if (number >= 100) {
            *end++ = (char)('0' + number / 100);
        }
        if (number >= 10) {
            *end++ = (char)('0' + number / 10 % 10);
        }
        *end++ = (char)('0' + number % 10);
        *end++ = '.';
    }
    PyObject *host = PyUnicode_DecodeASCII(text, end - text - 1, NULL);
    PyObject *port = PyLong_FromLong(ntohs(address->sin_port));
    PyObject *pair =
        host == NULL || port == NULL ? NULL : PyTuple_Pack(2, host, port);

    Py_XDECREF(host);
    Py_XDECREF(port);
    return pair;
}

PyObject *
pl_sockaddr_object(const struct sockaddr *address, unsigned length)
{
    char text[INET6_ADDRSTRLEN];

    if (length < sizeof(sa_family_t)) {
        Py_RETURN_NONE;
    }
    switch (address->sa_family) {
    case AF_INET:
        return inet_object((const void *)address);
    case AF_INET6: {
        const struct sockaddr_in6 *in = (const void *)address;

        inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof(text));
        return Py_BuildValue("siIk", text, (int)ntohs(in->sin6_port),
                             (unsigned)ntohl(in->sin6_flowinfo),
                             (unsigned long)in->sin6_scope_id);
    }
    case AF_UNIX:
        return unix_object((const void *)address, length);
    default:
        Py_RETURN_NONE;
    }
}

/* An IPv6 address takes two more numbers, flowinfo and scope. */
static bool
plain_number(PyObject *tuple, Py_ssize_t i, unsigned long most,
             unsigned long *number)
{
    PyObject *item = PyTuple_GET_ITEM(tuple, i);

    *number = PyLong_CheckExact(item) ? PyLong_AsUnsignedLong(item) : most + 1;
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    return *number <= most;
}

unsigned
pl_sockaddr_numeric(PyObject *address, int family,
                    struct sockaddr_storage *name)
{
    unsigned long numbers[3] = {0, 0, 0};
    Py_ssize_t count =
        PyTuple_CheckExact(address) ? PyTuple_GET_SIZE(address) : 0;
    const char *host;

    if ((family != AF_INET && family != AF_INET6) || count < 2 ||
        count > (family == AF_INET ? 2 : 4) ||
        !PyUnicode_CheckExact(PyTuple_GET_ITEM(address, 0)))
    {
        return 0;
    }
    for (Py_ssize_t i = 1; i < count; i++) {
        static const unsigned long most[] = {0, 0xffff, 0xfffff, 0xffffffff};

        if (!plain_number(address, i, most[i], &numbers[i - 1])) {
            return 0;
        }
    }
    Py_ssize_t length;

    host = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(address, 0), &length);
    if (host == NULL) {
        PyErr_Clear();
        return 0;
    }
    return strlen(host) == (size_t)length
               ? pl_sockaddr_make(family, host, numbers, name)
               : 0;
}

unsigned
pl_sockaddr_make(int family, const char *host, const unsigned long numbers[3],
                 struct sockaddr_storage *name)
{
    memset(name, 0, sizeof(*name));
    name->ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        struct sockaddr_in *in = (void *)name;

        in->sin_port = htons((uint16_t)numbers[0]);
        return inet_pton(AF_INET, host, &in->sin_addr) == 1 ? sizeof(*in) : 0;
    }
    struct sockaddr_in6 *in = (void *)name;

    in->sin6_port = htons((uint16_t)numbers[0]);
    in->sin6_flowinfo = htonl((uint32_t)numbers[1]);
    in->sin6_scope_id = (uint32_t)numbers[2];
    return inet_pton(AF_INET6, host, &in->sin6_addr) == 1 ? sizeof(*in) : 0;
}
