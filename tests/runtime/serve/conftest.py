"""One browser for all tests of this folder, none of which may hang for ever; a model, and who asks a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtime.model import Model, load
from tests.runtime.serve.browser import LIMIT_S, Served, Viewer, chromium
from tests.runtime.serve.page_client import Client
from tests.time_limit import time_limit

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

FOLDER = Path(__file__).parent


class Held:
    """A browser that is started once somebody wants it.

    Until it is closed Playwright's event loop is the main thread's: what has one of its own runs it in another thread.
    """

    def __init__(self) -> None:
        self._stack, self._browser = ExitStack(), None

    def get(self) -> BrowserContext:
        self._browser = self._browser or self._stack.enter_context(chromium())
        return self._browser

    def close(self) -> None:
        self._browser = None
        self._stack.close()


HELD = Held()


@pytest.fixture(scope="module")
def browser() -> BrowserContext:
    """A browser; skips the test where there is none."""
    return HELD.get()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Close the browser after the last test of this folder."""
    if nextitem is None or FOLDER not in nextitem.path.parents:
        HELD.close()


@pytest.fixture(autouse=True)
def limited(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is evaluated in a page has no limit of Playwright's: a test with a browser has one of ours."""
    if "browser" not in request.fixturenames:
        yield
        return
    with time_limit(LIMIT_S):
        yield


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The embedded one."""
    model = load(threads=1)
    yield model
    model.close()


@pytest.fixture
def viewer(browser: BrowserContext, served: Served) -> Iterator[Viewer]:
    """The page of a module's own server, on which nothing may have failed in the end; its session ends with it."""
    viewer = Viewer(browser, served.url).until_ready()
    yield viewer
    assert viewer.complaints == []
    viewer.release()
    viewer.close()


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    """A page's requests of a module's own server, with a session."""
    client = Client(served.port)
    client.claim()
    yield client
    client.ask("DELETE", "/api/session")
