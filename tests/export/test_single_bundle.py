"""Bundles of networks that segment single images: exported, verified, certified, refused where they are of no use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from export import dice_check
from export.model.network import network
from export.model.sam1 import Sam1
from export.random_weights import random_state
from export.to_onnx import to_onnx
from export.trunks import HieraTrunk
from export.variants import VARIANTS
from export.verify import verify
from export.write_bundle import write_bundle
from runtime import load
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import KINDS
from runtime.bundle.manifest import MANIFEST
from runtime.commands.certify import certify, compare, in_words
from runtime.errors import BundleError, BundleIncomplete, InputError
from runtime.measure.phantom import make_phantom
from runtime.measure.single_tasks import images_of
from runtime.predictors import VolumePredictor
from tests.conftest import in_eight_bits
from tests.graph_inputs import graph_inputs, relative_error, torch_inputs
from tests.variants import TOY_LITEMEDSAM, TOY_SAM

TOLERANCE = 2e-5


def test_a_bundle_holds_two_graphs_and_says_what_they_are(toy_sam_bundle: Bundle) -> None:
    files = {path.name for path in toy_sam_bundle.path.iterdir()}
    assert files == {MANIFEST, "image_encoder.onnx", "mask_decoder.onnx"}
    numbers = toy_sam_bundle.model
    assert numbers.graphs == KINDS["image"]
    assert (numbers.kind, numbers.profile, numbers.grid) == ("image", "sam", 8)
    assert toy_sam_bundle.manifest["constants"] == {}


@pytest.mark.parametrize("axes", [{"b": 1, "q": 1}, {"b": 3, "q": 5}], ids=str)
def test_the_decoder_on_onnx_runtime_is_the_torch_models(
    axes: dict[str, int], toy_sam: Sam1, toy_sam_bundle: Bundle
) -> None:
    inputs = graph_inputs(toy_sam.numbers, "mask_decoder", axes, seed=axes["q"])
    session = onnxruntime.InferenceSession(toy_sam_bundle.read_graph("mask_decoder"))
    (masks, ious), wanted = session.run(None, inputs), toy_sam.decode(**torch_inputs(inputs))
    assert relative_error(masks, wanted[0]) < TOLERANCE
    assert ious.tolist() == pytest.approx(wanted[1].tolist(), abs=TOLERANCE)


def test_the_encoder_is_one_attention_node_a_block_without_a_bias(
    toy_sam: Sam1, toy_sam_bundle: Bundle
) -> None:
    data = toy_sam_bundle.read_graph("image_encoder")
    nodes = onnx.load_from_string(data).graph.node
    attention = [node for node in nodes if node.op_type == "MultiHeadAttention"]
    assert len(attention) == TOY_SAM.trunk.depth
    assert all(len(node.input) == 3 for node in attention)
    assert not any(node.op_type in ("Softmax", "Split") for node in nodes)
    inputs = graph_inputs(toy_sam.numbers, "image_encoder", {"n": 2})
    (found,) = onnxruntime.InferenceSession(data).run(None, inputs)
    assert relative_error(found, toy_sam.encode(**torch_inputs(inputs))) < TOLERANCE


def test_the_encoder_of_litemedsam_has_no_norms_of_batches() -> None:
    model = network(TOY_LITEMEDSAM)
    model.load_state_dict(random_state(model, seed=3), strict=True)
    exported = to_onnx(model, "image_encoder")
    assert not any(node.op_type == "BatchNormalization" for node in exported.graph.node)
    inputs = graph_inputs(model.numbers, "image_encoder", {"n": 1})
    session = onnxruntime.InferenceSession(exported.SerializeToString())
    (found,) = session.run(None, inputs)
    assert relative_error(found, model.encode(**torch_inputs(inputs))) < TOLERANCE


def test_a_true_bundle_is_verified_and_one_of_other_weights_is_not(
    toy_sam: Sam1, toy_sam_bundle: Bundle
) -> None:
    certificate = verify(toy_sam_bundle, toy_sam, "ort", 3)
    assert certificate["passed"]
    assert set(certificate["graphs"]) == set(KINDS["image"])
    assert len(certificate["propagation"]) == 4
    assert certificate["graphs"]["mask_decoder"]["low_res_masks"]["runs"] == 2 * 8
    other = network(TOY_SAM)
    state = {name: tensor.clone() for name, tensor in toy_sam.state_dict().items()}
    state["image_encoder.blocks.1.attn.rel_pos_h"] += 0.2 * torch.randn(15, 16)
    other.load_state_dict(state)
    failed = verify(toy_sam_bundle, other, "ort", 3)
    assert not failed["passed"]
    assert all(row["passed"] for row in failed["graphs"]["mask_decoder"].values())
    assert not failed["graphs"]["image_encoder"]["vision_features"]["passed"]


def test_a_back_end_is_certified_with_the_time_of_an_image(toy_sam_bundle: Bundle) -> None:
    certificate = certify(toy_sam_bundle, "openvino", 3)
    assert certificate["passed"] and certificate["latency_ms"] > 0
    assert "ms per slice" in in_words(certificate)


def test_the_second_image_of_the_comparison_is_not_square() -> None:
    first, second = images_of(make_phantom((3, 64, 64)))
    assert first.shape == (64, 64) and second.shape == (48, 64)


def test_volumes_and_videos_are_refused_before_anything_is_loaded(
    toy_sam_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(toy_sam_bundle, "ort")
    monkeypatch.setattr(model, "engine", lambda graph: pytest.fail(graph))
    with pytest.raises(BundleError, match="segments single images and has no memory"):
        VolumePredictor(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"profile": "sam2"}, "profile"),
        ({"profile": "medsam2"}, "profile"),
        ({"kind": "volume"}, "model"),
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(
    change: dict[str, str], said: str, toy_sam_bundle: Bundle, tmp_path: Path
) -> None:
    manifest = json.loads((toy_sam_bundle.path / MANIFEST).read_text())
    manifest["model"] |= change
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleIncomplete, match=said):
        open_bundle(tmp_path)


def test_what_cannot_be_exported_is_said_before_it_is_tried(tmp_path: Path) -> None:
    weights = {"kind": "checkpoint", "source": "x"}
    with torch.device("meta"):
        huge = network(VARIANTS["sam_vit_h"])
    with pytest.raises(InputError, match=r"sam_vit_h has 2\.4 GiB of weights.*less than 2 GiB"):
        write_bundle(huge, tmp_path / "b", weights, "unknown", precision="int8")
    assert not (tmp_path / "b").exists()


def test_its_encoder_has_a_graph_in_eight_bits_that_holds(
    toy_sam_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dice_check, "PHANTOMS", 1)
    bundle = in_eight_bits(toy_sam_bundle, tmp_path / "b")
    assert bundle.int8_graphs == ("image_encoder",)
    certificate = compare(bundle, "ort-int8", load(bundle, "ort"), load(bundle, "ort-int8"), 3)
    assert certificate["passed"], certificate
    error = certificate["graphs"]["image_encoder"]["vision_features"]["relative_error"]
    assert error > 1e-4, "eight bits are another graph"


def test_positions_are_learned_at_one_size() -> None:
    for name in ("sam_vit_b", "medsam_vit_b", "litemedsam"):
        with pytest.raises(InputError, match=rf"{name} works at \d+ pixels alone"):
            VARIANTS[name].numbers(512)
    assert isinstance(VARIANTS["medsam2"].trunk, HieraTrunk)
    assert replace(TOY_SAM, image_size=256).numbers(256).grid == 16
