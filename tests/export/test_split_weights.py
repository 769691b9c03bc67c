"""Graphs whose large weights lie beside them: written, read, run as ever, and refused where anything is amiss.

The limit of a file is lowered for them, since those that need it have 2.4 GiB.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import split_weights
from export.model.sam1 import Sam1
from runtime.backends import open_backend
from runtime.backends.refusals import read_split_graph, read_whole_graph
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.manifest import MANIFEST, graph_file, weights_file
from runtime.bundle.split_graph import outer_weights
from runtime.errors import BackendUnavailable, BundleChanged, BundleError, BundleIncomplete
from runtime.model import load
from tests.conftest import written
from tests.graph_inputs import graph_inputs

GRAPH = "image_encoder"
LEAST = 4096


@pytest.fixture(scope="module")
def split(toy_sam: Sam1, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_weights, "MAX_GRAPH_BYTES", 100_000)
        patch.setattr(split_weights, "LEAST_BYTES", LEAST)
        return written(toy_sam, tmp_path_factory.mktemp("split") / "b")


def changed(bundle: Bundle, path: Path, change: Callable[[onnx.ModelProto], None]) -> Bundle:
    """A copy whose graph is another one, with the hash that belongs to it."""
    shutil.copytree(bundle.path, path)
    model = onnx.load(path / graph_file(GRAPH), load_external_data=False)
    change(model)
    data = model.SerializeToString()
    (path / graph_file(GRAPH)).write_bytes(data)
    manifest = json.loads((path / MANIFEST).read_text())
    entry = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"][graph_file(GRAPH)] = entry
    (path / MANIFEST).write_text(json.dumps(manifest))
    return open_bundle(path)


def outer(model: onnx.ModelProto) -> onnx.TensorProto:
    """One of the weights that lie beside it."""
    return next(w for w in model.graph.initializer if w.data_location == onnx.TensorProto.EXTERNAL)


def say(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for entry in outer(model).external_data:
            if entry.key == key:
                entry.value = value

    return change


def test_what_is_too_large_has_its_large_weights_beside_it(
    split: Bundle, toy_sam_bundle: Bundle
) -> None:
    assert split.split_graphs == (GRAPH, "mask_decoder")
    assert toy_sam_bundle.split_graphs == ()
    whole = onnx.load_from_string(toy_sam_bundle.read_graph(GRAPH)).graph.initializer
    large = {weight.name: weight for weight in whole if len(weight.raw_data) >= LEAST}
    found = read_split_graph(split, GRAPH).weights
    assert found.keys() == large.keys()
    for name, weight in found.items():
        np.testing.assert_array_equal(weight, onnx.numpy_helper.to_array(large[name]))
    assert len(split.read_graph(GRAPH)) < len(toy_sam_bundle.read_graph(GRAPH))
    assert split.fingerprint != toy_sam_bundle.fingerprint
    assert all(
        w.offset % split_weights.ALIGNMENT == 0 for w in outer_weights(split.read_graph(GRAPH))
    )


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_it_computes_the_same(backend: str, split: Bundle, toy_sam_bundle: Bundle) -> None:
    beside, whole = load(split, backend), load(toy_sam_bundle, backend)
    for graph, axes in ((GRAPH, {"n": 1}), ("mask_decoder", {"b": 2, "q": 3})):
        inputs = graph_inputs(split.model, graph, axes)
        wanted = whole.run(graph, dict(inputs))
        for name, tensor in beside.run(graph, dict(inputs)).items():
            np.testing.assert_array_equal(tensor, wanted[name])


def test_a_session_that_is_opened_again_is_the_same(split: Bundle) -> None:
    backend = open_backend("ort", split)
    inputs = graph_inputs(split.model, GRAPH, {"n": 1})
    first, second = (load(split, "ort").run(GRAPH, dict(inputs)) for _ in range(2))
    np.testing.assert_array_equal(first["vision_features"], second["vision_features"])
    assert backend.load(GRAPH) is not backend.load(GRAPH)


def test_whoever_cannot_take_it_says_who_can(split: Bundle) -> None:
    with pytest.raises(BackendUnavailable, match=f"{GRAPH} of .* only ort and openvino take"):
        read_whole_graph(split, GRAPH)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("location", "/etc/passwd", "keeps weights in other files than image_encoder.weights"),
        ("location", "../b/image_encoder.weights", "keeps weights in other files"),
        ("location", "mask_decoder.weights", "keeps weights in other files"),
        ("offset", str(2**40), "does not lie within the weights beside the graph"),
        ("offset", "-4096", "it is not said of what type and where"),
        ("length", "4", "does not lie within the weights beside the graph"),
        ("length", "all", "it is not said of what type and where"),
    ],
)
@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_weights_lie_nowhere_else(
    backend: str, key: str, value: str, said: str, split: Bundle, tmp_path: Path
) -> None:
    bundle = changed(split, tmp_path / "b", say(key, value))
    with pytest.raises(BundleError, match=said):
        open_backend(backend, bundle).load(GRAPH)


def test_nothing_but_weights_of_the_graph_itself_lies_beside_it(
    split: Bundle, tmp_path: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        hidden = onnx.TensorProto()
        hidden.CopyFrom(outer(model))
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["unused"], value=hidden))

    bundle = changed(split, tmp_path / "b", change)
    with pytest.raises(BundleError, match="what is no weight lies in another file"):
        open_backend("ort", bundle).load(GRAPH)


def test_weights_that_are_damaged_cut_short_or_missing_are_refused(
    split: Bundle, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(split.path, tmp_path / "b")) / weights_file(GRAPH)
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\x00\x01" + data[102:])
    with pytest.raises(BundleChanged, match=r"image_encoder\.weights differs"):
        load(open_bundle(path.parent), "ort").engine(GRAPH)
    path.write_bytes(data[:-1])
    with pytest.raises(BundleIncomplete, match="was cut short"):
        load(open_bundle(path.parent), "ort").engine(GRAPH)
    path.unlink()
    with pytest.raises(BundleIncomplete, match="cannot be read"):
        load(open_bundle(path.parent), "ort").engine(GRAPH)


def test_a_graph_cut_in_the_middle_of_a_field_is_no_graph(split: Bundle) -> None:
    data = split.read_graph(GRAPH)
    for cut in (7, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="field"):
            outer_weights(data[:cut])
