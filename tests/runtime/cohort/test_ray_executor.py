"""What Ray says of a lost worker, in a line."""

from __future__ import annotations

import pytest

from runtime.cohort.ray_executor import LONGEST_REASON, reason_of

NODE = (
    "The actor died unexpectedly before finishing this task. The actor died because its node has died. Node Id: a219 "
    "the actor's node was terminated: health check failed due to missing too many heartbeats"
)
PROCESS = (
    "The actor died unexpectedly before finishing this task. Worker unexpectedly exits with a connection error code 2. "
    "End of file. Some common causes include: (1) the process was killed by the OOM killer"
)

NO_START = (
    "The actor died because of an error raised in its creation task, ray::StudyWorker.__init__() (pid=9)\n"
    "RuntimeError: The actor with name StudyWorker failed to import on the worker.\n\n"
    "ModuleNotFoundError: No module named 'runtime'"
)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (NO_START, "it could not begin: ModuleNotFoundError: No module named 'runtime'"),
        (NODE, "its node was lost"),
        ("it died: node failure", "its node was lost"),
        (PROCESS, "its process was ended (SIGKILL, a crash, or the system out of memory)"),
        ("something\n  else", "something else"),
        ("x" * 1000, "x" * LONGEST_REASON),
    ],
)
def test_reasons_are_short(said: str, reason: str) -> None:
    assert reason_of(RuntimeError(said)) == reason
