from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from runtime.errors import MissingInput, PromptError
from runtime.io.dicom.codes import Code
from runtime.prompts.prompt_file import (
    group,
    named_in,
    parse_box,
    parse_point,
    read_prompts,
)
from runtime.prompts.prompts import Box, Mask, Point

BOX = {"slice": 5, "box": {"y": [2, 6.5], "x": [1, 3]}}
POINT = {"slice": 5, "point": {"y": 4, "x": 2.5}}


def written(folder: Path, content: Any) -> Path:
    path = folder / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def with_prompts(*prompts: Any) -> dict[str, Any]:
    return {"objects": [{"id": 1, "prompts": list(prompts)}]}


def test_the_short_forms_of_the_command_line() -> None:
    assert parse_box("57,200,260,180,250") == Box(slice=57, y=(200, 260), x=(180, 250))
    assert parse_box(" 5, 1.5,2,0 ,3") == Box(slice=5, y=(1.5, 2), x=(0, 3))
    assert parse_point("40,210,180") == Point(slice=40, y=210, x=180)
    assert parse_point("40,210,180,-") == Point(slice=40, y=210, x=180, positive=False)
    assert type(parse_point("40,210,180").slice) is int


@pytest.mark.parametrize(
    "text", ["", "1,2,3,4", "1,2,3,4,5,6", "1,2,3,4,a", "1,2,3,4,nan", "1,2,3,4,inf", "1;2;3;4;5"]
)
def test_what_is_no_box_is_refused_with_the_form_wanted(text: str) -> None:
    with pytest.raises(PromptError, match="wanted z,y0,y1,x0,x1") as refused:
        parse_box(text)
    assert f"'{text}'" in str(refused.value)


@pytest.mark.parametrize("text", ["", "-", ",-", "1,2", "1,2,3,4", "1,2,-", "1,2,3,+", "1,2,nan"])
def test_what_is_no_point_is_refused_with_the_forms_wanted(text: str) -> None:
    with pytest.raises(PromptError, match="wanted z,y,x or z,y,x,-"):
        parse_point(text)


@pytest.mark.parametrize(
    "parse", [lambda: parse_box("1.5,0,3,0,3"), lambda: parse_point("1.5,0,3")]
)
def test_a_slice_between_two_slices_is_refused(parse: Any) -> None:
    with pytest.raises(PromptError, match=r"slice 1\.5 is not a whole number"):
        parse()


def test_prompts_of_one_object_are_grouped_by_slice_in_order_of_first_mention() -> None:
    a, b, c = Point(slice=7, y=1, x=1), Point(slice=2, y=1, x=1), Point(slice=7, y=2, x=2)
    assert group([a, b, c], object_id=3) == [(3, [a, c]), (3, [b])]


def test_a_file_with_every_kind_of_prompt(tmp_path: Path) -> None:
    inside = np.zeros((6, 4), np.uint8)
    inside[2, 1] = 1
    Image.fromarray(inside).save(tmp_path / "lesion.png")
    content = {
        "objects": [
            {"id": 7, "prompts": [BOX, {**POINT, "positive": False}]},
            {"prompts": [{**POINT, "positive": True}, {"slice": 8, "mask": "lesion.png"}, BOX]},
        ]
    }
    first, second, third = read_prompts(written(tmp_path, content)).calls
    box, point = Box(slice=5, y=(2, 6.5), x=(1, 3)), Point(slice=5, y=4, x=2.5)
    assert first == (7, [box, Point(slice=5, y=4, x=2.5, positive=False)])
    assert second == (2, [point, box]), "an object without an id has its place in the file as one"
    object_id, (mask,) = third
    assert object_id == 2
    assert isinstance(mask, Mask)
    assert mask.slice == 8
    np.testing.assert_array_equal(mask.mask, inside > 0)


def read_mask(folder: Path, image: Image.Image, name: str = "mask.png", **how: Any) -> np.ndarray:
    image.save(folder / name, **how)
    read = read_prompts(written(folder, with_prompts({"slice": 0, "mask": name})))
    ((_, (mask,)),) = read.calls
    assert isinstance(mask, Mask)
    return np.asarray(mask.mask) != 0


INSIDE = np.array([[0, 1, 1], [1, 0, 0]], bool)


@pytest.mark.parametrize("value", [1, 128, 255, 65535])
def test_one_value_of_any_kind_is_inside_a_mask_image(value: int, tmp_path: Path) -> None:
    image = Image.fromarray((INSIDE * value).astype(np.uint8 if value < 256 else np.uint16))
    np.testing.assert_array_equal(read_mask(tmp_path, image), INSIDE)


@pytest.mark.parametrize("mode", ["1", "LA", "RGB", "RGBA", "I", "F"])
def test_masks_saved_in_other_modes_are_the_same(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray((INSIDE * 255).astype(np.uint8)).convert(mode)
    name = "mask.tiff" if mode in "IF" else "mask.png"
    np.testing.assert_array_equal(read_mask(tmp_path, image, name), INSIDE)


@pytest.mark.parametrize("name", ["mask.png", "mask.tiff"])
def test_a_mask_stands_upright_as_its_slice_does(name: str, tmp_path: Path) -> None:
    image, exif = Image.fromarray((INSIDE * 255).astype(np.uint8)), Image.Exif()
    for orientation, upright in ((3, np.rot90(INSIDE, 2)), (6, np.rot90(INSIDE, -1))):
        exif[ExifTags.Base.Orientation] = orientation
        np.testing.assert_array_equal(read_mask(tmp_path, image, name, exif=exif), upright)


def test_a_mask_whose_exif_is_damaged_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray((INSIDE * 255).astype(np.uint8))
    with pytest.raises(PromptError, match=r"mask .* cannot be read as an image"):
        read_mask(tmp_path, image, exif=b"Exif\0\0II*\0")


def test_the_numbers_of_a_palette_count_and_not_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(INSIDE.astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])  # white outside, black inside
    np.testing.assert_array_equal(read_mask(tmp_path, image), INSIDE)


REFUSED_IMAGES = {
    "labels": (Image.fromarray(np.array([[0, 1, 2]], np.uint8)), r"several values \(1, 2\) inside"),
    "wide labels": (Image.fromarray(np.array([[0, 1, 300]], np.uint16)), "several values"),
    "a photograph": (Image.fromarray(np.array([[[9, 9, 8]]], np.uint8)), r"colours .*\(RGB\)"),
    "blue": (Image.fromarray(np.array([[[0, 0, 1]]], np.uint8)), "colours"),
    "see-through": (Image.fromarray(np.array([[[9, 9, 9, 0]]], np.uint8)), "transparency"),
}


@pytest.mark.parametrize("case", REFUSED_IMAGES)
def test_an_image_that_is_no_mask_is_refused(case: str, tmp_path: Path) -> None:
    image, why = REFUSED_IMAGES[case]
    with pytest.raises(PromptError, match=rf"prompts\[0\]: .*mask\.png.*{why}"):
        read_mask(tmp_path, image)


def test_an_image_of_several_pages_is_no_mask(tmp_path: Path) -> None:
    page = Image.fromarray(INSIDE.astype(np.uint8))
    with pytest.raises(PromptError, match="several images; wanted one"):
        read_mask(tmp_path, page, "mask.tiff", save_all=True, append_images=[page])


def test_an_image_too_large_to_be_a_slice_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in (5, 2):  # a warning from Pillow, and an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(PromptError, match="cannot be read as an image"):
            read_mask(tmp_path, Image.fromarray(INSIDE.astype(np.uint8)))


def test_a_mask_of_which_low_pixels_are_white_is_refused(tmp_path: Path) -> None:
    """Viewers show its 1 black; who saved booleans with tifffile meant it to be inside."""
    white = Image.fromarray(INSIDE > 0).convert("1")
    with pytest.raises(PromptError, match="low ones are white"):
        read_mask(tmp_path, white, "mask.tiff", tiffinfo={262: 0})


def test_a_volume_is_no_mask(tmp_path: Path) -> None:
    (tmp_path / "labels.nii.gz").write_bytes(b"\x1f\x8b" + bytes(400))
    with pytest.raises(PromptError, match="wanted one such as PNG, of the slice's size"):
        read_prompts(written(tmp_path, with_prompts({"slice": 0, "mask": "labels.nii.gz"})))


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_bytes(codecs.BOM_UTF8 + json.dumps(with_prompts(BOX)).encode())
    assert len(read_prompts(path).calls) == 1


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_file_that_is_not_there_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no prompts at") as refused:
        read_prompts(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"box", b"\xff\xfe\x00\xd8", b"\x80"])
def test_what_is_not_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_bytes(content)
    with pytest.raises(PromptError, match=r"prompts\.json is not JSON"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"objects": [], "objects": []}', "'objects' is there twice"),
        ('{"objects": [{"prompts": [{"slice": 1, "slice": 2}]}]}', "'slice' is there twice"),
        ('{"objects": [{"id": NaN}]}', "NaN is no number"),
        ('{"objects": [{"id": -Infinity}]}', "-Infinity is no number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"objects": ' * 50_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "5000 digits"),
        ('{"objects": [{"id": "a\x00"}]}', "control character"),
    ],
)
def test_json_of_two_meanings_or_without_bound_is_refused(
    content: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match=rf"prompts\.json is not JSON: .*{why}"):
        read_prompts(written(tmp_path, content))


def test_a_huge_file_is_refused_after_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    with path.open("wb") as file:
        file.truncate(2**30)  # sparse
    with pytest.raises(PromptError, match="larger than 16 MiB"):
        read_prompts(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_of_json_is_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_bytes(json.dumps(with_prompts(BOX)).encode(encoding))
    assert len(read_prompts(path).calls) == 1
    path.write_bytes(json.dumps(with_prompts({"slice": 0, "mask": "a.png"})).encode(encoding))
    assert named_in(path) == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    "content",
    [[], 3, "null", {}, {"objects": []}, {"objects": {"id": 1}}, {"objects": [1], "object": 2}],
)
def test_a_file_without_objects_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"prompts\.json: wanted .*at least one object"):
        read_prompts(written(tmp_path, content))


GOOD = {"id": 1, "prompts": [BOX]}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (3, "found 3"),
        ([BOX], "wanted"),
        ({"id": 2}, "at least one prompt"),
        ({"id": 2, "prompts": []}, "at least one prompt"),
        ({"id": 2, "prompts": BOX}, "at least one prompt"),
        ({"id": 2.0, "prompts": [BOX]}, "id 2.0 is not a whole number"),
        ({"id": "2", "prompts": [BOX]}, "id '2' is not a whole number"),
        ({"id": True, "prompts": [BOX]}, "id True is not a whole number"),
        ({"id": None, "prompts": [BOX]}, "id None is not a whole number"),
        ({"id": 1, "prompts": [BOX]}, "id 1 is taken"),
        ({"id": 0, "prompts": [BOX]}, "id 0 is not a whole number from 1 to 65535"),
        ({"id": -1, "prompts": [BOX]}, "id -1 is not"),
        ({"id": 65536, "prompts": [BOX]}, "id 65536 is not"),
        ({"Id": 2, "prompts": [BOX]}, "wanted"),
    ],
)
def test_a_malformed_object_is_refused_where_it_stands(
    entry: Any, why: str, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match=why) as refused:
        read_prompts(written(tmp_path, {"objects": [GOOD, entry]}))
    assert "prompts.json: objects[1]: " in str(refused.value)
    assert refused.value.exit_code == 3


def test_an_object_without_an_id_does_not_join_another(tmp_path: Path) -> None:
    content = {"objects": [{"id": 2, "prompts": [BOX]}, {"prompts": [BOX]}]}
    with pytest.raises(PromptError, match="id 2 is taken"):
        read_prompts(written(tmp_path, content))


def box(y: Any, x: Any) -> dict[str, Any]:
    return {"slice": 5, "box": {"y": y, "x": x}}


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        (3, "found 3"),
        ("slice", "found 'slice'"),
        ([5], "found"),
        ({"slice": 5}, "wanted a slice and one of"),
        ({"box": BOX["box"]}, "wanted a slice and one of"),
        ({**BOX, **POINT}, "wanted a slice and one of"),
        ({**BOX, "positive": False}, "a point may have positive"),
        ({**POINT, "label": 0}, "wanted a slice and one of"),
        ({**POINT, "positive": "false"}, "positive 'false' is neither true nor false"),
        ({**POINT, "positive": 0}, "positive 0 is neither"),
        ({**POINT, "slice": 1.5}, "slice 1.5 is not a whole number"),
        ({**POINT, "slice": "5"}, "slice '5' is not a whole number"),
        ({**POINT, "slice": True}, "slice True is not"),
        ({**POINT, "point": {"y": 4}}, "'x' is missing"),
        ({**POINT, "point": [4, 2]}, "in {'slice'"),
        ({**POINT, "point": {"y": "4", "x": 2}}, "'4' is not a number"),
        ({**POINT, "point": {"y": None, "x": 2}}, "None is not a number"),
        ({**POINT, "point": {"y": True, "x": 2}}, "True is not a number"),
        ({"slice": 5, "box": {"y": [1, 2]}}, "'x' is missing"),
        ({"slice": 5, "box": [1, 2, 3, 4]}, "in {'slice'"),
        (box([1], [1, 2]), "values to unpack"),
        (box([1, 2, 3], [1, 2]), "values to unpack"),
        (box(1, [1, 2]), "unpack"),
        (box("12", [1, 2]), "'1' is not a number"),
        (box([1, 2], [1, "b"]), "'b' is not a number"),
        ({"slice": 5, "mask": 3}, "in {'slice'"),
        ({"slice": 5, "mask": "a\x00b"}, "null byte"),
        ({"slice": 5, "mask": "\ud800"}, "surrogates"),
        ({**POINT, "point": {"y": 4, "x": 2, "z": 1}}, "'z' is not known"),
        ({"slice": 5, "mask": "x" * 10_000}, "cannot be read|too long"),
        ({"slice": 5, "mask": "prompts.json"}, "cannot be read as an image"),
        ({"slice": 5, "mask": "."}, "cannot be read as an image"),
    ],
)
def test_a_malformed_prompt_is_refused_where_it_stands(
    prompt: Any, why: str, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match=why) as refused:
        read_prompts(written(tmp_path, with_prompts(BOX, prompt)))
    assert "prompts.json: objects[0].prompts[1]: " in str(refused.value)


def test_a_number_beyond_all_bounds_is_refused(tmp_path: Path) -> None:
    content = json.dumps(with_prompts({**POINT, "point": {"y": 4, "x": 7.25}}))
    with pytest.raises(PromptError, match=r"prompts\[0\]: inf is not finite"):
        read_prompts(written(tmp_path, content.replace("7.25", "1e999")))


def test_what_is_shown_of_a_malformed_prompt_is_short(tmp_path: Path) -> None:
    with pytest.raises(PromptError) as refused:
        read_prompts(written(tmp_path, with_prompts({"slice": [[9] * 10_000]})))
    assert len(str(refused.value)) < 500


def test_a_mask_that_is_not_there_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, with_prompts({"slice": 5, "mask": "absent.png"}))
    with pytest.raises(MissingInput, match=r"objects\[0\]\.prompts\[0\]: no mask at .*absent\.png"):
        read_prompts(path)


@pytest.mark.parametrize("at", [0, 12, 18, 25, 45])
def test_a_damaged_mask_image_is_refused(at: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (40, 40)).astype(np.uint8) * 255
    Image.fromarray(noise).save(tmp_path / "mask.png")
    data = bytearray((tmp_path / "mask.png").read_bytes())
    data[at] ^= 0xFF
    (tmp_path / "mask.png").write_bytes(data)
    with pytest.raises(PromptError, match=r"prompts\[0\]: .*cannot be read as an image"):
        read_prompts(written(tmp_path, with_prompts({"slice": 5, "mask": "mask.png"})))


def test_a_mask_image_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (40, 40)).astype(np.uint8) * 255
    Image.fromarray(noise).save(tmp_path / "mask.png")
    data = (tmp_path / "mask.png").read_bytes()
    for length in (0, 10, 20, 60, len(data) // 2):
        (tmp_path / "mask.png").write_bytes(data[:length])
        with pytest.raises(PromptError, match=r"objects\[0\]\.prompts\[0\]"):
            read_prompts(written(tmp_path, with_prompts({"slice": 5, "mask": "mask.png"})))


def test_objects_may_say_what_they_are(tmp_path: Path) -> None:
    content = {
        "objects": [
            {"id": 7, "prompts": [BOX], "code": "SCT:10200004:Liver"},
            {"prompts": [BOX], "category": "SCT:91723000:Anatomical Structure"},
        ]
    }
    path = written(tmp_path, content)
    read = read_prompts(path)
    assert [object_id for object_id, _ in read.calls] == [7, 2]
    assert read.codes == {7: Code("SCT", "10200004", "Liver")}
    assert read.categories == {2: Code("SCT", "91723000", "Anatomical Structure")}


@pytest.mark.parametrize("code", ["liver", "", 5, ["SCT:1:x"], "SCT:1:a\\b"])
def test_what_is_no_code_fails_its_file(code: object, tmp_path: Path) -> None:
    path = written(tmp_path, {"objects": [{"prompts": [BOX], "code": code}]})
    with pytest.raises(PromptError, match=r"objects\[0\]: .*wanted .*SCT:52988006:Lesion"):
        read_prompts(path)


@pytest.fixture
def stdin() -> Iterator[Callable[[bytes], None]]:
    """What makes stdin a pipe that holds some bytes and then ends."""
    before, ends = os.dup(0), []

    def feed(data: bytes) -> None:
        read, write = os.pipe()
        ends.append(read)
        os.write(write, data)
        os.close(write)
        os.dup2(read, 0)

    yield feed
    os.dup2(before, 0)
    for end in (before, *ends):
        os.close(end)


@pytest.mark.parametrize("name", ["-", *(["/dev/stdin"] if Path("/dev/stdin").exists() else [])])
def test_prompts_come_through_pipes(
    name: str, stdin: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which can be read once."""
    stdin(json.dumps({"objects": [{"prompts": [BOX], "code": "SCT:10200004:Liver"}]}).encode())
    read = read_prompts(name)
    assert len(read.calls) == len(read.codes) == 1
    assert read.files == (() if name == "-" else (Path(name),))
    stdin(b"{}")
    with pytest.raises(PromptError, match="stdin: wanted"):
        read_prompts(name)


def test_masks_of_prompts_on_stdin_lie_in_the_current_folder(
    stdin: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.eye(8, dtype=np.uint8)).save("m.png")
    stdin(json.dumps(with_prompts({"slice": 5, "mask": "m.png"})).encode())
    read = read_prompts("-")
    ((_, (mask,)),) = read.calls
    assert mask.mask.sum() == 8 and read.files == (Path("m.png"),)
