"""The encoder in eight bits: what changes, what does not, and when it is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export import quantise
from export.__main__ import main
from export.model.sam2 import Sam2
from export.quantise import QuantisationRefused, mean_dice, quantised
from export.variants import VARIANTS
from export.write_bundle import write_bundle
from runtime.bundle import Bundle, open_bundle
from runtime.contract import GRAPHS
from runtime.manifest import MANIFEST
from runtime.phantom import Phantom, make_phantom
from tests.graph_inputs import graph_inputs, relative_error
from tests.variants import TOY

WEIGHTS = {"kind": "random", "source": "random", "seed": 12, "sha256": "00"}


@pytest.fixture(autouse=True)
def few_phantoms(no_tracing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "PHANTOMS", 1)
    monkeypatch.setattr(quantise, "PHANTOM_SLICES", 3)


@pytest.fixture(scope="module")
def plain(toy_bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_from_string(toy_bundle.read_graph("image_encoder"))


@pytest.fixture(scope="module")
def small(plain: onnx.ModelProto) -> onnx.ModelProto:
    return quantised(plain)


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
    made = quantised(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
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


def write(toy: Sam2, path: Path, **options: Any) -> Path:
    return write_bundle(toy, path, WEIGHTS, "Apache-2.0", encoder="int8", **options)


def test_a_bundle_says_that_its_encoder_has_eight_bits_and_what_that_costs(
    toy: Sam2, toy_bundle: Bundle, tmp_path: Path
) -> None:
    made = open_bundle(write(toy, tmp_path / "small"))
    assert made.precision == "int8" and toy_bundle.precision == "fp32"
    figures = made.manifest["quantisation"]
    assert figures == {
        "dice_fp32": round(mean_dice(toy_bundle), 4),
        "dice_int8": round(mean_dice(made), 4),
        "phantoms": 1,
    }
    for graph in GRAPHS:
        is_same = made.read_graph(graph) == toy_bundle.read_graph(graph)
        assert is_same == (graph != "image_encoder")
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


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

    monkeypatch.setattr(quantise, "VolumePredictor", Knows)
    assert mean_dice(toy_bundle) == pytest.approx(2 / 3)


def test_every_phantom_is_another_one_and_progress_sees_each(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "PHANTOMS", 3)
    made, calls = [], []

    def dice(predictor: Any, phantom: Phantom) -> list[float]:
        made.append(phantom)
        return [0.1 * len(made), 0.1 * len(made), 0.3]

    monkeypatch.setattr(quantise, "_dice_of_objects", dice)
    assert mean_dice(toy_bundle, lambda: calls.append(1)) == pytest.approx(0.7 / 3)
    assert len(calls) == 3
    for seed, phantom in enumerate(made):
        wanted = make_phantom((3, 128, 128), seed)
        np.testing.assert_array_equal(phantom.pixels, wanted.pixels)


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = {"fp32": 0.9, "int8": 0.88}
    monkeypatch.setattr(quantise, "mean_dice", lambda bundle, *_: dice[bundle.precision])


def test_it_is_refused_where_it_costs_too_much_and_leaves_nothing(
    costly: None, toy: Sam2, tmp_path: Path
) -> None:
    with pytest.raises(QuantisationRefused, match=r"from 0.9000 to 0.8800, by 0.0200; allowed"):
        write(toy, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_was_there_stays_where_eight_bits_are_refused(
    costly: None, toy: Sam2, tmp_path: Path
) -> None:
    made = write_bundle(toy, tmp_path / "small", WEIGHTS, "Apache-2.0")
    before = (made / MANIFEST).read_bytes()
    with pytest.raises(QuantisationRefused):
        write(toy, made, overwrite=True)
    assert (made / MANIFEST).read_bytes() == before
    assert open_bundle(made).precision == "fp32"
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


def test_the_command_passes_on_what_may_be_lost(
    costly: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)
    target = tmp_path / "small"
    words = ["--random-weights", "1", "--model", TOY.name, "-o", str(target), "--encoder", "int8"]
    with pytest.raises(QuantisationRefused):
        main(words)
    main([*words, "--max-dice-drop", "0.03"])
    assert json.loads(capsys.readouterr().out)["bundle"] == str(target)
    assert open_bundle(target).manifest["quantisation"]["dice_int8"] == 0.88
