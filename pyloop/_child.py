"""Child processes: asyncio's transport, with the child's end seen on a pidfd.

asyncio's own watcher depends on the version (a thread for each child on 3.11,
a pidfd after it) and signals by number.  Between the child's end and the end
of its pipes, which a grandchild may hold open, the number may be anybody's.
Here a signal goes through the pidfd, so it reaches the child or nobody; the
exit status is not lost when Popen.poll() was first to read it; and the
descriptor goes with the loop.
"""

import asyncio
import os
import signal as signals
import sys
from asyncio import unix_events
from asyncio.log import logger

from pyloop._pipes import InContext

# Watchers that a policy has when nobody chose one, or might as well.
_DEFAULTS: tuple[type, ...] = ()
if sys.version_info >= (3, 14):
    _ThreadedWatcher = unix_events._ThreadedChildWatcher
else:
    _ThreadedWatcher = unix_events.ThreadedChildWatcher
    _DEFAULTS = (type(None), _ThreadedWatcher)
    if sys.version_info >= (3, 12):  # before, it had to be attached
        _DEFAULTS += (unix_events.PidfdChildWatcher,)


def watcher_was_chosen():
    """Has the program set a child watcher that must be asked?"""
    if sys.version_info >= (3, 14):
        return False
    policy = asyncio.get_event_loop_policy()
    default = unix_events._UnixDefaultEventLoopPolicy.get_child_watcher
    return (
        type(policy).get_child_watcher is not default
        or type(policy._watcher) not in _DEFAULTS
    )


# Programs know it by this name, in logs too.
class _UnixSubprocessTransport(
    InContext,
    unix_events._UnixSubprocessTransport,  # type: ignore[name-defined]
):
    _pidfd = -1
    _threaded = False

    def _call(self, callback, *data):
        self._context.run(super()._call, callback, *data)

    def watch(self):
        """Have the child's end reported."""
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except OSError:
            # Forbidden, or no descriptor is left: a thread needs neither.
            self._threaded = True
            _ThreadedWatcher().add_child_handler(
                self._pid, self._loop._child_watcher_callback, self
            )
        else:
            self._loop._children.add(self)
            self._loop._add_reader(self._pidfd, self._reap)

    def forget(self):
        """Close the descriptor, if it is open."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            self._loop._children.discard(self)
            self._loop._remove_reader(pidfd)
            os.close(pidfd)

    def _reap(self):
        self.forget()
        child = self._proc
        if child.returncode is None:
            try:
                _, status = os.waitpid(self._pid, 0)
            except ChildProcessError:
                child.returncode = 255
                logger.warning(
                    "child process pid %d exit status already read: "
                    " will report returncode 255",
                    self._pid,
                )
            else:
                child.returncode = os.waitstatus_to_exitcode(status)
        self._loop.call_soon(self._process_exited, child.returncode)

    def send_signal(self, signal):
        if self._threaded:
            super().send_signal(signal)
            return
        self._check_proc()
        if self._pidfd < 0:
            # It has ended, or the loop is closed: Popen asks which.
            self._proc.send_signal(signal)
            return
        try:
            signals.pidfd_send_signal(self._pidfd, signal)
        except ProcessLookupError:
            pass

    def terminate(self):
        self.send_signal(signals.SIGTERM)

    def kill(self):
        self.send_signal(signals.SIGKILL)
