"""Whatever memory there is, a command ends with 0 or 6."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import OutOfMemory
from runtime.process import container, shortage
from runtime.process.shortage import check_room, is_out_of_memory, settle_openblas

resource = pytest.importorskip("resource", reason="no limits on memory")
ROOT = Path(__file__).parents[3]
CODE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 20,) * 2)
sys.argv = ["runtime.commands.bench", "--slices", "1", "--image-size", "32", "--repeat", "1"]
from runtime.process.run import run_command
run_command("runtime.commands.bench")
"""


@pytest.mark.parametrize("mib", [60, 215, 300, 4096])
def test_a_lack_of_memory_is_one_line_and_its_own_exit_code(mib: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(mib)], cwd=ROOT, capture_output=True, text=True
    )
    lines = done.stderr.splitlines()
    assert done.returncode in (0, 6), lines
    assert done.returncode == (6 if mib < 200 else 0) or 200 < mib < 4096
    if done.returncode:
        assert done.stdout == ""
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]


@pytest.mark.skipif(sys.platform != "linux", reason="others do not limit it")
@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        ("os.abort()", 6, "error: out of memory: a library ended the process (SIGABRT)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 6, "ended the process (SIGSEGV)"),
        ("os._exit(127)", 6, "a library ended the process (exit code 127)"),
        ("os.kill(os.getppid(), signal.SIGINT); time.sleep(60)", 130, "interrupted"),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", 143, "interrupted"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, ""),
        ("raise InputError('no')", 3, "error: no"),
        ("print('done')", 0, ""),
    ],
)
def test_where_memory_is_limited_a_crash_is_a_lack_of_it(
    does: str, code: int, says: str, tmp_path: Path
) -> None:
    (tmp_path / "crashing.py").write_text(
        "import os, signal, time\nfrom runtime.errors import InputError\n"
        f"def main(arguments):\n    {does}\n"
    )
    start = (
        "import resource, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2)\n"
        "from runtime.process.run import run_command; run_command('crashing', [])"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ("done\n" if code == 0 else "")


def test_room_is_looked_for_before_it_is_needed() -> None:
    check_room(1 << 20, "this")
    with pytest.raises(OutOfMemory, match=r"that needs 1099511627776 MiB.*ulimit -v"):
        check_room(1 << 60, "that")


def test_where_memory_is_tight_a_librarys_error_is_taken_for_a_lack_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("could not create a primitive")
    assert not is_out_of_memory(error)
    monkeypatch.setattr(shortage, "is_limited", lambda: True)
    assert not is_out_of_memory(error)
    monkeypatch.setattr(shortage, "_has", lambda size_bytes: size_bytes < 64 << 20)
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError("no number"))


def test_openblas_has_one_thread_where_memory_or_threads_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a thread it would send the process an interrupt, which nobody could tell from a user's."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(container, "thread_limit", lambda: None)
    limits = {resource.RLIMIT_NPROC: 1024}
    monkeypatch.setattr(
        resource, "getrlimit", lambda limit: (limits.get(limit, resource.RLIM_INFINITY),) * 2
    )
    settle_openblas()
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    for limit in (resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limits[limit] = 1023
        settle_openblas()
        assert os.environ.pop("OPENBLAS_NUM_THREADS") == "1"
        del limits[limit]
    for in_container, threads in ((1023, "1"), (1024, None)):
        monkeypatch.setattr(container, "thread_limit", lambda most=in_container: most)
        settle_openblas()
        assert os.environ.pop("OPENBLAS_NUM_THREADS", None) == threads
