# cython: language_level=3
"""pyloop.h and pyloop_import.h for Cython.

    from pyloop cimport pyloop_api, pyloop_import    # cython -I get_include()

    cdef const pyloop_api *api = pyloop_import()

What each function does, and on which thread, says pyloop.h.  Here, [any] is
`noexcept nogil`; what answers NULL or PYLOOP_RAISED with an exception set
raises it; a callback that may leave an exception set is declared so, and
raises.  Cython is needed to build a client, not to run it.
"""

from libc.stdint cimport uint32_t

cdef extern from "pyloop.h":
    enum:
        PYLOOP_API_VERSION
        PYLOOP_OK
        PYLOOP_UNWOKEN
        PYLOOP_CLOSED
        PYLOOP_CANCELLED
        PYLOOP_RAISED
        PYLOOP_TASK_EAGER

    ctypedef struct pyloop_loop:
        pass

    ctypedef struct pyloop_work:
        pyloop_work *next
        uint32_t size
        uint32_t flags
        int (*run)(pyloop_work *work, int status) except -1
        void *context

    ctypedef struct pyloop_task:
        uint32_t size
        uint32_t flags
        void (*done)(pyloop_task *task, int status, void *value) except *
        void *context
        void *name

    ctypedef struct pyloop_promise:
        uint32_t size
        uint32_t flags
        void *(*value)(pyloop_promise *promise) except NULL
        void (*cancelled)(pyloop_promise *promise) except *
        void (*released)(pyloop_promise *promise, int status) except *

    ctypedef struct pyloop_stream:
        pass

    ctypedef struct pyloop_buffer:
        const void *data
        size_t size

    ctypedef struct pyloop_protocol:
        uint32_t size
        uint32_t flags
        int (*made)(pyloop_stream *stream, void *arg, void **data) except -1
        int (*received)(pyloop_stream *stream, void *data, const void *bytes,
                        size_t size) except -1
        int (*eof)(pyloop_stream *stream, void *data) except -1
        void (*lost)(pyloop_stream *stream, void *data,
                     void *exception) except *
        void (*paused)(pyloop_stream *stream, void *data) except *
        void (*resumed)(pyloop_stream *stream, void *data) except *

    ctypedef struct pyloop_api:
        uint32_t size
        uint32_t version
        pyloop_loop *(*loop_from)(void *object) except NULL
        pyloop_loop *(*loop_running)() except NULL
        void (*acquire)(pyloop_loop *loop) noexcept nogil
        void (*release)(pyloop_loop *loop) noexcept nogil
        int (*is_alive)(pyloop_loop *loop) noexcept nogil
        int (*post)(pyloop_loop *loop, pyloop_work *work) noexcept nogil
        int (*post_chain)(pyloop_loop *loop,
                          pyloop_work *first) noexcept nogil
        int (*task_start)(pyloop_loop *loop, pyloop_task *task,
                          void *awaitable) except -3
        int (*task_cancel)(pyloop_loop *loop,
                           pyloop_task *task) noexcept nogil
        void *(*promise_start)(pyloop_loop *loop, pyloop_promise *promise,
                               void *future) except NULL
        int (*promise_complete)(pyloop_loop *loop,
                                pyloop_promise *promise) noexcept nogil
        void *(*protocol_factory)(const pyloop_protocol *table,
                                  void *arg) except NULL
        int (*stream_write)(pyloop_stream *stream, const void *bytes,
                            size_t size) except -3
        int (*stream_writev)(pyloop_stream *stream,
                             const pyloop_buffer *buffers,
                             size_t count) except -3
        int (*stream_write_eof)(pyloop_stream *stream) except -3
        int (*stream_pause_reading)(pyloop_stream *stream) except -3
        int (*stream_resume_reading)(pyloop_stream *stream) except -3
        int (*stream_close)(pyloop_stream *stream) except -3
        int (*stream_abort)(pyloop_stream *stream) except -3
        size_t (*stream_buffered)(pyloop_stream *stream) noexcept
        void *(*stream_transport)(pyloop_stream *stream) noexcept
        void (*stream_hold)(pyloop_stream *stream) noexcept
        void (*stream_drop)(pyloop_stream *stream) noexcept

    void pyloop_work_init(
        pyloop_work *work,
        int (*run)(pyloop_work *, int) except -1) noexcept nogil
    void pyloop_task_init(
        pyloop_task *task,
        void (*done)(pyloop_task *, int, void *) except *) noexcept nogil
    void pyloop_promise_init(
        pyloop_promise *promise,
        void *(*value)(pyloop_promise *) except NULL,
        void (*released)(pyloop_promise *, int) except *) noexcept nogil

cdef extern from "pyloop_import.h":
    const char *PYLOOP_CAPSULE
    const pyloop_api *pyloop_import() except NULL
