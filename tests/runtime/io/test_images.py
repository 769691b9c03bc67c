"""Folders of images, and label images written back."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from runtime.errors import InputError, MissingInput, Sam2Error
from runtime.io.pictures.images import make_output_folder, read_images, write_label_image
from tests.dicoms import bundled

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 17), dtype=np.uint16)
SIGNED = RNG.integers(-1000, 1000, (12, 17), dtype=np.int16)


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    """Grey (y, x), or frames (z, y, x); the last axis of uint8 (y, x, 3) is colour."""
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.Execute(sitk.GetImageFromArray(pixels, isVector=pixels.shape[-1] == 3))


def only_one(folder: Path) -> np.ndarray:
    (array,) = read_images(folder).arrays
    return array


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".tiff"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_pixels_come_as_stored(pixels: np.ndarray, suffix: str, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    found = only_one(tmp_path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_a_jpeg_comes_as_it_decodes(suffix: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(COLOUR).save(stream, "JPEG", quality=90)
    (tmp_path / f"a{suffix}").write_bytes(stream.getvalue())
    np.testing.assert_array_equal(only_one(tmp_path), np.asarray(Image.open(stream)))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_kept(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / f"a{suffix}")
    found = only_one(tmp_path)
    assert found.dtype.itemsize >= 2
    np.testing.assert_array_equal(found, DEEP)


def test_floats_are_kept(tmp_path: Path) -> None:
    values = RNG.normal(0, 1e4, (9, 7)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(only_one(tmp_path), values)


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 3)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(only_one(tmp_path), np.eye(3, dtype=np.uint8)[GREY % 3] * 255)


@pytest.mark.parametrize(("mode", "pixels"), [("LA", GREY), ("RGBA", COLOUR)])
def test_transparency_is_dropped(mode: str, pixels: np.ndarray, tmp_path: Path) -> None:
    alpha = Image.fromarray(GREY.T.copy()).resize((17, 12))
    image = Image.fromarray(pixels).convert(mode)
    image.putalpha(alpha)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(only_one(tmp_path), pixels)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GREY > 99).save(tmp_path / "a.png")
    np.testing.assert_array_equal(only_one(tmp_path), np.where(GREY > 99, 255, 0))


@pytest.mark.parametrize("name", ["a.dcm", "a.DCM", "a"])
@pytest.mark.parametrize("pixels", [SIGNED, COLOUR], ids=["grey", "colour"])
def test_dicom_is_read_with_its_suffix_or_without(
    pixels: np.ndarray, name: str, tmp_path: Path
) -> None:
    write_dicom(tmp_path / "made.dcm", pixels)
    (tmp_path / "made.dcm").rename(tmp_path / name)
    found = read_images(tmp_path)
    assert found.names == ("a",)
    assert found.arrays[0].dtype == pixels.dtype
    np.testing.assert_array_equal(found.arrays[0], pixels)


def number(folder: Path, name: str, value: int) -> None:
    Image.fromarray(np.full((3, 4), value, np.uint8)).save(folder / name)


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    names = ["img2.png", "img10.png", "img100.jpg", "img1_9.bmp", "img1_10.bmp", "7.png", "b.png"]
    for i, name in enumerate(names):
        number(tmp_path, name, 10 * i)
    found = read_images(tmp_path)
    assert found.names == ("7", "b", "img1_9", "img1_10", "img2", "img10", "img100")
    order = [5, 6, 3, 4, 0, 1, 2]
    assert [int(array[0, 0]) for array in found.arrays] == pytest.approx(
        [10 * i for i in order], abs=2
    )


def test_where_stems_are_the_same_all_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "b.png"):
        number(tmp_path, name, 1)
    assert read_images(tmp_path).names == ("a.bmp", "a.png", "b.png")


def test_names_are_never_the_same(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.bmp.png"):
        number(tmp_path, name, 1)
    names = read_images(tmp_path).names
    assert len(set(names)) == len(names) == 3


def test_the_order_is_that_of_names_whatever_the_file_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a02.png", "a2.png", "a002.png"):
        number(tmp_path, name, 1)
    paths = sorted(tmp_path.iterdir())
    orders = set()
    for listed in (paths, paths[::-1]):
        monkeypatch.setattr(Path, "iterdir", lambda self, listed=listed: iter(listed))
        orders.add(read_images(tmp_path).names)
    assert len(orders) == 1


def test_other_files_hidden_files_and_subfolders_are_left_alone(tmp_path: Path) -> None:
    number(tmp_path, "a.png", 1)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "README").write_text("no image either")
    (tmp_path / "empty").touch()
    (tmp_path / "._a.png").write_bytes(b"what some systems leave behind")
    (tmp_path / "below").mkdir()
    number(tmp_path / "below", "b.png", 1)
    (tmp_path / "folder.png").mkdir()
    assert read_images(tmp_path).names == ("a",)


def test_a_picture_is_read_by_itself(tmp_path: Path) -> None:
    number(tmp_path, "b.PNG", 7)
    number(tmp_path, "a.png", 1)
    alone, both = read_images(str(tmp_path / "b.PNG")), read_images(tmp_path)
    assert alone.names == ("b",) and both.names == ("a", "b")
    np.testing.assert_array_equal(alone.arrays[0], both.arrays[1])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(MissingInput, match=r"folder\.png holds no"):
        read_images(tmp_path / "folder.png")


@pytest.mark.parametrize("name", ["absent", "absent.png", "file.txt"])
def test_what_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(MissingInput, match="is not a folder"):
        read_images(tmp_path / name)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(MissingInput, match=r"holds no \.png, .* and no DICOM"):
        read_images(tmp_path)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def nothing(data: bytes) -> bytes:
    return b""


def text(data: bytes) -> bytes:
    return b"this is no image at all " * 20


@pytest.mark.parametrize("damage", [cut, nothing, text])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_a_damaged_image_is_refused_by_name(
    suffix: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"scan{suffix}"
    Image.fromarray(COLOUR).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"scan\{suffix} cannot be read as an image"):
        read_images(tmp_path)


def test_a_png_with_a_broken_chunk_is_refused(tmp_path: Path) -> None:
    """Which Pillow calls a SyntaxError."""
    path = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (300, 400), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    second = data.rindex(b"IDAT")
    assert second != data.index(b"IDAT")
    path.write_bytes(data[:second] + b"\0\0\0\0" + data[second + 4 :])
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image: broken PNG"):
        read_images(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the same tag
def test_a_tiff_whose_tags_make_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(GREY).save(path)
    data = path.read_bytes()
    offsets_as_numbers = (273).to_bytes(2, "little") + (4).to_bytes(2, "little")
    offsets_as_bytes = (273).to_bytes(2, "little") + (7).to_bytes(2, "little")
    assert data.count(offsets_as_numbers) == 1
    path.write_bytes(data.replace(offsets_as_numbers, offsets_as_bytes))
    with pytest.raises(InputError, match=r"a\.tif cannot be read as an image"):
        read_images(tmp_path)


@pytest.mark.parametrize("damage", [cut, nothing, text])
def test_a_damaged_dicom_image_is_refused_by_name(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    write_dicom(tmp_path / "scan.dcm", SIGNED)
    (tmp_path / "scan.dcm").write_bytes(damage((tmp_path / "scan.dcm").read_bytes()))
    with pytest.raises(InputError, match=r"scan\.dcm cannot be read as a DICOM image"):
        read_images(tmp_path)


def test_a_dicom_file_of_several_frames_is_sent_to_volumes(tmp_path: Path) -> None:
    write_dicom(tmp_path / "cine.dcm", RNG.integers(0, 256, (4, 6, 7), dtype=np.uint8))
    with pytest.raises(InputError, match=r"cine\.dcm holds 4 frames.*read it as a volume"):
        read_images(tmp_path)


@pytest.mark.parametrize("limit", [GREY.size // 2 - 1, GREY.size - 1], ids=["error", "warning"])
def test_a_decompression_bomb_is_refused(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit Pillow warns, beyond twice the limit it raises; neither is decoded."""
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert only_one(tmp_path).shape == GREY.shape
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match=r"a\.png is too large an image.*make it smaller"):
        read_images(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_written_as_they_are(dtype: type[np.generic], tmp_path: Path) -> None:
    labels = RNG.integers(0, np.iinfo(dtype).max, (6, 9), endpoint=True, dtype=dtype)
    write_label_image(tmp_path, "scan.v2", labels)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.v2.png"]
    with Image.open(tmp_path / "scan.v2.png") as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), labels)


def test_a_label_image_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, path: Path, format: str) -> None:
        path.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Sam2Error, match=r"a\.png could not be written: .*No space left") as refused:
        write_label_image(tmp_path, "a", GREY)
    assert refused.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_an_interrupt_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_label_image(tmp_path, "a", GREY)
    assert not list(tmp_path.iterdir())


def test_masks_go_into_a_new_folder_or_an_empty_one(tmp_path: Path) -> None:
    assert make_output_folder(tmp_path / "masks") == tmp_path / "masks"
    assert (tmp_path / "masks").is_dir()
    assert make_output_folder(str(tmp_path / "masks")) == tmp_path / "masks"


def test_masks_do_not_go_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / ".hidden").touch()
    with pytest.raises(InputError, match="masks is not empty"):
        make_output_folder(tmp_path / "masks")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder"):
        make_output_folder(tmp_path / "file")
    with pytest.raises(MissingInput, match="absent is not a folder; make it first"):
        make_output_folder(tmp_path / "absent" / "masks")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", ["masks.nii.gz", "masks.PNG", "masks.mha", "masks.dcm"])
def test_a_folder_of_masks_is_not_called_as_a_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{name} is named as a file.*such as masks$"):
        make_output_folder(tmp_path / name)
    assert not any(tmp_path.iterdir())
    (tmp_path / name).mkdir()
    assert make_output_folder(tmp_path / name).is_dir()


def saved(pixels: np.ndarray, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


SMOOTH = np.add.outer(np.arange(60), np.arange(70)).astype(np.uint8)


@pytest.mark.parametrize(
    ("suffix", "options"), [(".png", {}), (".tif", {"compression": "tiff_adobe_deflate"})]
)
def test_a_flipped_bit_of_what_has_a_checksum_is_never_read(
    suffix: str, options: dict[str, str], tmp_path: Path
) -> None:
    data = saved(SMOOTH, {".png": "PNG", ".tif": "TIFF"}[suffix], **options)
    path = tmp_path / f"scan{suffix}"
    start = data.index(b"\x78\x9c")  # of the zlib stream
    for at in range(start, start + 40):
        flipped = bytearray(data)
        flipped[at] ^= 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="scan"):
            read_images(tmp_path)
    path.write_bytes(data)
    np.testing.assert_array_equal(only_one(tmp_path), SMOOTH)


def test_parts_of_a_tiff_that_add_up_to_more_than_the_file_are_refused(tmp_path: Path) -> None:
    """Each of a thousand strips may claim to be the whole file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = bytearray(saved(SMOOTH, "TIFF", compression="tiff_adobe_deflate"))
    counts = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    struct.pack_into("<I", data, counts, 1 << 31)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif cannot be read .*larger than the file"):
        read_images(tmp_path)


@pytest.mark.parametrize(("suffix", "form"), [(".jpg", "JPEG"), (".png", "PNG"), (".tif", "TIFF")])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (3, lambda a: np.rot90(a, 2)),
        (4, lambda a: a[::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_images_stand_upright(
    suffix: str,
    form: str,
    orientation: int,
    upright: Callable[[np.ndarray], np.ndarray],
    tmp_path: Path,
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / f"a{suffix}").write_bytes(saved(COLOUR, form, exif=exif))
    plain = np.asarray(Image.open(io.BytesIO(saved(COLOUR, form))))
    np.testing.assert_array_equal(only_one(tmp_path), upright(plain))


def test_other_colour_spaces_become_red_green_and_blue(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR).convert("CMYK")
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(only_one(tmp_path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("suffix", "form"), [(".png", "PNG"), (".tif", "TIFF")])
def test_a_file_of_several_images_is_refused(suffix: str, form: str, tmp_path: Path) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())
    first.save(tmp_path / f"a{suffix}", form, save_all=True, append_images=[second])
    with pytest.raises(InputError, match=rf"a\{suffix} holds several images; wanted one a file"):
        read_images(tmp_path)


def test_both_orders_of_bytes_are_read(tmp_path: Path) -> None:
    swapped = Image.frombytes("I;16B", (17, 12), DEEP.astype(">u2").tobytes())
    swapped.save(tmp_path / "a.tif")
    found = only_one(tmp_path)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, DEEP)


def test_floats_that_are_no_numbers_are_kept(tmp_path: Path) -> None:
    values = np.array([[np.nan, 1], [np.inf, -2]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(only_one(tmp_path), values)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_one_pixel_is_an_image(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY[:1, :1].copy()).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(only_one(tmp_path), GREY[:1, :1])


def test_a_name_of_any_bytes_comes_back_in_its_label_image(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xc3 \n%s")
    Image.fromarray(GREY).save(tmp_path / f"{name}.png")
    found = read_images(tmp_path)
    assert found.names == (name,)
    masks = make_output_folder(tmp_path / "masks")
    write_label_image(masks, name, GREY)
    assert [path.name for path in masks.iterdir()] == [f"{name}.png"]


def test_a_file_is_read_as_what_it_is_and_never_as_what_runs_other_programs(tmp_path: Path) -> None:
    """Pillow hands PostScript to another program."""
    (tmp_path / "a.png").write_bytes(saved(GREY, "BMP"))
    np.testing.assert_array_equal(only_one(tmp_path), GREY)
    (tmp_path / "a.png").write_bytes(saved(GREY, "EPS"))
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image: cannot identify"):
        read_images(tmp_path)


def test_pipes_and_links_to_nothing_are_left_alone(tmp_path: Path) -> None:
    number(tmp_path, "a.png", 1)
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "absent")
    (tmp_path / "d.png").symlink_to(tmp_path / "a.png")
    assert read_images(tmp_path).names == ("a", "d")


def test_a_uid_is_a_name_without_suffix(tmp_path: Path) -> None:
    write_dicom(tmp_path / "made.dcm", SIGNED)
    (tmp_path / "made.dcm").rename(tmp_path / "1.2.840.5")
    (tmp_path / "notes.txt").write_text("no image")
    assert read_images(tmp_path).names == ("1.2.840.5",)


def test_masks_may_go_into_a_folder_among_their_images(tmp_path: Path) -> None:
    number(tmp_path, "a.png", 1)
    write_label_image(make_output_folder(tmp_path / "masks"), "a", GREY)
    assert read_images(tmp_path).names == ("a",)


def test_a_label_image_that_reads_back_otherwise_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save

    def spoil(self: Image.Image, path: Path, format: str) -> None:
        save(self.transpose(Image.Transpose.FLIP_TOP_BOTTOM), path, format)

    monkeypatch.setattr(Image.Image, "save", spoil)
    with pytest.raises(Sam2Error, match=r"a\.png reads back otherwise than written"):
        write_label_image(tmp_path, "a", GREY)
    assert not list(tmp_path.iterdir())


def test_an_image_of_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr("runtime.io.pictures.picture.MAX_PIXELS", GREY.size - 1)
    with pytest.raises(
        InputError, match=r"a\.png is too large an image: 17 x 12 .*make it smaller"
    ):
        read_images(tmp_path)


def test_a_damaged_dicom_image_without_a_suffix_is_refused(tmp_path: Path) -> None:
    """Left out, it would change the numbers of those after it."""
    for i in range(3):
        write_dicom(tmp_path / "made.dcm", SIGNED)
        (tmp_path / "made.dcm").rename(tmp_path / f"IM{i}")
    (tmp_path / "README").write_text("no image")
    assert read_images(tmp_path).names == ("IM0", "IM1", "IM2")
    (tmp_path / "IM1").write_bytes(b"")
    with pytest.raises(InputError, match="IM1 is named as the images are and is none"):
        read_images(tmp_path)


def test_dicom_without_pixels_is_left_alone(tmp_path: Path) -> None:
    for i in (0, 1):
        write_dicom(tmp_path / "made.dcm", SIGNED)
        (tmp_path / "made.dcm").rename(tmp_path / f"IM{i}")
    for name, theirs in (
        ("IM2", "reportsi.dcm"),
        ("report.dcm", "test-SR.dcm"),
        ("DICOMDIR", "DICOMDIR"),
    ):
        (tmp_path / name).write_bytes(bundled(theirs).read_bytes())
    assert read_images(tmp_path).names == ("IM0", "IM1")
