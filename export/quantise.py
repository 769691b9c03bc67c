"""The image encoder with its weights in eight bits: a smaller and, on ONNX Runtime, faster bundle, if masks hold.

Weights are int8 by output channel. Activations are quantised as they come (ONNX Runtime's dynamic quantisation), with
the range of the slice at hand. Ranges calibrated beforehand were measured too: slower, no more accurate, and wrong on
OpenVINO (benchmarks/notes.md). What does hold is decided on phantoms, on the machine that exports: see `check_dice`.

Weights use seven of their eight bits. Processors without VNNI multiply unsigned by signed bytes and add up pairs of
products in 16 bits (vpmaddubsw), which saturate: 255 * 127 * 2 is 64770. `LARGEST_INT8` is the largest magnitude that
cannot, so that the same bundle computes the same on every processor. Each channel has a zero point, which gives most of
the eighth bit back.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from runtime.bundle.bundle import Bundle
from runtime.devices.machine import instruction_sets, machine_name
from runtime.errors import Mismatch
from runtime.measure.phantom import NUM_OBJECTS, Phantom, make_phantom
from runtime.model import load
from runtime.predictors import VolumePredictor

if TYPE_CHECKING:
    import onnx

MAX_DICE_DROP = 0.005
PHANTOMS, PHANTOM_SLICES = 6, 9


def quantised(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """`image_encoder` with the weights of its matrix products in int8; attention and normalisation stay fp32."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        plain, folded, small = (
            Path(folder) / name for name in ("plain.onnx", "folded.onnx", "int8.onnx")
        )
        onnx.save(encoder, plain)
        options = onnxruntime.SessionOptions()
        # Weights stored in halves, and transposed ones, become constants that the quantiser can see.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
        quantize_dynamic(
            folded,
            small,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={
                "DefaultTensorType": onnx.TensorProto.FLOAT,
                "MatMulConstBOnly": True,
                "WeightSymmetric": False,
            },
        )
        return onnx.load(small)


def check_dice(plain: Bundle, small: Bundle, max_drop: float = MAX_DICE_DROP) -> dict[str, Any]:
    """Mean Dice of both bundles on phantoms, each object boxed on the middle slice and followed both ways.

    Returns the figures, for the manifest. Raises Mismatch unless `small` has lost at most `max_drop`.
    """
    with tqdm(total=2 * PHANTOMS, desc="check int8", unit="phantom", file=sys.stderr) as bar:
        before, after = (mean_dice(bundle, bar.update) for bundle in (plain, small))
    figures = {
        "dice_fp32": round(before, 4),
        "dice_int8": round(after, 4),
        "phantoms": PHANTOMS,
        "machine": machine_name(),
        "instructions": ", ".join(instruction_sets()),
    }
    if not before - after <= max_drop:
        raise Mismatch(
            f"an encoder in int8 lowers the mean Dice on {PHANTOMS} phantoms from {before:.4f} to {after:.4f}, by "
            f"{before - after:.4f}; allowed are {max_drop:g} (--max-dice-drop). Export without --encoder int8"
        )
    return figures


def mean_dice(bundle: Bundle, progress: Callable[[], object] = lambda: None) -> float:
    """Mean over phantoms and objects of the Dice of an object's whole mask."""
    model, size = load(bundle, "ort"), bundle.model.image_size
    scores = []
    for seed in range(PHANTOMS):
        phantom = make_phantom((PHANTOM_SLICES, size, size), seed)
        scores += _dice_of_objects(VolumePredictor(model.plain()), phantom)
        progress()
    return float(np.mean(scores))


def _dice_of_objects(predictor: VolumePredictor, phantom: Phantom) -> list[float]:
    middle = len(phantom.pixels) // 2
    predictor.set_volume(phantom.pixels, "none")
    for object_id in range(1, NUM_OBJECTS + 1):
        predictor.add(phantom.box(middle, object_id), object_id=object_id)
    result = predictor.propagate()
    scores = []
    for object_id, masks in result.slices.items():
        mask = np.stack([masks[i].mask() for i in range(len(phantom.pixels))])
        truth = phantom.labels == object_id
        total = int(mask.sum() + truth.sum())
        scores.append(2 * int((mask & truth).sum()) / total if total else 1.0)
    return scores
