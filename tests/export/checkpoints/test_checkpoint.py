from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoints.checkpoint import load_model, read_checkpoint
from export.checkpoints.published import PUBLISHED
from export.model.network import network
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.variants import VARIANTS, Variant
from runtime.errors import CheckpointError, MissingInput
from tests.variants import TOY, TOY_LITEMEDSAM, TOY_MEDSAM, TOY_SAM

# The rows that could be taken for each other, with a small network in place of the real one.
SMALL = {
    "sam2.1_hiera_t": replace(TOY, name="sam2.1_hiera_t", image_size=1024),
    "sam2_hiera_t": replace(TOY, name="sam2_hiera_t", image_size=1024, is_2_1=False),
    "sam2.1_hiera_s": replace(
        TOY, name="sam2.1_hiera_s", trunk=replace(TOY.trunk, stages=(1, 2, 4, 1))
    ),
    "medsam2": replace(TOY, name="medsam2", image_size=512),
}
State = dict[str, Tensor]


@pytest.fixture
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.checkpoints.checkpoint.VARIANTS", SMALL)


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
        ("efficienttam_s.pt", "efficienttam_s"),
        ("efficienttam_s_512x512.pt", "efficienttam_s_512x512"),
        ("efficienttam_ti.pt", "efficienttam_ti"),
        ("efficienttam_ti_512x512.pt", "efficienttam_ti_512x512"),
        ("eff_medsam2_small_FLARE25_RECIST_baseline.pt", "eff_medsam2_small"),
        ("eff_medsam2_tiny_FLARE25_RECIST_baseline.pt", "eff_medsam2_tiny"),
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


def test_a_published_file_needs_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt", shapes_only(VARIANTS["efficienttam_ti"]))
    with pytest.raises(
        CheckpointError, match=r"--model efficienttam_ti \(1024.*512x512.*tiny \(512"
    ):
        read_checkpoint(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    row = "efficienttam_ti_512x512"
    monkeypatch.setattr("export.checkpoints.checkpoint.PUBLISHED", {sha256: row})
    assert read_checkpoint(path).variant is VARIANTS[row]
    assert read_checkpoint(path, "eff_medsam2_tiny").variant is VARIANTS["eff_medsam2_tiny"]


def test_what_was_published_is_in_the_table() -> None:
    assert {*PUBLISHED.values()} <= VARIANTS.keys()
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in PUBLISHED)


def test_a_number_in_a_name_is_taken_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = {name: replace(TOY, name=name) for name in ("toy_s", "toy_s_1", "toy_s_2")}
    monkeypatch.setattr("export.checkpoints.checkpoint.VARIANTS", rows)
    state = random_state(Sam2(TOY), seed=1)
    for name in ("toy_s_1024.pt", "toy_s-2.pt"):
        assert read_checkpoint(saved(tmp_path / name, state)).variant is rows["toy_s"]
    for name, row in (("toy_s_1.pt", "toy_s_1"), ("my_toy_s_2_best.pt", "toy_s_2")):
        assert read_checkpoint(saved(tmp_path / name, state)).variant is rows[row]
    with pytest.raises(CheckpointError, match="does not say which"):
        read_checkpoint(saved(tmp_path / "toy_s_1_or_toy_s_2.pt", state))


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


@pytest.mark.parametrize("name", ["medsam2\n.pt", os.fsdecode(b"medsam2\xff.pt")])
def test_a_strange_name_of_a_file_is_made_fit_for_a_manifest(
    name: str, tiny: State, small_table: None, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(saved(tmp_path / "medsam2.pt", tiny).read_bytes())
    assert read_checkpoint(tmp_path / name).source == "medsam2?.pt"


def test_the_hash_is_the_files(tiny: State, small_table: None, tmp_path: Path) -> None:
    path = saved(tmp_path / "medsam2.pt", tiny)
    assert read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


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
    with pytest.raises(CheckpointError, match=r"3 missing \(no_obj_embed_spatial, "):
        read_checkpoint(path, "sam2.1_hiera_t")


def test_what_fits_none_is_told_what_it_is_nearest_to_and_why_it_is_not_that(
    tiny: State, small_table: None, tmp_path: Path
) -> None:
    state = {**tiny, "no_obj_ptr": torch.zeros(1, 65), "ema.decay": torch.ones(1)}
    missing = [key for key in state if key.startswith("memory_encoder.")]
    for key in missing:
        del state[key]
    path = saved(tmp_path / "medsam2.pt", state)
    said = (
        rf"{len(missing)} missing \(memory_encoder\.[\w.]+, memory_encoder\.[\w.]+, memory_encoder\.[\w.]+, \.\.\.\); "
        r"1 unexpected \(ema\.decay\); 1 of another shape \(no_obj_ptr \(1, 65\) instead of \(1, 64\)\)$"
    )
    with pytest.raises(CheckpointError, match=r"fits no model.*nearest is medsam2, of whose") as no:
        read_checkpoint(path)
    assert re.search(said, str(no.value))
    with pytest.raises(CheckpointError, match=f"is not medsam2: {said}"):
        read_checkpoint(path, "medsam2")
    with pytest.raises(CheckpointError, match=r"nearest is sam2\.1_hiera_t, of whose"):
        read_checkpoint(saved(tmp_path / "best.pt", state))


def test_what_is_near_nothing_says_so(small_table: None, tmp_path: Path) -> None:
    path = saved(tmp_path / "medsam2.pt", {"resnet.conv1.weight": torch.zeros(3, 3)})
    with pytest.raises(
        CheckpointError, match=r"near none: 1 tensors, first 'resnet\.conv1\.weight'"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("model", [None, "medsam2"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_related_networks_are_recognised_and_refused(
    prefix: str, model: str | None, small_table: None, tmp_path: Path
) -> None:
    key = f"{prefix}image_encoder.backbone.stages.0.op_list.0.conv.weight"
    path = saved(tmp_path / "medsam2.pt", {"model": {key: torch.zeros(2, 2)}})
    with pytest.raises(CheckpointError, match=r"EfficientViT-SAM.*not supported yet"):
        read_checkpoint(path, model)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_usual_floating_point_numbers_are_refused(
    dtype: torch.dtype, tiny: State, small_table: None, tmp_path: Path
) -> None:
    path = saved(tmp_path / "medsam2.pt", {**tiny, "no_obj_ptr": tiny["no_obj_ptr"].to(dtype)})
    with pytest.raises(
        CheckpointError, match=r"'no_obj_ptr' is \w+, wanted one of float32, float16"
    ):
        read_checkpoint(path)


def test_weights_that_are_not_dense_are_refused(
    tiny: State, small_table: None, tmp_path: Path
) -> None:
    for odd in (
        tiny["no_obj_ptr"].to_sparse(),
        tiny["no_obj_ptr"].to("meta"),
    ):
        path = saved(tmp_path / "medsam2.pt", {**tiny, "no_obj_ptr": odd})
        with pytest.raises(CheckpointError, match=r"'no_obj_ptr' is a sparse.*wanted dense"):
            read_checkpoint(path)


def test_safetensors_and_pt_give_the_same_weights(
    tiny: State, small_table: None, tmp_path: Path
) -> None:
    save_file(tiny, tmp_path / "medsam2.safetensors")
    read = read_checkpoint(tmp_path / "medsam2.safetensors")
    other = read_checkpoint(saved(tmp_path / "medsam2.pt", tiny))
    assert read.variant is other.variant
    assert read.state.keys() == other.state.keys()
    assert all(torch.equal(value, other.state[key]) for key, value in read.state.items())


def test_what_a_trainer_keeps_beside_the_weights_does_not_matter(
    tiny: State, small_table: None, tmp_path: Path
) -> None:
    lightning = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {
            **{f"model.module.{key}": value for key, value in tiny.items()},
            "loss.weight": torch.ones(3),
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
        "best": np.float64(0.9),
        "history": np.arange(3),
    }
    read = read_checkpoint(saved(tmp_path / "medsam2.ckpt", lightning))
    assert all(torch.equal(value, tiny[key]) for key, value in read.state.items())
    assert (read.entry, read.others) == ("state_dict.model.module", 1)


def test_several_sets_of_weights_are_asked_about(
    tiny: State, small_table: None, tmp_path: Path
) -> None:
    averaged = {key: value / 2 for key, value in tiny.items()}
    path = saved(tmp_path / "medsam2.pt", {"model": tiny, "ema": averaged})
    with pytest.raises(CheckpointError, match=r"several sets.*--entry with one of 'model', 'ema'"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"no weights at 'best'; there are: 'model', 'ema'"):
        read_checkpoint(path, entry="best")
    for entry, state in (("model", tiny), ("ema", averaged)):
        read = read_checkpoint(path, entry=entry)
        assert read.entry == entry
        assert torch.equal(read.state["no_obj_ptr"], state["no_obj_ptr"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300], ids=repr)
def test_weights_that_are_not_finite_are_refused(
    value: float, tiny: State, small_table: None, tmp_path: Path
) -> None:
    state = {**tiny, "no_mem_embed": tiny["no_mem_embed"].clone()}
    state["no_mem_embed"] = state["no_mem_embed"].double()  # 1e300 is finite there, not in float32
    state["no_mem_embed"][0, 0, 3] = value
    path = saved(tmp_path / "medsam2.pt", state)
    with pytest.raises(CheckpointError, match=r"non-finite.*no_mem_embed"):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"no checkpoint at .*nowhere\.pt: it is no file"):
        read_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(MissingInput, match=r"no checkpoint at .*: it is a folder; name the file"):
        read_checkpoint(tmp_path)


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


SINGLE = {
    "sam_vit_b": replace(TOY_SAM, name="sam_vit_b"),
    "medsam_vit_b": replace(TOY_MEDSAM, name="medsam_vit_b"),
    "litemedsam": replace(TOY_LITEMEDSAM, name="litemedsam"),
}


@pytest.fixture
def single_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.checkpoints.checkpoint.VARIANTS", SMALL | SINGLE)


@pytest.fixture(scope="module")
def of_single() -> dict[str, State]:
    return {name: random_state(network(row), seed=1) for name, row in SINGLE.items()}


@pytest.mark.parametrize(
    ("file", "weights", "model"),
    [
        ("sam_vit_b_01ec64.pth", "sam_vit_b", "sam_vit_b"),
        ("medsam_vit_b.pth", "medsam_vit_b", "medsam_vit_b"),
        ("lite_medsam.pth", "litemedsam", "litemedsam"),
    ],
)
def test_networks_of_single_images_are_told_by_names_and_shapes(
    file: str, weights: str, model: str, of_single: Any, single_table: None, tmp_path: Path
) -> None:
    state = of_single[weights]
    read = read_checkpoint(saved(tmp_path / file, state))
    assert read.variant.name == model
    loaded = load_model(read).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    nested = {"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    assert read_checkpoint(saved(tmp_path / file, nested)).entry == "model.module"


def test_nobody_guesses_between_sam_and_medsam(
    of_single: Any, single_table: None, tmp_path: Path
) -> None:
    path = saved(tmp_path / "vit_b_finetuned.pth", of_single["sam_vit_b"])
    said = r"fits several models.*--model sam_vit_b \(\d+ pixels\) or --model medsam_vit_b"
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(path)
    assert read_checkpoint(path, "medsam_vit_b").variant.profile == "medsam"


def test_a_count_of_batches_is_no_weight_and_anything_else_in_whole_numbers_is_refused(
    of_single: Any, single_table: None, tmp_path: Path
) -> None:
    state = dict(of_single["litemedsam"])
    name = "image_encoder.patch_embed.seq.0.bn.num_batches_tracked"
    state[name] = torch.tensor(12)
    assert read_checkpoint(saved(tmp_path / "lite.pth", state)).state[name] == 12
    state["image_encoder.neck.1.bias"] = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(CheckpointError, match=r"'image_encoder\.neck\.1\.bias' is int64"):
        read_checkpoint(saved(tmp_path / "lite.pth", state))
