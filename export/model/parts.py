"""Parts of a network."""

from __future__ import annotations

from copy import copy
from typing import TypeVar

from torch import nn

Whole = TypeVar("Whole", bound=nn.Module)


def only(model: Whole, *parts: str) -> Whole:
    """A network with some of its children, and its own parameters; the weights are shared.

    What a graph does not ask for would be carried through every pass of the tracer, for up to two fifths of its time.
    Parts that a network of this kind does not have are passed over; what is asked for and was not named is an
    AttributeError.
    """
    whole = copy(model)
    whole._modules = {name: part for name, part in model._modules.items() if name in parts}
    return whole
