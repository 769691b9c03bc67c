"""`python -m benchmarks.train_nano`: the recipe of the embedded demonstration model.

Sequences of phantom slices, one prompt on the first, every later slice from memory alone: the loop of the runtime,
with gradients. Many objects end within their sequence, so that the model learns to say so.

Each stage is a row of `STAGES`. A run can be stopped and resumed at any step; seeds, stages and figures are in its log.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.samples import Batch, Sequences, fill_pool
from export.checkpoint import read_checkpoint
from export.model.sam2 import Sam2
from export.variants import VARIANTS
from runtime.command import run_command
from runtime.contract import LABEL_PAD, NO_OBJ_SCORE, PIXEL_MEAN, PIXEL_STD

KINDS = ("box", "click", "clicks", "mask")
KIND_SHARES = (0.42, 0.26, 0.14, 0.18)
FOCAL_WEIGHT, ABSENT_WEIGHT = 20.0, 2.0
REACH = 15  # pointers are normalised as in long volumes
EMA_DECAY = 0.995
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
    Stage(0.55, 6, 192, 4, 3, (0.3, 0.1), (5e-4, 4e-4)),
    Stage(0.45, 7, 256, 3, 3, (0.1, 0.0), (4e-4, 1e-5)),
)

EXAMPLES = """examples:
  python -m benchmarks.train_nano --start nano_fp16.pt --minutes 60 -o out/nano
  python -m benchmarks.train_nano --start nano_fp16.pt --minutes 60 -o out/nano --resume
  python -m export --checkpoint out/nano/nano.pt --weights-kind demonstration -o runtime/nano --overwrite
"""


def shared(model: Sam2, size: int) -> Sam2:
    """The same parameters at another image size."""
    twin = Sam2(VARIANTS[model.numbers.name], size).requires_grad_(True)
    twin.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return twin


def normalise(images: Tensor) -> Tensor:
    """uint8 (n, S, S) to the encoder's input (n, 3, S, S)."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return (images.float()[:, None] / 255 - mean) / std


@dataclass(slots=True)
class Memory:
    """What later slices of a sequence read."""

    memories: list[Tensor]
    pointers: list[Tensor]

    def read(self, step: int, num_maskmem: int) -> dict[str, Tensor]:
        """Inputs of `Sam2.condition` for a step; the prompted slice is number 0."""
        recent = range(max(1, step - num_maskmem + 1), step)
        times = [num_maskmem - 1, *(step - earlier - 1 for earlier in recent)]
        memory = torch.stack([self.memories[i] for i in (0, *recent)], 1)
        pointers = torch.stack(self.pointers[:step], 1)
        rows = len(memory)
        distance = torch.tensor([(step - earlier) / REACH for earlier in range(step)])
        return {
            "memory": memory,
            "memory_time": torch.tensor(times).expand(rows, -1),
            "memory_weight": torch.ones(memory.shape[:2]),
            "obj_ptrs": pointers,
            "obj_ptr_pos": distance.expand(rows, -1),
            "obj_ptr_weight": torch.ones(pointers.shape[:2]),
        }


def sequence_loss(
    model: Sam2, batch: Batch, kind: str, teacher: float
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss over a batch of sequences, and figures of its first and last slices."""
    num_sequences, num_slices = batch.images.shape[:2]
    per = len(batch.truth) // num_sequences
    encoded = model.encode(normalise(batch.images.flatten(0, 1)))
    feats, high0, high1 = (
        e.unflatten(0, (num_sequences, num_slices)).repeat_interleave(per, 0) for e in encoded
    )
    past = Memory([], [])
    total: Tensor = torch.zeros(())
    figures: dict[str, float] = {}
    for step in range(num_slices):
        features, truth = feats[:, step], batch.truth[:, step]
        heads = _heads(model, features, (high0[:, step], high1[:, step]), batch, kind, step, past)
        masks, ious, tokens, score = heads
        loss, dice = slice_loss(masks, ious, score, truth)
        total = total + loss * (0.3 if kind == "mask" and step == 0 else 1.0)
        best = ious.argmax(1)
        _note(figures, step, num_slices, dice, best, score, truth)
        if step + 1 < num_slices:
            rows = torch.arange(len(best))
            use_truth = (torch.rand(len(best)) < teacher) | (kind == "mask" and step == 0)
            _remember(
                model,
                past,
                features,
                masks[rows, best],
                tokens[rows, best],
                score,
                truth,
                use_truth,
                step,
            )
    return total / num_slices, figures


def _heads(
    model: Sam2,
    features: Tensor,
    high: tuple[Tensor, Tensor],
    batch: Batch,
    kind: str,
    step: int,
    past: Memory,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Candidate masks (b, n, 4 G, 4 G) with ious, tokens and score: one of a certain prompt, three of a vague one."""
    rows = len(features)
    coords, labels = torch.zeros(rows, 1, 2), torch.full((rows, 1), LABEL_PAD)
    multimask = step > 0 or kind == "click"
    side = features.shape[-1] * 4
    dense, has_dense = torch.zeros(rows, 1, side, side), torch.zeros(rows, dtype=torch.bool)
    if step > 0:
        features = model.condition(features, **past.read(step, model.numbers.num_maskmem))
    elif kind == "mask":
        dense, has_dense = (
            model.mask_downsample(batch.truth[:, :1]),
            torch.ones(rows, dtype=torch.bool),
        )
    else:
        features = features + model.no_mem_embed.reshape(1, -1, 1, 1)
        coords, labels = batch.clicks, batch.click_labels
        if kind == "box":
            coords, labels = batch.boxes, batch.box_labels
        elif kind == "click":
            coords, labels = coords[:, :1], labels[:, :1]
    prompts = model.sam_prompt_encoder
    masks, ious, tokens, score = model.sam_mask_decoder(
        features + prompts.dense(dense, has_dense),
        prompts.image_position(),
        prompts.points(coords, labels),
        *high,
    )
    chosen = slice(1, None) if multimask else slice(0, 1)
    return masks[:, chosen], ious[:, chosen], tokens[:, chosen], score


def _remember(
    model: Sam2,
    past: Memory,
    features: Tensor,
    logits: Tensor,
    token: Tensor,
    score: Tensor,
    truth: Tensor,
    use_truth: Tensor,
    step: int,
) -> None:
    present = truth.flatten(1).amax(1) > 0
    true_logits = 20 * F.interpolate(truth[:, None], logits.shape[-2:], mode="area") - 10
    score = torch.where(use_truth, 20.0 * present - 10, score[:, 0].detach())
    logits = torch.where(use_truth[:, None, None, None], true_logits, logits[:, None])
    logits = torch.where((score > 0)[:, None, None, None], logits, NO_OBJ_SCORE)
    prompted = torch.full((len(score),), step == 0)
    past.memories.append(model.memorise(features, logits, score, prompted))
    past.pointers.append(
        torch.where((score > 0)[:, None], model.obj_ptr_proj(token), model.no_obj_ptr)
    )


def slice_loss(masks: Tensor, ious: Tensor, score: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and Dice loss of the best candidate, error of predicted ious, and the object score's cross entropy.

    Args:
        masks: logits (b, n, h, w).
        ious: (b, n).
        score: (b, 1).
        truth: 0 or 1, (b, S, S).

    Returns the loss and each candidate's Dice (b, n).
    """
    side = max(truth.shape[-1] // 2, masks.shape[-1])
    target = F.interpolate(truth[:, None], (side, side), mode="area")
    logits = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
    p = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    focal = (0.5 * (p - target).abs() ** 2 * cross).mean((2, 3))
    overlap = (p * target).sum((2, 3))
    dice_loss = 1 - (2 * overlap + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    with torch.no_grad():
        found, true = logits > 0, target > 0.5
        both = (found & true).sum((2, 3)).float()
        sizes = found.sum((2, 3)) + true.sum((2, 3))
        true_ious = both / (sizes - both).clamp(min=1)
        dice = 2 * both / sizes.clamp(min=1)
    present = (truth.flatten(1).amax(1) > 0).float()
    mask_loss = (FOCAL_WEIGHT * focal + dice_loss).amin(1)
    iou_loss = (ious - true_ious).abs().mean(1)
    weight = 1 + (ABSENT_WEIGHT - 1) * (1 - present)
    score_loss = F.binary_cross_entropy_with_logits(score[:, 0], present, weight=weight)
    return ((mask_loss + iou_loss) * present).mean() + score_loss, dice


def _note(
    figures: dict[str, float],
    step: int,
    num_slices: int,
    dice: Tensor,
    best: Tensor,
    score: Tensor,
    truth: Tensor,
) -> None:
    """Dice on the first and last slice, and how often presence and absence are told, as sums and counts."""
    present = truth.flatten(1).amax(1) > 0
    chosen = dice[torch.arange(len(best)), best]
    right = (score[:, 0] > 0) == present
    name = {0: "first", num_slices - 1: "last"}.get(step)
    parts = {"present": right[present].float(), "absent": right[~present].float()} if step else {}
    if name:
        parts[name] = chosen[present]
    for key, values in parts.items():
        figures[key] = figures.get(key, 0.0) + float(values.sum())
        figures[f"{key}_count"] = figures.get(f"{key}_count", 0.0) + len(values)


@dataclass(slots=True)
class Trainer:
    """A run: parameters, their moving average, the optimiser, and how far it has come."""

    model: Sam2
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, start: Path) -> Trainer:
        """From a checkpoint of a row in the table."""
        checkpoint = read_checkpoint(start)
        model = Sam2(checkpoint.variant)
        model.load_state_dict(checkpoint.state, strict=True)
        model.requires_grad_(True)
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
        weights = {name: value.half() for name, value in self.average.items()}
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
        self.average = state["average"]
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


def train(trainer: Trainer, pool: Path, minutes: float, folder: Path, seed: int) -> None:
    """Train for so many minutes in all, saving as it goes."""
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
                stage.num_sequences,
                stage.num_objects,
                seed + trainer.step,
            )
            batches = iter(DataLoader(sequences, batch_size=None, num_workers=1, prefetch_factor=4))
        kind = str(rng.choice(KINDS, p=KIND_SHARES))
        loss, figures = sequence_loss(
            model, Batch(*next(batches)), kind, between(stage.teacher, along)
        )
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


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.train_nano",
        description="Train the embedded demonstration model on phantoms.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--start", type=Path, required=True, metavar="F.pt", help="weights to begin with"
    )
    p.add_argument(
        "--minutes", type=float, default=60.0, help="in all, over every resumption (%(default)s)"
    )
    p.add_argument("--pool", type=Path, default=Path("out/pool"), help="phantoms (%(default)s)")
    p.add_argument("--volumes", type=int, default=400, help="phantoms to make (%(default)s)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, metavar="N", help="default: one for each core")
    p.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    args.output.mkdir(parents=True, exist_ok=True)
    fill_pool(args.pool, args.volumes)
    trainer = Trainer.begin(args.start)
    if args.resume:
        trainer.resume(args.output)
    train(trainer, args.pool, args.minutes, args.output, args.seed)
    print(json.dumps({"weights": str(args.output / "nano.pt"), "steps": trainer.step}))


if __name__ == "__main__":
    run_command(main)
