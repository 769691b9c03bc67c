from __future__ import annotations

import pytest

from runtime.jobs.job import Job
from tests.fakes import TELLING, fake_model


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs the fake model, in whose answers everything that was read leaves its mark."""
    monkeypatch.setattr(Job, "load", lambda job: fake_model(TELLING)[0])
