"""The page in a real browser, the embedded model behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.io.read import read_volume
from runtime.io.volumes.volume import Volume
from runtime.io.write import write_mask
from runtime.measure.phantom import Phantom, make_phantom
from runtime.model import Model
from runtime.serve.bits import pack
from runtime.serve.leases import AWAY_S
from runtime.serve.limits import Limits
from tests.runtime.serve.browser import Served, Viewer

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Route

SHAPE = (14, 96, 96)
MIDDLE = 7
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Slices from left to right, rows downwards, columns backwards to the front: a sagittal series.
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(SHAPE, seed=2)


@pytest.fixture(scope="module")
def served(model: Model, phantom: Phantom) -> Iterator[Served]:
    volume = Volume(
        phantom.pixels, (3.0, 1.0, 1.0), (5.0, 6.0, 7.0), LPS, source="a/phantom.nii.gz"
    )
    served = Served(model, volume)
    yield served
    served.stop()


def middle_of(phantom: Phantom, object_id: int) -> tuple[int, int, int]:
    rows, columns = np.nonzero(phantom.labels[MIDDLE] == object_id)
    return MIDDLE, round(rows.mean()), round(columns.mean())


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def test_all_views_are_there(browser: BrowserContext, served: Served, phantom: Phantom) -> None:
    viewer = Viewer(browser, served.url, "main").until_ready()
    viewer.click(middle_of(phantom, 1))
    for layout in ("four", "one", "main"):
        viewer.page.click(f"[data-layout={layout}]")
        assert viewer.state["layout"] == layout
    x, y = viewer.pixel(middle_of(phantom, 2))
    viewer.page.mouse.move(x, y)
    viewer.page.mouse.wheel(0, 80)  # on the large plane
    viewer.until(f"window.viewerState().voxel[0] !== {MIDDLE}")
    assert viewer.complaints == []
    viewer.close()


def test_a_session_from_click_to_download(viewer: Viewer, phantom: Phantom, tmp_path: Path) -> None:
    assert viewer.state["shape"] == list(SHAPE)
    assert viewer.words("#caution") == "Demonstration. Not for clinical use."
    assert "phantom.nii.gz" in viewer.words("#file")
    viewer.click(middle_of(phantom, 1))
    first = viewer.state["maskedVoxels"]
    assert first > 0
    timing = viewer.state["timing"]
    assert 0 < timing["firstMs"] <= timing["wholeMs"]
    assert "First mask" in viewer.words("#timing")
    k, j, i = middle_of(phantom, 1)
    red, green, blue = viewer.grey((k, j + 5, i + 3))  # beside the prompt's mark
    assert red > green + 20 and red > blue + 20  # the first object's colour

    viewer.click((MIDDLE, 3, 90), "Shift")  # far outside: a correction all the same
    assert len(viewer.prompts()) == 2
    viewer.page.keyboard.press("Control+z")
    viewer.until_ready()
    viewer.until(f"window.viewerState().maskedVoxels === {first}")
    assert len(viewer.prompts()) == 1
    assert viewer.state["timing"] is None and not viewer.words("#timing")  # its mask is an old one
    viewer.page.keyboard.press("Control+Shift+z")
    viewer.until("!document.getElementById('undo').disabled")
    viewer.until_ready()
    assert len(viewer.prompts()) == 2

    viewer.page.click("#object-add")
    viewer.until("window.viewerState().objects.length === 2")
    viewer.page.keyboard.press("b")
    box = phantom.box(MIDDLE, 3)
    viewer.drag((MIDDLE, box.y[0], box.x[0]), (MIDDLE, box.y[1] - 1, box.x[1] - 1))
    assert viewer.prompts() == [[[MIDDLE, MIDDLE + 1], list(box.y), list(box.x)]]
    viewer.page.keyboard.press("F2")
    viewer.page.keyboard.type("Left kidney")
    viewer.page.keyboard.press("Enter")
    viewer.until("window.viewerState().objects[1].name === 'Left kidney'")

    counts = [each["voxels"] for each in viewer.state["objects"]]
    assert [each["ml"] for each in viewer.state["objects"]] == pytest.approx(
        [3.0 * count / 1000 for count in counts]
    )
    for button, name in (("#export-nifti", "masks.nii.gz"), ("#export-nrrd", "masks.nrrd")):
        with viewer.page.expect_download() as download:
            viewer.page.click(button)
        assert download.value.suggested_filename == f"phantom-{name}"
        download.value.save_as(tmp_path / name)
        mask = read_volume(tmp_path / name)
        assert mask.origin_mm == pytest.approx((5.0, 6.0, 7.0))
        assert np.count_nonzero(mask.array == 2) == counts[1]
        assert dice(mask.array == 2, phantom.labels == 3) > 0.6

    shown = {name: viewer.state[name] for name in ("selected", "voxel", "tool", "window")}
    assert shown["selected"] != viewer.state["objects"][0]["id"] and shown["tool"] == "box"
    viewer.page.reload()
    viewer.until_ready()
    viewer.until("window.viewerState().objects.length === 2")
    assert {name: viewer.state[name] for name in shown} == shown
    assert [each["voxels"] for each in viewer.state["objects"]] == counts
    assert viewer.state["objects"][1]["name"] == "Left kidney"


def test_a_stroke_adds_and_an_erased_area_goes(viewer: Viewer, phantom: Phantom) -> None:
    k, j, i = middle_of(phantom, 2)
    viewer.page.keyboard.press("s")
    viewer.drag((k, j, i - 8), (k, j, i + 8))
    (stroke,) = viewer.prompts()
    assert stroke[0] == [k, k + 1] and stroke[1][0] <= j < stroke[1][1]
    assert stroke[2][0] <= i - 8 and i + 8 < stroke[2][1]
    assert viewer.state["maskedVoxels"] > 0
    viewer.page.keyboard.press("e")
    viewer.drag((k, j, i - 1), (k, j, i + 1))
    assert len(viewer.prompts()) == 2
    assert "Erased" in viewer.words("#prompts")
    viewer.page.click("#object-reset")
    viewer.until("window.viewerState().maskedVoxels === 0")
    viewer.until_ready()
    assert viewer.prompts() == []


def test_the_strip_goes_to_a_slice_and_keys_do_what_the_help_says(viewer: Viewer) -> None:
    strip = viewer.page.locator("#strip").bounding_box()
    assert strip is not None
    viewer.page.mouse.click(strip["x"] + 8, strip["y"] + 5)
    assert viewer.state["voxel"][0] == 0
    viewer.page.mouse.click(strip["x"] + strip["width"] - 8, strip["y"] + 5)
    assert viewer.state["voxel"][0] == SHAPE[0] - 1
    viewer.page.keyboard.press("PageDown")
    assert viewer.state["voxel"][0] == SHAPE[0] - 2
    assert viewer.words("#readout").endswith(f", {SHAPE[0] - 1}")  # counts from 1, as slices do
    for key, tool in (("v", "move"), ("n", "exclude"), ("e", "erase"), ("p", "include")):
        viewer.page.keyboard.press(key)
        assert viewer.state["tool"] == tool
    before = viewer.state["window"]
    viewer.page.keyboard.press("w")
    assert viewer.state["window"] != before
    viewer.page.locator("#image").focus()
    voxel = viewer.state["voxel"]
    viewer.page.keyboard.press("ArrowDown")
    assert viewer.state["voxel"] == [voxel[0], voxel[1] + 1, voxel[2]]
    viewer.page.keyboard.press("?")
    assert "Include what is under it" in viewer.words("#help")
    columns_of_groups = viewer.page.evaluate(
        "[...document.querySelectorAll('#keys section')].map(group =>"
        " new Set([...group.children].map(row => row.getBoundingClientRect().x)).size)"
    )
    assert {*columns_of_groups} == {1} and len(columns_of_groups) > 3
    viewer.page.keyboard.press("Escape")
    unnamed = viewer.page.evaluate(
        "[...document.querySelectorAll('button, input, select, canvas:not([aria-hidden])')].filter(e =>"
        " !(e.getAttribute('aria-label') || e.innerText?.trim() || e.labels?.length || e.hidden)).map(e => e.id)"
    )
    assert unnamed == []


def test_an_unsure_slice_that_was_prompted_is_pointed_out(viewer: Viewer) -> None:
    told = viewer.page.evaluate(
        "import('/page/objects.js').then(({ObjectPanel}) =>"
        " [[0.4, true], [0.9, true], [null, true], [0.1, false]].map(([value, positive]) => {"
        " const [list, prompts, hint] = ['ul', 'ol', 'p'].map(tag => document.createElement(tag));"
        " const prompt = {kind: 'point', positive, axis: 0, box: [[0, 3], [3, 4], [5, 6]]};"
        " const object = {id: 1, name: 'A', colour: '#ffffff', voxels: 1, ml: 1, axis: 0,"
        " confidence: [0.1, value, 0.1], prompts: [prompt], prompted: [1]};"
        " new ObjectPanel({list, prompts, hint}, {}).show([object], 1, new Set());"
        " return hint.hidden ? '' : hint.textContent;}))"
    )
    assert (
        "unsure" in told[0]
        and "slice 2" in told[0]
        and "drag a box" in told[0]
        and told[1:] == ["", "", ""]
    )
    assert "Click the object" in viewer.words("#prompts-hint")


def test_boxes_and_strokes_are_drawn_without_a_mouse(viewer: Viewer, phantom: Phantom) -> None:
    box = phantom.box(MIDDLE, 3)
    viewer.pixel((MIDDLE, box.y[0], box.x[0]))
    viewer.page.keyboard.press("b")  # takes the focus to the image
    viewer.page.keyboard.press("Enter")
    assert "arrow keys draw" in viewer.words("#status")
    viewer.page.keyboard.press("ArrowRight")
    viewer.page.keyboard.press("Escape")
    assert viewer.words("#status") == "Ready"
    viewer.page.keyboard.press("Enter")
    viewer.page.keyboard.press("PageUp")  # another slice: given up
    viewer.page.keyboard.press("PageDown")
    assert viewer.page.evaluate("document.documentElement.dataset.state") == "ready"
    assert viewer.prompts() == []

    viewer.pixel((MIDDLE, box.y[0], box.x[0]))
    viewer.page.keyboard.press("Enter")
    for key, count in (
        ("ArrowDown", box.y[1] - 1 - box.y[0]),
        ("ArrowRight", box.x[1] - 1 - box.x[0]),
    ):
        for _ in range(count):
            viewer.page.keyboard.press(key)
    viewer.page.keyboard.press("Enter")
    viewer.until("window.viewerState().maskedVoxels > 0")
    viewer.until_ready()
    assert viewer.prompts() == [[[MIDDLE, MIDDLE + 1], list(box.y), list(box.x)]]
    viewer.page.keyboard.press("F2")
    viewer.page.keyboard.type("Lesion")
    viewer.page.keyboard.press("Enter")
    viewer.until("window.viewerState().objects[0].name === 'Lesion'")
    assert viewer.page.evaluate("document.activeElement.id") == "image"

    k, j, i = middle_of(phantom, 3)
    viewer.pixel((k, j, i))
    for key in ("e", "Enter", "ArrowRight", "ArrowRight", "Enter"):
        viewer.page.keyboard.press(key)
    viewer.until("document.querySelectorAll('#prompts li').length === 2")
    viewer.until_ready()
    assert "Erased" in viewer.words("#prompts")
    erased = viewer.prompts()[1]
    assert erased[0] == [k, k + 1] and erased[2][0] <= i and i + 2 < erased[2][1]

    before = viewer.state["maskedVoxels"]
    viewer.pixel((k, j, i - 3))
    for key in ("b", "Shift+Enter", "ArrowDown", "ArrowDown", "ArrowLeft", "Enter"):
        viewer.page.keyboard.press(key)
    viewer.until("document.querySelectorAll('#prompts li').length === 3")
    viewer.until_ready()
    assert viewer.state["maskedVoxels"] < before
    assert viewer.page.get_attribute("#prompts li:last-child i", "aria-label") == "excludes"


def test_a_slice_without_the_object_is_not_doubtful(viewer: Viewer) -> None:
    told = viewer.page.evaluate(
        "import('/page/strip.js').then(({Strip}) => {"
        " const made = (tag) => document.createElement(tag);"
        " const strip = new Strip({slider: made('input'), canvas: made('canvas'), axisName: made('b'),"
        " number: made('b'), confidence: made('p')}, () => {});"
        " strip.begin(0, 4, 'Axial');"
        " strip.fill({values: [0.1, 0.1, 0.9, null], present: [0, 1, 1, 1], prompted: new Set(), colour: '#ffffff'});"
        " return [0, 1, 2, 3].map((slice) => strip.isDoubtful(slice));})"
    )
    assert told == [False, True, False, False]


def test_stop_ends_a_propagation(
    viewer: Viewer, phantom: Phantom, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, compute = threading.Event(), model.compute

    def slowly(graph: str, inputs: object) -> object:
        if graph == "memory_attention":
            assert goes_on.wait(60)
        return compute(graph, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "compute", slowly)
    x, y = viewer.pixel(middle_of(phantom, 1))
    viewer.page.mouse.click(x, y)
    viewer.until("window.viewerState().maskedVoxels > 0")
    assert viewer.page.evaluate("document.documentElement.dataset.state") == "busy"
    viewer.until("document.querySelectorAll('#prompts li').length === 1")
    assert viewer.page.is_enabled("#undo")
    with viewer.page.expect_download():
        viewer.page.click("#export-nifti")
    viewer.until("!document.getElementById('banner').hidden")
    assert "Object 1 not followed to the end" in viewer.words("#banner")
    viewer.page.click("#cancel")
    goes_on.set()
    viewer.until_ready()
    one_slice = np.count_nonzero(phantom.labels[MIDDLE] == 1)
    assert viewer.state["maskedVoxels"] < 4 * one_slice
    stopped = "Stopped: Object 1 is not followed to its end"
    assert viewer.words("#status") == viewer.page.text_content("#said") == stopped
    viewer.page.keyboard.press("a")
    viewer.until("document.getElementById('status').textContent === 'Ready'")
    viewer.page.keyboard.press("1")
    assert viewer.words("#status") == stopped
    partial = viewer.state["maskedVoxels"]
    viewer.page.keyboard.press("g")
    viewer.until("document.getElementById('go-on').hidden")
    viewer.until_ready()
    assert viewer.words("#status") == "Ready" and viewer.state["maskedVoxels"] > partial


def test_a_bad_file_is_refused_in_words_and_a_good_one_opens(
    viewer: Viewer, phantom: Phantom, tmp_path: Path
) -> None:
    (tmp_path / "broken.nii").write_bytes(b"\x5c\x01\0\0" + bytes(400))
    viewer.page.set_input_files("#files", str(tmp_path / "broken.nii"))
    viewer.until("!document.getElementById('banner').hidden")
    viewer.until_ready()
    words = viewer.words("#banner")
    assert "broken.nii" in words and str(tmp_path) not in words and "/tmp" not in words
    assert viewer.state["shape"] == list(SHAPE)  # what was open stays

    bright = np.zeros(SHAPE, np.uint8)
    bright[4, 20:30, 60:70] = 200
    sagittal = Volume(bright, (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), SAGITTAL)
    write_mask(tmp_path / "sagittal.nii.gz", bright, sagittal)
    viewer.page.set_input_files("#files", str(tmp_path / "sagittal.nii.gz"))
    viewer.until("document.getElementById('file-name').textContent === 'sagittal.nii.gz'")
    viewer.until_ready()
    assert min(viewer.grey((4, 25, 65))) > 150  # what is on the screen is where it was said to be
    assert max(viewer.grey((4, 25, 30))) < 60
    viewer.page.keyboard.press("+")  # the crosshair is there, and stays
    viewer.page.keyboard.press("+")
    viewer.click((4, 26, 63))
    assert viewer.prompts() == [[[4, 5], [26, 27], [63, 64]]]


def test_the_server_goes_and_comes_back(
    browser: BrowserContext, model: Model, phantom: Phantom
) -> None:
    served = Served(model, Volume(phantom.pixels, (1.0, 1.0, 1.0), source="phantom.nrrd"))
    viewer = Viewer(browser, served.url).until_ready()
    try:
        viewer.click(middle_of(phantom, 1))
        masked = viewer.state["maskedVoxels"]
        served.stop()
        viewer.until("document.documentElement.dataset.link === 'gone'")
        assert "does not answer" in viewer.words("#banner")
        assert viewer.state["maskedVoxels"] == masked
        served.start()
        viewer.until("document.documentElement.dataset.link === 'up'")
        viewer.until_ready()
        assert "begun anew" in viewer.words("#banner")
        assert viewer.state["maskedVoxels"] == masked
        viewer.click(middle_of(phantom, 1))  # and it works
        assert viewer.state["maskedVoxels"] > 0
        token = viewer.page.evaluate("sessionStorage.getItem('medsam2-session')")
        served.service.leases.release(token)  # as if its time were over
        viewer.click(middle_of(phantom, 1))
        viewer.until("document.getElementById('over').open")
        assert viewer.complaints == []
    finally:
        viewer.close()
        served.stop()


def test_a_step_that_finds_no_server_says_so_until_there_is_one(
    viewer: Viewer, phantom: Phantom
) -> None:
    answers = threading.Event()

    def breaks(route: Route) -> None:
        route.continue_() if answers.is_set() else route.abort()

    banner = "document.getElementById('banner-text').textContent"
    viewer.page.route("**/api/**", breaks)
    viewer.click(middle_of(phantom, 1))
    viewer.until(f"{banner}.includes('does not answer')")
    assert viewer.page.evaluate("document.documentElement.dataset.link") == "gone"
    answers.set()
    viewer.until("document.documentElement.dataset.link === 'up'")
    viewer.until(f"!{banner}.includes('does not answer')")  # though nobody has done anything
    assert "may not have reached it" in viewer.words("#banner")
    assert viewer.prompts() == [] and viewer.words("#status") == "Ready"
    viewer.click(middle_of(phantom, 1))
    assert not viewer.page.is_visible("#banner") and viewer.state["maskedVoxels"] > 0


def test_a_mask_whose_connection_breaks_is_fetched_again(viewer: Viewer, phantom: Phantom) -> None:
    viewer.click(middle_of(phantom, 1))
    masked = viewer.state["maskedVoxels"]
    viewer.page.add_init_script(
        "let broken = false; const whole = Response.prototype.arrayBuffer;"
        "Response.prototype.arrayBuffer = function () {"
        " if (broken || !this.url.endsWith('/mask')) return whole.call(this);"
        " broken = true; return Promise.reject(new TypeError('network error')); };"
    )
    viewer.page.reload()
    viewer.until(f"window.viewerState().maskedVoxels === {masked}")
    viewer.until_ready()
    assert not viewer.page.is_visible("#banner")


def test_a_seed_is_marked_as_prompted_where_the_network_was_given_it(viewer: Viewer) -> None:
    seed = np.zeros(SHAPE, bool)
    seed[1:13, 20:50, 30:60] = True
    status = viewer.page.evaluate(
        "bits => fetch('/api/objects/1/mask', {method: 'PUT', body: new Uint8Array(bits), headers:"
        " {'X-Lease-Token': sessionStorage.getItem('medsam2-session')}}).then(answer => answer.status)",
        [*pack(seed)],
    )
    assert status == 202
    viewer.until("document.querySelectorAll('#prompts li').length === 1")
    viewer.until_ready()
    assert viewer.words("#prompts span") == "slices 2\u201313"
    marked = viewer.page.evaluate("window.viewerState().prompted")
    assert len(marked) == 8 and min(marked) == 1 and max(marked) == 12


def test_a_connection_that_breaks_while_masks_are_sent_again_loses_none(
    browser: BrowserContext, model: Model, phantom: Phantom
) -> None:
    served = Served(model, Volume(phantom.pixels, (1.0, 1.0, 1.0), source="phantom.nrrd"))
    viewer = Viewer(browser, served.url).until_ready()
    try:
        viewer.click(middle_of(phantom, 1))
        viewer.page.keyboard.press("a")
        viewer.until("window.viewerState().objects.length === 2")
        viewer.click(middle_of(phantom, 2))
        before = [each["voxels"] for each in viewer.state["objects"]]
        broken: list[str] = []
        said: list[str] = []

        def breaks(route: Route) -> None:
            # The second mask of the first attempt finds no server.
            if route.request.method == "PUT":
                broken.append(route.request.url)
                if len(broken) == 2:
                    viewer.page.keyboard.press("a")  # objects are not what they will be
                    said.append(viewer.words("#status"))
                    return route.abort()
            return route.continue_()

        viewer.page.route("**/mask", breaks)
        served.stop()
        served.start()
        viewer.until("document.getElementById('banner-text').textContent.includes('begun anew')")
        viewer.until_ready()
        assert len(broken) == 4 and min(before) > 0
        assert said == ["Wait until the server has your file and masks again"]
        assert [each["voxels"] for each in viewer.state["objects"]] == before
        (page,) = served.service._page._pages.values()
        deadline = time.monotonic() + 30
        while [each["voxels"] for each in page.objects()] != before:
            assert time.monotonic() < deadline, page.objects()
            time.sleep(0.02)
        assert viewer.complaints == []
    finally:
        viewer.close()
        served.stop()


def test_a_full_server_is_waited_for_and_a_session_that_has_ended_goes_on(
    browser: BrowserContext, model: Model, phantom: Phantom
) -> None:
    volume = Volume.from_array(phantom.pixels)
    served = Served(model, volume, limits=Limits(max_sessions=1))
    viewer = Viewer(browser, served.url).until_ready()
    try:
        viewer.click(middle_of(phantom, 1))
        masked = viewer.state["maskedVoxels"]
        viewer.release()
        viewer.until("document.getElementById('over').open")
        other = served.service.leases.grant("another")
        # The page's 5 s until it asks again need not be waited for.
        viewer.page.evaluate(
            "void (window.setTimeout = ((real) => (call, ms, ...words) =>"
            " real(call, ms === 5000 ? 200 : ms, ...words))(setTimeout))"
        )
        viewer.page.click("#over-go")
        viewer.until("document.getElementById('banner-text').textContent.includes('busy')")
        served.service.leases.release(other.token)
        viewer.until("document.documentElement.dataset.link === 'up'")
        viewer.until_ready()
        assert viewer.state["maskedVoxels"] == masked
        assert "begun anew" in viewer.words("#banner")
        viewer.click(middle_of(phantom, 1))
        assert viewer.complaints == []
    finally:
        viewer.close()
        served.stop()


def test_the_place_of_a_page_that_was_closed_is_the_next_ones(
    browser: BrowserContext, model: Model, phantom: Phantom
) -> None:
    served = Served(model, Volume.from_array(phantom.pixels), limits=Limits(max_sessions=1))
    leases = served.service.leases
    try:
        viewer = Viewer(browser, served.url).until_ready()
        (lease,) = leases._leases.values()
        viewer.page.reload()
        viewer.until_ready()
        assert lease.left is None and [*leases._leases.values()] == [lease], "it came back"
        viewer.close()
        deadline = time.monotonic() + 30
        while lease.left is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        lease.left -= AWAY_S + 1
        other = Viewer(browser, served.url).until_ready()
        assert lease not in leases._leases.values() and other.complaints == []
        other.close()
    finally:
        served.stop()


def test_what_comes_in_the_servers_place_is_called_what_it_is(
    browser: BrowserContext, model: Model, phantom: Phantom
) -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(502)

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    served = Served(model, Volume.from_array(phantom.pixels))
    viewer = Viewer(browser, served.url).until_ready()
    try:
        served.stop()
        viewer.until("document.documentElement.dataset.link === 'gone'")
        with ThreadingHTTPServer(("127.0.0.1", served.port), Proxy) as proxy:
            threading.Thread(target=proxy.serve_forever).start()
            viewer.until("document.getElementById('banner-text').textContent.includes('502')")
            assert "not this page's server" in viewer.words("#banner")
            proxy.shutdown()
        served._key = "correct-horse-battery-staple"
        served.start()
        viewer.until("document.getElementById('key').open")
        assert not viewer.page.is_visible("#banner")
        assert viewer.words("#status") == "Waiting for the key"
    finally:
        viewer.close()
        served.stop()


def test_a_key_is_asked_for_and_never_in_an_address(browser: BrowserContext, model: Model) -> None:
    served = Served(model, key="correct-horse-battery-staple")
    viewer = Viewer(browser, served.url)
    try:
        for key, title in (
            ("wrong", "asks for a key"),
            ("correct-horse-battery-staple", "is wrong"),
        ):
            viewer.until("document.getElementById('key').open")
            viewer.until(f"document.getElementById('key-title').textContent.includes('{title}')")
            viewer.page.fill("#key-input", key)
            viewer.page.keyboard.press("Enter")
        viewer.until_ready()
        assert "Open a scan" in viewer.words("#start")
        viewer.close()
        viewer = Viewer(browser, f"{served.url}#key=correct-horse-battery-staple").until_ready()
        assert "key" not in viewer.page.url
        assert viewer.words("#status") == "No file open"
    finally:
        viewer.close()
        served.stop()
