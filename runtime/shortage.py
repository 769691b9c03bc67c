"""Whether an error means that memory ran out: libraries say so in many ways, and few of them raise MemoryError.

Whoever turns a library's error into one of ours asks here first, so that what does not fit is never taken for a
damaged file, a foreign bundle or a missing package.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from runtime.errors import Sam2Error

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
    "can't allocate",
    "can't start new thread",  # Python: no memory for a stack, or no more processes allowed
    "pthread_create",  # ONNX Runtime: the same
    "resource temporarily unavailable",  # EAGAIN in words: the same
)
"""Parts of messages, in small letters."""

SPEAK_OF_DATA = (Sam2Error, ValueError, TypeError, LookupError)
"""Errors whose words may be the user's own; libraries do not report a lack of memory by them."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, means that memory (or room for a thread) ran out.

    An OSError says so by its number alone, since its words hold names of files.
    """
    return any(_says_so(link) for link in _causes(error))


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, SPEAK_OF_DATA):
        return False
    text = str(error).lower()
    return any(sign in text for sign in SIGNS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
