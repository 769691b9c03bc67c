"""The torch model behind the runtime's own back-end interface: the reference to verify and to race against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.model.network import Network
from export.model.sam2 import Sam2
from runtime.backends import Buffer
from runtime.devices.memory import HOST_MEMORY, DeviceMemory
from runtime.model import Model
from runtime.steps.steps import HOST_STEPS, Steps

Precision = torch.dtype | None
EXACT = torch.float64


class TorchEngine:
    """One method of the model as a graph. Copies to its device and back are part of a run."""

    def __init__(
        self,
        method: Callable[..., Tensor | tuple[Tensor, ...]],
        precision: Precision,
        device: torch.device,
    ) -> None:
        self._method, self._device = method, device
        self._autocast = None if precision is EXACT else precision
        self._default = EXACT if precision is EXACT else torch.float32

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        tensors = {name: self._tensor(array) for name, array in inputs.items()}
        is_mixed, kind = self._autocast is not None, self._device.type
        with (
            torch.inference_mode(),
            torch.autocast(kind, self._autocast, enabled=is_mixed),
            _default_dtype(self._default),
        ):
            results = self._method(**tensors)
        for out, result in zip(
            outputs.values(), results if isinstance(results, tuple) else (results,), strict=True
        ):
            out[...] = result.float().cpu().numpy()

    def _tensor(self, array: Buffer) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
        return tensor.to(self._default) if tensor.is_floating_point() else tensor


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within it, what the model makes without saying of which type is of this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class TorchBackend:
    """A torch model, eager.

    Args:
        model: weights loaded; it stays where it is, a device gets a copy.
        precision: a dtype to compute in where PyTorch's autocast allows it; None is fp32 throughout, and float64, which
            rounds to fp32 between graphs alone, is the exact answer for others to be measured by.
        device: where PyTorch runs it. Arrays are the host's on any device.
    """

    device_memory: DeviceMemory = HOST_MEMORY
    steps: Steps = HOST_STEPS

    def __init__(self, model: Network, precision: Precision = None, device: str = "cpu") -> None:
        self._device = torch.device(device)
        if self._device.type != "cpu" or precision is EXACT:
            model = copy.deepcopy(model).to(self._device)
        if precision is EXACT:
            model = model.double()
        methods = {"image_encoder": model.encode, "mask_decoder": model.decode}
        if isinstance(model, Sam2):
            methods |= {"memory_attention": model.condition, "memory_encoder": model.memorise}
        self._methods: dict[str, Callable[..., Any]] = methods
        self._precision = precision
        said = "fp32" if precision is None else f"{precision} autocast"
        said = "fp64" if precision is EXACT else said
        self.description = f"PyTorch {torch.__version__}, {_place(self._device)}, {said}"

    def load(self, graph: str) -> TorchEngine:
        return TorchEngine(self._methods[graph], self._precision, self._device)

    def close(self) -> None:
        """Nothing is held."""


def torch_model(model: Network, precision: Precision = None, device: str = "cpu") -> Model:
    """The torch model as the runtime sees any other: hand it to a predictor."""
    constants = _constants(model) if isinstance(model, Sam2) else {}
    return Model(model.numbers, TorchBackend(model, precision, device), constants)


def _constants(model: Sam2) -> dict[str, Any]:
    return {
        "mask_downsample_weight": model.mask_downsample.weight[0, 0].numpy(),
        "mask_downsample_bias": model.mask_downsample.bias[0].numpy(),
        "no_obj_ptr": model.no_obj_ptr[0].numpy(),
    }


def _place(device: torch.device) -> str:
    """A device for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
