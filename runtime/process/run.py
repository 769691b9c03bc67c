"""A command's process: its signals and its exit code.

It is imported before anything else, and imports nothing that takes time, so that an interrupt finds it there.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from runtime.errors import InputError, OutOfMemory, Sam2Error
from runtime.process.shortage import (
    is_limited,
    is_tight,
    settle_openblas,
    shortage_behind,
    shortage_words,
)
from runtime.process.streams import close_streams, open_streams
from runtime.process.watcher import work_in_a_child

# A path that was given and that nothing can be called, or nothing is.
NO_SUCH_NAME = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR)
IMPORTER = "<frozen importlib._bootstrap>"  # what Python calls the code that imports
QUIET = ("highdicom", "pydicom", "dicomweb_client")
"""Packages that tell of every module, every odd value that they copy, and every request."""
SIGNALS = [
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    if (number := getattr(signal, name, None)) is not None
]


def run_command(module: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Import a command's module, run its `main` and leave with its exit code (see `runtime.errors`).

    Args:
        module: name of a module with `main(arguments)`.
        arguments: of the command; None takes the process's own.
    """
    if is_limited():
        work_in_a_child(SIGNALS)
    signals = Signals()
    signals.install()
    open_streams()
    code = close_streams(outcome(lambda: _run(module, arguments, signals), signals))
    signals.end()
    if code == OutOfMemory.exit_code:
        os._exit(code)  # libraries that got no memory may crash while they are torn down
    sys.exit(code)


def medsam2() -> NoReturn:
    """What the console script calls."""
    run_command("runtime.__main__")


def _run(module: str, arguments: Sequence[str] | None, signals: Signals) -> None:
    import logging
    from importlib import import_module

    settle_openblas()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    main = import_module(module).main
    signals.is_working = True
    main(arguments)


def outcome(run: Callable[[], None], signals: Signals | None = None) -> int:
    """Run something; returns the exit code of what it raises, and says that in one line on stderr.

    Only what nobody has foreseen is shown with its traceback.
    """
    signals = signals or Signals()
    try:
        try:
            run()
            return 0
        except BaseException as error:
            signals.is_working = False
            return _exit_code(error, signals)
    except KeyboardInterrupt:  # in the two lines above; no other is raised after the first
        return signals.code


class Signals:
    """What SIGINT, SIGTERM and SIGHUP do: each is an interrupt whose exit code is 128 and its number.

    While a command works, the first one raises KeyboardInterrupt. A second one comes from somebody who does not want to
    wait, and ends the process at once. So does one that comes while a library is imported: some of them turn a
    KeyboardInterrupt into an error of their own, others abort. Unfinished files go in any case.
    """

    def __init__(self) -> None:
        self.is_working = False
        self.came: int | None = None
        """The first one's number."""
        self._process = os.getpid()

    @property
    def code(self) -> int:
        """Exit code of an interrupted process."""
        return 128 + (self.came or signal.SIGINT)

    def install(self) -> None:
        """Take the place of the handlers. What this process was told to ignore, as `nohup` does, stays ignored."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        sys.unraisablehook = self._cannot_raise

    def end(self) -> None:
        """All is done and said: nothing is left to interrupt but Python's own end, which would show a traceback."""
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child of a library's that has inherited this
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self.came is None:
            self.came = number
            if self.is_working and not _is_importing(frame):
                self.is_working = False
                raise KeyboardInterrupt
        self._leave()

    def _cannot_raise(self, problem: sys.UnraisableHookArgs) -> None:
        """An interrupt in a callback or destructor cannot be raised from there, and is heeded all the same."""
        if issubclass(problem.exc_type, KeyboardInterrupt):
            self._leave()
        sys.__unraisablehook__(problem)

    def _leave(self) -> NoReturn:
        if writers := sys.modules.get("runtime.files.atomic"):
            writers.remove_unfinished()
        with suppress(OSError):
            os.write(2, b"interrupted\n")
        os._exit(self.code)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is imported somewhere below a frame."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTER:
            return True
        frame = frame.f_back
    return False


def _exit_code(error: BaseException, signals: Signals) -> int:
    is_expected = isinstance(error, (Sam2Error, OSError, KeyboardInterrupt))
    if is_expected or signals.came is not None or shortage_behind(error):
        _release(error)
    if signals.came is not None or isinstance(error, KeyboardInterrupt):
        # Whatever a library has made of it: an import that was interrupted may be an ImportError.
        _say("interrupted")
        return signals.code
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        _say(error.code)
        return 1
    if known := foreseen(error):
        code, _, text = known
        _say_error(text)
        return code
    if is_tight():  # such as a library's "I/O operation on closed file", for memory it did not get
        _say_error(f"out of memory: {type(error).__name__}: {error}")
        return OutOfMemory.exit_code
    import traceback

    traceback.print_exception(error)
    return Sam2Error.exit_code


def foreseen(error: BaseException) -> tuple[int, str, str] | None:
    """Exit code, name and words of an error that whoever gave the command can mend; None for any other."""
    shortage = shortage_behind(error)
    if shortage and not isinstance(error, OutOfMemory):
        return OutOfMemory.exit_code, OutOfMemory.__name__, shortage_words(shortage)
    name = type(error).__name__
    if isinstance(error, Sam2Error):
        return error.exit_code, name, str(error)
    if isinstance(error, OSError):
        is_folder_gone = error.errno == errno.ENOENT and not error.filename
        kind = InputError if error.errno in NO_SUCH_NAME else Sam2Error
        return kind.exit_code, name, f"{error}{' (is this folder still there?)' * is_folder_gone}"
    if isinstance(error, ModuleNotFoundError):
        from runtime.process.packages import missing

        if instead := missing(error):
            return instead.exit_code, type(instead).__name__, str(instead)
    return None


def _release(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold, such as arrays and progress bars, which end with a line of theirs."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _say_error(text: str) -> None:
    """Say an error in one line: libraries' own words, quoted in it, may hold several."""
    _say(f"error: {' '.join(text.split())}")


def _say(text: object) -> None:
    print(text, file=sys.stderr)
