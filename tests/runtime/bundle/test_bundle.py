from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runtime.bundle.bundle import open_bundle
from runtime.bundle.confidence import Calibration
from runtime.bundle.contract import GRAPHS
from runtime.bundle.manifest import CAUTIONS, MANIFEST, graph_file
from runtime.errors import BundleChanged, BundleError, BundleIncomplete
from tests.fakes import FAKE_NUMBERS
from tests.manifests import BYTES, manifest

ENCODER = graph_file(GRAPHS[0])


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
    (folder / MANIFEST).write_text(
        json.dumps({**manifest(), "weights": {"kind": kind, "source": "a.pt"}})
    )
    assert open_bundle(folder).caution == CAUTIONS[kind]


@pytest.mark.parametrize("name", [".", "nowhere", "file"])
def test_what_is_no_bundle_is_refused_with_the_way_to_make_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"is not a bundle.*medsam2 export") as refused:
        open_bundle(tmp_path / name)
    assert type(refused.value) is BundleError
    assert refused.value.exit_code == 4


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
    content = manifest()
    del content["calibration"]
    (folder / MANIFEST).write_text(json.dumps(content))
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


def test_what_is_no_plain_file_is_refused_without_waiting_for_it(folder: Path) -> None:
    for name in (ENCODER, MANIFEST):
        file = folder / name
        data = file.read_bytes()
        file.unlink()
        os.mkfifo(file)  # nobody writes: to open or read it would wait for ever
        with pytest.raises(BundleError, match="no plain file"):
            open_bundle(folder).read_graph(GRAPHS[0])
        file.unlink()
        file.symlink_to("/dev/zero")  # it never ends
        with pytest.raises(BundleError, match="no plain file"):
            open_bundle(folder).read_graph(GRAPHS[0])
        file.unlink()
        file.mkdir()
        with pytest.raises(BundleError):
            open_bundle(folder).read_graph(GRAPHS[0])
        file.rmdir()
        file.write_bytes(data)


def test_a_bundle_of_links_into_a_store_opens(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in (MANIFEST, *BYTES):
        (linked / file).symlink_to(folder / file)
    bundle = open_bundle(linked)
    assert [bundle.read_graph(graph) for graph in GRAPHS] == list(BYTES.values())


def test_no_more_of_a_graph_is_read_than_it_should_have(folder: Path) -> None:
    with (folder / ENCODER).open("r+b") as stream:
        stream.truncate(2**40)  # a hole, which takes no room on the disk and a terabyte in memory
    with pytest.raises(BundleChanged):
        open_bundle(folder).read_graph(GRAPHS[0])


def test_a_path_with_a_nul_is_no_bundle() -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle("a\0b")


def test_a_graph_with_bytes_added_is_changed(folder: Path) -> None:
    (folder / ENCODER).write_bytes(BYTES[ENCODER] + b"\0")
    with pytest.raises(BundleChanged):
        open_bundle(folder).read_graph(GRAPHS[0])


def test_graphs_are_read_from_where_the_bundle_was_opened(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    bundle = open_bundle(folder.name)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert bundle.read_graph(GRAPHS[0]) == BYTES[ENCODER]
