from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.phantoms.phantoms import Labelled
from benchmarks.training import pool as pools
from benchmarks.training import train_nano
from benchmarks.training import trainer as training
from benchmarks.training.pool import Pool
from benchmarks.training.ranks import Rank
from benchmarks.training.samples import (
    Sequences,
    TrainingBatch,
    draw_scribble,
)
from benchmarks.training.sequence_loss import sequence_loss
from benchmarks.training.trainer import Stage, Trainer, between, shared, stage_at
from export.checkpoints import checkpoint as checkpoints
from runtime.bundle.contract import LABEL_NEGATIVE, LABEL_POSITIVE
from runtime.errors import InputError, MissingInput
from runtime.serve.strokes import MAX_POINTS
from tests.variants import TOY

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of worker processes

RATE = 1e-4


@pytest.fixture(autouse=True)
def toy_is_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checkpoints, training):
        monkeypatch.setattr(module, "VARIANTS", {TOY.name: TOY})


def squares(seed: int, num_slices: int, side: int = 64) -> Labelled:
    """A volume with bright squares that come and go; also a flow, whose object has the label 1."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((num_slices, side, side), np.uint8)
    for label in range(1, 6):
        start = int(rng.integers(0, num_slices - 4))
        y, x = rng.integers(0, side - 16, 2)
        labels[start : start + int(rng.integers(4, 14)), y : y + 16, x : x + 16] = label
    noise = rng.normal(60, 8, labels.shape)
    return Labelled((noise + 30 * labels).clip(0, 255).astype(np.uint8), labels)


@pytest.fixture(autouse=True)
def phantoms_are_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAKERS", dict.fromkeys(pools.MAKERS, squares))


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "pool", 8)


@pytest.fixture
def batch(pool: Pool) -> TrainingBatch:
    return Sequences(pool, ((4, 3),), 64, 2, seed=0)[0]


@pytest.fixture
def start(toy, tmp_path: Path) -> Path:
    path = tmp_path / "toy.pt"
    torch.save({"model": toy.state_dict()}, path)
    return path


def test_a_batch_is_what_it_says(batch: TrainingBatch) -> None:
    rows = len(batch.truth)
    assert batch.images.shape == (3, 4, 64, 64) and batch.images.dtype == torch.uint8
    assert 3 <= rows <= 6 and batch.truth.shape == (rows, 4, 64, 64)
    assert batch.sequence.tolist() == sorted(batch.sequence.tolist())
    assert set(batch.sequence.tolist()) == {0, 1, 2}
    assert batch.boxes.shape == (rows, 2, 2) and batch.clicks.shape == (rows, 3, 2)
    assert batch.scribbles.shape == (rows, MAX_POINTS, 2)
    for truth, scribble in zip(batch.truth, batch.scribbles.long(), strict=True):
        assert all(truth[0, y, x] for x, y in scribble)
    for truth, box, clicks, labels in zip(
        batch.truth, batch.boxes, batch.clicks, batch.click_labels, strict=True
    ):
        assert truth[0].sum() >= 20
        assert (box[1] >= box[0] - 16).all()
        assert labels[0] == LABEL_POSITIVE
        for (x, y), label in zip(clicks.long(), labels, strict=True):
            wanted = LABEL_POSITIVE if truth[0, y, x] else LABEL_NEGATIVE
            assert label == wanted


def test_a_batch_is_a_function_of_its_number(pool: Pool, batch: TrainingBatch) -> None:
    again, other = (Sequences(pool, ((4, 3),), 64, 2, seed=0)[number] for number in (0, 1))
    for one, same in zip(batch, again, strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(batch.images, other.images)


def test_batches_have_all_the_shapes(pool: Pool) -> None:
    sequences = Sequences(pool, ((2, 3), (4, 1)), 32, 1, seed=0)
    seen = {tuple(sequences[number].images.shape[:2]) for number in range(12)}
    assert seen == {(3, 2), (1, 4)}


@pytest.mark.parametrize("kind", training.KINDS)
def test_every_parameter_that_matters_gets_a_gradient(toy, batch: TrainingBatch, kind: str) -> None:
    model = type(toy)(TOY)
    model.load_state_dict(toy.state_dict())
    model.requires_grad_(True)
    loss, figures = sequence_loss(shared(model, 64), batch, kind, teacher=0.0, corrected=1.0)
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
    assert figures["first_count"] == len(batch.truth)
    assert figures["corrected_count"] > 0


@pytest.mark.parametrize("kind", training.KINDS)
def test_what_is_corrected_is_remembered_and_costs(toy, batch: TrainingBatch, kind: str) -> None:
    model = shared(deepcopy(toy), 64)
    with torch.no_grad():
        torch.manual_seed(1)
        plain, without = sequence_loss(model, batch, kind, teacher=0.0, corrected=0.0)
        torch.manual_seed(1)
        more, _ = sequence_loss(model, batch, kind, teacher=0.0, corrected=1.0)
    assert "corrected_count" not in without
    assert float(more) > float(plain)


def test_each_object_is_segmented_in_its_own_sequence(toy, batch: TrainingBatch) -> None:
    """The loss of a batch is that of its sequences one by one."""
    model = shared(deepcopy(toy), 64)  # a twin asks for gradients of what it shares
    with torch.no_grad():
        together, _ = sequence_loss(model, batch, "box", teacher=1.0, corrected=0.0)
        apart = []
        for number in range(3):
            mine = batch.sequence == number
            images = batch.images[number : number + 1]
            rows = (part[mine] for part in batch[2:])
            alone = TrainingBatch(images, torch.zeros(int(mine.sum()), dtype=torch.long), *rows)
            apart.append(
                sequence_loss(model, alone, "box", teacher=1.0, corrected=0.0)[0] * mine.sum()
            )
    wanted = torch.stack(apart).sum() / len(batch.truth)
    assert float(together) == pytest.approx(float(wanted), abs=1e-4)


def run_for(trainer: Trainer, steps: int, pool: Pool, folder: Path) -> None:
    """So many steps of `train`, by a clock that ticks once a step."""
    folder.mkdir(exist_ok=True)
    trainer.seconds = 0.0
    until = trainer.step + steps
    update = Trainer.update

    def count(self: Trainer, loss: torch.Tensor, lr: float) -> None:
        update(self, loss, lr)
        if self.step == until:
            self.seconds = 1e9

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", count)
        training.train(trainer, pool, 1e6, folder, seed=5, workers=0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(1.0, ((2, 1),), 64, 1, (0.5, 0.5), (RATE, RATE))
    monkeypatch.setattr(training, "STAGES", (stage,))


@pytest.mark.usefixtures("small")
def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(
    start: Path, pool: Pool, tmp_path: Path
) -> None:
    whole = Trainer.begin(start)
    run_for(whole, 3, pool, tmp_path / "whole")
    run_for(Trainer.begin(start), 2, pool, tmp_path / "broken")
    resumed = Trainer.begin(start)
    resumed.resume(tmp_path / "broken")
    assert resumed.step == 2
    run_for(resumed, 1, pool, tmp_path / "broken")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], resumed.average[name]), name


@pytest.mark.usefixtures("small")
def test_the_command_trains_and_resumes(start: Path, pool: Pool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    common = ["--start", str(start), "--pool", str(pool.folder), "--volumes", "8", "-o", str(run)]
    common += ["--ranks", "1"]
    train_nano.main([*common, "--workers", "0", "--minutes", "0.001"])
    first = torch.load(run / "state.pt", weights_only=True)
    assert first["step"] >= 1
    minutes = str(first["seconds"] / 60 + 0.001)
    train_nano.main([*common, "--workers", "1", "--minutes", minutes, "--resume"])
    second = torch.load(run / "state.pt", weights_only=True)
    assert second["step"] > first["step"]
    weights = torch.load(run / "nano.pt", weights_only=True)["model"]
    assert weights.keys() == second["model"].keys()
    assert all(value.dtype == torch.float16 for value in weights.values())


def test_a_run_goes_on_with_as_many_ranks(start: Path, tmp_path: Path) -> None:
    Trainer.begin(start, rank=Rank(0, 2)).save(tmp_path)
    with pytest.raises(InputError, match="is of 2 ranks, this run has 1; go on with as many"):
        Trainer.begin(start).resume(tmp_path)
    Trainer.begin(start, rank=Rank(1, 2)).resume(tmp_path)


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_there_is_one_rank_at_least(
    count: str, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_nano.main(["--start", str(start), "--ranks", count, "-o", str(tmp_path)])
    assert "--ranks" in capsys.readouterr().err


@pytest.mark.parametrize("thin", [True, False])
def test_scribbles_are_strokes_within_an_object(thin: bool) -> None:
    mask = np.zeros((40, 30), bool)
    mask[5:35, 12 : 13 if thin else 26] = True
    rng = np.random.default_rng(0)
    drawn = [draw_scribble(rng, mask).long().numpy() for _ in range(40)]
    assert all(mask[scribble[:, 1], scribble[:, 0]].all() for scribble in drawn)
    lengths = {int(np.ptp(scribble, 0).max()) for scribble in drawn}
    assert len(lengths) > (2 if thin else 6)


def test_ranks_have_batches_of_a_shape_and_their_own_pictures(pool: Pool) -> None:
    for number in range(3):
        one, other = (
            Sequences(pool, ((2, 3), (4, 1)), 32, 1, seed=0, rank=rank)[number] for rank in (0, 1)
        )
        assert one.images.shape == other.images.shape
        assert not torch.equal(one.images, other.images)


def test_there_must_be_a_run_to_resume(start: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="leave --resume out"):
        Trainer.begin(start).resume(tmp_path)


def test_copies_of_the_average_are_kept_and_can_be_started_from(
    start: Path, tmp_path: Path
) -> None:
    trainer = Trainer.begin(start)
    for trainer.step in (7, 1234):
        trainer.keep_copy(tmp_path)
    names = sorted(path.name for path in (tmp_path / "copies").iterdir())
    assert names == ["nano-0000007.pt", "nano-0001234.pt"]
    again = Trainer.begin(tmp_path / "copies" / names[0])
    for name, value in trainer.average.items():
        assert torch.equal(again.average[name], value.half().float())


def test_a_gradient_that_is_not_finite_changes_nothing(start: Path) -> None:
    trainer = Trainer.begin(start)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    loss = sum(p.sum() for p in trainer.model.parameters()) * torch.tensor(float("inf"))
    trainer.update(loss, 1.0)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("step", "kept"), [(0, 1 / 6), (19, 0.8), (10**6, 0.999)])
def test_the_average_reaches_over_a_fifth_of_the_steps(start: Path, step: int, kept: float) -> None:
    trainer = Trainer.begin(start)
    trainer.step = step
    name = "sam_mask_decoder.iou_token.weight"
    weight = trainer.model.state_dict()[name]
    before = weight.clone()
    trainer.update(trainer.model.sam_mask_decoder.iou_token.weight.sum(), 0.1)
    moved = weight - before
    assert moved.abs().min() > 0.01
    assert torch.allclose(trainer.average[name], before + (1 - kept) * moved, atol=1e-5)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of a machine with one core
@pytest.mark.parametrize(("scale", "workers"), [(1, 0), (3, 2)])
def test_a_larger_machine_takes_more_sequences_a_step(scale: int, workers: int, pool: Pool) -> None:
    stage = Stage(1.0, ((2, 2),), 64, 1, (0.5, 0.5), (RATE, RATE))
    loader = training.batches_of(stage, pool, 0, scale, workers, first=3)
    assert loader.num_workers == workers
    batch = next(iter(loader))
    assert batch.images.shape[:2] == (2 * scale, 2)
    wanted = Sequences(pool, ((2, 2 * scale),), 64, 1, 0)[3]
    assert torch.equal(batch.images, wanted.images)


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


@pytest.mark.usefixtures("small")
def test_some_parameters_are_trained_and_the_others_left(
    start: Path, pool: Pool, tmp_path: Path
) -> None:
    trainer = Trainer.begin(start, only=("sam_mask_decoder", "obj_ptr_proj"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    run_for(trainer, 2, pool, tmp_path)
    moved = {n for n, v in trainer.model.state_dict().items() if not torch.equal(v, before[n])}
    assert {name.split(".")[0] for name in moved} == {"sam_mask_decoder", "obj_ptr_proj"}
    with pytest.raises(InputError, match="begins with 'nothing'"):
        Trainer.begin(start, only=("sam_", "nothing"))
