"""Inputs that every part of a graph answers to, and the measure by which two answers are compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from runtime.bundle.contract import LABEL_BOX_STOP, LABEL_PAD, ModelNumbers, graph_specs

Arrays = dict[str, np.ndarray]


def graph_inputs(model: ModelNumbers, graph: str, axes: Mapping[str, int], seed: int = 0) -> Arrays:
    """Seeded inputs of one graph at the given axis lengths; every slot and pointer has weight one.

    Rows of a batch differ in all they can differ in: flags, labels (padding included), times and score signs.
    """
    rng = np.random.default_rng(seed)
    return {
        name: _draw(name, spec.bind(axes), model, rng).astype(spec.dtype)
        for name, spec in graph_specs(model)[graph].inputs.items()
    }


def _draw(
    name: str, shape: tuple[int, ...], model: ModelNumbers, rng: np.random.Generator
) -> np.ndarray:
    match name:
        case "memory_time":
            return rng.integers(0, model.num_maskmem, shape)
        case "memory_weight" | "obj_ptr_weight":
            return np.ones(shape)
        case "obj_ptr_pos":
            return rng.integers(-3, 16, shape) / 15
        case "point_coords":
            return rng.uniform(0, model.image_size, shape)
        case "point_labels":
            return rng.integers(LABEL_PAD, LABEL_BOX_STOP + 1, shape)
        case "has_mask_input" | "multimask" | "add_no_mem_embed" | "binarize":
            return rng.integers(0, 2, shape)
        case "mask_input" | "low_res_masks":
            return 6 * rng.standard_normal(shape)
        case _:
            return rng.standard_normal(shape)


def torch_inputs(arrays: Arrays) -> dict[str, torch.Tensor]:
    """The same arrays for the torch model."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def relative_error(found: np.ndarray | torch.Tensor, wanted: np.ndarray | torch.Tensor) -> float:
    """Largest absolute difference as a share of the largest magnitude wanted; shapes must be equal."""
    a, b = (
        np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64)
        for x in (found, wanted)
    )
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    return float(np.abs(a - b).max() / np.abs(b).max())
