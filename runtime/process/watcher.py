"""Two processes in place of one where memory is limited: one works and may be crashed by its libraries, one says why.

A C library that gets no memory for a thread's storage aborts, and so does a C++ one in a thread of its own. Nobody can
catch that within a process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress

from runtime.errors import OutOfMemory

if sys.platform == "linux":
    CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
    PR_SET_PDEATHSIG = 1  # linux/prctl.h
NO_THREAD_LOCAL_DATA = 127
"""What glibc's loader leaves with when it gets no memory for that; no command of ours does."""


def work_in_a_child(signals: Collection[int]) -> None:
    """Return in a child process; the parent waits for it and leaves with its exit code, or OutOfMemory's if it crashed.

    Signals that were sent to the parent alone are passed on. Those that a terminal sends reach the child by themselves.
    """
    if sys.platform != "linux":  # others do not limit what a process may ask for
        return
    # Where it is ignored, nobody learns how a child ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    awaited = {*signals, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    watcher = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(watcher)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        came = signal.sigwaitinfo(awaited)
        if came.si_signo != signal.SIGCHLD:
            if came.si_code <= 0:  # sent by a process, as opposed to the system
                os.kill(child, came.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            os._exit(_exit_code(os.waitstatus_to_exitcode(status)))


def _exit_code(code: int) -> int:
    if -code in CRASHES:
        how = signal.Signals(-code).name
    elif code == NO_THREAD_LOCAL_DATA:
        how = f"exit code {code}"
    else:
        return code if code >= 0 else 128 - code
    with suppress(OSError):
        os.write(2, f"\nerror: out of memory: a library ended the process ({how})\n".encode())
    return OutOfMemory.exit_code


def _die_with(watcher: int) -> None:
    """Nobody works on for a parent that was killed."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != watcher:
        os._exit(128 + signal.SIGKILL)
