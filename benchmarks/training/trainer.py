"""The loop that trains the embedded demonstration model, and what is saved of it.

Each stage is a row of `STAGES`. A run can be stopped and resumed at any step: batch, prompt and chance are functions of
the seed and the step's number. Figures are in its log.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.training.arithmetic import fast_arithmetic
from benchmarks.training.optimiser import Optimiser
from benchmarks.training.pool import Pool
from benchmarks.training.ranks import ALONE, Rank
from benchmarks.training.samples import Sequences, Shape, TrainingBatch
from benchmarks.training.sequence_loss import sequence_loss
from export.checkpoints.checkpoint import read_checkpoint
from export.model.sam2 import Sam2
from export.variants import VARIANTS
from runtime.errors import InputError, MissingInput
from runtime.files.atomic import write_whole

KINDS = ("box", "click", "clicks", "scribble", "mask")
KIND_SHARES = (0.28, 0.32, 0.12, 0.14, 0.14)
CORRECTED_SHARE = 0.3  # of the slices
WARM_UP = 40  # steps
SAVE_EVERY_S, COPY_EVERY_S = 300.0, 900.0
FIGURES = ("loss", "first", "last", "flow", "corrected", "present", "absent")
EMA_DECAY, EMA_RAMP = 0.999, 5  # the average reaches over the last fifth of the steps, at most 1000
STATE, WEIGHTS, COPIES = "state.pt", "nano.pt", "copies"


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the run.

    Attributes:
        share: of the whole time.
        shapes: slices of a sequence and sequences of a batch, drawn anew for each.
        size: of the images.
        num_objects: of a sequence, at most.
        teacher: probability that memory holds the truth, at the stage's start and end.
        lr: peak learning rates at the stage's start and end.
    """

    share: float
    shapes: tuple[Shape, ...]
    size: int
    num_objects: int
    teacher: tuple[float, float]
    lr: tuple[float, float]


SHAPES = ((3, 5), (5, 3), (8, 1), (12, 1))
# A run that nobody knows the end of stays in the first stage: give it more minutes than it will get.
STAGES = (
    Stage(0.65, SHAPES, 256, 3, (0.1, 0.1), (4e-4, 4e-4)),
    Stage(0.35, SHAPES, 256, 3, (0.1, 0.0), (4e-4, 4e-6)),
)


@dataclass(slots=True)
class Trainer:
    """A run: parameters, their moving average, the optimiser, who shares its steps, and how far it has come."""

    model: Sam2
    average: dict[str, Tensor]
    optimiser: Optimiser
    rank: Rank = ALONE
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(
        cls, start: Path, device: str = "cpu", only: Sequence[str] = (), rank: Rank = ALONE
    ) -> Trainer:
        """From a checkpoint of a row in the table.

        `only` are beginnings of the names of parameters to be trained; none trains all of them. Raises InputError for
        one that no parameter has.
        """
        checkpoint = read_checkpoint(start)
        model = Sam2(checkpoint.variant)
        model.load_state_dict(checkpoint.state, strict=True)
        model.to(device)
        if unknown := [
            part for part in only if not any(n.startswith(part) for n in checkpoint.state)
        ]:
            raise InputError(f"no parameter's name begins with '{unknown[0]}'")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not only or name.startswith(tuple(only)))
        average = {name: value.clone() for name, value in model.state_dict().items()}
        return cls(model, average, Optimiser(model.named_parameters()), rank)

    def update(self, loss: Tensor, lr: float) -> None:
        """One optimiser step; a step whose gradient is not finite is left out."""
        self.optimiser.zero_grad()
        loss.backward()
        self.rank.average_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimiser.step(lr)
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + EMA_RAMP))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def save(self, folder: Path) -> None:
        """The state to resume from, and the averaged weights to export; each whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "ranks": self.rank.count,
        }
        write_whole(folder / STATE, lambda part: torch.save(state, part))
        self._save_weights(folder / WEIGHTS)

    def keep_copy(self, folder: Path) -> None:
        """The averaged weights of this step, beside those of earlier ones."""
        (folder / COPIES).mkdir(exist_ok=True)
        self._save_weights(folder / COPIES / f"nano-{self.step:07d}.pt")

    def resume(self, folder: Path) -> None:
        """Continue where `save` left off.

        Raises MissingInput where nothing was saved, InputError where other optimisers or other many processes did.
        """
        if not (folder / STATE).is_file():
            raise MissingInput(
                f"no run to resume: there is no {folder / STATE}; leave --resume out"
            )
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        if state.get("ranks") != self.rank.count:
            raise InputError(
                f"{folder / STATE} is of {state.get('ranks', 'unknown')} ranks, this run has {self.rank.count};"
                f" go on with as many, or begin anew with --start {folder / WEIGHTS}"
            )
        self.model.load_state_dict(state["model"], strict=True)
        device = self.model.no_mem_embed.device
        self.average = {name: value.to(device) for name, value in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _save_weights(self, path: Path) -> None:
        weights = {name: value.half().cpu() for name, value in self.average.items()}
        write_whole(path, lambda part: torch.save({"model": weights}, part))


def shared(model: Sam2, size: int) -> Sam2:
    """The same parameters at another image size, on the device where they are."""
    twin = Sam2(VARIANTS[model.numbers.name], size)
    for theirs, ours in zip(twin.parameters(), model.parameters(), strict=True):
        theirs.requires_grad_(ours.requires_grad)  # or taking ours over would change it
    twin.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return twin.to(model.no_mem_embed.device)


def stage_at(share: float) -> tuple[Stage, float]:
    """The stage in which a share of the run's time falls, and how far into it."""
    for stage in STAGES:
        if share < stage.share:
            return stage, share / stage.share
        share -= stage.share
    return STAGES[-1], 1.0


def between(ends: tuple[float, float], along: float) -> float:
    """Linear interpolation."""
    return ends[0] + (ends[1] - ends[0]) * along


def batches_of(
    stage: Stage, pool: Pool, seed: int, scale: int, workers: int, first: int, rank: int = 0
) -> DataLoader[TrainingBatch]:
    """A rank's batches from a number on, made by so many processes; none makes them in this one."""
    shapes = tuple((slices, sequences * scale) for slices, sequences in stage.shapes)
    return DataLoader(
        Sequences(pool, shapes, stage.size, stage.num_objects, seed, rank),
        batch_size=None,
        sampler=itertools.count(first),  # type: ignore[arg-type]  # endless
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )


def train(
    trainer: Trainer,
    pool: Pool,
    minutes: float,
    folder: Path,
    seed: int,
    scale: int = 1,
    workers: int = 0,
) -> None:
    """Train for so many minutes in all, saving as it goes; `scale` multiplies the sequences of each batch."""
    rank = trainer.rank
    saved = copied = time.monotonic()
    current, batches, model = None, iter(()), trainer.model
    sums: dict[str, float] = {}
    while (seconds := rank.agree(trainer.seconds)) < 60 * minutes:
        started = time.monotonic()
        stage, along = stage_at(seconds / (60 * minutes))
        if stage is not current:
            current, model = stage, shared(trainer.model, stage.size)
            batches = iter(batches_of(stage, pool, seed, scale, workers, trainer.step, rank.number))
        figures = take_step(trainer, model, stage, along, next(batches), seed)
        for key, value in figures.items():
            sums[key] = sums.get(key, 0.0) + value
        now = time.monotonic()
        trainer.seconds += now - started
        if trainer.step % 20 == 0:
            sums = rank.add(sums, [part + end for part in FIGURES for end in ("", "_count")])
            if rank.is_first:
                _log(folder, trainer, stage, sums)
            sums = {}
        if rank.is_first and now - saved > SAVE_EVERY_S:
            trainer.save(folder)
            saved = now
        if rank.is_first and now - copied > COPY_EVERY_S:
            trainer.keep_copy(folder)
            copied = now
    if rank.is_first:
        trainer.save(folder)


def take_step(
    trainer: Trainer, model: Sam2, stage: Stage, along: float, batch: TrainingBatch, seed: int
) -> dict[str, float]:
    """One step so far into a stage, and its figures as sums and counts; `model` has the trainer's parameters."""
    device = model.no_mem_embed.device
    kind = str(np.random.default_rng([seed, trainer.step, 1]).choice(KINDS, p=KIND_SHARES))
    chance = np.random.default_rng([seed, trainer.step, 2, trainer.rank.number])
    torch.manual_seed(int(chance.integers(2**62)))
    batch = TrainingBatch(*(part.to(device) for part in batch))
    with device, fast_arithmetic(device):  # what the loss makes on its way lies there too
        teacher = between(stage.teacher, along)
        loss, figures = sequence_loss(model, batch, kind, teacher, CORRECTED_SHARE)
        lr = between(stage.lr, along) * min(1.0, (trainer.step + 1) / WARM_UP)
        trainer.update(loss, lr)
    return {**figures, "loss": float(loss.detach()), "loss_count": 1.0}


def _log(folder: Path, trainer: Trainer, stage: Stage, sums: dict[str, float]) -> None:
    line: dict[str, Any] = {
        "step": trainer.step,
        "minutes": round(trainer.seconds / 60, 2),
        "size": stage.size,
    }
    for key in FIGURES:
        if count := sums.get(f"{key}_count"):
            line[key] = round(sums[key] / count, 3)
    text = json.dumps(line)
    print(text, file=sys.stderr, flush=True)
    with (folder / "log.jsonl").open("a") as stream:
        stream.write(text + "\n")
