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

PyObject *
pl_sockaddr_object(const struct sockaddr *address, unsigned length)
{
    char text[INET6_ADDRSTRLEN];

    if (length < sizeof(sa_family_t)) {
        Py_RETURN_NONE;
    }
    switch (address->sa_family) {
    case AF_INET: {
        const struct sockaddr_in *in = (const void *)address;

        inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
        return Py_BuildValue("si", text, (int)ntohs(in->sin_port));
    }
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
