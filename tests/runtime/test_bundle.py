from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from runtime.bundle import CAUTIONS, MANIFEST, graph_file, open_bundle
from runtime.confidence import Calibration
from runtime.contract import FORMAT_VERSION, GRAPHS
from runtime.errors import BundleChanged, BundleError, BundleIncomplete
from tests.fakes import FAKE_NUMBERS

BYTES = {graph_file(graph): f"the bytes of {graph}".encode() for graph in GRAPHS}
ENCODER = graph_file(GRAPHS[0])


def manifest() -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "model": asdict(FAKE_NUMBERS),
        "weights": {"kind": "checkpoint", "source": "weights.pt", "sha256": "00"},
        "licence": "Apache-2.0",
        "precision": "fp32",
        "constants": {},
        "files": {
            name: {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in BYTES.items()
        },
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole bundle, as far as this side of the engines can tell."""
    (tmp_path / MANIFEST).write_text(json.dumps(manifest()))
    for name, data in BYTES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_whole_bundle_opens_and_hands_out_its_graphs(folder: Path) -> None:
    for path in (folder, str(folder)):
        bundle = open_bundle(path)
        assert bundle.model == FAKE_NUMBERS
        assert bundle.caution is None
        assert [bundle.read_graph(graph) for graph in GRAPHS] == list(BYTES.values())


def test_the_embedded_bundle_is_whole_and_cautions() -> None:
    bundle = open_bundle()
    assert bundle.weights["kind"] != "checkpoint"
    assert bundle.caution
    for graph in GRAPHS:
        assert bundle.read_graph(graph)


@pytest.mark.parametrize("kind", CAUTIONS)
def test_the_kind_of_weights_decides_the_caution(kind: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({**manifest(), "weights": {"kind": kind}}))
    assert open_bundle(folder).caution == CAUTIONS[kind]


@pytest.mark.parametrize("name", [".", "nowhere", "file"])
def test_what_is_no_bundle_is_refused_with_the_way_to_make_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"is not a bundle.*python -m export") as refused:
        open_bundle(tmp_path / name)
    assert type(refused.value) is BundleError
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, FORMAT_VERSION - 1, str(FORMAT_VERSION)])
def test_another_format_version_is_refused(version: Any, folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"format_version": version}))
    with pytest.raises(BundleError, match=f"has bundle format {version}") as refused:
        open_bundle(folder)
    assert type(refused.value) is BundleError
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_manifest_that_was_cut_short_is_incomplete(share: float, folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: int(len(text) * share)])
    with pytest.raises(BundleIncomplete, match="not whole") as refused:
        open_bundle(folder)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("data", [b"\xff\xfe\x00\xd8", b"\x80\x81\x82", b"[]", b"3", b"null"])
def test_a_manifest_that_is_something_else_is_incomplete(data: bytes, folder: Path) -> None:
    (folder / MANIFEST).write_bytes(data)
    with pytest.raises(BundleIncomplete, match="not whole"):
        open_bundle(folder)


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def remove(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return remove


def with_value(value: Any, *keys: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("model"),
        without("model", "image_size"),
        with_value(1, "model", "colour"),
        without("weights"),
        without("weights", "kind"),
        with_value("unheard of", "weights", "kind"),
        with_value(None, "weights"),
        without("constants"),
        without("files"),
        without("files", ENCODER),
        without("files", ENCODER, "sha256"),
        with_value(None, "files", ENCODER, "size_bytes"),
        with_value("many", "files", ENCODER, "size_bytes"),
        with_value(None, "calibration"),
        with_value([], "calibration"),
        with_value({"mood": {"temperature": 1.5}}, "calibration"),
        with_value({"iou": {"temperature": 1.5}, "mood": {"temperature": 1.5}}, "calibration"),
        with_value({"iou": {}}, "calibration"),
        with_value("fp64", "precision"),
        with_value(None, "precision"),
        with_value({"iou": None}, "calibration"),
        with_value({"iou": {"temperature": 0}}, "calibration"),
        with_value({"iou": {"temperature": float("nan")}}, "calibration"),
        with_value({"iou": {"measured": [0, 1], "worth": [0]}}, "calibration"),
        with_value({"iou": {"measured": [0, 1], "worth": [1, 0]}}, "calibration"),
    ],
)
def test_a_manifest_that_lacks_or_misstates_an_entry_is_incomplete(
    change: Callable[[dict[str, Any]], None], folder: Path
) -> None:
    content = manifest()
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleIncomplete, match="lacks or misstates"):
        open_bundle(folder)


@pytest.mark.parametrize(
    "calibrations",
    [
        {},
        {"iou": Calibration(temperature=1.5)},
        {
            "iou": Calibration(knots=((0.2, 0.9), (0.1, 0.8))),
            "foreground": Calibration(temperature=0.5),
        },
    ],
)
def test_a_bundle_knows_its_calibrations(
    calibrations: dict[str, Calibration], folder: Path
) -> None:
    entries = {measure: each.entry() for measure, each in calibrations.items()}
    (folder / MANIFEST).write_text(json.dumps({**manifest(), "calibration": entries}))
    assert open_bundle(folder).calibrations == calibrations


def test_a_bundle_that_has_not_been_calibrated_has_no_calibrations(folder: Path) -> None:
    assert open_bundle(folder).calibrations == {}


def test_a_missing_graph_is_incomplete_when_it_is_read_and_the_others_still_open(
    folder: Path,
) -> None:
    (folder / ENCODER).unlink()
    bundle = open_bundle(folder)
    with pytest.raises(BundleIncomplete, match=ENCODER) as refused:
        bundle.read_graph(GRAPHS[0])
    assert refused.value.exit_code == 4
    assert bundle.read_graph(GRAPHS[1]) == BYTES[graph_file(GRAPHS[1])]


def test_a_graph_that_was_cut_short_is_incomplete(folder: Path) -> None:
    (folder / ENCODER).write_bytes(BYTES[ENCODER][:-1])
    with pytest.raises(BundleIncomplete, match="cut short") as refused:
        open_bundle(folder).read_graph(GRAPHS[0])
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("at", range(0, len(BYTES[ENCODER]), 5))
def test_one_changed_byte_is_noticed(at: int, folder: Path) -> None:
    data = bytearray(BYTES[ENCODER])
    data[at] ^= 1
    (folder / ENCODER).write_bytes(data)
    with pytest.raises(BundleChanged, match="SHA-256") as refused:
        open_bundle(folder).read_graph(GRAPHS[0])
    assert refused.value.exit_code == 4


def test_a_graph_with_bytes_added_is_changed(folder: Path) -> None:
    (folder / ENCODER).write_bytes(BYTES[ENCODER] + b"\0")
    with pytest.raises(BundleChanged):
        open_bundle(folder).read_graph(GRAPHS[0])
