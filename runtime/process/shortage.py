"""Whether an error means that memory ran out: libraries say so in many ways, and few of them raise MemoryError.

Whoever turns a library's error into one of ours asks here first, so that what does not fit is never taken for a
damaged file, a foreign bundle or a missing package.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress

from runtime.errors import OutOfMemory, Sam2Error

SIGNS = (
    "bad_alloc",  # C++: ONNX Runtime, OpenVINO, ITK, FFmpeg's bindings
    "bad allocation",  # the same on Windows
    "bad array new length",
    "failed to allocate",  # ONNX Runtime's arena, ITK's pixel containers, HDF5
    "failed to map segment",  # the dynamic loader, as an ImportError: a library that does not fit
    "cannot allocate memory",  # ENOMEM in words
    "unable to allocate",  # numpy
    "not enough memory",
    "out of memory",  # CUDA, TensorRT, GDCM
    "can't alloc",  # OpenVINO's nodes
    "could not allocate",
    *(
        NO_THREAD := (
            "can't start new thread",  # Python: no memory for a stack, or no more processes allowed
            "pthread_create",  # ONNX Runtime: the same
            "resource temporarily unavailable",  # EAGAIN in words: the same
        )
    ),
)
"""Parts of messages, in small letters."""

MORE_THREADS = "allow more (ulimit -u, docker run --pids-limit)"
"""How to have more threads, for messages."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's numbers for a disk that is full, for all or for this user."""

NOWHERE_TO_WRITE = (*DISK_FULL, errno.EROFS)
"""The same, and for one that may only be read."""

OPENBLAS_BYTES = 192 << 20
"""What importing numpy takes with one thread, and a buffer of OpenBLAS's (64 MiB and 32 MiB), twice."""
PRODUCT = 128  # rows: enough for OpenBLAS to take a buffer, which it keeps

TIGHT_BYTES = 64 << 20
"""Where memory is limited and less than this is left, whatever a library complains of is taken for a lack of it."""

FEW_THREADS = 1024  # processes and threads of a user, or of a container

SPEAK_OF_DATA = (Sam2Error, ValueError, TypeError, LookupError)
"""Errors whose words may be the user's own; libraries do not report a lack of memory by them."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, means that memory (or room for a thread) ran out.

    An OSError says so by its number alone, since its words hold names of files.
    """
    return shortage_behind(error) is not None


def shortage_behind(error: BaseException) -> BaseException | None:
    """The lack of memory that an error was raised from, or the error itself if it is one."""
    return next((link for link in causes(error) if _says_so(link)), None)


def shortage_words(shortage: BaseException) -> str:
    """What a lack of memory, or of room for a thread, is told of as."""
    said = str(shortage) or type(shortage).__name__
    if not lacks_thread(shortage):
        return f"out of memory: {said}"
    return (
        f"no further thread could be started ({said}): this user or container may have no more of them, or there is no "
        f"memory for one; {MORE_THREADS}, or end other programs"
    )


def lacks_thread(shortage: BaseException) -> bool:
    """Whether it is a thread that was not to be had."""
    return any(sign in str(shortage).lower() for sign in NO_THREAD)


def check_room(size_bytes: int, what: str) -> None:
    """Raise OutOfMemory unless so many bytes could still be had; they are given back at once.

    Args:
        size_bytes: that something is known to need.
        what: it is, for the message.
    """
    if not _has(size_bytes):
        raise OutOfMemory(
            f"{what} needs {size_bytes >> 20} MiB of address space, and less is left; "
            "allow more (ulimit -v) or free some"
        )


def settle_openblas() -> None:
    """Give numpy's OpenBLAS what it needs, where memory or threads are limited (`ulimit -v`, `ulimit -u`,
    a container).

    It asks for memory when it is loaded, for each of its threads, and at the first large product. Where it gets none
    it calls `exit`, and where it gets no thread it sends the process an interrupt.
    """
    if not (is_limited() or _has_few_threads()):
        return
    # Its products are few here, and back ends have threads of their own.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    check_room(OPENBLAS_BYTES, "numpy")
    import numpy as np

    square = np.ones((PRODUCT, PRODUCT))
    np.dot(square, square)


def _has(size_bytes: int) -> bool:
    try:
        mmap.mmap(-1, size_bytes).close()
    except (OSError, MemoryError, OverflowError):
        return False
    return True


def is_limited() -> bool:
    """Whether this process may have only so much memory (`ulimit -v`, `ulimit -d`)."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return any(resource.getrlimit(limit)[0] != resource.RLIM_INFINITY for limit in limits)


def is_tight() -> bool:
    """Whether memory is limited and hardly any is left, so that nearly any error may come from that."""
    return is_limited() and not _has(TIGHT_BYTES)


def _has_few_threads() -> bool:
    from runtime.process.container import thread_limit

    limits = [thread_limit()]
    with suppress(ImportError):  # Windows
        import resource

        of_user = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limits += [] if of_user == resource.RLIM_INFINITY else [of_user]
    return any(limit is not None and limit < FEW_THREADS for limit in limits)


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, SPEAK_OF_DATA):
        return False
    text = str(error).lower()
    return any(sign in text for sign in SIGNS) or is_tight()


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
