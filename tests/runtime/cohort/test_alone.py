"""One driver for each output."""

from __future__ import annotations

import errno
import fcntl
import logging
from pathlib import Path

import pytest

from runtime.cohort.alone import alone
from runtime.errors import InputError


def test_a_second_command_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with alone(tmp_path / "out"):
        with pytest.raises(InputError, match="another medsam2 cohort"), alone(tmp_path / "out"):
            pass
        with alone(tmp_path / "other"):
            pass
    with alone(tmp_path / "out"):
        pass


def test_where_nothing_can_be_locked_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*words: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), alone(tmp_path):
        pass
    assert "No locks available" in caplog.text
