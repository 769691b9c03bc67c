"""Graphs that keep weights in other files are told, wherever the tensor hides; all others are not."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from runtime.backends import open_backend
from runtime.bundle.bundle import EMBEDDED, open_bundle
from runtime.bundle.contract import GRAPHS
from runtime.bundle.external_data import has_external_data
from runtime.errors import BundleError


def tensor(is_external: bool, by: str = "both") -> onnx.TensorProto:
    made = numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")
    if is_external:
        made.ClearField("raw_data")
        if by != "data":
            made.data_location = onnx.TensorProto.EXTERNAL
        if by != "location":
            entry = made.external_data.add()
            entry.key, entry.value = "location", "w.bin"
    return made


def graph(*nodes: onnx.NodeProto, weights: list[onnx.TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], weights)


def hidden(made: onnx.TensorProto, where: str) -> bytes:
    constant = helper.make_node("Constant", [], ["y"], value=made)
    model = helper.make_model(graph())
    if where == "initializer":
        model = helper.make_model(graph(weights=[made]))
    elif where == "constant":
        model = helper.make_model(graph(constant))
    elif where == "list":
        node = helper.make_node("Odd", [], ["y"])
        attribute = node.attribute.add()
        attribute.name, attribute.type = "many", onnx.AttributeProto.TENSORS
        attribute.tensors.extend([tensor(False), made])
        model = helper.make_model(graph(node))
    elif where == "loop":
        body = graph(helper.make_node("If", ["c"], ["z"], then_branch=graph(constant)))
        model = helper.make_model(graph(helper.make_node("Loop", ["n", "c"], ["y"], body=body)))
    elif where == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(made)
    else:
        model.functions.add().node.append(constant)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("by", ["both", "data", "location"])
@pytest.mark.parametrize("where", ["initializer", "constant", "list", "loop", "sparse", "function"])
def test_a_tensor_in_another_file_is_found_wherever_it_is(where: str, by: str) -> None:
    assert has_external_data(hidden(tensor(True, by), where))
    assert not has_external_data(hidden(tensor(False), where))


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_no_back_end_opens_a_graph_whose_weights_nobody_has_checked(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "memory_attention"
    folder = Path(shutil.copytree(EMBEDDED, tmp_path / "bundle"))
    made = onnx.load(folder / f"{name}.onnx")
    largest = max(made.graph.initializer, key=lambda w: len(w.raw_data))
    weights = largest.raw_data
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("length", str(len(weights)))):
        entry = largest.external_data.add()
        entry.key, entry.value = key, value
    monkeypatch.chdir(tmp_path)  # where engines look for them
    Path("w.bin").write_bytes(bytes(len(weights)))
    data = made.SerializeToString()
    (folder / f"{name}.onnx").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(data).hexdigest()
    manifest["files"][f"{name}.onnx"] = {"size_bytes": len(data), "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"{name} keeps weights in other files"):
        open_backend(backend, open_bundle(folder)).load(name)


@pytest.mark.parametrize("name", GRAPHS)
def test_our_own_graphs_keep_nothing_elsewhere(name: str) -> None:
    assert not has_external_data(open_bundle().read_graph(name))


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 20, b"\x3a\x05\x00", b"\x3b", b"\x80", b"\x3a", b"\x09\x00\x3a\x7f"],
    ids=repr,
)
def test_what_is_no_protobuf_is_said_so_or_holds_nothing(data: bytes) -> None:
    try:
        assert not has_external_data(data)
    except ValueError as error:
        assert str(error)


def test_nesting_has_an_end() -> None:
    data = b""
    for _ in range(200):  # an attribute's graph, its node, that one's attribute, and so on
        for tag in (0x32, 0x2A, 0x0A):
            data = bytes([tag]) + length(len(data)) + data
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        has_external_data(b"\x3a" + length(len(data)) + data)


def length(number: int) -> bytes:
    """As protobuf writes it."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
