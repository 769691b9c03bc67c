from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import train_nano
from benchmarks import trainer as training
from benchmarks.samples import Batch, Sequences, fill_pool
from benchmarks.sequence_loss import sequence_loss
from benchmarks.trainer import Stage, Trainer, between, shared, stage_at
from export import checkpoint as checkpoints
from export.variants import VARIANTS
from runtime.contract import LABEL_NEGATIVE, LABEL_POSITIVE
from tests.variants import TOY

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of worker processes


@pytest.fixture(autouse=True)
def toy_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)
    checkpoints._shapes.cache_clear()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(folder, 2)
    return folder


@pytest.fixture(scope="module")
def batch(pool: Path) -> Batch:
    return next(iter(Sequences(pool, 4, 64, 2, 2, seed=0)))


def test_a_batch_is_what_it_says(batch: Batch) -> None:
    assert batch.images.shape == (2, 4, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.truth.shape == (4, 4, 64, 64)
    assert batch.boxes.shape == (4, 2, 2) and batch.clicks.shape == (4, 3, 2)
    for truth, box, clicks, labels in zip(
        batch.truth, batch.boxes, batch.clicks, batch.click_labels, strict=True
    ):
        assert truth[0].sum() >= 20
        assert (box[1] >= box[0] - 16).all()
        assert labels[0] == LABEL_POSITIVE
        for (x, y), label in zip(clicks.long(), labels, strict=True):
            wanted = LABEL_POSITIVE if truth[0, y, x] else LABEL_NEGATIVE
            assert label == wanted


def test_the_same_seed_draws_the_same_batch(pool: Path, batch: Batch) -> None:
    again = next(iter(Sequences(pool, 4, 64, 2, 2, seed=0)))
    for one, other in zip(batch, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", training.KINDS)
def test_every_parameter_that_matters_gets_a_gradient(toy, batch: Batch, kind: str) -> None:
    model = type(toy)(TOY)
    model.load_state_dict(toy.state_dict())
    model.requires_grad_(True)
    loss, figures = sequence_loss(shared(model, 64), batch, kind, teacher=0.0)
    loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    unused = {"no_mem_pos_enc"}
    if kind == "mask":
        unused |= {"no_mem_embed", "sam_prompt_encoder.no_mask_embed.weight"}
    else:
        unused |= {"mask_downsample.weight", "mask_downsample.bias"}
    unexpected = [
        name
        for name in silent
        if name not in unused
        and "mask_downscaling" not in name
        and "point_embeddings" not in name
        and name != "no_obj_embed_spatial"
    ]
    assert not unexpected
    assert figures["first_count"] == 4


def test_training_resumes_where_it_was_saved(
    toy, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "STAGES", (Stage(1.0, 2, 64, 1, 1, (0.5, 0.5), (1e-4, 1e-4)),))
    start = tmp_path / "toy.pt"
    torch.save({"model": toy.state_dict()}, start)
    common = [
        "--start",
        str(start),
        "--pool",
        str(pool),
        "--volumes",
        "2",
        "-o",
        str(tmp_path / "run"),
    ]
    train_nano.main([*common, "--minutes", "0.01"])
    first = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert first["step"] >= 1
    trainer = Trainer.begin(start)
    trainer.resume(tmp_path / "run")
    assert trainer.step == first["step"]
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, first["model"][name])
    train_nano.main([*common, "--minutes", str(first["seconds"] / 60 + 0.005), "--resume"])
    second = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert second["step"] > first["step"]
    weights = torch.load(tmp_path / "run" / "nano.pt", weights_only=True)["model"]
    assert weights.keys() == toy.state_dict().keys()
    assert all(value.dtype == torch.float16 for value in weights.values())


@pytest.mark.parametrize(("scale", "workers"), [(1, 1), (3, 2)])
def test_a_larger_machine_takes_more_sequences_a_step(
    scale: int,
    workers: int,
    toy,
    pool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "STAGES", (Stage(1.0, 2, 64, 2, 1, (0.5, 0.5), (1e-4, 1e-4)),))
    asked: list[int] = []
    loader = training.DataLoader

    def count(sequences, **options):
        asked.append(options["num_workers"])
        return loader(sequences, **options)

    seen: list[int] = []

    def loss(model, batch: Batch, *rest):
        seen.append(len(batch.images))
        return sequence_loss(model, batch, *rest)

    monkeypatch.setattr(training, "DataLoader", count)
    monkeypatch.setattr(training, "sequence_loss", loss)
    start = tmp_path / "toy.pt"
    torch.save({"model": toy.state_dict()}, start)
    words = ["--start", str(start), "--pool", str(pool), "--volumes", "2", "--minutes", "0.002"]
    more = ["--scale", str(scale), "--workers", str(workers), "-o", str(tmp_path / "run")]
    train_nano.main([*words, *more])
    assert set(seen) == {2 * scale}
    assert asked == [workers]


def test_stages_follow_each_other_and_rates_fall() -> None:
    assert stage_at(0.0)[0] is training.STAGES[0]
    assert stage_at(0.999)[0] is training.STAGES[-1]
    assert sum(stage.share for stage in training.STAGES) == pytest.approx(1)
    assert between((4.0, 2.0), 0.0) == 4.0 and between((4.0, 2.0), 1.0) == pytest.approx(2.0)


def test_the_log_is_json(tmp_path: Path) -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.step, trainer.seconds = 20, 30.0
    sums = {"loss": 4.0, "loss_count": 2.0, "first": 1.8, "first_count": 2.0}
    training._log(tmp_path, trainer, training.STAGES[0], sums)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["loss"] == 2.0 and line["first"] == pytest.approx(0.9) and "last" not in line
    assert np.isclose(line["minutes"], 0.5)
