from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.checkpoint import load_model, read_checkpoint
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.variants import VARIANTS, Variant
from runtime.errors import CheckpointError, MissingInput
from tests.variants import TOY

# The rows that could be taken for each other, with a small network in place of the real one.
SMALL = {
    "sam2.1_hiera_t": replace(TOY, name="sam2.1_hiera_t", image_size=1024),
    "sam2_hiera_t": replace(TOY, name="sam2_hiera_t", image_size=1024, is_2_1=False),
    "sam2.1_hiera_s": replace(TOY, name="sam2.1_hiera_s", stages=(1, 2, 4, 1)),
    "medsam2": replace(TOY, name="medsam2", image_size=512),
}
State = dict[str, Tensor]


@pytest.fixture
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.checkpoint.VARIANTS", SMALL)


def random_of(row: str) -> State:
    return random_state(Sam2(SMALL[row], 128), seed=1)


@pytest.fixture(scope="module")
def tiny() -> State:
    return random_of("sam2.1_hiera_t")


def shapes_only(variant: Variant) -> State:
    """The keys and shapes of a full-size model in a file of a few kilobytes."""
    with torch.device("meta"):
        state = Sam2(variant).state_dict()
    return {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("file_name", "row"),
    [
        ("sam2.1_hiera_tiny.pt", "sam2.1_hiera_t"),
        ("sam2.1_hiera_small.pt", "sam2.1_hiera_s"),
        ("sam2.1_hiera_base_plus.pt", "sam2.1_hiera_b+"),
        ("sam2_hiera_tiny.pt", "sam2_hiera_t"),
        ("sam2_hiera_base_plus.pt", "sam2_hiera_b+"),
        ("MedSAM2_latest.pt", "medsam2"),
        ("MedSAM2_2411.pt", "medsam2"),
        ("MedSAM2_CTLesion.pt", "medsam2"),
        ("MedSAM2_US_Heart.pt", "medsam2"),
    ],
)
def test_published_files_are_recognised(file_name: str, row: str, tmp_path: Path) -> None:
    path = saved(tmp_path / file_name, {"model": shapes_only(VARIANTS[row])})
    read = read_checkpoint(path)
    assert read.variant is VARIANTS[row]
    assert read.source == file_name


@pytest.mark.parametrize("file_name", ["best.pt", "medsam2_from_sam2.1_hiera_tiny.pt"])
def test_a_name_that_does_not_say_which_of_two_models_is_asked_about(
    file_name: str, tiny: State, small_table: None, tmp_path: Path
) -> None:
    path = saved(tmp_path / file_name, {"model": tiny})
    with pytest.raises(CheckpointError, match=r"--model sam2\.1_hiera_t.*--model medsam2"):
        read_checkpoint(path)
    assert read_checkpoint(path, "medsam2").variant.image_size == 512


def test_a_name_is_not_needed_where_the_shapes_tell(small_table: None, tmp_path: Path) -> None:
    path = saved(tmp_path / "MedSAM2_or_not.pt", {"model": random_of("sam2_hiera_t")})
    assert read_checkpoint(path).variant.name == "sam2_hiera_t"


@pytest.mark.parametrize("wrapped", [True, False], ids=["under model", "bare"])
def test_a_state_dict_is_found_bare_or_under_model_and_loads(
    wrapped: bool, tiny: State, small_table: None, tmp_path: Path
) -> None:
    content = {"model": tiny, "epoch": 3, "optimizer": {"lr": 1e-4}} if wrapped else tiny
    read = read_checkpoint(saved(tmp_path / "medsam2.pt", content))
    model = load_model(read)
    assert model.numbers.image_size == 512
    assert load_model(read, 96).numbers.image_size == 96
    assert all(torch.equal(value, tiny[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(
    dtype: torch.dtype, tiny: State, small_table: None, tmp_path: Path
) -> None:
    state = {key: value.to(dtype) for key, value in tiny.items()}
    read = read_checkpoint(saved(tmp_path / "medsam2.pt", state))
    assert {value.dtype for value in read.state.values()} == {torch.float32}
    assert all(torch.equal(value, state[key].float()) for key, value in read.state.items())


def test_the_hash_is_the_files(tiny: State, small_table: None, tmp_path: Path) -> None:
    path = saved(tmp_path / "medsam2.pt", tiny)
    assert read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    path = saved(tmp_path / "medsam2.pt", {"model": Payload()})
    with pytest.raises(CheckpointError, match=r"more than tensors \(.*mkdir\)"):
        read_checkpoint(path)
    assert not marker.exists()
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "bare.pt")
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the payload is live
    assert marker.exists()


class Settings:
    """What a training script may leave in a checkpoint."""


def test_objects_beside_the_weights_are_named(tiny: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "medsam2.pt", {"model": tiny, "settings": Settings()})
    with pytest.raises(CheckpointError, match=r"more than tensors \(.*Settings\)"):
        read_checkpoint(path)


def small_file(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    content = {"model": {"a": torch.ones(3, 4), "b": torch.zeros(5)}}
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is no checkpoint\n",
        b"<!DOCTYPE html><html><title>404</title></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 156000000\n",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}",
        b"PK\x05\x06" + bytes(18),
        small_file(legacy=False)[:-100],
        small_file(legacy=False)[:300],
        small_file(legacy=True)[:-10],
        small_file(legacy=True)[:200],
    ],
    ids=[
        "empty",
        "text",
        "html",
        "lfs",
        "npy",
        "zip",
        "cut",
        "headless",
        "cut-old",
        "headless-old",
    ],
)
def test_a_file_that_is_cut_short_or_something_else_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "medsam2.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not a whole PyTorch checkpoint") as refused:
        read_checkpoint(path)
    assert refused.value.exit_code == 3
    assert "\n" not in str(refused.value)


@settings(max_examples=150, deadline=None)
@given(
    legacy=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
)
def test_any_damage_ends_in_one_kind_of_error(
    legacy: bool, changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(small_file(legacy))
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"model": {}}, {"model": [torch.ones(1)]}, {"state_dict": {}, "epoch": 1}, {1: 2}],
    ids=repr,
)
def test_a_file_without_a_state_dict_says_what_it_holds(content: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "medsam2.pt", content)
    with pytest.raises(CheckpointError, match="no state dict"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("given", "said", "suggested"),
    [
        ("sam2_hiera_t", "sam2.1_hiera_t", "sam2_hiera_t"),
        ("sam2.1_hiera_t", "sam2_hiera_t", "sam2.1_hiera_t"),
        ("sam2.1_hiera_t", "sam2.1_hiera_s", "sam2.1_hiera_t"),
    ],
)
def test_a_file_of_another_model_than_was_said_is_refused_and_the_right_one_named(
    given: str, said: str, suggested: str, small_table: None, tmp_path: Path
) -> None:
    path = saved(tmp_path / "weights.pt", {"model": random_of(given)})
    with pytest.raises(CheckpointError, match=rf"is not {said}: .*use --model {suggested}"):
        read_checkpoint(path, said)


def test_what_differs_is_named(small_table: None, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", random_of("sam2_hiera_t"))
    with pytest.raises(CheckpointError, match=r"3 tensors missing.*no_obj_embed_spatial"):
        read_checkpoint(path, "sam2.1_hiera_t")


def test_a_tensor_of_another_size_is_refused(
    tiny: State, small_table: None, tmp_path: Path
) -> None:
    state = {**tiny, "no_obj_ptr": torch.zeros(1, 65)}
    path = saved(tmp_path / "medsam2.pt", state)
    with pytest.raises(CheckpointError, match="fits no model"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"1 tensors of another shape \(first 'no_obj_ptr'\)"):
        read_checkpoint(path, "medsam2")


@pytest.mark.parametrize(
    ("key", "network"),
    [
        ("image_encoder.neck.convs.0.conv_1x1.weight", "EfficientTAM"),
        ("image_encoder.trunk.body.stem_0.c.weight", "EdgeTAM"),
        ("spatial_perceiver.latents", "EdgeTAM"),
        ("image_encoder.blocks.0.norm1.weight", "SAM 1"),
        ("detector.backbone.weight", "SAM 3"),
    ],
)
@pytest.mark.parametrize("model", [None, "medsam2"])
def test_files_of_related_networks_are_recognised_and_refused(
    key: str, network: str, model: str | None, small_table: None, tmp_path: Path
) -> None:
    path = saved(tmp_path / "medsam2.pt", {"model": {key: torch.zeros(2, 2)}})
    with pytest.raises(CheckpointError, match=f"{network}.*not supported"):
        read_checkpoint(path, model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(
    value: float, tiny: State, small_table: None, tmp_path: Path
) -> None:
    state = {**tiny, "no_mem_embed": tiny["no_mem_embed"].clone()}
    state["no_mem_embed"][0, 0, 3] = value
    path = saved(tmp_path / "medsam2.pt", state)
    with pytest.raises(CheckpointError, match=r"non-finite.*no_mem_embed"):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_missing_input(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pt", tmp_path):
        with pytest.raises(MissingInput, match="no checkpoint at"):
            read_checkpoint(path)


def test_an_unknown_model_is_refused_with_the_known_ones(tiny: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "medsam2.pt", tiny)
    with pytest.raises(CheckpointError, match=r"no model 'sam3'.*sam2\.1_hiera_b\+.*medsam2"):
        read_checkpoint(path, "sam3")


@pytest.mark.parametrize(
    "address", ["hf:", "hf:MedSAM2_latest.pt", "hf:wanglab/MedSAM2", "hf:a//b"]
)
def test_a_hub_address_that_is_cut_short_is_refused(address: str) -> None:
    with pytest.raises(CheckpointError, match="hf:OWNER/REPOSITORY/FILE"):
        read_checkpoint(address)


def test_a_hub_address_is_fetched_by_repository_and_file(
    tiny: State, small_table: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = saved(tmp_path / "MedSAM2_latest.pt", tiny), []
    hub = SimpleNamespace(hf_hub_download=lambda *names: asked.append(names) or str(path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert read_checkpoint("hf:wanglab/MedSAM2/old/MedSAM2_latest.pt").variant.name == "medsam2"
    assert asked == [("wanglab/MedSAM2", "old/MedSAM2_latest.pt")]


def test_a_fetch_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str) -> str:
        raise ConnectionError("no route to the hub")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=fail))
    with pytest.raises(CheckpointError, match="could not be fetched: no route to the hub"):
        read_checkpoint("hf:wanglab/MedSAM2/MedSAM2_latest.pt")


def test_a_hub_address_without_the_hubs_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"could not be fetched.*huggingface_hub"):
        read_checkpoint("hf:wanglab/MedSAM2/MedSAM2_latest.pt")
