"""A graph with the weights of its products in eight bits, all but those that measurably need more.

Weights are int8 by output channel. Activations are quantised as they come (ONNX Runtime's dynamic quantisation), with
the range of the slice at hand. Ranges calibrated beforehand were measured too: slower, no more accurate, and wrong on
OpenVINO (benchmarks/notes.md). Attention and normalisation stay fp32.

Weights use seven of their eight bits. Processors without VNNI multiply unsigned by signed bytes and add up pairs of
products in 16 bits (vpmaddubsw), which saturate: 255 * 127 * 2 is 64770. `LARGEST_INT8` is the largest magnitude that
cannot, so that the same bundle computes the same on every processor. Each channel has a zero point, which gives most of
the eighth bit back.

Which products stay in fp32 is measured on tensors of a phantom's own propagation: the products are put in the order of
what eight bits do to their own result, and the worst ones stay, as few as bring the graph's outputs within `MAX_ERROR`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runtime.measure.lockstep import compare_tensors, error_of
from runtime.measure.parity import TOLERANCES
from runtime.measure.phantom import Phantom, make_phantom
from runtime.model import Model
from runtime.predictors import ImagePredictor, VolumePredictor

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Array = NDArray[np.float32]

MAX_ERROR = 0.75 * TOLERANCES["int8"]
"""Of any output over the recordings, as certificates measure it. They ask other phantoms, hence some air."""
RECORDED_SEED, RECORDED_SLICES, NUM_RECORDINGS = 100, 15, 3
AT_ONCE = 8  # products whose tensors are held at the same time


@dataclass(frozen=True, slots=True)
class Recording:
    """One run of a graph: its inputs and outputs by name."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass(frozen=True, slots=True)
class Quantised:
    """A graph in eight bits.

    Attributes:
        model: the graph.
        products: how many products of weights it has.
        kept: names of those that stay in fp32, the most sensitive first.
        error: largest of any output over the recordings, as `runtime.measure.lockstep.error_of` has it.
    """

    model: onnx.ModelProto
    products: int
    kept: tuple[str, ...]
    error: float


def record(model: Model, graphs: Iterable[str]) -> dict[str, list[Recording]]:
    """Runs of graphs, evenly spaced over a phantom: an object followed both ways from its middle slice, or boxed on
    single slices where the network has no memory.
    """
    runs: dict[str, list[Recording]] = {graph: [] for graph in graphs}

    def observe(graph: str, inputs: object, outputs: object, ms: float) -> None:
        if graph in runs:
            runs[graph].append(Recording(_copied(inputs), _copied(outputs)))

    size = model.numbers.image_size
    phantom = make_phantom((RECORDED_SLICES, size, size), RECORDED_SEED)
    segment = _box_some if model.numbers.kind == "image" else _follow
    segment(model.plain().observed(observe), phantom)
    return {
        graph: [own[i] for i in np.linspace(0, len(own) - 1, NUM_RECORDINGS).round().astype(int)]
        for graph, own in runs.items()
    }


def _follow(model: Model, phantom: Phantom) -> None:
    predictor = VolumePredictor(model)
    predictor.set_volume(phantom.pixels, "none")
    predictor.add(phantom.box(len(phantom.pixels) // 2, 1), object_id=1)
    predictor.propagate()


def _box_some(model: Model, phantom: Phantom) -> None:
    predictor = ImagePredictor(model)
    middle = len(phantom.pixels) // 2
    for index in range(middle - 1, middle - 1 + NUM_RECORDINGS):
        predictor.set_image(phantom.pixels[index])
        predictor.predict(replace(phantom.box(index, 1), slice=0))


def _copied(tensors: object) -> dict[str, Array]:
    return {name: np.array(x) for name, x in dict(tensors).items()}  # type: ignore[call-overload]


def quantised(
    graph: onnx.ModelProto, recordings: Sequence[Recording], max_error: float = MAX_ERROR
) -> Quantised:
    """A graph with as many of its products in eight bits as keep its outputs within `max_error`."""
    with tempfile.TemporaryDirectory() as folder:
        folded = _folded(graph, Path(folder))
        every = _in_int8(folded, Path(folder), ())
        worst = _by_sensitivity(folded, every, recordings[-1])

        def tried(count: int) -> tuple[onnx.ModelProto, float]:
            made = _in_int8(folded, Path(folder), worst[:count]) if count else every
            return made, _error(made, recordings)

        low, high = -1, len(worst)  # too few stay in fp32; enough do
        best = graph, 0.0
        while high - low > 1:
            count = (low + high) // 2 if low >= 0 else 0
            made, error = tried(count)
            if error <= max_error:
                high, best = count, (made, error)
            else:
                low = count
        return Quantised(best[0], len(worst), tuple(worst[:high]), best[1])


def _folded(graph: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Weights stored in halves, and transposed ones, become constants that the quantiser can see."""
    import onnx
    import onnxruntime

    plain, folded = folder / "plain.onnx", folder / "folded.onnx"
    onnx.save(graph, plain)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(
        plain,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["MatMulAddFusion"],  # products stay what the quantiser looks for
    )
    return onnx.load(folded)


def _in_int8(folded: onnx.ModelProto, folder: Path, kept: Sequence[str]) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = folder / "int8.onnx"
    logger = logging.getLogger()  # the quantiser advises to do what `_folded` has done
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            folder / "folded.onnx",
            small,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[*kept, *_of_stacks(folded)],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={
                "DefaultTensorType": onnx.TensorProto.FLOAT,
                "MatMulConstBOnly": True,
                "WeightSymmetric": False,
            },
        )
    finally:
        logger.setLevel(level)
    return onnx.load(small)


def _of_stacks(folded: onnx.ModelProto) -> list[str]:
    """Names of the products of several weights at once, such as relative positions: ONNX Runtime has none in bytes."""
    ranks = {weight.name: len(weight.dims) for weight in folded.graph.initializer}
    return [
        node.name
        for node in folded.graph.node
        if node.op_type == "MatMul" and ranks.get(node.input[1], 2) != 2
    ]


def _by_sensitivity(
    folded: onnx.ModelProto, every: onnx.ModelProto, recording: Recording
) -> list[str]:
    """Names of the products of weights, those first whose results lose most to eight bits."""
    from onnx import helper, numpy_helper

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in every.graph.initializer}
    products = [
        node
        for node in folded.graph.node
        if node.op_type == "MatMul" and f"{node.input[1]}_quantized" in values
    ]
    shown = type(folded)()
    shown.CopyFrom(folded)
    own = {output.name for output in shown.graph.output}
    wanted = dict.fromkeys(name for node in products for name in (node.input[0], node.output[0]))
    given = {value.name for value in shown.graph.input}
    shown.graph.output.extend(
        helper.make_empty_tensor_value_info(name)
        for name in wanted
        if name not in own and name not in given
    )
    session = _session(shown)
    lost = {}
    for start in range(0, len(products), AT_ONCE):
        some = products[start : start + AT_ONCE]
        names = list(
            dict.fromkeys(
                name
                for node in some
                for name in (node.input[0], node.output[0])
                if name not in given
            )
        )
        tensors = dict(zip(names, session.run(names, recording.inputs), strict=True))
        tensors |= {name: recording.inputs[name] for name in given}
        for node in some:
            weights = _weights(values, node.input[1])
            x, y = tensors[node.input[0]], tensors[node.output[0]]
            off = _in_bytes(x) @ weights - y
            lost[node.name] = float(np.linalg.norm(off) / max(np.linalg.norm(y), 1e-30))
    return sorted(lost, key=lambda name: -lost[name])


def _weights(values: dict[str, NDArray[np.generic]], name: str) -> Array:
    """What weights in eight bits stand for."""
    whole = values[f"{name}_quantized"].astype(np.float32)
    zero = values[f"{name}_zero_point"].astype(np.float32)
    weights: Array = (whole - zero) * values[f"{name}_scale"].astype(np.float32)
    return weights


def _in_bytes(x: Array) -> Array:
    """What is left of activations in unsigned bytes, by ONNX's DynamicQuantizeLinear."""
    # Of a pooled memory's own keys there may be none.
    lowest, highest = float(x.min(initial=0.0)), float(x.max(initial=0.0))
    scale = (highest - lowest) / 255 or 1.0
    zero = round(-lowest / scale)
    bytes_ = np.clip(np.rint(x / np.float32(scale)) + zero, 0, 255)
    return np.asarray((bytes_ - zero) * np.float32(scale), np.float32)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _error(model: onnx.ModelProto, recordings: Sequence[Recording]) -> float:
    session, error = _session(model), 0.0
    for recording in recordings:
        outputs = session.run(list(recording.outputs), recording.inputs)
        for found, truth in zip(outputs, recording.outputs.values(), strict=True):
            error = max(error, error_of(compare_tensors(found, truth, MAX_ERROR)))
    return error
