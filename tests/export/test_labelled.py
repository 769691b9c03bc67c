"""Labelled volumes as cases: what is read, which objects count, and how they are prompted."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.labelled import MIN_AREA, MIN_SLICES, draw_prompt, folder_cases, objects
from runtime import Box, Mask, Point, Volume, write_mask
from runtime.errors import MissingInput, VolumeError
from runtime.io.volumes.itk import sitk


def labels_of(*extents: tuple[int, int, int]) -> np.ndarray:
    """Objects from 1 on, each a square of some side on slices from start to stop."""
    labels = np.zeros((12, 16, 64), np.uint8)
    for i, (start, stop, side) in enumerate(extents):
        labels[start:stop, 2 : 2 + side, 9 * i : 9 * i + side] = i + 1
    return labels


def test_archives_and_pairs_are_read_with_their_geometry(tmp_path: Path) -> None:
    labels = labels_of((2, 9, 8), (0, 4, 7))
    pixels = labels * np.uint8(50)
    np.savez(tmp_path / "b.npz", imgs=pixels, gts=labels, spacing=[0.5, 0.75, 3.0])
    volume = Volume.from_array(pixels, (3.0, 0.75, 0.5))
    for name in ("a", "c"):
        sitk.WriteImage(volume.to_image(), str(tmp_path / f"{name}.nii.gz"))
        write_mask(tmp_path / f"{name}_label.nii.gz", labels, like=volume)
    cases = list(folder_cases(tmp_path))
    assert [case.name for case in cases] == [
        f"{name} object {label}" for name in ("b", "a.nii.gz", "c.nii.gz") for label in (1, 2)
    ]
    for case in cases:
        label = int(case.name[-1])
        assert case.volume.spacing_mm == pytest.approx((3.0, 0.75, 0.5))
        np.testing.assert_array_equal(case.volume.array, pixels)
        np.testing.assert_array_equal(case.truth, labels == label)
        assert case.key == {1: 5, 2: 2}[label]
        assert not case.is_flow


def test_what_a_cohort_has_exported_is_read_at_any_depth(tmp_path: Path) -> None:
    labels = labels_of((2, 9, 8))
    volume = Volume.from_array(labels * np.uint8(50), (3.0, 0.75, 0.5))
    (tmp_path / "more").mkdir()
    np.savez(tmp_path / "more" / "b.npz", imgs=volume.array, gts=labels)
    for kind in ("images", "labels"):
        (tmp_path / kind / "p1").mkdir(parents=True)
    for name in ("ct", "p1/ct"):
        sitk.WriteImage(volume.to_image(), str(tmp_path / "images" / f"{name}.nii.gz"))
        write_mask(tmp_path / "labels" / f"{name}.nii.gz", labels, like=volume)
    cases = list(folder_cases(tmp_path))
    names = ["more/b", "images/ct.nii.gz", "images/p1/ct.nii.gz"]
    assert [case.name for case in cases] == [f"{name} object 1" for name in names]
    for case in cases:
        np.testing.assert_array_equal(case.truth, labels > 0)


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"holds no \.npz, no NAME\.nii\.gz"):
        list(folder_cases(tmp_path))
    np.savez(tmp_path / "plain.npz", imgs=np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(VolumeError, match=r"plain\.npz: found the keys imgs; wanted gts"):
        list(folder_cases(tmp_path))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.full((3, 8, 8), np.nan), "not all whole numbers from 0 up"),
        (np.full((3, 8, 8), 0.5), "not all whole numbers from 0 up"),
        (np.full((3, 8, 8), -1), "not all whole numbers from 0 up"),
        (np.full((3, 8, 8), "liver"), "of type <U5, wanted integers"),
        (np.full((3, 8, 8), 1j), "of type complex128, wanted integers"),
        (np.array(3), r"labels are \(\), the volume is \(3, 8, 8\)"),
        (np.array([{}]), "gts holds a pickle, which could do anything"),
    ],
)
def test_labels_that_are_none_are_refused(labels: np.ndarray, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgs=np.zeros((3, 8, 8), np.uint8), gts=labels)
    with pytest.raises(VolumeError, match=said):
        list(folder_cases(tmp_path))


def test_labels_that_promise_more_than_is_there_are_refused_before_anything_is_allocated(
    tmp_path: Path,
) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for key, shape in (("imgs", (3, 8, 8)), ("gts", (1 << 20, 1 << 20, 1))):
            with archive.open(f"{key}.npy", "w") as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                member.write(bytes(3 * 8 * 8))
    with pytest.raises(VolumeError, match=f"gts promises {1 << 40} bytes"):
        list(folder_cases(tmp_path))


def test_an_image_in_place_of_labels_is_noticed(tmp_path: Path) -> None:
    image = np.arange(2 * 32 * 32, dtype=np.int16).reshape(2, 32, 32)
    np.savez(tmp_path / "a.npz", imgs=np.zeros((2, 32, 32), np.uint8), gts=image)
    with pytest.raises(VolumeError, match=r"found 2048 different labels.*is that an image"):
        list(folder_cases(tmp_path))


def test_whole_numbers_stored_as_floats_are_labels(tmp_path: Path) -> None:
    labels = labels_of((2, 9, 8))
    np.savez(tmp_path / "a.npz", imgs=labels, gts=labels.astype(np.float32))
    (case,) = folder_cases(tmp_path)
    np.testing.assert_array_equal(case.truth, labels == 1)


def test_damaged_labels_are_refused_wherever_the_damage_lies(tmp_path: Path) -> None:
    labels = labels_of((2, 9, 8))
    np.savez_compressed(tmp_path / "a.npz", imgs=labels, gts=labels)
    data = (tmp_path / "a.npz").read_bytes()
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 4
        (tmp_path / "a.npz").write_bytes(changed)
        try:
            (case,) = folder_cases(tmp_path)
        except VolumeError:
            continue
        np.testing.assert_array_equal(case.truth, labels == 1)


def test_labels_that_lie_elsewhere_than_their_volume_are_refused(tmp_path: Path) -> None:
    labels = labels_of((2, 9, 8))
    volume = Volume.from_array(labels * np.uint8(50), (3.0, 0.75, 0.5))
    sitk.WriteImage(volume.to_image(), str(tmp_path / "a.nii.gz"))
    moved = replace(volume, origin_mm=(0.0, 0.75, 0.0))
    turned = replace(volume, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    for other in (moved, turned, replace(volume, spacing_mm=(3.0, 0.75, 0.75))):
        write_mask(tmp_path / "a_label.nii.gz", labels, like=other)
        with pytest.raises(VolumeError, match=r"a_label\.nii\.gz lies elsewhere than .*a\.nii\.gz"):
            list(folder_cases(tmp_path))
    write_mask(tmp_path / "a_label.nii.gz", labels, like=volume)
    assert len(list(folder_cases(tmp_path))) == 1


def test_what_is_no_folder_and_labels_without_a_volume_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="is not a folder"):
        list(folder_cases(tmp_path / "nowhere"))
    labels = labels_of((2, 9, 8))
    write_mask(tmp_path / "x_label_label.nii.gz", labels, like=Volume.from_array(labels))
    with pytest.raises(MissingInput, match=r"x_label\.nii\.gz does not exist"):
        list(folder_cases(tmp_path))


def test_labels_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", imgs=np.zeros((3, 8, 8), np.uint8), gts=np.zeros((3, 8, 9), np.uint8)
    )
    with pytest.raises(VolumeError, match=r"a: labels are \(3, 8, 9\), the volume is \(3, 8, 8\)"):
        list(folder_cases(tmp_path))


def test_small_and_short_objects_are_left_out() -> None:
    side = int(np.ceil(np.sqrt(MIN_AREA)))
    labels = labels_of((0, 5, side), (3, 3 + MIN_SLICES - 1, 8), (4, 11, side - 1), (9, 12, 8))
    assert [(label, key) for label, _, key in objects(labels)] == [(1, 2), (4, 10)]
    assert objects(np.zeros_like(labels)) == []


def test_the_middle_is_that_of_the_slices_which_hold_the_object() -> None:
    labels = labels_of((0, 12, 8))
    labels[2:8] = 0
    ((label, truth, key),) = objects(labels)
    assert (label, key) == (1, 9)
    np.testing.assert_array_equal(truth, labels == 1)


def crescent() -> np.ndarray:
    """Its centre lies outside."""
    truth = np.zeros((4, 20, 30), bool)
    truth[2, 3:17, 5:25] = True
    truth[2, 5:15, 8:25] = False
    return truth


def test_a_box_is_tight() -> None:
    assert draw_prompt("box", crescent(), 2) == Box(slice=2, y=(3, 17), x=(5, 25))


def test_a_click_is_inside() -> None:
    truth = crescent()
    click = draw_prompt("click", truth, 2)
    assert isinstance(click, Point)
    assert click.positive and click.slice == 2
    assert truth[2, int(click.y), int(click.x)]


def test_of_a_convex_object_a_click_is_the_middle() -> None:
    truth = np.zeros((2, 20, 20), bool)
    truth[1, 4:9, 10:17] = True
    assert draw_prompt("click", truth, 1) == Point(slice=1, y=6, x=13)


def test_a_mask_is_the_truth_itself() -> None:
    mask = draw_prompt("mask", crescent(), 2)
    assert isinstance(mask, Mask)
    assert mask.slice == 2
    np.testing.assert_array_equal(mask.mask, crescent()[2])
