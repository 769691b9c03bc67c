"""napari's own plugin and its widget against the server, where they are installed: make test-viewers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from runtime.measure.phantom import make_phantom

with warnings.catch_warnings():  # theirs
    warnings.simplefilter("ignore")
    napari = pytest.importorskip("napari", reason="napari is not installed: make test-viewers")
    plugin = pytest.importorskip(
        "napari_nninteractive.widget_main", reason="its plugin is not installed"
    )

from tests.runtime.serve.real import serving
from tests.runtime.serve.test_with_model import dice

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE, MIDDLE = (5, 160, 160), 2
PHANTOM = make_phantom(SHAPE, 0)
BOX = 1  # number of the plugin's tool
PATIENCE_S = 30.0


@pytest.fixture
def widget() -> Iterator[Any]:
    """The plugin's widget in a viewer with a volume, connected and initialised."""
    with serving() as server:
        viewer = napari.Viewer(show=False)
        viewer.add_image(PHANTOM.pixels, name="ct", scale=(3.0, 1.0, 1.0))
        found = plugin.nnInteractiveWidget(viewer)
        viewer.window.add_dock_widget(found)
        found.server_url_edit.setText(server.url)
        found.on_init()
        wait_for(lambda: found.session is not None and found.session.target_buffer is not None)
        wait_for(lambda: found._upload_dialog is None)
        yield found
        found.on_connect_toggle()
        viewer.close()


def wait_for(is_so: Callable[[], bool]) -> None:
    """Let Qt work until something is so."""
    from qtpy.QtWidgets import QApplication

    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        QApplication.processEvents()
        time.sleep(0.01)


def draw_box(widget: Any, object_id: int) -> None:
    """A rectangle on the middle slice, as somebody draws it."""
    widget.interaction_button._uncheck()
    widget.interaction_button._check(BOX)
    widget.on_interaction_selected()
    box = PHANTOM.box(MIDDLE, object_id)
    corners = [(MIDDLE, y - 0.5, x - 0.4) for y, x in ((box.y[0], box.x[0]), (box.y[1], box.x[1]))]
    (z, y0, x0), (_, y1, x1) = corners
    layer = widget._viewer.layers[widget.bbox_layer_name]
    layer.add(
        np.array([(z, y0, x0), (z, y0, x1), (z, y1, x1), (z, y1, x0)]), shape_type="rectangle"
    )


def test_boxes_undo_and_another_object_in_napari(widget: Any) -> None:
    mask = widget._data_result
    draw_box(widget, 1)
    assert dice(mask[MIDDLE] > 0, PHANTOM.labels[MIDDLE] == 1) > 0.8
    assert all(plane.any() for plane in mask)
    widget.on_undo()
    assert not mask.any()
    draw_box(widget, 2)
    assert dice(mask[MIDDLE] > 0, PHANTOM.labels[MIDDLE] == 2) > 0.8
    widget.on_reset_interactions()
    assert not mask.any()


def test_the_manual_mode_of_napari_asks_when_it_is_told_to(widget: Any) -> None:
    widget.auto_run_ckbx.setChecked(False)
    draw_box(widget, 1)
    assert not widget._data_result.any()
    widget.on_run()
    assert dice(widget._data_result[MIDDLE] > 0, PHANTOM.labels[MIDDLE] == 1) > 0.8
