from __future__ import annotations

from runtime.process.counted import counted


def test_one_is_singular_and_none_and_all_others_are_plural() -> None:
    said = [counted(count, "worker") for count in (0, 1, 2, 11)]
    assert said == ["0 workers", "1 worker", "2 workers", "11 workers"]
    assert [counted(n, "study", "studies") for n in (1, 2)] == ["1 study", "2 studies"]
