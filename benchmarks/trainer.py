"""Training of the embedded demonstration model: parameters, their average, and a run of stages."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.samples import Batch, Sequences
from benchmarks.sequence_loss import sequence_loss
from export.checkpoint import read_checkpoint
from export.model.sam2 import Sam2
from export.variants import VARIANTS

KINDS = ("box", "click", "clicks", "mask")
KIND_SHARES = (0.42, 0.26, 0.14, 0.18)
EMA_DECAY = 0.997
SAVE_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the run.

    Attributes:
        share: of the whole time.
        num_slices, size, num_sequences, num_objects: of a batch.
        teacher: probability that memory holds the truth, at the stage's start and end.
        lr: peak learning rates at the stage's start and end.
    """

    share: float
    num_slices: int
    size: int
    num_sequences: int
    num_objects: int
    teacher: tuple[float, float]
    lr: tuple[float, float]


STAGES = (
    Stage(0.6, 6, 192, 4, 3, (0.2, 0.1), (4e-4, 3e-4)),
    Stage(0.4, 8, 256, 3, 3, (0.1, 0.0), (3e-4, 1e-5)),
)


def shared(model: Sam2, size: int) -> Sam2:
    """The same parameters at another image size, on the device where they are."""
    twin = Sam2(VARIANTS[model.numbers.name], size).requires_grad_(True)
    twin.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return twin.to(model.no_mem_embed.device)


@dataclass(slots=True)
class Trainer:
    """A run: parameters, their moving average, the optimiser, and how far it has come."""

    model: Sam2
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, start: Path, device: str = "cpu") -> Trainer:
        """From a checkpoint of a row in the table."""
        checkpoint = read_checkpoint(start)
        model = Sam2(checkpoint.variant)
        model.load_state_dict(checkpoint.state, strict=True)
        model.to(device).requires_grad_(True)
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": 0.03},
            {"params": others, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98))
        average = {name: value.clone() for name, value in model.state_dict().items()}
        return cls(model, average, optimiser)

    def update(self, loss: Tensor, lr: float) -> None:
        """One optimiser step; a step whose gradient is not finite is left out."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 20))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def save(self, folder: Path) -> None:
        """The state to resume from, and the averaged weights to export; each whole or not at all."""
        weights = {name: value.half().cpu() for name, value in self.average.items()}
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        for name, content in (("nano.pt", {"model": weights}), ("state.pt", state)):
            part = folder / f".{name}.part"
            torch.save(content, part)
            part.replace(folder / name)

    def resume(self, folder: Path) -> None:
        """Continue where `save` left off."""
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"], strict=True)
        device = self.model.no_mem_embed.device
        self.average = {name: value.to(device) for name, value in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]


def stage_at(share: float) -> tuple[Stage, float]:
    """The stage in which a share of the run's time falls, and how far into it."""
    for stage in STAGES:
        if share < stage.share:
            return stage, share / stage.share
        share -= stage.share
    return STAGES[-1], 1.0


def between(ends: tuple[float, float], along: float) -> float:
    """Cosine interpolation."""
    return ends[1] + (ends[0] - ends[1]) * 0.5 * (1 + math.cos(math.pi * along))


def train(
    trainer: Trainer,
    pool: Path,
    minutes: float,
    folder: Path,
    seed: int,
    scale: int = 1,
    workers: int = 1,
) -> None:
    """Train for so many minutes in all, saving as it goes; `scale` multiplies the sequences of each batch."""
    device = trainer.model.no_mem_embed.device
    rng = np.random.default_rng([seed, trainer.step])
    torch.manual_seed(seed + trainer.step)
    saved, current, batches, model = time.monotonic(), None, iter(()), trainer.model
    sums: dict[str, float] = {}
    while trainer.seconds < 60 * minutes:
        started = time.monotonic()
        stage, along = stage_at(trainer.seconds / (60 * minutes))
        if stage is not current:
            current, model = stage, shared(trainer.model, stage.size)
            sequences = Sequences(
                pool,
                stage.num_slices,
                stage.size,
                stage.num_sequences * scale,
                stage.num_objects,
                seed + trainer.step,
            )
            loader = DataLoader(sequences, batch_size=None, num_workers=workers, prefetch_factor=4)
            batches = iter(loader)
        kind = str(rng.choice(KINDS, p=KIND_SHARES))
        batch = Batch(*(part.to(device) for part in next(batches)))
        with device:  # what the loss makes on its way lies there too
            loss, figures = sequence_loss(model, batch, kind, between(stage.teacher, along))
        trainer.update(loss, between(stage.lr, along) * min(1.0, (trainer.step + 1) / 40))
        for key, value in {**figures, "loss": float(loss.detach()), "loss_count": 1.0}.items():
            sums[key] = sums.get(key, 0.0) + value
        trainer.seconds += time.monotonic() - started
        if trainer.step % 20 == 0:
            _log(folder, trainer, stage, sums)
            sums = {}
        if time.monotonic() - saved > SAVE_EVERY_S:
            trainer.save(folder)
            saved = time.monotonic()
    trainer.save(folder)


def _log(folder: Path, trainer: Trainer, stage: Stage, sums: dict[str, float]) -> None:
    line: dict[str, Any] = {
        "step": trainer.step,
        "minutes": round(trainer.seconds / 60, 2),
        "size": stage.size,
    }
    for key in ("loss", "first", "last", "present", "absent"):
        if count := sums.get(f"{key}_count"):
            line[key] = round(sums[key] / count, 3)
    text = json.dumps(line)
    print(text, file=sys.stderr, flush=True)
    with (folder / "log.jsonl").open("a") as stream:
        stream.write(text + "\n")
