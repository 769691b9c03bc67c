from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from runtime.errors import InputError, MissingInput, Sam2Error
from runtime.io import Volume, check_mask_path, read_volume, write_mask
from runtime.io.volumes.mask_formats import FORMATS

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
SPACING_MM = (2.5, 0.85, 0.7)
ORIGIN_MM = (-101.3, 33.7, 1234.1)


def axes(determinant: int) -> np.ndarray:
    """Oblique axes: some rotation, or a rotation and a mirror."""
    matrix, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix)) * determinant


def volume(determinant: int = 1) -> Volume:
    array = np.random.default_rng(3).integers(-900, 900, (4, 5, 6)).astype(np.int16)
    return Volume(array, SPACING_MM, ORIGIN_MM, tuple(axes(determinant).ravel().tolist()))


def labels(dtype: type = np.uint8, top: int = 4) -> np.ndarray:
    return np.random.default_rng(5).integers(0, top, (4, 5, 6)).astype(dtype)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("target", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("source", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_mask_lies_where_its_volume_lies(
    tmp_path: Path, source: str, target: str, determinant: int
) -> None:
    sitk.WriteImage(volume(determinant).to_image(), str(tmp_path / f"scan{source}"))
    scan = read_volume(tmp_path / f"scan{source}")
    write_mask(tmp_path / f"mask{target}", labels(), scan)
    mask = read_volume(tmp_path / f"mask{target}")
    assert mask.array.dtype == np.uint8
    assert np.array_equal(mask.array, labels())
    # NIfTI rounds to float32; the others keep every digit.
    near = {"rel": 1e-6, "abs": 1e-6} if ".nii" in target else {"rel": 1e-14, "abs": 1e-14}
    # NIfTI's float32 axes are orthonormal to 1e-7, which NRRD's length times direction turns up.
    if ".nii" in source:
        near = {"rel": 1e-6, "abs": 1e-6}
    assert mask.spacing_mm == pytest.approx(scan.spacing_mm, **near)
    assert mask.origin_mm == pytest.approx(scan.origin_mm, **near)
    assert mask.direction == pytest.approx(scan.direction, **near)
    assert scan.origin_mm == pytest.approx(ORIGIN_MM, rel=1e-6)
    assert scan.direction == pytest.approx(axes(determinant).ravel(), abs=1e-6)


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nibabel_finds_a_nifti_mask_in_the_same_place(
    tmp_path: Path, suffix: str, determinant: int
) -> None:
    write_mask(tmp_path / f"mask{suffix}", labels(), volume(determinant))
    mask = nib.load(tmp_path / f"mask{suffix}")
    expected = np.eye(4)
    expected[:3, :3] = axes(determinant) * SPACING_MM[::-1]
    expected[:3, 3] = ORIGIN_MM
    expected = np.diag([-1.0, -1.0, 1.0, 1.0]) @ expected
    assert np.array_equal(np.asarray(mask.dataobj), labels().T)
    assert mask.get_data_dtype() == np.uint8
    for affine in (mask.get_sform(coded=False), mask.get_qform(coded=False)):
        assert affine == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert mask.header["sform_code"] > 0


def orientations() -> list[np.ndarray]:
    """All 48 ways to lay three axes along three others, and 16 oblique ones of both hands."""
    draw = np.random.default_rng(11)
    oblique = [np.linalg.qr(draw.normal(size=(3, 3)))[0] for _ in range(16)]
    signs = [np.diag(three) for three in product((1, -1), repeat=3)]
    return [np.eye(3)[list(order)] @ s for order in permutations(range(3)) for s in signs] + oblique


def test_both_affines_of_a_nifti_mask_say_the_same_in_every_orientation(tmp_path: Path) -> None:
    for matrix in orientations():
        like = Volume(labels(), SPACING_MM, ORIGIN_MM, tuple(matrix.ravel().tolist()))
        write_mask(tmp_path / "mask.nii", labels(), like)
        mask = nib.load(tmp_path / "mask.nii")
        expected = np.eye(4)
        expected[:3, :3], expected[:3, 3] = matrix * SPACING_MM[::-1], ORIGIN_MM
        expected = np.diag([-1.0, -1.0, 1.0, 1.0]) @ expected
        for name in ("sform", "qform"):
            affine, code = getattr(mask, f"get_{name}")(coded=True)
            assert code == 1
            assert affine == pytest.approx(expected, rel=1e-5, abs=2e-4)
        again = read_volume(tmp_path / "mask.nii")
        assert again.direction == pytest.approx(like.direction, abs=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_above_255_are_kept(tmp_path: Path, suffix: str) -> None:
    write_mask(tmp_path / f"a{suffix}", labels(np.uint16, 60000), volume())
    mask = read_volume(tmp_path / f"a{suffix}")
    assert mask.array.dtype == np.uint16
    assert np.array_equal(mask.array, labels(np.uint16, 60000))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_masks_are_compressed(tmp_path: Path, suffix: str) -> None:
    like = Volume.from_array(np.zeros((20, 50, 50), np.int16))
    write_mask(tmp_path / f"a{suffix}", np.zeros(like.shape, np.uint8), like)
    assert (tmp_path / f"a{suffix}").stat().st_size < 5000


def test_a_view_that_is_not_contiguous_is_written_as_it_reads(tmp_path: Path) -> None:
    turned = np.ascontiguousarray(labels().T).T[:, ::-1]
    write_mask(tmp_path / "a.mha", turned, volume())
    assert np.array_equal(read_volume(tmp_path / "a.mha").array, labels()[:, ::-1])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ([[[1]]], "found a list; wanted labels: an array"),
        (None, "found a NoneType; wanted labels"),
        (np.ma.masked_equal(labels(), 2), r"fill them, labels.filled\(0\)"),
        (labels(np.int64), "or np.uint16 where any is above 255"),
    ],
)
def test_what_are_no_labels_is_refused(wrong: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        write_mask(tmp_path / "mask.nrrd", wrong, volume())
    assert not names_in(tmp_path)


@pytest.mark.parametrize("like", [None, "scan.nii.gz", labels()])
def test_what_is_no_volume_to_be_like_is_refused(like: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found a \w+ to be like; wanted the volume"):
        write_mask(tmp_path / "mask.nrrd", labels(), like)


def test_an_upper_case_name_is_kept(tmp_path: Path) -> None:
    write_mask(str(tmp_path / "MASK.NII.GZ"), labels(), volume())
    assert names_in(tmp_path) == ["MASK.NII.GZ"]
    assert np.array_equal(read_volume(tmp_path / "MASK.NII.GZ").array, labels())


def test_an_older_mask_is_replaced(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.nrrd", labels(), volume())
    write_mask(tmp_path / "a.nrrd", 3 - labels(), volume())
    assert np.array_equal(read_volume(tmp_path / "a.nrrd").array, 3 - labels())
    assert names_in(tmp_path) == ["a.nrrd"]


def fail_to_move(*_: Any) -> None:
    raise OSError("no moving today")


def fail_to_write(*_: Any) -> Iterator[bytes]:
    yield b"half a file"
    raise OSError("no writing today")


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stage", ["write", "move"])
def test_a_failed_write_leaves_the_folder_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    suffix: str,
    older: bool,
) -> None:
    path = tmp_path / f"a{suffix}"
    if older:
        write_mask(path, labels(), volume())
    before = path.read_bytes() if older else b""
    if stage == "write":
        monkeypatch.setitem(FORMATS, suffix, fail_to_write)
    else:
        monkeypatch.setattr(os, "replace", fail_to_move)
    with pytest.raises(Sam2Error, match=f"no {stage[:3]}"):
        write_mask(path, 3 - labels(), volume())
    assert names_in(tmp_path) == ([path.name] if older else [])
    assert not older or path.read_bytes() == before


WHOLE = dict(FORMATS)


def half(suffix: str, array: np.ndarray, like: Volume) -> Iterator[bytes]:
    yield b"".join(WHOLE[suffix](array, like))[:-40]


def empty(suffix: str, array: np.ndarray, like: Volume) -> Iterator[bytes]:
    return iter(())


def one_label_off(suffix: str, array: np.ndarray, like: Volume) -> Iterator[bytes]:
    array = array.copy()
    array[2, 3, 4] ^= 1
    return WHOLE[suffix](array, like)


def wider_labels(suffix: str, array: np.ndarray, like: Volume) -> Iterator[bytes]:
    return WHOLE[suffix](array.astype(np.uint16), like)


def elsewhere(suffix: str, array: np.ndarray, like: Volume) -> Iterator[bytes]:
    return WHOLE[suffix](array, replace(like, origin_mm=(-101.3, 33.7, 1234.11)))


def turned(suffix: str, array: np.ndarray, like: Volume) -> Iterator[bytes]:
    return WHOLE[suffix](array, replace(like, direction=tuple(-np.array(like.direction))))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", [half, empty, one_label_off, wider_labels, elsewhere, turned])
def test_a_mask_that_reads_back_otherwise_does_not_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, damage: Any
) -> None:
    path = tmp_path / f"a{suffix}"
    write_mask(path, labels(), volume())
    before = path.read_bytes()
    monkeypatch.setitem(FORMATS, suffix, partial(damage, suffix))
    with pytest.raises(Sam2Error, match="read back") as caught:
        write_mask(path, 3 - labels(), volume())
    assert caught.value.exit_code == 1
    assert names_in(tmp_path) == [path.name]
    assert path.read_bytes() == before


def test_a_full_disk_is_an_error_in_every_format(tmp_path: Path) -> None:
    # A limit on file size stands for the full disk; in a process of its own, since it binds all.
    code = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from runtime.errors import Sam2Error\n"
        "from runtime.io import Volume, write_mask\n"
        "labels = np.random.default_rng(0).integers(0, 255, (30, 30, 30)).astype(np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        write_mask(path, labels, Volume.from_array(labels))\n"
        "    except Sam2Error as error:\n"
        "        assert error.exit_code == 1, error\n"
        "        continue\n"
        "    sys.exit(f'{path} was written')\n"
    )
    paths = [tmp_path / f"a{suffix}" for suffix in SUFFIXES]
    for path in paths[::2]:
        path.write_bytes(b"an older mask")
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)
    assert names_in(tmp_path) == sorted(path.name for path in paths[::2])
    assert all(path.read_bytes() == b"an older mask" for path in paths[::2])


def test_a_disk_that_is_really_full_is_an_error_in_every_format(tmp_path: Path) -> None:
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if made.returncode:
        pytest.skip("only root can mount a file system of 64 KiB")
    try:
        noise = np.random.default_rng(0).integers(0, 255, (50, 50, 50)).astype(np.uint8)
        small = np.zeros((2, 3, 4), np.uint8)
        for suffix in SUFFIXES:
            path = tmp_path / f"a{suffix}"
            write_mask(path, small, Volume.from_array(small))
            before = path.read_bytes()
            with pytest.raises(Sam2Error, match="No space left") as caught:
                write_mask(path, noise, Volume.from_array(noise))
            assert caught.value.exit_code == 1
            assert path.read_bytes() == before
            assert names_in(tmp_path) == [path.name]
            path.unlink()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_volume_files_are_written_and_read_without_simpleitk(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['SimpleITK'] = sys.modules['nibabel'] = sys.modules['nrrd'] = None\n"
        "import numpy as np\n"
        "from runtime.io import Volume, read_volume, write_mask\n"
        "labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)\n"
        "for path in sys.argv[1:]:\n"
        "    write_mask(path, labels, Volume.from_array(labels))\n"
        "    assert np.array_equal(read_volume(path).array, labels)\n"
    )
    paths = [str(tmp_path / f"a{suffix}") for suffix in SUFFIXES]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_mask(tmp_path / "a.nii.gz", labels(), volume())
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("dtype", [bool, np.int16, np.int64, np.float32, ">u2"])
def test_labels_of_another_type_are_refused(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(InputError, match="uint8 or uint16"):
        write_mask(tmp_path / "a.nii.gz", labels().astype(dtype), volume())
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("wrong", [labels().T, labels()[:3], labels()[0], labels()[None]])
def test_labels_of_another_shape_are_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"wanted \(4, 5, 6\)"):
        write_mask(tmp_path / "a.nii.gz", wrong, volume())
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["a", "a.gz", "a.mhd", "a.nhdr", "a.npz", "a.dcm.gz", "nii"])
def test_a_suffix_that_is_not_written_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"wanted \.nii\.gz"):
        check_mask_path(tmp_path / name)
    with pytest.raises(InputError, match=r"wanted \.nii\.gz"):
        write_mask(tmp_path / name, labels(), volume())
    assert names_in(tmp_path) == []


def test_a_missing_folder_is_missing_input_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="make it"):
        write_mask(tmp_path / "no" / "a.nii.gz", labels(), volume())
    assert names_in(tmp_path) == []


def test_a_folder_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_mask(tmp_path / "a.nii.gz", labels(), volume())


def test_a_folder_that_may_not_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(InputError, match="may not be written to"):
        check_mask_path(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["x" * 256 + ".nrrd", "a\0b.nrrd"], ids=["too long", "a NUL"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"cannot be written: .*; name another file"):
        write_mask(tmp_path / name, labels(), volume())


def test_a_link_into_a_missing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").symlink_to(tmp_path / "gone" / "b.nrrd")
    with pytest.raises(MissingInput, match="gone is not a folder"):
        check_mask_path(tmp_path / "a.nrrd")


def test_a_link_is_kept_and_the_mask_lies_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "a.nrrd").symlink_to(tmp_path / "there" / "b.nrrd")
    write_mask(tmp_path / "a.nrrd", labels(), volume())
    assert (tmp_path / "a.nrrd").is_symlink()
    assert names_in(tmp_path / "there") == ["b.nrrd"]


def test_a_protected_mask_or_a_device_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "device.nrrd").symlink_to(os.devnull)
    with pytest.raises(Sam2Error, match="is no file"):
        check_mask_path(tmp_path / "device.nrrd")
    (tmp_path / "a.nrrd").write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "a.nrrd")
    with pytest.raises(Sam2Error, match="write-protected"):
        check_mask_path(tmp_path / "a.nrrd")


def test_a_usable_path_is_handed_back(tmp_path: Path) -> None:
    assert check_mask_path(str(tmp_path / "a.mha")) == tmp_path / "a.mha"
    assert names_in(tmp_path) == []
