"""What a bundle's defaults are chosen by: figures by hand, rules against real runs, and the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import export.calibrate
from export.calibrate import main
from export.choose import (
    MIN_GAIN,
    MIN_OBJECTS,
    MIN_SMOOTHED_GAIN,
    PLAIN,
    SMOOTHS,
    STOPS,
    Candidate,
    Tried,
    candidates,
    choose,
    summary,
    try_one,
    up_to_end,
)
from export.labelled import Case, labelled_volumes, some_cases
from runtime import MemoryRules, Volume, VolumePredictor
from runtime.bundle.bundle import EMBEDDED, open_bundle
from runtime.bundle.defaults import Defaults
from runtime.errors import InputError
from runtime.measure.phantom import make_phantom
from runtime.predictors.stop import StopRule
from runtime.prompts.prompts import Box
from runtime.steps.encodings import Encodings
from tests.fakes import AS_SURE_AS_GREY, fake_model

BEST = Candidate("confident_and_latest", "all")


def tried(
    dice: float,
    with_rules: dict[StopRule, tuple[float, float]] | None = None,
    smoothed: dict[float, float] | None = None,
) -> list[Tried]:
    """As many objects as needed, all alike; a rule that is not named costs a tenth and saves nothing."""
    rules = {rule: (dice - 0.1, 1.0) for rule in STOPS} | (with_rules or {})
    return [
        Tried(
            f"object {i}",
            {None: dice, **{rule: d for rule, (d, _) in rules.items()}},
            {None: 1.0, **{rule: share for rule, (_, share) in rules.items()}},
            smoothed or {},
        )
        for i in range(MIN_OBJECTS)
    ]


def test_what_is_not_worth_it_is_not_chosen() -> None:
    found = choose({PLAIN: tried(0.7), BEST: tried(0.7 + MIN_GAIN / 2)})
    assert (found.memory, found.stop, found.zoom) == ({}, None, None)
    assert found.measured["dice"] == found.measured["dice_without"] == 0.7


def test_the_best_memory_and_zoom_are_chosen_together() -> None:
    zoomed = Candidate("fifo", "all", 3.0)
    both = Candidate("confident_and_latest", "all", 4.0)
    trials = {PLAIN: tried(0.7), BEST: tried(0.72), zoomed: tried(0.76), both: tried(0.78)}
    found = choose(trials)
    assert found.memory == {"policy": "confident_and_latest", "pick_up": "all"}
    assert found.zoom == 4.0
    assert (found.measured["dice"], found.measured["dice_without"]) == (0.78, 0.7)


def test_zoom_alone_leaves_memory_alone() -> None:
    found = choose({PLAIN: tried(0.7), Candidate("fifo", "all", 3.0): tried(0.76)})
    assert found.memory == {"policy": "fifo", "pick_up": "all"}
    assert found.zoom == 3.0


def test_of_the_rules_that_cost_nothing_the_one_that_saves_most_is_chosen() -> None:
    cheap, dear, same = STOPS[0], STOPS[1], STOPS[2]
    rules = {cheap: (0.7, 0.5), dear: (0.65, 0.2), same: (0.71, 0.5)}
    found = choose({PLAIN: tried(0.7, rules)})
    assert found.stop == {"below": same.below, "after": same.after}
    assert found.measured["visited"] == 0.5
    assert StopRule(**found.stop) == same


def test_the_best_smoothing_is_chosen_where_it_is_worth_it() -> None:
    found = choose({PLAIN: tried(0.7, smoothed={0.5: 0.71, 1.0: 0.73, 2.0: 0.6})})
    assert found.smooth == 1.0
    assert found.measured["dice_gained_by_smoothing"] == 0.03
    little = choose({PLAIN: tried(0.7, smoothed={0.5: 0.7 + MIN_SMOOTHED_GAIN / 2})})
    assert little.smooth == 0.0 and "dice_gained_by_smoothing" not in little.measured
    of_best = {PLAIN: tried(0.7, smoothed={0.5: 0.9}), BEST: tried(0.8, smoothed={0.5: 0.7})}
    assert choose(of_best).smooth == 0.0


def test_the_first_candidate_is_sam_2s_own_and_all_are_different() -> None:
    assert candidates()[0] == PLAIN
    assert len(set(candidates())) == len(candidates())


def seen(worth: list[float], key: int) -> Case:
    grey = np.rint(250 * np.array(worth)).astype(np.uint8)
    pixels = np.broadcast_to(grey[:, None, None], (len(worth), 16, 16)).copy()
    truth = np.zeros(pixels.shape, bool)
    truth[grey > 0, 2:12, 2:12] = True
    return Case("made", Volume.from_array(pixels), truth, key)


WORTH = [0.0] * 6 + [0.9, 0.9, 0.0, 0.9, 0.4, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("rule", STOPS)
def test_a_rule_tried_afterwards_visits_what_a_run_with_it_visits(rule: StopRule) -> None:
    case, model = seen(WORTH, 7), fake_model(AS_SURE_AS_GREY)[0]
    predictor = VolumePredictor(model, MemoryRules())
    predictor.set_volume(case.volume, "none")
    predictor.add(Box(slice=7, y=(2, 12), x=(2, 12)))
    whole = {mask.slice: mask for mask in predictor.stream(stop=None)}
    assert up_to_end(whole, 7, rule) == sorted(predictor.propagate(stop=rule).slices[1])


def test_figures_of_a_run_are_those_of_its_masks() -> None:
    case, model = seen(WORTH, 7), fake_model(AS_SURE_AS_GREY)[0]
    found = try_one(model, case, case.volume.array, PLAIN, Encodings(model))
    predictor = VolumePredictor(model, MemoryRules())
    predictor.set_volume(case.volume, "none")
    predictor.add(Box(slice=7, y=(2, 12), x=(2, 12)))
    for rule in (None, *STOPS):
        result = predictor.propagate(stop=rule)
        mask = result.mask(1)
        both = 2 * (mask & case.truth).sum() / (mask.sum() + case.truth.sum())
        assert found.dice[rule] == pytest.approx(both)
        assert found.visited[rule] == pytest.approx(len(result.slices[1]) / len(WORTH))
    for sigma in SMOOTHS:
        predictor = VolumePredictor(model, MemoryRules(), smooth=sigma)
        predictor.set_volume(case.volume, "none")
        predictor.add(Box(slice=7, y=(2, 12), x=(2, 12)))
        mask = predictor.propagate().mask(1)
        both = 2 * (mask & case.truth).sum() / (mask.sum() + case.truth.sum())
        assert found.smoothed[sigma] == pytest.approx(both)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "bundle"))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three volumes of three objects."""
    folder = tmp_path / "labelled"
    folder.mkdir()
    for seed in range(3):
        phantom = make_phantom((7, 64, 64), seed=seed)
        np.savez(
            folder / f"{seed}.npz", imgs=phantom.pixels, gts=phantom.labels, spacing=[1.0, 1.0, 1.0]
        )
    return folder


def test_the_command_writes_what_it_has_chosen_and_takes_it_out_again(
    bundle: Path,
    labelled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(export.calibrate, "load", lambda *_: fake_model(AS_SURE_AS_GREY)[0])
    before = open_bundle(bundle)
    main([str(bundle), "--folder", str(labelled), "--defaults"])
    told = capsys.readouterr()
    report, total = json.loads(told.out), 9 * 2 * len(candidates())
    assert " 3/3 [" in told.err and f" {total}/{total} [" in told.err
    after = open_bundle(bundle)
    assert after.defaults.entry() == report["defaults"]
    assert after.defaults.measured["objects"] == 9
    assert len(report["tried"]) == len(candidates()) * (1 + len(STOPS) + len(SMOOTHS))
    assert after.fingerprint == before.fingerprint
    assert {**after.manifest, "defaults": None} == {**before.manifest, "defaults": None}
    main([str(bundle), "--method", "none", "--defaults"])
    assert json.loads(capsys.readouterr().out)["defaults"] is None
    assert open_bundle(bundle).defaults == Defaults()


def test_too_few_objects_say_nothing(
    bundle: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.calibrate, "load", lambda *_: pytest.fail("work began"))
    for path in sorted(labelled.iterdir())[1:]:
        path.unlink()
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=f"3 objects to choose by; wanted at least {MIN_OBJECTS}"):
        main([str(bundle), "--folder", str(labelled), "--defaults"])
    for path in labelled.iterdir():
        with np.load(path) as file:
            np.savez(path, **{**file, "gts": np.zeros_like(file["gts"])})
    with pytest.raises(InputError, match="0 objects to choose by"):
        main([str(bundle), "--folder", str(labelled), "--defaults"])
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(("count", "each"), [(None, 3), (2, 2), (1, 1), (9, 3)])
def test_of_each_volume_so_many_objects_are_taken(
    count: int | None, each: int, labelled: Path
) -> None:
    taken = [case.name for case in some_cases(labelled_volumes(labelled), count)]
    assert taken == [f"{seed} object {label}" for seed in range(3) for label in range(1, each + 1)]


def test_labelled_volumes_are_wanted(bundle: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(bundle), "--defaults"])


def test_the_summary_holds_every_way() -> None:
    rows = summary({PLAIN: tried(0.7), BEST: tried(0.75, smoothed={0.5: 0.76})})
    assert len(rows) == 2 * (1 + len(STOPS)) + 1
    assert (rows[-1]["smooth"], rows[-1]["dice"], rows[-1]["stop"]) == (0.5, 0.76, None)
    assert rows[0] == {
        "policy": "fifo",
        "pick_up": "all",
        "zoom": None,
        "smooth": 0.0,
        "stop": None,
        "dice": 0.7,
        "visited": 1.0,
    }
