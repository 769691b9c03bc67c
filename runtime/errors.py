"""Every error this project raises on purpose, and the exit code each one means.

    Sam2Error                    1   something failed while running
    ├── InputError               3   the data given cannot be used
    │   ├── MissingInput             a file or folder is not there
    │   ├── VolumeError              a file that is no 3-D scalar volume (4-D, RGB, unreadable)
    │   ├── SeriesError              a DICOM folder that is no single regular series
    │   ├── PromptError              a point, box or mask that does not fit the volume
    │   ├── NoImage                  a session was asked for something before it had an image
    │   └── NoObject                 a session has no such object
    ├── CheckpointError          3   a .pt file that is not what it was said to be
    ├── BundleError              4   a bundle that is missing, foreign or too new
    │   ├── BundleIncomplete         files missing or cut short
    │   ├── BundleChanged            a file's bytes differ from the manifest's hash
    │   └── NotFinite                a graph computed NaN or infinity
    ├── BackendUnavailable       5   the back end or device asked for is not usable here
    │   └── MissingPackage           a package that what was asked for needs is not installed
    ├── Mismatch                 1   a back end or bundle that does not compute what its reference does
    ├── Closed                   1   a model that was used after it had been closed
    ├── SessionClosed            1   a session that was used after it had been closed
    ├── SessionBusy              1   a session's prompt for which the network had no time
    ├── WorkerLost               1   a study of a cohort at which workers were lost time and again
    ├── TimeLimit                1   a study of a cohort that took longer than it may
    ├── ExportError              1   a traced graph that does not fit the contract (`export.to_onnx`)
    ├── LeaseExpired, AtCapacity, TooManyRequests, StorageFull, Refused, CannotListen: of the server alone
    │                                (`runtime.serve`)
    └── OutOfMemory              6   the work does not fit

Usage errors are argparse's own (2), and an interrupt is 130, by SIGTERM 143, by SIGHUP 129 (`runtime.process.run`). A
result that stdout does not take is a failure (1). Messages say what was found, what was wanted and how to mend it.
"""

from __future__ import annotations


class Sam2Error(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the commands leave with."""

    exit_code = 1


class InputError(Sam2Error, ValueError):
    """The data given cannot be used."""

    exit_code = 3


class MissingInput(InputError, FileNotFoundError):
    """A file or folder that was named is not there."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class VolumeError(InputError):
    """A file that is no 3-D scalar volume."""


class SeriesError(InputError):
    """A DICOM folder that is no single, evenly spaced series."""


class PromptError(InputError):
    """A prompt that does not fit the volume it was given for."""


class NoImage(InputError):
    """A session was asked for what it can only do with an image."""


class NoObject(InputError):
    """A session has no object of the number that was given."""


class CheckpointError(Sam2Error):
    """A checkpoint that cannot be read safely or does not hold the model it was said to hold."""

    exit_code = 3


class BundleError(Sam2Error):
    """A bundle that is missing, not ours, or of another format version."""

    exit_code = 4


class BundleIncomplete(BundleError):
    """A bundle with a file missing or cut short."""


class BundleChanged(BundleError):
    """A bundle with a file whose bytes are not those the manifest was written for."""


class NotFinite(BundleError):
    """A graph that computed NaN or infinity, of which no mask and no memory may be made.

    Args:
        graph: that computed it.
        output: the tensor that holds it.
        where: what ran the graph; None where that is not known.
    """

    def __init__(self, graph: str, output: str, where: str | None = None) -> None:
        ran = f" on {where}" if where else ""
        super().__init__(
            f"{graph} gave NaN or infinity in {output}{ran}; wanted numbers. Try --backend ort: if that gives them "
            "too, the bundle's weights are damaged: export it again from a checkpoint that is whole"
        )
        self.graph, self.output = graph, output


class BackendUnavailable(Sam2Error):
    """The back end or device asked for cannot be used on this machine."""

    exit_code = 5


class MissingPackage(BackendUnavailable):
    """A package that what was asked for needs is not installed."""


class OutOfMemory(Sam2Error, MemoryError):
    """The work does not fit into memory."""

    exit_code = 6


class Mismatch(Sam2Error):
    """A back end, or a bundle in eight bits, that does not compute what its reference does."""


class Closed(Sam2Error):
    """A model that was used after it had been closed.

    Args:
        graph: that was to be run or loaded.
    """

    def __init__(self, graph: str) -> None:
        super().__init__(f"{graph} was asked for after its model had been closed; load it again")


class SessionClosed(Sam2Error):
    """A session, or its worker, that was used after it had been closed."""


class SessionBusy(Sam2Error):
    """A prompt that was not taken, because the network had no time for it; it may be sent again."""


class WorkerLost(Sam2Error):
    """Workers of a cohort that were lost: while they had a study, each that it was given to, or before they had any."""


class TimeLimit(Sam2Error):
    """A study of a cohort that took longer than it may."""
