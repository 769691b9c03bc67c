"""The page in windows of odd sizes, in tabs that nobody sees, and with what is hard to show."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from runtime.io.volumes.volume import Volume
from runtime.io.write import write_mask
from runtime.model import Model
from runtime.serve.bits import pack
from runtime.serve.limits import Limits
from runtime.serve.page_static import FOLDER
from tests.runtime.serve.browser import LIMIT_S, Served, Viewer
from tests.runtime.serve.page_client import packed
from tests.time_limit import time_limit

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

SHAPE = (6, 48, 64)
CONTRAST = 4.5  # of small text, by WCAG 2.2, 1.4.3
KEY = "correct+horse&battery=staple"  # as base64 may have it
RECTANGLES = """['.tools', '.views', '.side'].map(name => {
  const {left, top, right, bottom} = document.querySelector(name).getBoundingClientRect();
  return [left, top, right, bottom];
})"""

IS_DRAWN = """(({width, height, clientWidth, clientHeight}) =>
  width === clientWidth && height === clientHeight)(document.getElementById('image'))"""
"""Whether the images are drawn for the size that they are shown in."""


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Bright in a block, in values as small as those of diffusion in m²/s."""
    array = np.full(SHAPE, 1e-10, np.float32)
    array[3, 10:20, 40:60] = 3e-9
    return Volume(array, (2.0, 1.0, 1.0), source="small.nii.gz")


@pytest.fixture(scope="module")
def served(model: Model, volume: Volume) -> Iterator[Served]:
    served = Served(model, volume)
    yield served
    served.stop()


def luminance(colour: str) -> float:
    """Of a colour "#rrggbb", by WCAG 2.2."""
    shares = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_words_stand_out_from_what_they_are_on() -> None:
    style = (FOLDER / "style.css").read_text("utf-8")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", style))
    for words, ground in product(("text", "dim", "faint"), ("bg", "panel", "raised")):
        light, dark = luminance(colours[words]), luminance(colours[ground])
        assert (light + 0.05) / (dark + 0.05) >= CONTRAST, (words, ground)


@pytest.mark.parametrize("width, height", [(550, 350), (320, 480)])
def test_nothing_lies_on_anything_else_in_a_small_window(
    viewer: Viewer, width: int, height: int
) -> None:
    viewer.page.set_viewport_size({"width": width, "height": height})
    viewer.until(f"innerWidth === {width} && document.documentElement.scrollWidth === {width}")
    viewer.until(IS_DRAWN)
    for one, other in pairwise(viewer.page.evaluate(RECTANGLES)):
        assert one[2] <= other[0] or one[3] <= other[1]
        assert max(one[2], other[2]) <= width and max(one[3], other[3]) <= height
    assert viewer.page.is_visible("#help-open")
    viewer.click((3, 15, 50))
    assert viewer.prompts() == [[[3, 4], [15, 16], [50, 51]]]


def test_names_of_objects_and_planes_are_whole_in_a_small_window(viewer: Viewer) -> None:
    viewer.page.set_viewport_size({"width": 640, "height": 400})
    viewer.until("innerWidth === 640")
    width, whole = viewer.page.evaluate(
        "(({clientWidth, scrollWidth}) => [clientWidth, scrollWidth])"
        "(document.querySelector('#objects .pick b'))"
    )
    assert viewer.words("#objects .pick b") == "Object 1" and whole <= width
    assert (
        viewer.words("#link") == "Connected"
    )  # to screen readers; there is room for its dot alone
    assert viewer.page.get_by_role("heading", name="MedSAM2").count() == 1
    name, side = viewer.page.evaluate(
        "import('/page/marks.js').then(({Marks}) => {"
        " const said = [];"
        " const pen = {strokeText() {}, fillText: (words, x) => said.push(x), measureText: () => ({width: 50})};"
        " const viewer = {describe: () => ({name: 'Coronal', sides: ['S', 'I', 'R', 'L'], axis: 1})};"
        " const marks = new Marks({getContext: () => pen}, {viewer});"
        " marks.words({}, {left: 0, top: 0, width: 110, height: 90});"
        " return said;})"
    )[:2]
    assert side - 5 > name + 50  # a letter in the middle is 10 pixels wide


def test_colours_of_the_systems_own_show_what_is_chosen_and_all_sliders(viewer: Viewer) -> None:
    viewer.page.emulate_media(forced_colors="active")
    chosen, other = viewer.page.evaluate(
        "['[aria-checked=true]', '[aria-checked=false]'].map(which =>"
        " getComputedStyle(document.querySelector('#tools ' + which)).backgroundColor)"
    )
    assert chosen != other
    for name in ("slice", "opacity"):
        look = f"getComputedStyle(document.getElementById('{name}')).appearance"
        assert viewer.page.evaluate(look) == "auto"
    viewer.page.emulate_media(forced_colors="none")


def test_a_finger_is_the_left_button_and_two_zoom_and_pan(viewer: Viewer) -> None:
    screen = viewer.page.context.new_cdp_session(viewer.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)]
        screen.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": fingers})

    x, y = viewer.pixel((3, 24, 32))
    left = viewer.pixel((3, 24, 28))[0]
    viewer.page.keyboard.press("b")
    touch("Start", (x - 20, y))
    touch("Start", (x - 20, y), (x + 20, y))
    for step in range(1, 6):
        touch("Move", (x - 20 - 4 * step, y), (x + 20 + 4 * step, y))
    touch("End", (x - 40, y))
    touch("Move", (x + 30, y + 30))  # what is left of two fingers draws nothing
    touch("End")
    assert viewer.pixel((3, 24, 32)) == pytest.approx((x, y), abs=1)
    assert viewer.pixel((3, 24, 28))[0] == pytest.approx(x + 2 * (left - x), abs=1)

    touch("Start", (x - 20, y))
    touch("Start", (x - 20, y), (x + 20, y))
    touch("Move", (x + 10, y + 10), (x + 50, y + 10))
    touch("End")
    assert viewer.pixel((3, 24, 32)) == pytest.approx((x + 30, y + 10), abs=1)
    viewer.page.keyboard.press("0")
    assert viewer.prompts() == []

    a, b = viewer.pixel((3, 9, 39)), viewer.pixel((3, 20, 60))
    touch("Start", a)
    touch("Move", ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2))
    touch("Move", b)
    touch("End")
    viewer.until("document.querySelectorAll('#prompts li').length === 1")
    viewer.until_ready()
    assert viewer.prompts() == [[[3, 4], [9, 21], [39, 61]]]


def test_a_name_is_shown_as_it_is_and_without_what_cannot_be_printed(viewer: Viewer) -> None:
    viewer.page.keyboard.press("F2")
    viewer.page.keyboard.insert_text("<img src=x onerror=fail()>\u202e \u00a0kidney\u200d")
    viewer.page.keyboard.press("Enter")
    viewer.until("window.viewerState().objects[0].name !== 'Object 1'")
    assert viewer.state["objects"][0]["name"] == "<img src=x onerror=fail()> kidney"
    assert viewer.words("#objects b") == "<img src=x onerror=fail()> kidney"
    assert viewer.page.locator("#objects img").count() == 0


def test_bytes_are_counted_as_they_come_also_where_nobody_says_how_many(viewer: Viewer) -> None:
    for length, shares in (("4", [0.75, 1]), ("2", [1, 1]), (None, [])):
        told = viewer.page.evaluate(
            "async length => {"
            " const {Api} = await import('/page/api.js');"
            " const pieces = new ReadableStream({start(to) {"
            "  for (const text of ['abc', 'd']) to.enqueue(new TextEncoder().encode(text));"
            "  to.close();"
            " }});"
            " const [api, shares] = [new Api(), []];"
            " api.send = async () => new Response(pieces, length ? {headers: {'Content-Length': length}} : {});"
            " const blob = await api.download('/x', share => shares.push(share));"
            " return [await blob.text(), shares];"
            "}",
            length,
        )
        assert told == ["abcd", shares]


def test_renaming_ends_with_enter_and_does_nothing_else(viewer: Viewer) -> None:
    viewer.page.click("#object-add")
    viewer.until("window.viewerState().objects.length === 2")
    viewer.page.keyboard.press("F2")
    viewer.page.keyboard.insert_text("\u0643\u0628\u062f")
    viewer.page.evaluate(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true}))"
    )
    assert viewer.page.locator("#objects .name").count() == 1  # the letters are still being chosen
    viewer.page.keyboard.press("Enter")
    viewer.until("window.viewerState().objects[1].name === '\u0643\u0628\u062f'")
    direction = "getComputedStyle(document.querySelector('#objects [data-selected] b')).direction"
    assert viewer.page.evaluate(direction) == "rtl"
    assert len(viewer.state["objects"]) == 2  # the button that was pressed before has the focus


def test_the_object_that_is_selected_is_seen_in_a_long_list(viewer: Viewer) -> None:
    for count in range(2, 9):
        viewer.page.click("#object-add")
        viewer.until(f"window.viewerState().objects.length === {count}")
    for place in (":last-child", ":first-child"):
        top, bottom, low, high = viewer.page.evaluate(
            "['#objects', '#objects [data-selected]'].flatMap(which => {"
            " const {top, bottom} = document.querySelector(which).getBoundingClientRect();"
            " return [top, bottom];})"
        )
        assert top <= low and high <= bottom
        assert viewer.page.locator(f"#objects li{place}[data-selected]").count() == 1
        viewer.page.keyboard.press("1")


def test_a_click_is_where_it_is_seen_before_the_next_frame_too(viewer: Viewer) -> None:
    top = viewer.page.locator("#image").bounding_box()["y"]  # type: ignore[index]
    x, y = viewer.pixel((3, 15, 50))
    viewer.page.evaluate("document.getElementById('image').style.height = '50%'")
    squeezed = viewer.pixel((3, 15, 50))
    assert squeezed == pytest.approx((x, (top + y) / 2), abs=1)
    viewer.click((3, 15, 50))
    assert viewer.prompts() == [[[3, 4], [15, 16], [50, 51]]]


def test_a_page_that_hangs_fails_its_test_and_no_other(browser: BrowserContext) -> None:
    page = browser.new_page()
    with pytest.raises(pytest.fail.Exception, match=r"longer than 0\.5 s"), time_limit(0.5):
        page.evaluate("for (;;);")
    page.close()
    other = browser.new_page()
    assert other.evaluate("6 * 7") == 42
    other.close()


def test_a_test_with_a_browser_has_a_time_limit(browser: BrowserContext) -> None:
    left_s, again_s = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < left_s <= LIMIT_S and again_s > 0


DROP = """(count) => {
  const dataTransfer = new DataTransfer();
  for (let n = 0; n < count; n++) dataTransfer.items.add(new File(["x"], `${n}.dcm`));
  dispatchEvent(new DragEvent("drop", {dataTransfer, cancelable: true}));
}"""


def test_what_cannot_be_opened_at_all_is_said_before_it_is_sent(viewer: Viewer) -> None:
    for count, why in ((0, "no file in it"), (5001, "more than 5000")):
        viewer.page.evaluate(DROP, count)
        viewer.until(f"document.getElementById('banner-text').textContent.includes('{why}')")
        viewer.until_ready()


def test_a_fault_of_the_page_is_told(browser: BrowserContext, served: Served) -> None:
    viewer = Viewer(browser, served.url).until_ready()
    for script in (
        "void Promise.reject(Error('wrong'))",
        "void setTimeout(() => { throw Error('bad'); })",
    ):
        viewer.page.evaluate(script)
        word = script.split("'")[1]
        viewer.until(
            f"document.getElementById('banner-text').textContent.includes('failed: {word}')"
        )
    assert len(viewer.complaints) == 2
    viewer.release()
    viewer.close()


def test_small_values_are_seen(viewer: Viewer) -> None:
    assert min(viewer.grey((3, 15, 50))) > 150
    assert max(viewer.grey((3, 30, 20))) < 60
    assert viewer.state["window"] == pytest.approx([1e-10, 3e-9])
    viewer.page.mouse.move(*viewer.pixel((3, 15, 50)))
    viewer.until("document.getElementById('readout').textContent.startsWith('3.00e-9')")


# Slices from left to right, rows downwards, columns backwards to the front: a sagittal series.
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
SMALL_CARD = """(() => {
  const {getParameter} = WebGL2RenderingContext.prototype;
  WebGL2RenderingContext.prototype.getParameter = function (name) {
    return name === this.MAX_3D_TEXTURE_SIZE ? 64 : getParameter.call(this, name);
  };
})()"""
"""A graphics card that takes volumes of 64 voxels along a side; many take 2048."""
SEED = """(bits) => fetch('/api/objects/1/mask', {method: 'PUT', body: new Uint8Array(bits),
  headers: {'X-Lease-Token': sessionStorage.getItem('medsam2-session')}}).then(answer => answer.status)"""


@pytest.mark.parametrize("direction", [None, SAGITTAL])
def test_what_is_too_large_for_the_graphics_card_is_shown_coarser(
    browser: BrowserContext, model: Model, direction: tuple[float, ...] | None
) -> None:
    array = np.zeros((4, 70, 150), np.uint8)
    array += np.array([40, 90, 140, 200], np.uint8)[:, None, None]  # each slice has its own grey
    array[:, 20:30, 60:120] = 255
    array[2, 41, 31] = 77
    place = (0.0, 0.0, 0.0), direction or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    served = Served(model, Volume(array, (3.0, 1.0, 1.0), *place, source="wide.nii.gz"))
    viewer = Viewer(browser, served.url).until_ready()
    try:
        viewer.page.add_init_script(SMALL_CARD)
        viewer.page.reload()
        viewer.until_ready()
        assert viewer.words("#file-facts").endswith("shown coarser")
        for slice_, grey in ((3, 200), (0, 40), (1, 90)):
            assert viewer.grey((slice_, 60, 130)) == pytest.approx((grey,) * 3, abs=4)
        assert min(viewer.grey((2, 22, 64))) == 255 and min(viewer.grey((2, 28, 115))) == 255
        assert max(viewer.grey((2, 17, 64))) < 150 and max(viewer.grey((2, 25, 124))) < 150
        viewer.pixel((2, 41, 31))
        viewer.until("document.getElementById('readout').textContent === '77   at 32, 42, 3'")
        viewer.page.locator("#image").focus()
        for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
            before = viewer.state["voxel"]
            viewer.page.keyboard.press(key)
            moved = np.abs(np.subtract(viewer.state["voxel"], before))
            assert moved.tolist() in ([0, 0, 1], [0, 1, 0])
        viewer.click((2, 25, 91))
        [(planes, rows, columns)] = viewer.prompts()
        assert (planes, rows) == ([2, 3], [25, 26]) and abs(columns[0] - 91) <= 1
        seed = np.zeros(array.shape, bool)
        seed[2, 40:60, 90:121] = True
        viewer.page.evaluate(SEED, [*pack(seed)])
        viewer.until(f"window.viewerState().maskedVoxels === {seed.sum()}")
        viewer.until_ready()
        for kji, is_inside in (
            ((2, 41, 92), True),
            ((2, 58, 119), True),
            ((2, 36, 100), False),
            ((2, 50, 86), False),
            ((2, 50, 124), False),
        ):
            red, green, _ = viewer.grey(kji)
            assert (red > green + 20) == is_inside, kji
        assert viewer.complaints == []
    finally:
        viewer.release()
        viewer.close()
        served.stop()


def test_images_come_back_after_the_graphics_card_was_reset(viewer: Viewer) -> None:
    viewer.page.keyboard.press("v")
    viewer.page.mouse.click(*viewer.pixel((3, 15, 50)))
    viewer.page.keyboard.press("p")
    before = viewer.state
    at = viewer.pixel((3, 15, 50))
    viewer.page.evaluate(
        "void (window.card = document.getElementById('image').getContext('webgl2')"
        ".getExtension('WEBGL_lose_context')).loseContext()"
    )
    viewer.until("!document.getElementById('banner').hidden")
    assert "graphics card" in viewer.words("#banner")
    viewer.page.mouse.click(*at)  # on what nobody sees
    viewer.page.keyboard.press("Enter")
    assert viewer.prompts() == []
    viewer.page.evaluate(SEED, [255, *bytes(np.prod(SHAPE) // 8 - 1)])
    viewer.until("window.viewerState().maskedVoxels === 8")
    viewer.until_ready()  # what goes on is not waited for to be seen
    viewer.page.evaluate("window.card.restoreContext()")
    viewer.until("document.getElementById('banner').hidden")
    for what in ("voxel", "window", "selected", "tool", "layout"):
        assert viewer.state[what] == before[what]
    assert min(viewer.grey((3, 15, 50))) > 150 and max(viewer.grey((3, 30, 20))) < 60
    red, green, _ = viewer.grey((0, 0, 4))
    assert red > green + 20  # a mask that came meanwhile
    viewer.click((3, 15, 50))
    assert len(viewer.prompts()) == 2


def test_what_was_pointed_at_is_forgotten_with_its_volume(viewer: Viewer, tmp_path: Path) -> None:
    viewer.page.mouse.move(*viewer.pixel((5, 40, 60)))
    viewer.until("document.getElementById('readout').textContent.endsWith('61, 41, 6')")
    single = Volume(np.zeros((1, 8, 8), np.uint8), (1.0, 1.0, 1.0))
    write_mask(tmp_path / "single.nii.gz", single.array, single)
    viewer.page.set_input_files("#files", str(tmp_path / "single.nii.gz"))
    viewer.until("document.getElementById('file-name').textContent === 'single.nii.gz'")
    viewer.until_ready()
    assert viewer.words("#readout").split() == ["0", "at", "5,", "5,", "1"]


def test_what_the_server_has_opened_is_shown_though_nobody_waits_for_it(
    viewer: Viewer, tmp_path: Path
) -> None:
    write_mask(
        tmp_path / "late.nrrd", np.ones((2, 8, 8), np.uint8), Volume.from_array(np.ones((2, 8, 8)))
    )
    viewer.page.evaluate(
        "void new MutationObserver((_, watch) => {"
        " window.shown ||= !document.getElementById('progress').hidden;"
        "}).observe(document.getElementById('progress'), {attributes: true})"
    )
    status = viewer.page.evaluate(
        "body => fetch('/api/volume', {method: 'POST', body: new Uint8Array(body),"
        " headers: {'X-Lease-Token': sessionStorage.getItem('medsam2-session')}}).then(a => a.status)",
        list(packed(tmp_path / "late.nrrd")),
    )
    assert status == 200
    viewer.until("window.viewerState().shape[0] === 2")
    assert viewer.page.evaluate("window.shown") is True  # how far the images have come
    viewer.until_ready()
    assert viewer.words("#file-name") == "late.nrrd"
    viewer.click((1, 4, 4))
    assert viewer.prompts() == [[[1, 2], [4, 5], [4, 5]]]


def test_a_tab_that_nobody_sees_gives_signs_of_life(
    browser: BrowserContext, served: Served
) -> None:
    browser.route(
        "**/page/beat.js",
        lambda route: route.fulfill(
            body="setInterval(() => postMessage(null), 50)", content_type="text/javascript"
        ),
    )
    viewer = Viewer(browser, "about:blank")
    viewer.page.add_init_script("window.setInterval = () => 0")  # as slow as that
    with viewer.page.expect_request("**/api/heartbeat"):
        viewer.page.goto(served.url)
    browser.unroute("**/page/beat.js")
    viewer.until_ready()
    viewer.release()
    viewer.close()


def test_a_key_is_taken_out_of_the_address_of_a_page_that_is_open(
    browser: BrowserContext, model: Model
) -> None:
    served = Served(model, key=KEY)
    viewer = Viewer(browser, served.url)
    try:
        viewer.until("document.getElementById('key').open")
        # What is evaluated while a page goes may never be answered.
        with viewer.page.expect_event("load"):
            viewer.page.evaluate(f"void setTimeout(() => (location.hash = 'key={KEY}'))")
        viewer.until("document.documentElement.dataset.state === 'ready'")
        assert viewer.page.url == served.url
        assert viewer.complaints == []
    finally:
        viewer.close()
        served.stop()


def test_a_server_that_takes_less_than_the_one_before_says_so(
    browser: BrowserContext, model: Model, volume: Volume, tmp_path: Path
) -> None:
    write_mask(tmp_path / "large.nii.gz", np.ones(SHAPE, np.uint8), volume)
    served = Served(model)
    viewer = Viewer(browser, served.url).until_ready()
    try:
        viewer.page.set_input_files("#files", str(tmp_path / "large.nii.gz"))
        viewer.until("window.viewerState().shape !== null")
        viewer.until_ready()
        served.stop()
        served.start(Limits(max_volume_bytes=1000))
        viewer.until("document.getElementById('banner-text').textContent.includes('--max-memory')")
        assert "does not answer" not in viewer.words("#banner")
        assert viewer.complaints == []
    finally:
        viewer.close()
        served.stop()
