from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from benchmarks.speed import limits
from benchmarks.speed.limits import main, run_limited
from runtime.errors import InputError, Mismatch

ANSWERS = {
    100: (6, "error: out of memory: x\n"),
    200: (0, ""),
    300: (None, ""),
    400: (-6, "Fatal\n"),
    500: (6, "Traceback (most recent call last):\nMemoryError\n"),
}


def answer(words: Sequence[str], limit_mib: int) -> tuple[int | None, str]:
    assert words[words.index("--backend") + 1] == "ort"
    return ANSWERS[limit_mib]


@pytest.mark.parametrize(("last", "wrong"), [(200, []), (500, [300, 400, 500])])
def test_hangs_crashes_and_tracebacks_are_wrong(
    last: int,
    wrong: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(limits, "run_limited", answer)
    words = ["--from", "100", "--to", str(last), "--step", "100"]
    if wrong:
        with pytest.raises(Mismatch, match=r"3 of 5 .* with 300 MiB, with None"):
            main(words)
    else:
        main(words)
    report = json.loads(capsys.readouterr().out)
    assert [row["limit_mib"] for row in report["wrong"]] == wrong
    assert report["codes"]["6"] == (1 if last == 200 else 2)


def test_a_run_has_so_much_memory_and_no_more() -> None:
    code = "import mmap; mmap.mmap(-1, 300 << 20)"
    assert run_limited(["-c", code], 1000) == (0, "")
    status, said = run_limited(["-c", code], 250)
    assert status == 1 and "Cannot allocate memory" in said


@pytest.mark.parametrize("words", [["--from", "0"], ["--from", "9", "--to", "8"], ["--step", "0"]])
def test_a_sweep_of_nothing_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="wanted 0 < from <= to"):
        main(words)
