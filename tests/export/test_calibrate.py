"""What a confidence is worth: fits, and the manifest that carries them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

import export.calibrate
from export.calibrate import (
    FITS,
    MIN_MASKS,
    collect,
    fit_isotonic,
    fit_temperature,
    iou,
    main,
    write_calibration,
    write_entry,
)
from export.labelled import folder_cases
from runtime import VolumePredictor, load
from runtime.bundle.bundle import EMBEDDED, open_bundle
from runtime.bundle.confidence import MEASURES, Calibration
from runtime.bundle.manifest import MANIFEST
from runtime.errors import BundleChanged, BundleError, InputError, MissingInput, Sam2Error
from runtime.measure.phantom import Phantom, make_phantom
from tests.fakes import TELLING, fake_model

RNG = np.random.default_rng(11)
SAID = RNG.random(4000)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def mapped(calibration: Calibration, said: np.ndarray) -> np.ndarray:
    return np.array([calibration(float(value)) for value in said])


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_an_ascending_map_is_recovered_through_noise(power: float) -> None:
    worth = (SAID**power + RNG.normal(0, 0.05, SAID.shape)).clip(0, 1)
    fitted = fit_isotonic(SAID, worth)
    at = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(mapped(fitted, at), at**power, atol=0.06)


def test_at_the_masks_themselves_the_map_is_that_of_least_squares() -> None:
    said = np.linspace(0, 1, 41)
    worth = np.where(said < 0.6, 0.1, 0.8) + RNG.normal(0, 0.05, said.shape)
    fitted = fit_isotonic(said, worth)
    np.testing.assert_allclose(mapped(fitted, said), isotonic_regression(worth).x, atol=1e-9)


def test_where_more_is_said_of_worse_masks_there_is_one_level() -> None:
    fitted = fit_isotonic(np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.5, 0.1]))
    np.testing.assert_allclose(mapped(fitted, np.array([0.0, 0.2, 1.0])), 0.5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_temperature_is_recovered(temperature: float) -> None:
    worth = sigmoid(logit(SAID) / temperature)
    assert fit_temperature(SAID, worth).temperature == pytest.approx(temperature, rel=0.02)
    seen = (RNG.random(SAID.shape) < worth).astype(float)
    assert fit_temperature(SAID, seen).temperature == pytest.approx(temperature, rel=0.15)


@pytest.mark.parametrize("fit", FITS.values(), ids=list(FITS))
def test_fits_come_closer_to_the_truth_and_survive_a_manifest(fit) -> None:
    worth = (sigmoid(logit(SAID) / 3) + RNG.normal(0, 0.1, SAID.shape)).clip(0, 1)
    fitted = fit(SAID, worth)
    before, after = np.abs(SAID - worth).mean(), np.abs(mapped(fitted, SAID) - worth).mean()
    assert after < 0.7 * before
    read = Calibration.parse(json.loads(json.dumps(fitted.entry())))
    np.testing.assert_array_equal(mapped(read, SAID), mapped(fitted, SAID))


def test_certainties_of_zero_and_one_do_no_harm() -> None:
    said, worth = np.array([0.0, 1.0, 0.5, 1.0]), np.array([0.2, 0.9, 0.5, 0.7])
    for fit in FITS.values():
        assert np.isfinite(mapped(fit(said, worth), said)).all()


def test_of_masks_of_which_the_same_is_said_the_mean_counts() -> None:
    fitted = fit_isotonic(np.array([0.5] * 4), np.array([0.1, 0.9, 0.2, 0.8]))
    assert fitted(0.5) == pytest.approx(0.5)


def test_a_fit_can_always_be_read_again() -> None:
    fitted = fit_isotonic(np.array([0.1] * 4), np.array([0.2, 0.2, 0.2, 0.9]))
    Calibration.parse(fitted.entry())


def test_overlap_by_hand() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, a) == 1
    assert iou(~a & a, ~b & b) == 0


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom((9, 64, 64), seed=3)


@pytest.fixture(scope="module")
def labelled(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    np.savez(folder / "a.npz", imgs=phantom.pixels, gts=phantom.labels, spacing=[1.0, 1.0, 1.0])
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the embedded bundle."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in EMBEDDED.iterdir():
        if file.name == MANIFEST:
            shutil.copy(file, folder)
        else:
            (folder / file.name).symlink_to(file)
    return folder


def test_every_tracked_mask_that_is_there_is_compared_with_the_truth(
    labelled: Path, phantom: Phantom
) -> None:
    model = load(threads=1).plain()
    (case,) = [c for c in folder_cases(labelled) if c.name.endswith("object 1")]
    said, worth = collect(model, [case], "iou", "auto")
    predictor = VolumePredictor(model)
    predictor.set_volume(phantom.pixels)
    predictor.add(phantom.box(case.key, 1))
    wanted = {}
    for index, found in predictor.propagate().slices[1].items():
        if index != case.key and found.segmented.object_score > 0:
            wanted[index] = found.segmented.iou, iou(found.mask(), phantom.labels[index] == 1)
    assert len(wanted) > 3
    pairs = sorted(zip(said, worth, strict=True))
    np.testing.assert_allclose(pairs, sorted(wanted.values()))
    assert len(collect(model, folder_cases(labelled), "iou", "auto")[0]) > len(said)


def test_masks_that_the_network_itself_calls_absent_are_not_compared(labelled: Path) -> None:
    def gone(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Wherever memory has been read."""
        score = np.where(inputs["add_no_mem_embed"], 5, -5)
        return {**TELLING["mask_decoder"](inputs), "object_score_logits": score}

    (case, *_) = folder_cases(labelled)
    model, _ = fake_model(TELLING)
    assert len(collect(model, [case], "iou", "auto")[0]) == len(case.truth) - 1
    model, _ = fake_model({**TELLING, "mask_decoder": gone})
    said, worth = collect(model, [case], "iou", "auto")
    assert len(said) == len(worth) == 0


# What is measured and how it is fitted do not depend on each other, so not every pair is run.
@pytest.mark.parametrize(("measure", "method"), [*zip(MEASURES, FITS, strict=True)])
def test_from_then_on_every_confidence_is_the_mapped_one(
    measure: str,
    method: str,
    labelled: Path,
    bundle: Path,
    phantom: Phantom,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(bundle), "--folder", str(labelled), "--measure", measure, "--method", method]
    main(words)
    told = capsys.readouterr()
    report = json.loads(told.out)
    total = sum(len(case.truth) for case in folder_cases(labelled))
    assert " 1/1 [" in told.err and f" {total}/{total} [" in told.err and "slice/s]" in told.err
    assert (report["measure"], report["method"]) == (measure, method)
    assert report["masks"] >= MIN_MASKS
    if method == "isotonic":
        assert abs(report["bias_after"]) < abs(report["bias_before"])
    (calibration,) = open_bundle(bundle).calibrations.values()
    plain, model = load(threads=1).confidence(measure), load(bundle, threads=1)
    confidence = model.confidence(measure)
    logits = np.full((64, 64), -3, np.float32)
    logits[9:30, 9:30] = 1.2
    for value in (0.2, 0.7):
        assert confidence(logits, value) == calibration(plain(logits, value))
    assert confidence(logits, 0.7) != plain(logits, 0.7)
    if measure == "iou":
        predictor = VolumePredictor(model)
        predictor.set_volume(phantom.pixels)
        found = predictor.add(phantom.box(4, 1))
        assert found.confidence == calibration(found.segmented.iou)


def test_a_calibration_leaves_the_rest_of_the_manifest_alone_and_can_be_taken_out(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((bundle / MANIFEST).read_text())
    write_calibration(bundle, "iou", Calibration(temperature=2.0))
    write_calibration(bundle, "foreground", Calibration(knots=((0.2, 0.8), (0.1, 0.4))))
    write_calibration(bundle, "iou", Calibration(temperature=3.0))
    after = json.loads((bundle / MANIFEST).read_text())
    entries = after.pop("calibration")
    assert after == before
    assert entries == {
        "iou": {"temperature": 3.0},
        "foreground": {"measured": [0.2, 0.8], "worth": [0.1, 0.4]},
    }
    main([str(bundle), "--method", "none"])
    assert json.loads(capsys.readouterr().out) == {
        "bundle": str(bundle),
        "measure": "iou",
        "calibration": None,
    }
    assert list(open_bundle(bundle).calibrations) == ["foreground"]
    main([str(bundle), "--method", "none", "--measure", "foreground"])
    opened = open_bundle(bundle)
    assert opened.calibrations == {}
    assert opened.read_graph("mask_decoder"), "and it is still the bundle that it was"
    main([str(bundle), "--method", "none"])
    assert {path.name for path in bundle.iterdir()} == {path.name for path in EMBEDDED.iterdir()}


def test_too_few_masks_say_nothing(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    few = make_phantom((5, 64, 64), seed=3)
    np.savez(folder / "a.npz", imgs=few.pixels, gts=few.labels == 1, spacing=[1.0, 1.0, 1.0])
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(InputError, match=r"gave [1-4] masks .* wanted at least 20: add volumes"):
        main([str(bundle), "--folder", str(folder)])
    assert (bundle / MANIFEST).read_bytes() == before


def test_a_folder_without_volumes_and_a_folder_that_is_no_bundle_are_refused(
    bundle: Path, labelled: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInput, match=r"holds no \.npz"):
        main([str(bundle), "--folder", str(tmp_path / "empty")])
    for words in (["--folder", str(labelled)], ["--method", "none"]):
        with pytest.raises(BundleError, match="is not a bundle"):
            main([str(tmp_path / "empty"), *words])
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    "words",
    [[], ["--method", "guess"], ["--measure", "dice"], ["--objects", "0"], ["--objects", "-1"]],
)
def test_a_mistake_in_the_command_is_a_usage_error(
    words: list[str], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(bundle), *words])
    assert left.value.code == 2
    assert "usage: medsam2 calibrate" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_the_old_manifest(
    error: BaseException, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_calibration(bundle, "iou", Calibration(temperature=2.0))
    before = (bundle / MANIFEST).read_bytes()

    def half(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text.encode()[:100])
        raise error

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises((KeyboardInterrupt, Sam2Error)):
        write_calibration(bundle, "iou", Calibration(temperature=3.0))
    assert (bundle / MANIFEST).read_bytes() == before
    assert open_bundle(bundle).calibrations == {"iou": Calibration(temperature=2.0)}
    assert {path.name for path in bundle.iterdir()} == {path.name for path in EMBEDDED.iterdir()}


def test_a_calibration_that_could_not_be_read_again_is_not_written(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match=r"calibration\.iou\.temperature is 1000000\.0"):
        write_calibration(bundle, "iou", Calibration(temperature=1e6))
    assert (bundle / MANIFEST).read_bytes() == before


def test_what_was_measured_does_not_go_into_a_bundle_that_came_meanwhile(bundle: Path) -> None:
    measured, calibration = open_bundle(bundle), Calibration(temperature=2.0)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"]["mask_decoder.onnx"]["sha256"] = "0" * 64
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleChanged, match="another network than when measuring began"):
        write_calibration(bundle, "iou", calibration, measured)
    assert open_bundle(bundle).calibrations == {}
    write_calibration(bundle, "iou", calibration, open_bundle(bundle))
    assert open_bundle(bundle).calibrations == {"iou": calibration}


def test_a_stop_rule_by_another_confidence_is_not_written(bundle: Path) -> None:
    measured = open_bundle(bundle)
    write_calibration(bundle, "iou", Calibration(temperature=2.0))
    with pytest.raises(BundleChanged, match="another calibration than when measuring began"):
        write_entry(bundle, "defaults", lambda before: {}, measured)
    assert open_bundle(bundle).manifest["defaults"] == measured.manifest["defaults"]


def calibrate_often(bundle: Path, measure: str) -> None:
    for temperature in range(1, 40):
        write_calibration(bundle, measure, Calibration(temperature=float(temperature)))


def test_two_who_calibrate_at_once_lose_nothing(bundle: Path) -> None:
    measures = ("iou", "foreground")
    writers = [
        get_context("fork").Process(target=calibrate_often, args=(bundle, measure))
        for measure in measures
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert open_bundle(bundle).calibrations == dict.fromkeys(
        measures, Calibration(temperature=39.0)
    )


def test_a_manifest_that_may_not_be_written_is_told_of_before_the_work(
    bundle: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.calibrate, "load", lambda *_: pytest.fail("work began"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != bundle / MANIFEST)
    for words in ([], ["--defaults"]):
        with pytest.raises(Sam2Error, match="is write-protected"):
            main([str(bundle), "--folder", str(labelled), *words])


@pytest.mark.parametrize("words", [[], ["--defaults"]])
def test_a_volume_that_cannot_be_read_is_told_of_before_the_work(
    words: list[str],
    bundle: Path,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export.calibrate, "load", lambda *_: pytest.fail("work began"))
    folder = shutil.copytree(labelled, tmp_path / "folder")
    (folder / "z.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"z\.npz"):
        main([str(bundle), "--folder", str(folder), *words])
