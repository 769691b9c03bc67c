"""The command that measures bundles against ground truth, its picture, and the data it reads and writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.phantoms import write_phantoms
from benchmarks.phantoms.phantoms import (
    CALIBRATION_SEEDS,
    HELD_OUT_SEEDS,
    TRAINING_SEEDS,
    make_flow,
    make_volume,
)
from benchmarks.quality import quality, study
from benchmarks.quality.judge import DISTANCES, Setting, judge, segment
from benchmarks.quality.quality import SUITES, WORST, measure, phantom_cases, table, thinned
from benchmarks.quality.quality_picture import Example, draw_quality
from export.labelled import MIN_AREA, Case, folder_cases
from runtime import Volume, write_mask
from runtime.bundle.bundle import EMBEDDED
from runtime.bundle.defaults import Defaults
from runtime.errors import BundleError, InputError, MissingInput
from runtime.io.volumes.itk import sitk
from runtime.measure.phantom import make_phantom
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from runtime.preview.preview import COLOURS
from tests.fakes import TELLING, fake_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive as MedSAM2's and a NIfTI pair, with one easy object each."""
    folder = tmp_path_factory.mktemp("labelled")
    phantom = make_phantom((9, 96, 96), seed=2)
    truth = (phantom.labels == 1).astype(np.uint8)
    np.savez(folder / "case.npz", imgs=phantom.pixels, gts=truth, spacing=[1.0, 1.0, 3.0])
    volume = Volume.from_array(phantom.pixels, (3.0, 1.0, 1.0))
    sitk.WriteImage(volume.to_image(), str(folder / "pair.nii.gz"))
    write_mask(folder / "pair_label.nii.gz", truth, like=volume)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small object that is on every slice."""
    folder = tmp_path_factory.mktemp("tiny")
    phantom = make_phantom((7, 48, 48), seed=2)
    truth = (phantom.labels == 1).astype(np.uint8)
    np.savez(folder / "one.npz", imgs=phantom.pixels, gts=truth, spacing=[1.0, 1.0, 1.0])
    return folder


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The command measures the fake model; returns what it was asked to load."""
    loaded: list[tuple[Any, ...]] = []

    def fake(*arguments: Any) -> Any:
        loaded.append(arguments)
        return fake_model(TELLING)[0]

    monkeypatch.setattr(quality, "load", fake)
    return loaded


def reports(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What the last line of stdout says."""
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_folder_of_labelled_volumes_is_measured(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quality.json"
    quality.main(["--folder", str(labelled), "-o", str(out)])
    (report,) = reports(capsys)
    assert set(report["summary"]) == {"volumes"}
    assert list(report["summary"]["volumes"]) == ["box", "click", "mask"]
    boxes = report["summary"]["volumes"]["box"]
    assert boxes["cases"] == 2
    assert boxes["prompted_slice"] > 0.8
    assert 0.3 < boxes["dice"] <= 1.0
    masks = report["summary"]["volumes"]["mask"]
    assert masks["prompted_slice"] > 0.95, "a mask prompt reproduces its slice"
    assert (report["bundle"], report["data"]) == ("embedded", str(labelled))
    assert "cases" not in report
    (written,) = json.loads(out.read_text())
    rows = written.pop("cases")
    assert written == report
    assert len(rows) == 6
    archive, pair = (r for r in rows if r["prompt"] == "box")
    assert archive["dice"] == pytest.approx(pair["dice"])  # the same volume in two formats
    assert archive["hd95_mm"] == pytest.approx(pair["hd95_mm"], rel=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["quality.json"]


def test_suites_say_what_is_compared(
    tiny: Path, telling: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    quality.main(["--folder", str(tiny), "--suite", "ruined,memory"])
    (report,) = reports(capsys)
    names = list(report["summary"]["volumes"])
    assert names[: len(POLICIES)] == [f"ruined slices, {policy}" for policy in POLICIES]
    assert names[len(POLICIES) :] == [
        "same prompt on every slice",
        "prompted slice only",
        *(f"{policy}, {pick_up}" for policy in POLICIES for pick_up in PICK_UPS),
    ]
    ruined = report["summary"]["volumes"]["ruined slices, fifo"]
    assert ruined["ruined_in_memory"] is None, "no slice comes after those in so short a volume"
    assert ruined["ruined_slices"] is not None
    assert "ruined_slices" not in report["summary"]["volumes"]["fifo, all"]


def test_only_the_prompted_slice_is_remembered_where_nothing_is_sure_enough() -> None:
    (only,) = [s for s in SUITES["memory"] if s.name == "prompted slice only"]
    assert only.rules is not None
    case, pixels = small_case(0)
    result = segment(fake_model(TELLING)[0], case, pixels, only)
    held = {m.memory_frames for m in result.slices[1].values()}
    assert held == {(), (case.key,)}


def test_ruined_slices_are_ruined_for_the_network_only_and_never_in_flows() -> None:
    flow = Case("flow", *small_flow(), is_flow=True)
    case, _ = small_case(0)
    settings = [Setting("ruined", is_ruined=True), Setting("plain")]
    rows, examples = measure(fake_model(TELLING)[0], [case, flow], settings, "none")
    assert [(r["case"], r["setting"]) for r in rows] == [
        (case.name, "ruined"),
        (case.name, "plain"),
        ("flow", "plain"),
    ]
    (example,) = examples
    changed = (example.pixels != case.volume.array).any((1, 2))
    assert np.flatnonzero(changed).tolist() == [case.key - 3, case.key + 3]


def small_case(seed: int) -> tuple[Case, np.ndarray]:
    phantom = make_phantom((9, 32, 32), seed=seed)
    volume = Volume.from_array(phantom.pixels)
    return Case(f"case {seed}", volume, phantom.labels == 1, 4), phantom.pixels


def small_flow() -> tuple[Volume, np.ndarray, int]:
    made = make_flow(3, 4, 32)
    return Volume.from_array(made.pixels), made.labels == 1, 0


def test_the_worst_volumes_under_the_first_setting_are_kept() -> None:
    cases = [small_case(seed)[0] for seed in range(WORST + 3)]
    rows, examples = measure(fake_model(TELLING)[0], cases, SUITES["prompts"], "none")
    assert len(rows) == len(cases) * 3
    first = sorted(r["dice"] for r in rows if r["prompt"] == "box")
    assert [e.dice for e in examples] == first[:WORST]
    for example in examples:
        (row,) = [r for r in rows if (r["case"], r["prompt"]) == (example.case.name, "box")]
        assert row["dice"] == example.dice


@pytest.mark.parametrize("stop", [None, {"below": 1.0, "after": 2}])
def test_a_bundles_defaults_are_measured_beside_plain_tracking(
    stop: dict[str, float] | None,
) -> None:
    model, _ = fake_model(TELLING)
    model.defaults = Defaults(stop=stop)
    cases = [small_case(seed)[0] for seed in range(2)]
    rows, _ = measure(model, cases, [*SUITES["box"], *SUITES["defaults"]], "none")
    plain, own = (
        [row["other_slices"] for row in rows if row["setting"] == name]
        for name in ("box", "the bundle's defaults")
    )
    assert len(rows) == 3 * len(cases) and len(own) == len(cases)
    assert (own == plain) == (stop is None), "a chain that ends at once finds less"


def test_backends_and_bundles_are_compared_in_reports_of_their_own(
    tiny: Path, telling: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", "one", "--bundle", "two", "--backend", "auto,ort"]
    quality.main(["--folder", str(tiny), *words, "-o", str(tmp_path / "q.json")])
    assert telling == [("one", "auto"), ("one", "ort"), ("two", "auto"), ("two", "ort")]
    found = reports(capsys)
    assert [report["bundle"] for report in found] == ["one", "one", "two", "two"]
    written = json.loads((tmp_path / "q.json").read_text())
    assert [len(report["cases"]) for report in written] == [3] * 4


def test_a_real_bundle_is_named_in_its_report(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "copy")
    both = ["--bundle", str(EMBEDDED), "--bundle", str(tmp_path / "copy")]
    quality.main(["--folder", str(tiny), *both])
    one, two = reports(capsys)
    assert (one["bundle"], two["bundle"]) == (str(EMBEDDED), str(tmp_path / "copy"))
    assert one["summary"] == two["summary"]
    with pytest.raises(BundleError):
        quality.main(["--folder", str(tiny), "--bundle", str(tiny)])


def test_the_embedded_models_checkpoint_measures_as_its_bundle_does(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(ROOT / "benchmarks" / "nano" / "nano.pt")
    words = ["--folder", str(tiny), "--suite", "box"]
    quality.main([*words, "--checkpoint", checkpoint])
    (of_torch,) = reports(capsys)
    quality.main([*words, "--backend", "ort"])
    (of_ort,) = reports(capsys)
    assert of_torch["bundle"] == checkpoint and "PyTorch" in of_torch["backend"]
    one, two = (report["summary"]["volumes"]["box"] for report in (of_torch, of_ort))
    assert one["cases"] == 1 and one["dice"] == pytest.approx(two["dice"], abs=0.01)


def test_the_file_is_json_for_everybody(tiny: Path, telling: list[Any], tmp_path: Path) -> None:
    quality.main(["--folder", str(tiny), "-o", str(tmp_path / "q.json")])

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    json.loads((tmp_path / "q.json").read_text(), parse_constant=refuse)


def test_the_table_has_a_cell_for_each_figure(
    labelled: Path, telling: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    quality.main(["--folder", str(labelled), "--suite", "prompts,ruined"])
    shown = capsys.readouterr().out.splitlines()
    lines = [line for line in shown if line.startswith("|")]
    assert len(lines) == 2 + 3 + len(POLICIES)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "at 1 | at 2 | at 4 | at 8 | at 16" in lines[0]
    assert lines[2].startswith("| volumes, box | 2 | ")


def test_the_table_shows_the_right_figure_in_each_column() -> None:
    names = ("dice", "nsd", "hd95_mm", "prompted_slice", "other_slices", "drawn_where_absent")
    names = (*names, "lost_where_present", "copy_of_mask", "ruined_in_memory", "after_ruined")
    means: dict[str, Any] = {name: i / 100 for i, name in enumerate(names)}
    means |= {"cases": 3, "by_distance": {d: d + 0.5 for d in DISTANCES}}
    head, _, row = (
        [cell.strip() for cell in line.split("|")]
        for line in table({"flows": {"a way": means}}).splitlines()
    )
    cells = dict(zip(head, row, strict=True))
    assert cells["3-D Dice"] == "0.00" and cells["HD95 mm"] == "0.02"
    assert cells["at 4"] == "4.50" and cells["at 16"] == "16.50"
    assert cells["drawn where absent"] == "0.05" and cells["lost where present"] == "0.06"
    assert cells["ruined in memory"] == "0.08" and cells["after ruined"] == "0.09"


@pytest.mark.parametrize("suites", ["scribble", "prompts,scribble"])
def test_a_suite_that_does_not_exist_is_refused(suites: str) -> None:
    with pytest.raises(
        InputError, match="no suite 'scribble'; there are: prompts, memory, ruined, box"
    ):
        quality.main(["--suite", suites])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"holds no \.npz"):
        quality.main(["--folder", str(tmp_path)])


def test_phantom_cases_share_their_volume_and_end_with_flows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = list(quality.phantom_cases(1))
    assert " 2/2 [" in capsys.readouterr().err
    volumes = [c for c in cases if not c.is_flow]
    assert len({id(c.volume) for c in volumes}) == 1
    assert cases[-1].is_flow and cases[-1].key == 0
    for case in volumes:
        assert case.truth[case.key].sum() >= MIN_AREA


def test_a_picture_shows_curves_and_the_worst_cases(
    tiny: Path, telling: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality.main(["--folder", str(tiny), "--picture", str(tmp_path / "q.png")])
    assert re.search(r"read: 100%.* (\d+)/\1 \[", capsys.readouterr().err)
    with Image.open(tmp_path / "q.png") as picture:
        assert picture.format == "PNG"
        drawn = np.asarray(picture.convert("RGB"))
    assert drawn.shape[0] > 460, "a case is drawn below the curves"
    below = drawn[460 + 34 :]  # and below the line with its title
    for colour in COLOURS[:2]:
        assert (below == colour).all(-1).any(), "found and truth have contours"
    assert [path.name for path in tmp_path.iterdir()] == ["q.png"]


def means(dice: float, by_distance: list[float | None]) -> dict[str, Any]:
    return {
        "cases": 1,
        "dice": dice,
        "prompted_slice": 0.9,
        "copy_of_mask": 0.5,
        "by_distance": dict(zip(DISTANCES, by_distance, strict=True)),
    }


def report_of(**settings: dict[str, Any]) -> dict[str, Any]:
    summary = {"volumes": settings, "flows": {"box": means(0.4, [None] * len(DISTANCES))}}
    return {"summary": summary, "model": "m", "backend": "b" * 90, "data": "some volumes"}


def test_each_setting_draws_a_curve_and_a_bar() -> None:
    values: list[float | None] = [0.8, 0.7, None, 0.4, None]
    one = draw_quality(report_of(a=means(0.7, values)), [])
    two = draw_quality(report_of(a=means(0.7, values), b=means(0.3, values[::-1])), [])
    assert one.size == two.size == (1470, 460)
    blue, orange = (31, 119, 180), (255, 127, 14)
    for picture, colours in ((one, {blue}), (two, {blue, orange})):
        left = np.asarray(picture)[:, :880].reshape(-1, 3)
        assert {c for c in (blue, orange) if (left == c).all(-1).any()} == colours
        right = np.asarray(picture)[:, 880:]
        assert (right == blue).all(-1).any()
    bars = [int((np.asarray(p)[:, 880:] == blue).all(-1).sum()) for p in (one, two)]
    assert bars[0] != bars[1]


def test_a_case_is_drawn_with_its_truth() -> None:
    case, pixels = small_case(1)
    result = segment(fake_model(TELLING)[0], case, pixels, Setting("box"))
    plain = draw_quality(report_of(a=means(0.7, [0.5] * len(DISTANCES))), [])
    example = Example(0.25, case, pixels, result)
    both = draw_quality(report_of(a=means(0.7, [0.5] * len(DISTANCES))), [example, example])
    assert both.width >= plain.width
    tile = (both.height - plain.height) / 2
    assert tile > 300
    drawn = np.asarray(both)
    top = drawn[: plain.height, : plain.width]
    np.testing.assert_array_equal(top, np.asarray(plain))
    first, second = drawn[plain.height : -int(tile)], drawn[-int(tile) :]
    np.testing.assert_array_equal(first, second)


def test_phantoms_are_written_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write_phantoms, "make_volume", lambda seed: make_volume(seed, 9, 96))
    folder = tmp_path / "deep" / "phantoms"
    write_phantoms.main(["--count", "2", "-o", str(folder)])
    assert capsys.readouterr().out.strip() == str(folder)
    names = [f"phantom{TRAINING_SEEDS + i}.npz" for i in range(2)]
    assert sorted(path.name for path in folder.iterdir()) == names
    cases = list(folder_cases(folder))
    assert {case.name.split(" ")[0] for case in cases} == {name[:-4] for name in names}
    for case in cases:
        seed, label = int(case.name.split(" ")[0][7:]), int(case.name.split(" ")[2])
        made = make_volume(seed, 9, 96)
        np.testing.assert_array_equal(case.volume.array, made.pixels)
        np.testing.assert_array_equal(case.truth, made.labels == label)
        assert case.volume.spacing_mm == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("words", "seed"),
    [
        ((), TRAINING_SEEDS),
        (("--of", "calibration"), CALIBRATION_SEEDS),
        (("--of", "held-out"), HELD_OUT_SEEDS),
    ],
)
def test_phantoms_to_train_to_calibrate_and_to_measure_on_are_different_ones(
    words: tuple[str, ...], seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_phantoms, "make_volume", lambda seed: make_volume(seed, 3, 32))
    write_phantoms.main(["--count", "1", *words, "-o", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == [f"phantom{seed}.npz"]


def test_benchmarks_are_found_by_name() -> None:
    words = [sys.executable, "-m", "benchmarks"]
    for name in ("quality", "phantoms"):
        done = subprocess.run([*words, name, "--help"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0
        assert f"usage: python -m benchmarks {name}" in done.stdout
    unknown = subprocess.run([*words, "dreams"], capture_output=True, text=True, cwd=ROOT)
    assert unknown.returncode == 2
    for name in ("rivals", "quality", "phantoms"):
        assert name in unknown.stderr


def test_zooms_are_compared(tmp_path: Path, tiny: Path) -> None:
    assert quality.zooms("none,2,3.5") == [None, 2.0, 3.5]
    for text in ("nan", "0.5", "2,inf", "0", "two", ""):
        with pytest.raises(InputError, match="zoom"):
            quality.zooms(text)
    out = tmp_path / "zoom.json"
    quality.main(["--suite", "box", "--zoom", "none,3", "--folder", str(tiny), "-o", str(out)])
    (report,) = json.loads(out.read_text("utf-8"))
    assert list(report["summary"]["volumes"]) == ["box", "box, zoom 3"]


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (quality.main, ["--phantoms", "0"]),
        (quality.main, ["--thin", "0"]),
        (quality.main, ["--zoom", "wide"]),
        (study.main, ["--phantoms", "0"]),
        (study.main, ["--objects", "-1"]),
        (write_phantoms.main, ["--count", "0", "-o", "none"]),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else given.__module__,
)
def test_numbers_of_nothing_are_refused(
    command: Callable[[list[str]], None], wrong: list[str]
) -> None:
    with pytest.raises(InputError, match=rf"{wrong[0]} {wrong[1]}; wanted"):
        command(wrong)


def test_a_thinned_volume_goes_straight_from_slice_to_slice() -> None:
    volume = np.array([0, 30, 0], np.uint8)[:, None, None]
    assert thinned(volume, 1).ravel().tolist() == [0, 30, 0]
    assert thinned(volume, 3).ravel().tolist() == [0, 10, 20, 30, 20, 10, 0]


def test_slices_are_left_out_where_a_setting_says_so() -> None:
    model, _ = fake_model(TELLING)
    (case, *_) = phantom_cases(1)
    pixels = np.asarray(case.volume.array)
    settings = [Setting(f"one of {every}", every=every) for every in (1, 3)]
    results = [segment(model, case, pixels, setting) for setting in settings]
    every, some = (judge(case, *pair, []) for pair in zip(settings, results, strict=True))
    assert all(sorted(result.slices[1]) == [*range(len(case.truth))] for result in results)
    assert every["tracked_slices"] == len(case.truth) - 1
    assert some["tracked_slices"] < 0.5 * every["tracked_slices"]
