"""Muon for matrices, AdamW for whatever is no matrix: what the gradient of a step does to the parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.03
MIN_SIDE = 16  # of a matrix; what is thinner is a handful of vectors
TABLES = ("embed", "token", "tpos")  # parts of the names of vectors that are looked up


class Optimiser:
    """Two optimisers that take steps together, at the same rate.

    Muon (K. Jordan and others, 2024) makes the update of a matrix orthogonal, so that rare directions learn as fast as
    common ones. Its rate is scaled to steps as large as AdamW's (J. Liu and others, 2025, section 2.2).
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        matrices = [p for name, p in trained if is_matrix(name, p)]
        rest = [p for name, p in trained if not is_matrix(name, p)]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = []
        if rest:
            self.parts.append(torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98)))
        if matrices:
            self.parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=1e-4,
                    weight_decay=WEIGHT_DECAY,
                    momentum=0.95,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, lr: float) -> None:
        """Move the parameters by their gradients, at this learning rate."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` takes."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Go on from a state of the same parameters."""
        for part, saved in zip(self.parts, state, strict=True):
            part.load_state_dict(saved)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter maps vectors to vectors, rather than being a few of them."""
    tall = parameter.ndim == 2 and min(parameter.shape) >= MIN_SIDE
    return tall and not any(table in name for table in TABLES)
