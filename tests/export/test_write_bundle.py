from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.model.sam2 import Sam2
from export.write_bundle import check_target, write_bundle
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import FORMAT_VERSION, GRAPHS
from runtime.bundle.manifest import MANIFEST, graph_file
from runtime.errors import BundleIncomplete, InputError, Sam2Error
from tests.variants import TOY

WEIGHTS = {"kind": "random", "source": "random", "seed": 7}


def stub(model: Sam2, graph: str) -> onnx.ModelProto:
    """In place of the tracer, which takes seconds."""
    return onnx.ModelProto(producer_name=graph)


@pytest.fixture
def no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.write_bundle.to_onnx", stub)


def write(toy: Sam2, path: Path, **options: Any) -> Path:
    return write_bundle(toy, path, WEIGHTS, "Apache-2.0", **options)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def test_the_manifest_holds_size_and_hash_of_every_graph(toy_bundle: Bundle) -> None:
    manifest = json.loads((toy_bundle.path / MANIFEST).read_text())
    assert {p.name for p in toy_bundle.path.iterdir()} == {MANIFEST, *map(graph_file, GRAPHS)}
    assert manifest["files"] == {
        graph_file(graph): {
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        for graph in GRAPHS
        for data in [(toy_bundle.path / graph_file(graph)).read_bytes()]
    }


def test_the_manifest_says_what_the_runtime_and_people_need(toy: Sam2, toy_bundle: Bundle) -> None:
    manifest = toy_bundle.manifest
    assert toy_bundle.model == toy.numbers
    assert manifest["format_version"] == FORMAT_VERSION
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["weights"]["kind"] == "random"
    constants = manifest["constants"]
    for name, tensor in (
        ("mask_downsample_weight", toy.mask_downsample.weight[0, 0]),
        ("mask_downsample_bias", toy.mask_downsample.bias[0]),
        ("no_obj_ptr", toy.no_obj_ptr[0]),
    ):
        np.testing.assert_array_equal(np.float32(constants[name]), tensor.numpy())


def test_the_manifest_names_no_folder_of_this_machine(toy_bundle: Bundle) -> None:
    text = (toy_bundle.path / MANIFEST).read_text()
    assert str(toy_bundle.path.parent) not in text
    assert str(Path.home()) not in text


def test_a_bundle_opens_with_what_was_written(toy: Sam2, no_tracer: None, tmp_path: Path) -> None:
    path = write(toy, tmp_path / "bundle")
    bundle = open_bundle(path)
    assert bundle.weights == WEIGHTS
    for graph in GRAPHS:
        assert onnx.load_from_string(bundle.read_graph(graph)) == stub(toy, graph)


def test_progress_sees_each_graph_before_it_is_traced(
    toy: Sam2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []

    def traced(model: Sam2, graph: str) -> onnx.ModelProto:
        events.append(("traced", graph))
        return stub(model, graph)

    def progress(graphs: Sequence[str]) -> Iterator[str]:
        for graph in graphs:
            events.append(("begun", graph))
            yield graph

    monkeypatch.setattr("export.write_bundle.to_onnx", traced)
    write(toy, tmp_path / "bundle", progress=progress)
    assert events == [(event, graph) for graph in GRAPHS for event in ("begun", "traced")]


def test_an_existing_bundle_is_replaced_only_on_request(
    toy: Sam2, no_tracer: None, tmp_path: Path
) -> None:
    path = write(toy, tmp_path / "bundle")
    (path / "certificate.json").write_text("of the old one")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="--overwrite"):
        write(toy, path)
    assert contents(tmp_path) == before
    write(toy, path, overwrite=True)
    assert open_bundle(path).weights == WEIGHTS
    assert not (path / "certificate.json").exists()


@pytest.mark.parametrize(
    "files",
    [[], ["results.nii.gz"], ["manifest.json", "index.html"], ["image_encoder.onnx"]],
    ids=["empty", "results", "web page", "a graph"],
)
def test_a_folder_that_is_no_bundle_is_never_replaced(
    files: list[str], toy: Sam2, no_tracer: None, tmp_path: Path
) -> None:
    path = tmp_path / "precious"
    path.mkdir()
    for name in files:
        (path / name).write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="is not a bundle") as refused:
        write(toy, path, overwrite=True)
    assert refused.value.exit_code == 3
    assert contents(tmp_path) == before


def test_a_file_is_never_replaced(toy: Sam2, no_tracer: None, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(InputError, match="is not a bundle"):
        write(toy, tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes").read_text() == "precious"


def test_a_damaged_bundle_may_be_replaced(toy: Sam2, no_tracer: None, tmp_path: Path) -> None:
    path = write(toy, tmp_path / "bundle")
    (path / MANIFEST).write_text("{")
    (path / graph_file(GRAPHS[0])).unlink()
    assert open_bundle(write(toy, path, overwrite=True)).weights == WEIGHTS


def test_the_parent_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make it first"):
        check_target(tmp_path / "no" / "bundle", overwrite=False)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_export_that_fails_half_way_leaves_everything_as_it_was(
    error: type[BaseException],
    overwrite: bool,
    toy: Sam2,
    no_tracer: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if overwrite:
        write(toy, tmp_path / "bundle")
    before = contents(tmp_path)
    reached = []

    def fails_at_third(model: Sam2, graph: str) -> onnx.ModelProto:
        reached.extend(p.name for p in tmp_path.glob(".*/**/*"))
        if graph == GRAPHS[2]:
            raise error
        return stub(model, graph)

    monkeypatch.setattr("export.write_bundle.to_onnx", fails_at_third)
    with pytest.raises(error):
        write(toy, tmp_path / "bundle", overwrite=overwrite)
    assert graph_file(GRAPHS[1]) in reached
    assert contents(tmp_path) == before


def test_what_the_disk_does_not_give_back_is_never_given_the_name(
    toy: Sam2, no_tracer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(toy, tmp_path / "bundle")
    before = contents(tmp_path)
    write_bytes = Path.write_bytes

    def loses_the_last(self: Path, data: bytes) -> int:
        return write_bytes(self, data[:-1])

    monkeypatch.setattr(Path, "write_bytes", loses_the_last)
    with pytest.raises(BundleIncomplete, match="cut short"):
        write(toy, tmp_path / "bundle", overwrite=True)
    with pytest.raises(BundleIncomplete, match="cut short"):
        write(toy, tmp_path / "other")
    assert contents(tmp_path) == before


def test_a_full_disk_is_an_error_of_ours_and_leaves_everything_as_it_was(
    toy: Sam2, no_tracer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(toy, tmp_path / "bundle")
    before = contents(tmp_path)

    def is_full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", is_full)
    with pytest.raises(Sam2Error, match=r"could not be written: No space left.*is kept") as refused:
        write(toy, tmp_path / "bundle", overwrite=True)
    assert refused.value.exit_code == 1
    assert contents(tmp_path) == before


def test_constants_that_are_not_finite_are_not_written(no_tracer: None, tmp_path: Path) -> None:
    model = Sam2(TOY)
    model.load_state_dict(
        {name: torch.full_like(value, torch.nan) for name, value in model.state_dict().items()}
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(model, tmp_path / "bundle")
    assert contents(tmp_path) == {}
