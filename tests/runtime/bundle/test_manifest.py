from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from benchmarks.fuzz.mutate import damage_json
from runtime.bundle.bundle import EMBEDDED, Bundle, open_bundle
from runtime.bundle.contract import FORMAT_VERSION, GRAPHS
from runtime.bundle.manifest import LARGEST_INT8, MANIFEST, MAX_BYTES, graph_file
from runtime.errors import BundleError, BundleIncomplete
from tests.fakes import IMAGE_NUMBERS
from tests.manifests import manifest

ENCODER = graph_file(GRAPHS[0])
Change = Callable[[dict[str, Any]], None]


def opened(folder: Path, content: Any) -> Bundle:
    (folder / MANIFEST).write_bytes(
        content if isinstance(content, bytes) else json.dumps(content).encode()
    )
    return open_bundle(folder)


def without(*keys: str) -> Change:
    def remove(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return remove


def with_value(value: Any, *keys: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def test_one_that_is_right_is_read(tmp_path: Path) -> None:
    assert opened(tmp_path, manifest()).manifest == manifest()


def test_the_embedded_one_says_its_own_licence() -> None:
    assert open_bundle(EMBEDDED).licence == "Apache-2.0"


def with_int8(content: dict[str, Any], largest: Any = LARGEST_INT8) -> dict[str, Any]:
    """A manifest that has memory attention in int8 too."""
    entry = content["files"]["memory_attention.onnx"]
    content["files"]["memory_attention.int8.onnx"] = entry
    content["int8"] = {"largest_weight": largest, "dice_int8": 0.9}
    return content


def test_graphs_in_int8_lie_beside_those_in_fp32(tmp_path: Path) -> None:
    assert opened(tmp_path, manifest()).int8_graphs == ()
    assert opened(tmp_path, with_int8(manifest())).int8_graphs == ("memory_attention",)


@pytest.mark.parametrize("largest", [LARGEST_INT8 + 1, 127, 0, True, "64", None])
def test_weights_that_may_saturate_are_refused(largest: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleIncomplete, match=r"int8.largest_weight is"):
        opened(tmp_path, with_int8(manifest(), largest))


@pytest.mark.parametrize("missing", ["int8", "files"])
def test_graphs_in_int8_and_what_is_said_of_them_go_together(missing: str, tmp_path: Path) -> None:
    content = with_int8(manifest())
    if missing == "int8":
        del content["int8"]
    else:
        del content["files"]["memory_attention.int8.onnx"]
    with pytest.raises(BundleIncomplete, match="go together"):
        opened(tmp_path, content)


@pytest.mark.parametrize(
    "version", [FORMAT_VERSION - 1, 0, -1, str(FORMAT_VERSION), True, None, float(FORMAT_VERSION)]
)
def test_an_older_format_has_to_be_exported_again(version: Any, tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=f"has bundle format {version!r}.*; export it again$"
    ) as no:
        opened(tmp_path, {"format_version": version})
    assert type(no.value) is BundleError
    assert no.value.exit_code == 4


def test_a_newer_format_wants_a_newer_runtime(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"format {FORMAT_VERSION + 1}.*upgrade medsam2-runtime"):
        opened(tmp_path, {**manifest(), "format_version": FORMAT_VERSION + 1})


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_one_that_was_cut_short_is_incomplete(share: float, tmp_path: Path) -> None:
    text = json.dumps(manifest()).encode()
    with pytest.raises(BundleIncomplete, match="not whole") as refused:
        opened(tmp_path, text[: int(len(text) * share)])
    assert refused.value.exit_code == 4


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\x00\xd8",
        b"\x80\x81\x82",
        b"[]",
        b"3",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format_version": 3, "format_version": 3}',
        b'{"format_version": NaN}',
        b'{"format_version": 3, "x": -Infinity}',
        b'{"format_version": %s}' % (b"9" * 5000),
        json.dumps(manifest()).encode("utf-16"),
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_json_of_a_manifest_is_not_whole(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(BundleIncomplete, match="not whole"):
        opened(tmp_path, data)


def test_one_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    assert opened(tmp_path, json.dumps(manifest()).encode().ljust(MAX_BYTES))
    with pytest.raises(BundleError, match="has more than"):
        opened(tmp_path, json.dumps(manifest()).encode().ljust(MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("model"), "it lacks model"),
        (without("model", "image_size"), "model lacks image_size"),
        (with_value(1, "model", "colour"), "model has an unknown 'colour'"),
        (with_value("256", "model", "image_size"), "model.image_size is '256', wanted an integer"),
        (with_value(True, "model", "mem_dim"), "model.mem_dim is True"),
        (
            with_value("video", "model", "kind"),
            "model.kind is 'video', wanted one of volume, image",
        ),
        (with_value([], "model", "kind"), r"model.kind is \[\], wanted one of volume, image"),
        (with_value("sam9", "model", "profile"), "model.profile is 'sam9', wanted one of sam2"),
        (without("model", "grid"), "model lacks grid"),
        (with_value(1, "model", "grid"), "model.grid is 1, wanted an integer from 2"),
        (with_value(10**6, "model", "grid"), "model.grid is 1000000"),
        (with_value(0, "model", "prompt_size"), "model.prompt_size is 0"),
        (with_value(1, "model", "has_high_res"), "model.has_high_res is 1, wanted true or false"),
        (with_value(0, "model", "memory_tokens"), "model.memory_tokens is 0"),
        (with_value(2**40, "model", "keys_per_memory"), "model.keys_per_memory is 1099511627776"),
        (
            with_value(32, "model", "image_size"),
            "model.image_size is 32, wanted an integer from 64",
        ),
        (with_value(10**9 * 32, "model", "image_size"), "model.image_size is 32000000000"),
        (with_value(64.0, "model", "image_size"), "model.image_size is 64.0"),
        (with_value(12, "model", "d_model"), "model.d_model is 12"),
        (with_value(3, "model", "mem_dim"), "model.mem_dim is 3, wanted a divisor of d_model"),
        (
            with_value(16, "model", "d_model"),
            "constants.no_obj_ptr has 8 numbers, wanted d_model, 16",
        ),
        (with_value(0, "model", "num_maskmem"), "model.num_maskmem is 0"),
        (with_value(1000, "model", "max_obj_ptrs"), "model.max_obj_ptrs is 1000"),
        (with_value("a\0b", "model", "name"), "model.name is 'a.x00b'"),
        (with_value("a\nb", "weights", "source"), "weights.source is"),
        (with_value("\ud800", "weights", "source"), "weights.source is"),
        (with_value("", "licence"), "licence is ''"),
        (without("licence"), "it lacks licence"),
        (without("weights"), "it lacks weights"),
        (without("weights", "kind"), "weights lacks kind"),
        (
            with_value("unheard of", "weights", "kind"),
            "weights.kind is 'unheard of', wanted one of",
        ),
        (with_value(["random"], "weights", "kind"), "weights.kind is"),
        (with_value("z" * 64, "weights", "sha256"), "weights.sha256 is"),
        (with_value(None, "weights"), "weights is None, wanted an object"),
        (with_value(-1, "weights", "seed"), "weights.seed is -1"),
        (without("constants"), "it lacks constants"),
        (without("constants", "no_obj_ptr"), "constants lacks no_obj_ptr"),
        (with_value(1e39, "constants", "mask_downsample_bias"), "mask_downsample_bias is 1e.39"),
        (with_value([1.0] * 4, "constants", "mask_downsample_weight"), r"weight\[0\] is 1.0"),
        (with_value([[1.0] * 4] * 3, "constants", "mask_downsample_weight"), "wanted a list of 4"),
        (with_value([None] * 8, "constants", "no_obj_ptr"), r"no_obj_ptr\[0\] is None"),
        (with_value(1, "constants", "further"), "constants has an unknown 'further'"),
        (without("files"), "it lacks files"),
        (without("files", ENCODER), f"files lacks {ENCODER}"),
        (with_value({}, "files", "../x.onnx"), "files has an unknown '../x.onnx'"),
        (without("files", ENCODER, "sha256"), "lacks sha256"),
        (with_value("A" * 64, "files", ENCODER, "sha256"), "sha256 is 'AAA"),
        (with_value(None, "files", ENCODER, "size_bytes"), "size_bytes is None"),
        (with_value("many", "files", ENCODER, "size_bytes"), "size_bytes is 'many'"),
        (with_value(-1, "files", ENCODER, "size_bytes"), "size_bytes is -1"),
        (with_value(2**31, "files", ENCODER, "size_bytes"), "size_bytes is 2147483648"),
        (with_value("fp64", "precision"), "precision is 'fp64', wanted .*fp32"),
        (with_value(None, "precision"), "precision is None"),
        (with_value(None, "calibration"), "calibration is None"),
        (with_value([], "calibration"), r"calibration is \[\]"),
        (
            with_value({"temperature": 1.5}, "calibration", "mood"),
            "calibration has an unknown 'mood'",
        ),
        (with_value({}, "calibration", "iou"), "calibration.iou lacks measured, worth"),
        (with_value(None, "calibration", "iou"), "calibration.iou is None"),
        (with_value({"temperature": 0}, "calibration", "iou"), "temperature is 0, wanted a number"),
        (with_value({"temperature": "1.5"}, "calibration", "iou"), "temperature is '1.5'"),
        (with_value({"temperature": True}, "calibration", "iou"), "temperature is True"),
        (with_value({"temperature": 1, "worth": [1]}, "calibration", "iou"), "unknown 'worth'"),
        (with_value({"measured": [0, 1], "worth": [0]}, "calibration", "iou"), "does not ascend"),
        (with_value({"measured": [0, 1], "worth": [1, 0]}, "calibration", "iou"), "not ascend"),
        (with_value({"measured": [1, 0], "worth": [0, 1]}, "calibration", "iou"), "not ascend"),
        (
            with_value({"measured": [0, 2], "worth": [0, 1]}, "calibration", "iou"),
            r"measured\[1\] is 2",
        ),
        (
            with_value({"measured": [0, 1], "worth": [0, 2]}, "calibration", "iou"),
            r"worth\[1\] is 2",
        ),
    ],
)
def test_an_entry_that_is_lacking_or_wrong_is_named_with_what_was_wanted(
    change: Change, said: str, tmp_path: Path
) -> None:
    content = manifest()
    change(content)
    with pytest.raises(BundleIncomplete, match=f"lacks or misstates an entry: .*{said}") as refused:
        opened(tmp_path, content)
    assert refused.value.exit_code == 4
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_value(7, "model", "num_maskmem"), "model.num_maskmem is 7, wanted an integer from 0"),
        (
            with_value([-1.0] * 8, "constants", "no_obj_ptr"),
            "constants has an unknown 'no_obj_ptr'",
        ),
        (with_value({}, "files", graph_file(GRAPHS[1])), "files has an unknown 'memory_attention"),
        (without("files", ENCODER), f"files lacks {ENCODER}"),
        (with_value("volume", "model", "kind"), "model.profile is 'sam', wanted one of sam2"),
    ],
)
def test_one_of_single_images_says_nothing_of_memory(
    change: Change, said: str, tmp_path: Path
) -> None:
    content = manifest(IMAGE_NUMBERS)
    assert opened(tmp_path, content).model == IMAGE_NUMBERS
    change(content)
    with pytest.raises(BundleIncomplete, match=f"lacks or misstates an entry: .*{said}"):
        opened(tmp_path, content)


def test_what_later_exporters_may_tell_is_left_alone(tmp_path: Path) -> None:
    content = {**manifest(), "weather": ["rain"], "exporter": {"torch": "9"}}
    content["weights"]["page"] = "of its own"
    assert opened(tmp_path, content).manifest["weather"] == ["rain"]


def test_damage_is_refused_as_such_or_changes_nothing_that_matters(tmp_path: Path) -> None:
    refused, whole = 0, json.dumps(manifest()).encode()
    for seed in range(1500):
        try:
            bundle = opened(tmp_path, damage_json(whole, Random(seed)))
        except BundleError as error:
            refused += 1
            assert str(error).isprintable(), seed
            assert len(str(error)) < 2000, seed
            continue
        assert all(calibration(0.5) <= 1 for calibration in bundle.calibrations.values()), seed
        assert np.isfinite(np.float32(bundle.manifest["constants"]["no_obj_ptr"])).all(), seed
        assert len(bundle.fingerprint) == 64, seed
        assert isinstance(bundle.licence, str), seed
    assert 1000 < refused < 1500, "the damage should be neither always fatal nor mostly harmless"
