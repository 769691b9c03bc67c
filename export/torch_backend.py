"""The torch model behind the runtime's own back-end interface: the reference to verify and to race against."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from export.model.sam2 import Sam2
from runtime.backends import Buffer
from runtime.model import Model
from runtime.place import HOST, Place

Precision = torch.dtype | None


class TorchEngine:
    """One method of the model as a graph."""

    def __init__(
        self, method: Callable[..., Tensor | tuple[Tensor, ...]], autocast: Precision
    ) -> None:
        self._method, self._autocast = method, autocast

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in inputs.items()}
        is_mixed = self._autocast is not None
        with torch.inference_mode(), torch.autocast("cpu", self._autocast, enabled=is_mixed):
            results = self._method(**tensors)
        for out, result in zip(
            outputs.values(), results if isinstance(results, tuple) else (results,), strict=True
        ):
            out[...] = result.float().numpy()


class TorchBackend:
    """`Sam2`, eager, on the CPU.

    Args:
        model: weights loaded.
        autocast: a dtype to compute in where PyTorch's autocast allows it; None is fp32 throughout.
    """

    place: Place = HOST

    def __init__(self, model: Sam2, autocast: Precision = None) -> None:
        self._methods = {
            "image_encoder": model.encode,
            "memory_attention": model.condition,
            "mask_decoder": model.decode,
            "memory_encoder": model.memorise,
        }
        self._autocast = autocast
        precision = "fp32" if autocast is None else f"{autocast} autocast"
        self.description = f"PyTorch {torch.__version__}, CPU, {precision}"

    def load(self, graph: str) -> TorchEngine:
        return TorchEngine(self._methods[graph], self._autocast)

    def close(self) -> None:
        """Nothing is held."""


def torch_model(model: Sam2, autocast: Precision = None) -> Model:
    """The torch model as the runtime sees any other: hand it to a predictor."""
    constants = {
        "mask_downsample_weight": model.mask_downsample.weight[0, 0].numpy(),
        "mask_downsample_bias": model.mask_downsample.bias[0].numpy(),
        "no_obj_ptr": model.no_obj_ptr[0].numpy(),
    }
    return Model(model.numbers, TorchBackend(model, autocast), constants)
