"""Names and shapes of the tensors of a model, without their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from export.model.network import network
from export.variants import Variant

Shapes = dict[str, tuple[int, ...]]
FILLS = (
    *(init.kaiming_uniform_, init.normal_),
    *(Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_),
)


class _WithoutNumbers(TorchFunctionMode):
    """Weights are made without memory and never filled.

    PyTorch's own way, its meta device for everything, imports its compiler to fill what is not there: seconds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in FILLS:
            return args[0] if args else given["tensor"]
        if func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)


@cache
def shapes_of(variant: Variant) -> Shapes:
    """Shapes of a model's tensors by name, its network being built for it."""
    with _WithoutNumbers():
        model = network(variant)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def may_fit(variant: Variant, shapes: Shapes) -> bool:
    """False where one weight tells, without a network being built, that some shapes are of another model."""
    stem = shapes.get(f"image_encoder.{variant.trunk.stem}", ())
    return stem[:1] == (variant.trunk.channels,)
