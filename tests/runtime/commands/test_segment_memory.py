"""The command on a volume: rules of memory, presets and fusion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import runtime.jobs.volume
from kernels.largest_component import largest_component
from runtime.commands.segment import main
from runtime.errors import InputError
from runtime.io import Volume
from runtime.measure.phantom import Phantom, make_phantom
from runtime.memory import MemoryRules
from runtime.model import load
from runtime.predictors import VolumePredictor
from runtime.predictors.chosen import Auto
from runtime.predictors.orientations import FUSIONS
from runtime.prompts.prompts import Mask
from tests.reports import confidences, memories, read_report

SHAPE = (5, 64, 64)
MIDDLE = 2
PHANTOM: Phantom = make_phantom(SHAPE, seed=3)
VOLUME = Volume(PHANTOM.pixels, (2.5, 0.75, 0.8))

Run = Callable[..., dict[str, Any]]


def as_box(object_id: int) -> str:
    box = PHANTOM.box(MIDDLE, object_id)
    return ",".join(str(v) for v in (MIDDLE, *box.y, *box.x))


BOX = as_box(1)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.nrrd"
    sitk.WriteImage(VOLUME.to_image(), str(path))
    return path


@pytest.fixture
def run(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process; returns the one JSON line that is all of stdout."""

    def call(*arguments: str) -> dict[str, Any]:
        main(
            [
                "-i",
                str(study),
                "-o",
                str(tmp_path / "mask.nrrd"),
                "--threads",
                "1",
                "--report-memory",
                *arguments,
            ]
        )
        (line,) = capsys.readouterr().out.splitlines()
        return read_report(line)

    return call


def labels_in(folder: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask.nrrd")))


RULES: list[tuple[tuple[str, ...], MemoryRules]] = [
    ((), MemoryRules()),
    (("--memory", "confidence"), MemoryRules(policy="confidence")),
    (("--memory", "self_sorting_released"), MemoryRules(policy="self_sorting_released")),
    (("--pick-up", "weighted"), MemoryRules(pick_up="weighted")),
    (("--pick-up", "resample", "--seed", "7"), MemoryRules(pick_up="resample", seed=7)),
    (("--capacity", "2"), MemoryRules(capacity=2)),
    (("--min-confidence", "0.8"), MemoryRules(min_confidence=0.8)),
    (("--max-similarity", "-0.25"), MemoryRules(max_similarity=-0.25)),
    (("--min-similarity", "-1"), MemoryRules(min_similarity=-1.0)),
    (("--min-similarity", "0.75"), MemoryRules(min_similarity=0.75)),
    (("--confidence", "foreground"), MemoryRules(confidence="foreground")),
]


@pytest.mark.parametrize(("words", "rules"), RULES, ids=[" ".join(words) for words, _ in RULES])
def test_options_of_memory_reach_the_predictor(
    words: tuple[str, ...],
    rules: MemoryRules,
    run: Run,
    telling: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    class Watched(VolumePredictor):
        def __init__(
            self, model: Any, memory: MemoryRules, max_bytes: int | None, **others: Any
        ) -> None:
            seen.append(memory)
            super().__init__(model, memory, max_bytes, **others)

    monkeypatch.setattr(runtime.jobs.volume, "VolumePredictor", Watched)
    report = run("--box", BOX, *words)
    assert seen == [rules]
    assert (report["options"]["memory"], report["options"]["pick_up"]) == (
        rules.policy,
        rules.pick_up,
    )


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        ((), "auto"),
        (("--memory", "fifo"), MemoryRules()),
        (
            ("--memory", "confidence", "--min-confidence", "0.9"),
            MemoryRules(policy="confidence", min_confidence=0.9),
        ),
        (
            ("--memory", "self_sorting", "--pick-up", "weighted", "--confidence", "foreground"),
            MemoryRules(policy="self_sorting", pick_up="weighted", confidence="foreground"),
        ),
    ],
)
def test_the_result_is_that_of_the_predictor(
    words: tuple[str, ...], rules: MemoryRules | Auto, run: Run, tmp_path: Path
) -> None:
    report = run("--box", BOX, *words)
    predictor = VolumePredictor(load(threads=1), rules)
    predictor.set_volume(VOLUME)
    predictor.add(PHANTOM.box(MIDDLE, 1))
    result = predictor.propagate()
    np.testing.assert_array_equal(labels_in(tmp_path), result.labels())
    (found,) = report["objects"]
    confidence = [confidences(found).get(i, np.nan) for i in range(SHAPE[0])]
    assert confidence == pytest.approx(result.confidence_of(1).tolist(), abs=6e-4, nan_ok=True)


def test_the_report_tells_what_was_in_memory(run: Run, telling: None) -> None:
    (found,) = run("--box", BOX)["objects"]
    assert memories(found) == {0: [2, 1], 1: [2], 3: [2], 4: [2, 3]}
    (found,) = run("--box", BOX, "--z-range", "1,4")["objects"]
    assert memories(found) == {1: [2], 3: [2]}
    strict = ("--memory", "confidence", "--min-confidence", "1")
    (found,) = run("--box", BOX, *strict)["objects"]
    assert memories(found) == {0: [2], 1: [2], 3: [2], 4: [2]}


def test_the_report_tells_what_to_look_at_first(run: Run) -> None:
    report = run("--box", BOX, "--box", as_box(2))
    review = report["review"]
    assert review == sorted(review, key=lambda each: each["confidence"])
    tracked = {(i, o) for i in range(SHAPE[0]) if i != MIDDLE for o in (1, 2)}
    assert {(row["slice"], row["object"]) for row in review} <= tracked
    assert len(review) >= 4
    for i, object_id, confidence in (row.values() for row in review):
        assert confidences(report["objects"][object_id - 1])[i] == confidence


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--capacity", "0"), "a memory of capacity 0 holds nothing"),
        (
            ("--memory", "fifo", "--capacity", "7"),
            "temporal codes for 6 tracked frames, found capacity 7",
        ),
        (("--min-confidence", "1.5"), r"min_confidence 1\.5 is not within 0 to 1"),
        (("--min-confidence", "nan"), "min_confidence nan is not within 0 to 1"),
        (("--max-similarity", "2"), "max_similarity 2 is no cosine"),
        (("--min-similarity", "-2"), "min_similarity -2 is no cosine"),
        (("--seed", "-1"), "seed -1 is below zero"),
    ],
)
def test_rules_out_of_range_are_refused_before_anything_is_written(
    words: tuple[str, ...], why: str, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=why) as refused:
        run("--box", BOX, *words)
    assert refused.value.exit_code == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("--memory", "forever"),
        ("--pick-up", "some"),
        ("--capacity", "many"),
        ("--min-confidence", "high"),
        ("--confidence", "guess"),
        ("--seed", "0.5"),
        ("--preset", "medsam"),
        ("--fuse", "median"),
    ],
)
def test_a_rule_that_does_not_exist_is_a_usage_error(
    words: tuple[str, ...], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run("--box", BOX, *words)
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"argument {words[0]}: invalid" in shown.err
    assert not list(tmp_path.iterdir())


def test_the_lesion_preset_keeps_one_piece_of_each_object(run: Run, tmp_path: Path) -> None:
    """A second piece is part of each object's prompt: a mask of two."""
    prompts: dict[str, Any] = {"objects": []}
    for object_id in (1, 2):
        two = PHANTOM.labels[MIDDLE] == object_id
        two[1:5, 9 * object_id : 9 * object_id + 4] = True
        Image.fromarray(two).save(tmp_path / f"{object_id}.png")
        prompts["objects"].append(
            {"id": object_id, "prompts": [{"slice": MIDDLE, "mask": f"{object_id}.png"}]}
        )
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    off = ("--zoom", "none", "--smooth", "none", "--stop-below", "none", "--memory", "fifo")
    run("--prompts", str(tmp_path / "p.json"), *off)
    plain = labels_in(tmp_path)
    run("--prompts", str(tmp_path / "p.json"), "--preset", "medsam2_lesion")
    kept = labels_in(tmp_path)
    for object_id in (1, 2):
        before, after = plain == object_id, kept == object_id
        assert before[MIDDLE, 2, 9 * object_id + 2], "the second piece was there"
        np.testing.assert_array_equal(after, largest_component(before))
        assert after.sum() < before.sum()
        assert dice(after[MIDDLE], PHANTOM.labels[MIDDLE] == object_id) > 0.9


def test_the_recist_preset_gives_the_first_mask_again(run: Run, tmp_path: Path) -> None:
    (found,) = run("--box", BOX, "--preset", "medsam2_recist")["objects"]
    assert confidences(found)[MIDDLE] == 1.0, "it is now the user's own mask"
    predictor = VolumePredictor(load(threads=1).plain())
    predictor.set_volume(VOLUME)
    predictor.add(Mask(slice=MIDDLE, mask=predictor.add(PHANTOM.box(MIDDLE, 1)).mask()))
    again = predictor.propagate().labels()
    np.testing.assert_array_equal(labels_in(tmp_path), again)
    run("--box", BOX)
    assert (labels_in(tmp_path) != again).any()


def test_fusion_looks_along_all_axes(run: Run, tmp_path: Path) -> None:
    run("--box", BOX)
    plain = labels_in(tmp_path)
    truth = PHANTOM.labels == 1
    for fusion in FUSIONS:
        report = run("--box", BOX, "--fuse", fusion)
        fused = labels_in(tmp_path)
        (found,) = report["objects"]
        assert found["voxels"] == int((fused == 1).sum())
        assert (fused != plain).any()
        assert dice(fused[MIDDLE] == 1, truth[MIDDLE]) > 0.9
        assert dice(fused == 1, truth) > dice(plain == 1, truth) - 0.05


def test_fusion_stays_within_the_range_and_goes_with_a_preset(run: Run, tmp_path: Path) -> None:
    words = ("--fuse", "mean", "--z-range", "1,4", "--preset", "medsam2_lesion")
    (found,) = run("--box", BOX, *words)["objects"]
    assert list(confidences(found)) == [1, 2, 3]
    labels = labels_in(tmp_path)
    assert labels[1:4].any((1, 2)).all()
    assert not labels[[0, 4]].any()
    np.testing.assert_array_equal(labels == 1, largest_component(labels == 1))
