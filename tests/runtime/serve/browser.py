"""A real browser on the page, and the server behind it; who uses them skips where there is none."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from runtime.cohort.review import Review
from runtime.io.dicom.seg import SegmentationOptions
from runtime.io.volumes.volume import Volume
from runtime.model import Model
from runtime.serve.app import Door
from runtime.serve.hosts import Hosts
from runtime.serve.limits import Limits
from runtime.serve.server import listen
from runtime.serve.service import Service, Shown

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")
# Without a graphics card the browser's own drawing takes half as long when it does not go through an imitation of one.
PLAIN = (
    "--disable-gpu-rasterization",
    "--disable-accelerated-2d-canvas",
    "--disable-gpu-compositing",
)
CAUTION = "Demonstration. Not for clinical use."
PATIENCE_S = 240.0  # machines of tests are slow, and draw without a graphics card
LIMIT_S = 300.0  # of a whole test: more than one wait has, which says better what it was for
SIZE = {"width": 720, "height": 440}


@contextmanager
def chromium() -> Iterator[BrowserContext]:
    """A browser without a window; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no chromium here (apt-get install --no-install-recommends chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*SOFTWARE, *PLAIN])
        # One profile for all pages: what one has compiled for drawing the next need not.
        context = browser.new_context(viewport=SIZE, accept_downloads=True)
        context.new_page()  # one window for all pages: each would have one of its own, which takes as long as the page
        yield context
        browser.close()


class Served:
    """A server of one model, which can go away and come back on the same port.

    Args:
        model: that segments.
        opened: what every page begins with.
        key: that it asks for.
        limits: of everything.
        review: of a cohort.
        segmentation: how masks are written as DICOM.
    """

    def __init__(
        self,
        model: Model,
        opened: Volume | None = None,
        key: str | None = None,
        limits: Limits | None = None,
        review: Review | None = None,
        segmentation: SegmentationOptions | None = None,
    ) -> None:
        self._model, self._opened, self._key, self._review = model, opened, key, review
        self._segmentation = segmentation
        self._limits = limits or Limits()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self, limits: Limits | None = None) -> None:
        """Begin, with other limits than before if some are given."""
        self._limits = limits or self._limits
        door = Door(Hosts("127.0.0.1"), self._key)
        shown = Shown("nano", CAUTION, self._opened, self._review, "me", self._segmentation)
        self.service = Service(self._model, self._limits, door, "Apache-2.0", shown=shown)
        listener, is_up = listen("127.0.0.1", self.port), threading.Event()
        self.port = listener.getsockname()[1]
        self._server = self.service.server(is_up.set)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        assert is_up.wait(30)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.service.close()


class Viewer:
    """A page, and what one does with it.

    Args:
        browser: that shows it.
        url: of the server, with or without a key.
        layout: of the views; one plane is drawn fastest.
    """

    def __init__(self, browser: BrowserContext, url: str, layout: str = "one") -> None:
        self.page: Page = browser.new_page()
        self.page.add_init_script(f"localStorage.setItem('medsam2-layout', '{layout}')")
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self._note(said.type, said.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))
        self.page.goto(url)

    def _note(self, kind: str, text: str) -> None:
        # The browser reports servers that are gone, answers that are errors, and slow drawing by itself.
        expected = "net::ERR", "Failed to load resource", "ReadPixels"
        if kind in ("error", "warning") and not any(each in text for each in expected):
            self.complaints.append(text)

    def close(self) -> None:
        self.page.close()

    def until(self, what: str) -> None:
        """Wait until a script's value is true; the page's policy forbids it to do so by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.page.evaluate(what):
            assert time.monotonic() < deadline, f"{what}; {self.words('body')}; {self.complaints}"
            time.sleep(0.1)

    def until_ready(self) -> Viewer:
        self.until("document.documentElement.dataset.state === 'ready'")
        return self

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate("window.viewerState()")
        return found

    def words(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def pixel(self, kji: Sequence[int]) -> tuple[float, float]:
        """Where a voxel is in the window, once its slice is shown."""
        at = self.page.evaluate("kji => window.viewerPoint(kji)", list(map(int, kji)))
        box = self.page.locator("#image").bounding_box()
        assert at is not None and box is not None
        return box["x"] + at["x"], box["y"] + at["y"]

    def click(self, kji: Sequence[int], *keys: str) -> None:
        """Click a voxel with keys held, and wait for everything that follows."""
        x, y = self.pixel(kji)
        for key in keys:
            self.page.keyboard.down(key)
        self.page.mouse.click(x, y)
        for key in keys:
            self.page.keyboard.up(key)
        self.until_ready()

    def drag(self, start: Sequence[int], stop: Sequence[int]) -> None:
        """Drag from voxel to voxel of one slice, and wait for everything that follows."""
        (x0, y0), (x1, y1) = self.pixel(start), self.pixel(stop)
        self.page.mouse.move(x0, y0)
        self.page.mouse.down()
        self.page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2)
        self.page.mouse.move(x1, y1)
        self.page.mouse.up()
        self.until_ready()

    def release(self) -> None:
        """End the session behind the page's back."""
        status = self.page.evaluate(
            "fetch('/api/session', {method: 'DELETE',"
            " headers: {'X-Lease-Token': sessionStorage.getItem('medsam2-session')}}).then(a => a.status)"
        )
        assert status == 204

    def prompts(self) -> list[list[list[int]]]:
        """Boxes of the selected object's prompts, as the server has them."""
        found: list[list[list[int]]] = self.page.evaluate(
            "fetch('/api/session', {headers: {'X-Lease-Token': sessionStorage.getItem('medsam2-session')}})"
            ".then(a => a.json()).then(s => s.objects.find(o => o.id === window.viewerState().selected)"
            ".prompts.map(p => p.box))"
        )
        return found

    def grey(self, kji: Sequence[int]) -> tuple[int, int, int]:
        """The colour on the screen where a voxel is."""
        from io import BytesIO

        from PIL import Image

        x, y = self.pixel(kji)
        self.page.wait_for_timeout(200)
        clip = {"x": round(x) - 1, "y": round(y) - 1, "width": 3, "height": 3}
        shot = Image.open(BytesIO(self.page.screenshot(clip=clip))).convert("RGB")
        red, green, blue = shot.getpixel((1, 1))
        return red, green, blue
