/* A library to preload: the system calls and allocations that one extension
   module makes fail on demand.

   fault(names, err, count, module): the next `count` calls of a function in
   `names`, which are separated by spaces, from code whose file name contains
   `module` fail with errno `err`.

   FAULTS_DELAY="microseconds module names" in the environment: every call of
   these from that module comes so much later. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static char fault_names[64];    /* " write epoll_ctl " */
static char fault_module[64];
static int fault_errno;
static int fault_count;
static int fault_hits;

void
fault(const char *names, int err, int count, const char *module)
{
    fault_count = 0;
    snprintf(fault_names, sizeof(fault_names), " %s ", names);
    strncpy(fault_module, module, sizeof(fault_module) - 1);
    fault_errno = err;
    fault_hits = 0;
    fault_count = count;
}

int
fault_done(void)
{
    return fault_hits;
}

static unsigned delay_us;
static char delay_module[64];
static char delay_names[64];    /* as fault_names */

__attribute__((constructor)) static void
read_environment(void)
{
    const char *delay = getenv("FAULTS_DELAY");

    if (delay != NULL) {
        (void)sscanf(delay, "%u %63s%61[^\n]", &delay_us, delay_module,
                     delay_names);
        strcat(delay_names, " ");
    }
}

static int
is_from(const char *module, void *caller)
{
    Dl_info info;

    return dladdr(caller, &info) && info.dli_fname != NULL &&
           strstr(info.dli_fname, module) != NULL;
}

static int
fails(const char *name, void *caller)
{
    char spaced[32];

    if (delay_us == 0 && fault_count <= 0) {
        return 0;
    }
    snprintf(spaced, sizeof(spaced), " %s ", name);
    if (strstr(delay_names, spaced) != NULL && is_from(delay_module, caller)) {
        usleep(delay_us);
    }
    if (fault_count <= 0) {
        return 0;
    }
    if (strstr(fault_names, spaced) == NULL || !is_from(fault_module, caller))
    {
        return 0;
    }
    fault_count--;
    fault_hits++;
    errno = fault_errno;
    return 1;
}

#define FAILS(name) fails(name, __builtin_return_address(0))
#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

ssize_t
send(int fd, const void *data, size_t size, int flags)
{
    return FAILS("send") ? -1
                         : NEXT(ssize_t (*)(int, const void *, size_t, int),
                                "send")(fd, data, size, flags);
}

ssize_t
sendmsg(int fd, const struct msghdr *message, int flags)
{
    return FAILS("sendmsg")
               ? -1
               : NEXT(ssize_t (*)(int, const struct msghdr *, int),
                      "sendmsg")(fd, message, flags);
}

ssize_t
recv(int fd, void *data, size_t size, int flags)
{
    return FAILS("recv") ? -1
                         : NEXT(ssize_t (*)(int, void *, size_t, int),
                                "recv")(fd, data, size, flags);
}

int
accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    return FAILS("accept4")
               ? -1
               : NEXT(int (*)(int, struct sockaddr *, socklen_t *, int),
                      "accept4")(fd, address, length, flags);
}

int
epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    return FAILS("epoll_ctl")
               ? -1
               : NEXT(int (*)(int, int, int, struct epoll_event *),
                      "epoll_ctl")(epfd, op, fd, event);
}

int
epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
    return FAILS("epoll_wait")
               ? -1
               : NEXT(int (*)(int, struct epoll_event *, int, int),
                      "epoll_wait")(epfd, events, max, timeout);
}

ssize_t
write(int fd, const void *data, size_t size)
{
    return FAILS("write") ? -1
                          : NEXT(ssize_t (*)(int, const void *, size_t),
                                 "write")(fd, data, size);
}

/* io_uring has no function of its own. */
long
syscall(long number, ...)
{
    va_list list;
    long args[6];

    va_start(list, number);
    for (int i = 0; i < 6; i++) {
        args[i] = va_arg(list, long);
    }
    va_end(list);
    return number == SYS_io_uring_enter && FAILS("io_uring_enter")
               ? -1
               : NEXT(long (*)(long, ...), "syscall")(number, args[0], args[1],
                                                      args[2], args[3],
                                                      args[4], args[5]);
}

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

void *
malloc(size_t size)
{
    return FAILS("malloc") ? NULL : __libc_malloc(size);
}

void *
calloc(size_t count, size_t size)
{
    return FAILS("malloc") ? NULL : __libc_calloc(count, size);
}

void *
realloc(void *old, size_t size)
{
    return FAILS("malloc") ? NULL : __libc_realloc(old, size);
}
