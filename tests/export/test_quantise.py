"""Graphs in eight bits: what changes, what does not, what stays in fp32, and when they are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export import dice_check
from export.__main__ import main
from export.dice_check import check_dice, mean_dice
from export.model.sam2 import Sam2
from export.quantise import MAX_ERROR, Recording, quantised, record
from export.variants import VARIANTS
from export.write_bundle import INT8_GRAPHS, write_bundle
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import GRAPHS
from runtime.bundle.manifest import LARGEST_INT8, MANIFEST
from runtime.devices.machine import instruction_sets, machine_name
from runtime.errors import BackendUnavailable, Mismatch
from runtime.measure.phantom import Phantom, make_phantom
from runtime.model import load
from tests.graph_inputs import graph_inputs, relative_error
from tests.variants import TOY

WEIGHTS = {"kind": "random", "source": "random", "seed": 12, "sha256": "00" * 32}


@pytest.fixture(autouse=True)
def few_phantoms(no_tracing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dice_check, "PHANTOMS", 1)
    monkeypatch.setattr(dice_check, "PHANTOM_SLICES", 3)


@pytest.fixture(scope="module")
def plain(toy_bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_from_string(toy_bundle.read_graph("image_encoder"))


@pytest.fixture(scope="module")
def recordings(toy_bundle: Bundle) -> dict[str, list[Recording]]:
    return record(load(toy_bundle, "ort"), INT8_GRAPHS)


@pytest.fixture(scope="module")
def small(plain: onnx.ModelProto, recordings: dict[str, list[Recording]]) -> onnx.ModelProto:
    made = quantised(plain, recordings["image_encoder"], np.inf)
    assert made.kept == () and made.products == kinds(made.model).count("MatMulInteger")
    return made.model


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def names(values: Sequence[onnx.ValueInfoProto]) -> list[str]:
    return [value.name for value in values]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def operators(model: onnx.ModelProto) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in model.graph.node}


def test_weights_become_bytes_and_attention_stays(
    plain: onnx.ModelProto, small: onnx.ModelProto
) -> None:
    assert small.ByteSize() < 0.7 * plain.ByteSize()
    assert operators(small) - operators(plain) == {
        ("", "DynamicQuantizeLinear"),
        ("", "MatMulInteger"),
    }
    for kept in ("MultiHeadAttention", "LayerNormalization"):
        assert kinds(small).count(kept) == kinds(plain).count(kept) > 0


def test_recordings_are_of_a_whole_propagation(recordings: dict[str, list[Recording]]) -> None:
    assert {graph: len(own) for graph, own in recordings.items()} == dict.fromkeys(INT8_GRAPHS, 3)
    slots = [own.inputs["memory"].shape[1] for own in recordings["memory_attention"]]
    assert slots[0] == 1 and slots[-1] == 7
    images = [own.inputs["image"] for own in recordings["image_encoder"]]
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("graph", INT8_GRAPHS)
def test_the_most_sensitive_products_stay_in_fp32_until_the_rest_is_near_enough(
    graph: str, toy_bundle: Bundle, recordings: dict[str, list[Recording]]
) -> None:
    proto, own = onnx.load_from_string(toy_bundle.read_graph(graph)), recordings[graph]
    every = quantised(proto, own, np.inf)
    fewer = quantised(proto, own, 0.7 * every.error)
    assert 0 < len(fewer.kept) < fewer.products == every.products
    assert fewer.error <= 0.7 * every.error
    assert kinds(fewer.model).count("MatMulInteger") == fewer.products - len(fewer.kept)
    none = quantised(proto, own, 0.0)
    assert len(none.kept) == none.products and none.error == 0 and none.model is proto


def test_a_product_whose_channels_differ_most_is_the_most_sensitive() -> None:
    """One channel a thousand times as large as the others takes the whole range of a byte."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 8)).astype(np.float32)
    uneven = x * np.array([1000, *[1] * 7], np.float32)
    weights = rng.standard_normal((8, 8)).astype(np.float32)
    weights[0] = 0
    nodes = [
        onnx.helper.make_node("MatMul", [name, "weights"], [f"{name}_out"], name=f"of {name}")
        for name in ("even", "uneven")
    ]
    nodes.append(onnx.helper.make_node("Add", ["even_out", "uneven_out"], ["y"]))
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (64, 8))
        for name in ("even", "uneven", "y")
    ]
    graph = onnx.helper.make_graph(
        nodes, "two", values[:2], values[2:], [onnx.numpy_helper.from_array(weights, "weights")]
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    recording = Recording({"even": x, "uneven": uneven}, {"y": x @ weights + uneven @ weights})
    made = quantised(model, [recording], 0.1)
    assert made.kept == ("of uneven",) and 0 < made.error <= 0.1


def test_a_product_of_two_activations_is_none_of_weights() -> None:
    weights = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "weights")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "weights"], ["y"]),
        onnx.helper.make_node("MatMul", ["y", "x"], ["z"]),
    ]
    x, z = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (4, 4)) for name in "xz"
    )
    graph = onnx.helper.make_graph(nodes, "two", [x], [z], [weights])
    opsets = [onnx.helper.make_opsetid("", 20)]
    x = {"x": np.ones((4, 4), np.float32)}
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    made = quantised(model, [Recording(x, {"z": x["x"] @ x["x"]})]).model
    assert kinds(made).count("MatMulInteger") == kinds(made).count("MatMul") == 1


@pytest.mark.parametrize("count", [1, 3])
def test_features_are_nearly_the_same(
    count: int, toy: Sam2, plain: onnx.ModelProto, small: onnx.ModelProto
) -> None:
    for model in (plain, small):
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert names(small.graph.input) == names(plain.graph.input)
    assert names(small.graph.output) == names(plain.graph.output)
    inputs = graph_inputs(toy.numbers, "image_encoder", {"n": count})
    for found, wanted in zip(run(small, inputs), run(plain, inputs), strict=True):
        assert 1e-4 < relative_error(found, wanted) < 0.08


def products(model: onnx.ModelProto) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (channels in, out) of each product in eight bits, and their zero points (out,)."""
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    return [(values[node.input[1]], values[node.input[3]]) for node in nodes]


def test_no_pair_of_products_can_leave_sixteen_bits(small: onnx.ModelProto) -> None:
    assert 255 * 2 * LARGEST_INT8 <= np.iinfo(np.int16).max < 255 * 2 * (LARGEST_INT8 + 1)
    found = products(small)
    assert len(found) > 10
    for weights, _ in found:
        assert weights.dtype == np.int8 and weights.ndim == 2
        assert np.abs(weights.astype(int)).max() <= LARGEST_INT8
    # The other side of each product is what comes of DynamicQuantizeLinear, unsigned bytes by definition of ONNX.
    makers = {name: node.op_type for node in small.graph.node for name in node.output}
    for node in small.graph.node:
        if node.op_type == "MatMulInteger":
            assert makers[node.input[0]] == "DynamicQuantizeLinear"


def without_vnni(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Products (rows, out) as processors with nothing newer than AVX2 compute them: vpmaddubsw, vpmaddwd, vpaddd."""
    length = activations.shape[1]
    fill = -length % 4
    a = np.pad(activations, ((0, 0), (0, fill))).astype(np.int32)
    b = np.pad(weights, ((0, fill), (0, 0))).astype(np.int32)
    each = a[:, :, None] * b[None]
    limits = np.iinfo(np.int16)
    pairs = (each[:, 0::2] + each[:, 1::2]).clip(limits.min, limits.max)
    return (pairs[:, 0::2] + pairs[:, 1::2]).sum(1, dtype=np.int32)


def test_processors_without_vnni_compute_the_same(small: onnx.ModelProto) -> None:
    rng = np.random.default_rng(3)
    for weights, _ in products(small):
        bytes_ = rng.integers(0, 256, (3, len(weights)), dtype=np.uint8)
        for activations in (bytes_, np.where(bytes_ > 99, np.uint8(255), np.uint8(0))):
            exact = activations.astype(np.int32) @ weights.astype(np.int32)
            np.testing.assert_array_equal(without_vnni(activations, weights), exact)


def test_with_all_eight_bits_they_would_not(plain: onnx.ModelProto) -> None:
    floats = [onnx.numpy_helper.to_array(tensor) for tensor in plain.graph.initializer]
    weights = next(x for x in floats if x.ndim == 2 and min(x.shape) > 8).astype(np.float32)
    full = np.round(weights / np.abs(weights).max(0) * 127).astype(np.int8)
    activations = np.where(full.T > 0, np.uint8(255), np.uint8(0))
    exact = activations.astype(np.int32) @ full.astype(np.int32)
    assert (without_vnni(activations, full) != exact).any()


def test_the_engine_computes_products_exactly(small: onnx.ModelProto) -> None:
    """Of extreme bytes, on whatever processor this is."""
    weights, zero = max(products(small), key=lambda found: np.abs(found[0].astype(int)).max())
    bytes_ = np.where(weights.T > 0, np.uint8(255), np.uint8(0))
    x, a0 = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape)
        for name, shape in (("x", bytes_.shape), ("zero_of_x", ()))
    )
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)
    constants = [
        onnx.numpy_helper.from_array(array, name)
        for name, array in (("weights", weights), ("zero", zero))
    ]
    node = onnx.helper.make_node("MatMulInteger", ["x", "weights", "zero_of_x", "zero"], ["y"])
    graph = onnx.helper.make_graph([node], "one", [x, a0], [y], constants)
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (found,) = run(model, {"x": bytes_, "zero_of_x": np.array(3, np.uint8)})
    wanted = (bytes_.astype(np.int32) - 3) @ (weights.astype(np.int32) - zero.astype(np.int32))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("after", [float("nan"), 0.88])
def test_a_dice_that_is_none_is_refused_too(
    after: float, toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([0.9, after])
    monkeypatch.setattr(dice_check, "mean_dice", lambda *_: next(answers))
    with pytest.raises(Mismatch):
        check_dice(toy_bundle)


def test_nothing_found_where_there_is_nothing_is_right(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = np.zeros((3, 8, 8), np.uint8)

    class Finds:
        def __init__(self, *args: Any) -> None: ...

        def set_volume(self, *args: Any) -> None: ...

        def add(self, *args: Any, **options: Any) -> None: ...

        def propagate(self) -> Any:
            mask = SimpleNamespace(mask=lambda: np.zeros((8, 8), bool))
            return SimpleNamespace(slices={1: dict.fromkeys(range(3), mask)})

    monkeypatch.setattr(Phantom, "box", lambda *_: None)
    monkeypatch.setattr(dice_check, "VolumePredictor", Finds)
    found = dice_check._dice_of_objects(load(toy_bundle), Phantom(empty, empty))
    assert found == [1.0]


def write(toy: Sam2, path: Path, **options: Any) -> Path:
    return write_bundle(toy, path, WEIGHTS, "Apache-2.0", precision="int8", **options)


def test_a_bundle_says_what_has_eight_bits_and_what_that_costs(
    toy: Sam2, toy_bundle: Bundle, tmp_path: Path
) -> None:
    # Random weights draw noise, and what eight bits do to its Dice says nothing.
    made = open_bundle(write(toy, tmp_path / "small", max_dice_drop=1.0))
    assert made.int8_graphs == INT8_GRAPHS and toy_bundle.int8_graphs == ()
    assert made.fingerprint != toy_bundle.fingerprint
    about = made.manifest["int8"]
    graphs = about.pop("graphs")
    assert about == {
        "largest_weight": LARGEST_INT8,
        "dice_fp32": round(mean_dice(toy_bundle, "ort"), 4),
        "dice_int8": round(mean_dice(made, "ort-int8"), 4),
        "phantoms": 1,
        "machine": machine_name(),
        "instructions": ", ".join(instruction_sets()),
    }
    for graph in GRAPHS:
        assert made.read_graph(graph) == toy_bundle.read_graph(graph)
    for graph, figures in graphs.items():
        products = kinds(onnx.load_from_string(made.read_graph(graph, "int8")))
        assert products.count("MatMulInteger") == figures["products"] - figures["in_fp32"] > 0
        assert 0 < figures["error"] <= MAX_ERROR
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


def test_rows_of_a_batch_in_eight_bits_are_as_they_would_be_alone(
    toy: Sam2, tmp_path: Path
) -> None:
    model = load(write(toy, tmp_path / "small", max_dice_drop=1.0), "ort-int8")
    for graph in INT8_GRAPHS:
        inputs = graph_inputs(model.numbers, graph, {"n": 2, "b": 2, "k": 2, "p": 3})
        for values in inputs.values():
            values[1] *= 9 if values.dtype == np.float32 else 1  # of a wider range
        together = model.compute(graph, inputs)
        for row in range(2):
            part = slice(row, row + 1)
            alone = model.compute(graph, {name: x[part] for name, x in inputs.items()})
            for name, values in alone.items():
                np.testing.assert_array_equal(together[name][part], values)
    model.close()


def test_a_bundle_without_them_says_how_to_make_them(toy_bundle: Bundle) -> None:
    with pytest.raises(BackendUnavailable, match=r"no graphs in int8; .*--precision int8"):
        load(toy_bundle, "ort-int8")


def test_mean_dice_is_of_masks_against_the_phantoms_own(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = toy_bundle.model.image_size
    phantom = make_phantom((3, size, size), 0)

    class Knows:
        def __init__(self, *args: Any) -> None:
            self.ids: list[int] = []

        def set_volume(self, *args: Any) -> None: ...

        def add(self, box: Any, object_id: int) -> None:
            assert box == phantom.box(1, object_id)
            self.ids.append(object_id)

        def propagate(self) -> Any:
            def mask(index: int, object_id: int) -> Any:
                truth = phantom.labels[index] == object_id
                wrong = object_id == 3
                return type("M", (), {"mask": lambda self: truth & (not wrong)})()

            slices = {i: {z: mask(z, i) for z in range(3)} for i in self.ids}
            return type("R", (), {"slices": slices})()

    monkeypatch.setattr(dice_check, "VolumePredictor", Knows)
    assert mean_dice(toy_bundle, "ort") == pytest.approx(2 / 3)


def test_of_a_network_without_memory_masks_of_middle_slices_are_judged(
    toy_sam_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = toy_sam_bundle.model.image_size
    phantom = make_phantom((3, size, size), 0)

    class Knows:
        def __init__(self, *args: Any) -> None: ...

        def set_image(self, pixels: np.ndarray) -> None:
            np.testing.assert_array_equal(pixels, phantom.pixels[1])

        def predict(self, box: Any) -> Any:
            i = next(i for i in (1, 2, 3) if replace(phantom.box(1, i), slice=0) == box)
            return SimpleNamespace(mask=lambda: (phantom.labels[1] == i) & (i != 3))

    monkeypatch.setattr(dice_check, "ImagePredictor", Knows)
    assert mean_dice(toy_sam_bundle, "ort") == pytest.approx(2 / 3)


def test_every_phantom_is_another_one_and_progress_sees_each(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dice_check, "PHANTOMS", 3)
    made, calls = [], []

    def dice(model: Any, phantom: Phantom) -> list[float]:
        made.append(phantom)
        return [0.1 * len(made), 0.1 * len(made), 0.3]

    monkeypatch.setattr(dice_check, "_dice_of_objects", dice)
    assert mean_dice(toy_bundle, "ort", lambda: calls.append(1)) == pytest.approx(0.7 / 3)
    assert len(calls) == 3
    for seed, phantom in enumerate(made):
        wanted = make_phantom((3, 128, 128), seed)
        np.testing.assert_array_equal(phantom.pixels, wanted.pixels)


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = {"ort": 0.9, "ort-int8": 0.88}
    monkeypatch.setattr(dice_check, "mean_dice", lambda bundle, name, *_: dice[name])


def test_it_is_refused_where_it_costs_too_much_and_leaves_nothing(
    costly: None, toy: Sam2, tmp_path: Path
) -> None:
    with pytest.raises(Mismatch, match=r"from 0.9000 to 0.8800, by 0.0200; allowed"):
        write(toy, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_was_there_stays_where_eight_bits_are_refused(
    costly: None, toy: Sam2, tmp_path: Path
) -> None:
    made = write_bundle(toy, tmp_path / "small", WEIGHTS, "Apache-2.0")
    before = (made / MANIFEST).read_bytes()
    with pytest.raises(Mismatch):
        write(toy, made, overwrite=True)
    assert (made / MANIFEST).read_bytes() == before
    assert open_bundle(made).int8_graphs == ()
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


def test_the_command_passes_on_what_may_be_lost(
    costly: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)
    target = tmp_path / "small"
    words = ["--random-weights", "1", "--model", TOY.name, "-o", str(target), "--precision", "int8"]
    with pytest.raises(Mismatch):
        main(words)
    main([*words, "--max-dice-drop", "0.03"])
    assert json.loads(capsys.readouterr().out)["bundle"] == str(target)
    assert open_bundle(target).manifest["int8"]["dice_int8"] == 0.88
