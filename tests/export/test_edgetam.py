"""EdgeTAM: its folded encoder, its latent memories and how they are read, against its official package."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from export.exact.image_encoder import ImageEncoderGraph
from export.exact.memory_attention import MemoryAttentionGraph
from export.model.perceiver import LatentAttention, Perceiver
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.variants import VARIANTS, Latents
from runtime.errors import InputError
from tests.export.test_sam2 import Pair, make_pair
from tests.graph_inputs import graph_inputs, relative_error, torch_inputs
from tests.official import needs_edge_tam
from tests.variants import TOY_EDGE

pytestmark = pytest.mark.filterwarnings("ignore")  # upstream's own

TOLERANCE = 1e-4
SLOTS = 5
ROWS = 1  # upstream's perceiver takes no more


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair(TOY_EDGE, TOY_EDGE.image_size, ROWS)


@pytest.fixture(scope="module")
def model() -> Sam2:
    model = Sam2(TOY_EDGE)
    model.load_state_dict(random_state(model, seed=4))
    return model


@needs_edge_tam
def test_features_are_upstreams(pair: Pair) -> None:
    features, _, _, *high_res = pair.ours.encode(pair.images)
    assert relative_error(features, pair.vision_features) < TOLERANCE
    for found, wanted in zip(high_res, pair.high_res, strict=True):
        assert relative_error(found, wanted) < TOLERANCE


def test_no_norm_of_a_batch_is_left_in_the_graph_and_it_computes_the_same(model: Sam2) -> None:
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    graph = ImageEncoderGraph(model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in graph.modules())
    for found, wanted in zip(graph(images), model.encode(images), strict=True):
        assert relative_error(found, wanted) < TOLERANCE


@needs_edge_tam
@pytest.mark.parametrize("binarize", [False, True])
def test_memories_are_upstreams_latent_tokens(pair: Pair, binarize: bool) -> None:
    low = pair.ours.numbers.low_res
    logits = 4 * torch.randn(ROWS, 1, low, low, generator=torch.Generator().manual_seed(2))
    score = torch.ones(ROWS)
    theirs, _ = pair.theirs._encode_new_memory(
        current_vision_feats=pair.features,
        feat_sizes=pair.sizes,
        pred_masks_high_res=nn.functional.interpolate(
            logits, scale_factor=4.0, mode="bilinear", align_corners=False
        ),
        object_score_logits=score[:, None],
        is_mask_from_pts=binarize,
    )
    ours = pair.ours.memorise(pair.projected, logits, score, torch.full((ROWS,), binarize))
    assert ours.shape == (ROWS, pair.ours.numbers.memory_tokens, pair.ours.numbers.mem_dim)
    assert relative_error(ours, theirs.flatten(2).transpose(1, 2)) < TOLERANCE


@needs_edge_tam
def test_conditioned_features_are_upstreams(pair: Pair) -> None:
    numbers, theirs = pair.ours.numbers, pair.theirs
    generator = torch.Generator().manual_seed(3)
    shape = (SLOTS, ROWS, numbers.memory_tokens, numbers.mem_dim)
    memory = torch.randn(shape, generator=generator)
    pointers = torch.randn(SLOTS, ROWS, numbers.d_model, generator=generator)
    position = theirs.memory_encoder(pair.vision_features, torch.zeros(ROWS, 1, 128, 128))
    outputs = {
        z: {
            "maskmem_features": memory[z].transpose(1, 2).unsqueeze(-1),
            "maskmem_pos_enc": position["vision_pos_enc"],
            "obj_ptr": pointers[z],
        }
        for z in range(SLOTS)
    }
    found = theirs._prepare_memory_conditioned_features(
        frame_idx=SLOTS,
        is_init_cond_frame=False,
        current_vision_feats=pair.features[-1:],
        current_vision_pos_embeds=pair.positions[-1:],
        feat_sizes=pair.sizes[-1:],
        output_dict={
            "cond_frame_outputs": {0: outputs[0]},
            "non_cond_frame_outputs": {z: outputs[z] for z in range(1, SLOTS)},
        },
        num_frames=SLOTS + 1,
    )
    # The prompted slice has the last temporal code; of the others the slice before has the first.
    times = [numbers.num_maskmem - 1, *range(SLOTS - 2, -1, -1)]
    inputs = {
        "attended_features": pair.ours.encode(pair.images)[1],
        "memory": memory.transpose(0, 1),
        "memory_time": torch.tensor(times).expand(ROWS, -1),
        "memory_weight": torch.ones(ROWS, SLOTS),
        "obj_ptrs": pointers.transpose(0, 1),
        "obj_ptr_pos": torch.zeros(ROWS, SLOTS),
        "obj_ptr_weight": torch.ones(ROWS, SLOTS),
    }
    assert relative_error(pair.ours.condition(**inputs), found) < TOLERANCE
    assert relative_error(MemoryAttentionGraph(pair.ours)(**inputs), found) < TOLERANCE


def test_tokens_without_a_place_and_pointers_do_not_turn() -> None:
    attention = LatentAttention(8, 4, Latents(placeless=3, side=2))
    keys = torch.randn(2, 2 * 7, 8, generator=torch.Generator().manual_seed(5))
    turned = attention.turned(keys, (torch.zeros(1, 4), torch.ones(1, 4)))
    still = (turned == keys).all(-1).unflatten(1, (2, 7))
    assert still[:, :, :3].all()
    assert still[:, :, 3].all(), "the first place turns by an angle of nought"
    assert not still[:, :, 4:].any()


def test_a_slot_of_weight_zero_is_left_out(model: Sam2) -> None:
    axes = {"b": 2, "k": 3, "p": 2}
    inputs = graph_inputs(model.numbers, "memory_attention", axes, seed=6)
    inputs["memory_weight"][...] = [1, 0, 1]
    fewer = dict(inputs)
    for name in ("memory", "memory_time", "memory_weight"):
        fewer[name] = inputs[name][:, [0, 2]]
    graph, wanted = MemoryAttentionGraph(model), model.condition(**torch_inputs(fewer))
    assert relative_error(model.condition(**torch_inputs(inputs)), wanted) < TOLERANCE
    assert relative_error(graph(**torch_inputs(inputs)), wanted) < TOLERANCE


def test_it_works_at_one_size_alone() -> None:
    with pytest.raises(InputError, match="edgetam works at 1024 pixels alone"):
        VARIANTS["edgetam"].numbers(512)
    numbers = VARIANTS["edgetam"].numbers(1024)
    assert (numbers.memory_tokens, numbers.num_keys(7, 16)) == (512, 7 * 512 + 16 * 4)
    with pytest.raises(ValueError, match="a map of 9 cells cannot be cut into 4 windows"):
        Perceiver(Latents(placeless=3, side=4), 8, 9)
