"""Every part of our model against upstream's, with the same weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.speed.official import official_predictor
from export.model.mask_decoder import select
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.variants import VARIANTS, Variant
from runtime.bundle.contract import HIGH_RES, LABEL_PAD
from tests.graph_inputs import graph_inputs, relative_error, torch_inputs
from tests.official import marks_of, needs_efficient_tam
from tests.variants import TOY, TOY_VIT

pytestmark = pytest.mark.filterwarnings("ignore:.*sdp_kernel:FutureWarning")  # EfficientTAM's own

TOLERANCE = 1e-4
TOY_2_0 = replace(TOY, name="toy_2.0", is_2_1=False)
ROWS = 6  # objects in a batch
PARAMETERS = {  # of the released files
    "sam2.1_hiera_t": 38_962_498,
    "sam2.1_hiera_s": 46_060_354,
    "sam2.1_hiera_b+": 80_850_178,
    "sam2.1_hiera_l": 224_446_642,
    "sam2_hiera_t": 38_945_986,
    "medsam2": 38_962_498,
    "efficienttam_s": 34_055_842,
    "efficienttam_ti": 17_866_018,
    "edgetam": 13_895_794,
}

PROMPTS = {
    "click": [1],
    "negative click": [0],
    "two clicks": [1, 0],
    "box": [2, 3],
    "box and clicks": [2, 3, 1, 0],
    "nothing": [],
}


@dataclass(frozen=True)
class Pair:
    """Both models with one set of weights, and what upstream makes of one image for each object."""

    ours: Sam2
    theirs: torch.nn.Module
    images: Tensor
    features: list[Tensor]  # (cells, rows, channels), high to low resolution
    positions: list[Tensor]
    sizes: list[tuple[int, int]]

    @property
    def vision_features(self) -> Tensor:
        return self.maps()[-1]

    @property
    def projected(self) -> Tensor:
        return self.ours.memory_encoder.pix_feat_proj(self.vision_features)

    @property
    def high_res(self) -> list[Tensor]:
        return self.maps()[:-1]

    @property
    def finer(self) -> dict[str, Tensor]:
        """What our decoder takes of it."""
        return dict(zip(HIGH_RES, self.high_res, strict=True)) if self.high_res else {}

    def maps(self) -> list[Tensor]:
        pairs = zip(self.features, self.sizes, strict=True)
        return [x.permute(1, 2, 0).unflatten(-1, size) for x, size in pairs]


def make_pair(variant: Variant, image_size: int, rows: int = ROWS) -> Pair:
    ours, theirs = Sam2(variant, image_size), official_predictor(variant, image_size)
    state = random_state(ours, seed=7)
    # A steeper single mask has fewer pixels near its threshold, so that some rows are stable.
    for kind in ("weight", "bias"):
        state[f"sam_mask_decoder.output_hypernetworks_mlps.0.layers.2.{kind}"] *= 2
    ours.load_state_dict(state, strict=True)
    theirs.load_state_dict(state, strict=True)
    generator = torch.Generator().manual_seed(image_size)
    images = torch.randn(rows, 3, image_size, image_size, generator=generator)
    prepared = theirs._prepare_backbone_features(theirs.forward_image(images))
    pair = Pair(ours, theirs, images, *prepared[1:])
    # Moved to the mean score, the bias leaves some objects present and some absent.
    mean = torch.cat([scores for scores, _ in first_answers(pair)]).mean()
    for model in (ours, theirs):
        model.get_parameter("sam_mask_decoder.pred_obj_score_head.layers.2.bias").sub_(mean)
    return pair


def first_answers(pair: Pair) -> Iterator[tuple[Tensor, Tensor]]:
    """Upstream's object scores and single masks for each kind of `PROMPTS`, at random places."""
    prompts, decoder = pair.theirs.sam_prompt_encoder, pair.theirs.sam_mask_decoder
    rows = len(pair.images)
    generator = torch.Generator().manual_seed(5)
    for kinds in PROMPTS.values():
        labels = torch.tensor([kinds or [LABEL_PAD]]).expand(rows, -1)
        points = pair.ours.numbers.image_size * torch.rand(*labels.shape, 2, generator=generator)
        sparse, dense = prompts((points, labels), None, None)
        masks, _, _, scores = decoder.predict_masks(
            pair.vision_features + pair.theirs.no_mem_embed.reshape(1, -1, 1, 1),
            prompts.get_dense_pe(),
            sparse,
            dense,
            repeat_image=False,
            high_res_features=pair.high_res,
        )
        yield scores, masks[:, 0]


# 96 and 160 pixels make maps that no window divides, and 96 is smaller than the weights' own size.
@pytest.fixture(
    scope="module",
    params=[
        (TOY, 128),
        (TOY, 160),
        (TOY_2_0, 128),
        (TOY_2_0, 96),
        pytest.param((TOY_VIT, 128), marks=needs_efficient_tam),
        pytest.param((TOY_VIT, 144), marks=needs_efficient_tam),
    ],
    ids=lambda p: f"{p[0].name}@{p[1]}",
)
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(*request.param)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=marks_of(row))
        for name, row in VARIANTS.items()
        if row.kind == "volume"
    ],
)
def test_every_model_has_the_official_keys_and_shapes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = VARIANTS[name]
    # Upstream's trunk reads numbers off a linspace, which cannot be a tensor without data.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        ours, theirs = Sam2(variant), official_predictor(variant, variant.image_size)
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    counts = [sum(p.numel() for p in m.parameters()) for m in (ours, theirs)]
    assert counts[0] == counts[1] == PARAMETERS.get(name, counts[0])


def test_image_features_are_upstreams(pair: Pair) -> None:
    features, _, _, *high_res = pair.ours.encode(pair.images)
    assert relative_error(features, pair.vision_features) < TOLERANCE
    for found, wanted in zip(high_res, pair.high_res, strict=True):
        assert relative_error(found, wanted) < TOLERANCE


def test_what_memory_attention_makes_of_a_slice_before_it_reads_memory_is_upstreams(
    pair: Pair,
) -> None:
    attention = pair.theirs.memory_attention
    tokens, position = (x[-1].transpose(0, 1) for x in (pair.features, pair.positions))
    theirs = attention.layers[0]._forward_sa(tokens + 0.1 * position, None)
    assert relative_error(pair.ours.encode(pair.images)[1], theirs) < TOLERANCE


def test_projected_features_are_upstreams(pair: Pair) -> None:
    theirs = pair.theirs.memory_encoder.pix_feat_proj(pair.vision_features)
    assert relative_error(pair.ours.encode(pair.images)[2], theirs) < TOLERANCE


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_conditioned_features_are_upstreams(pair: Pair, reverse: bool) -> None:
    now, slices = 6, 12
    numbers = pair.ours.numbers
    generator = torch.Generator().manual_seed(3)
    memory = torch.randn(slices, ROWS, numbers.mem_dim, *pair.sizes[-1], generator=generator)
    pointers = torch.randn(slices, ROWS, numbers.d_model, generator=generator)
    position = pair.theirs.memory_encoder.position_encoding(memory[0])
    outputs = {
        z: {
            "maskmem_features": memory[z],
            "maskmem_pos_enc": [position],
            "obj_ptr": pointers[z],
        }
        for z in range(slices)
    }
    theirs = pair.theirs._prepare_memory_conditioned_features(
        frame_idx=now,
        is_init_cond_frame=False,
        current_vision_feats=pair.features[-1:],
        current_vision_pos_embeds=pair.positions[-1:],
        feat_sizes=pair.sizes[-1:],
        output_dict={
            "cond_frame_outputs": {z: outputs[z] for z in (1, 9)},
            "non_cond_frame_outputs": {z: outputs[z] for z in (2, 4, 5, 7, 8, 11)},
        },
        num_frames=slices,
        track_in_reverse=reverse,
    )
    # Written out: which slices are read, and as how distant. Prompted ones have the last temporal code; only the
    # pointers of prompted slices that were passed already are read.
    times = {1: 6, 9: 6, 7: 0, 8: 1, 11: 4} if reverse else {1: 6, 9: 6, 2: 3, 4: 1, 5: 0}
    distances = {9: 3, 7: 1, 8: 2, 11: 5} if reverse else {1: 5, 2: 4, 4: 2, 5: 1}
    rows = torch.ones(ROWS, 1)
    ours = pair.ours.condition(
        attended_features=pair.ours.encode(pair.images)[1],
        memory=memory[list(times)].transpose(0, 1).flatten(3).transpose(2, 3),
        memory_time=torch.tensor(list(times.values())).expand(ROWS, -1),
        memory_weight=rows.expand(-1, len(times)),
        obj_ptrs=pointers[list(distances)].transpose(0, 1),
        obj_ptr_pos=torch.tensor(list(distances.values())).expand(ROWS, -1) / (slices - 1),
        obj_ptr_weight=rows.expand(-1, len(distances)),
    )
    assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("with_previous", [False, True], ids=["first", "with previous logits"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_decoded_masks_are_upstreams(pair: Pair, prompt: str, with_previous: bool) -> None:
    labels = torch.tensor([PROMPTS[prompt]], dtype=torch.int64).expand(ROWS, -1)
    generator = torch.Generator().manual_seed(5)
    size, low = pair.ours.numbers.image_size, pair.ours.numbers.low_res
    points = size * torch.rand(*labels.shape, 2, generator=generator)
    previous = 8 * torch.randn(ROWS, 1, low, low, generator=generator)
    given = {"point_coords": points, "point_labels": labels.int()} if prompt != "nothing" else None
    multimask = pair.theirs._use_multimask(True, given)
    assert multimask == (labels.shape[1] <= 1)
    theirs = pair.theirs._forward_sam_heads(
        backbone_features=pair.vision_features + pair.theirs.no_mem_embed.reshape(1, -1, 1, 1),
        point_inputs=given,
        mask_inputs=previous if with_previous else None,
        high_res_features=pair.high_res,
        multimask_output=multimask,
    )
    if given is None:
        points, labels = torch.zeros(ROWS, 1, 2), torch.full((ROWS, 1), LABEL_PAD)
    every = torch.ones(ROWS, dtype=torch.bool)
    mask, iou, score, pointer = pair.ours.decode(
        pair.vision_features,
        points,
        labels,
        previous if with_previous else torch.full_like(previous, torch.nan),
        every & with_previous,
        every & multimask,
        every,
        **pair.finer,
    )
    _, _, ious, low_res, _, obj_ptr, object_score = theirs
    assert relative_error(score, object_score[:, 0]) < TOLERANCE
    assert relative_error(iou, ious.amax(1)) < TOLERANCE
    assert relative_error(pointer, obj_ptr) < TOLERANCE
    present = score > 0
    assert (mask[~present] == low_res[~present]).all()
    if present.any():
        assert relative_error(mask[present], low_res[present]) < TOLERANCE


def test_the_weights_of_these_tests_meet_every_branch_of_the_decoder(pair: Pair) -> None:
    scores, masks = (torch.cat(x) for x in zip(*first_answers(pair), strict=True))
    absent = scores <= 0
    unstable = pair.theirs.sam_mask_decoder._get_stability_scores(masks) < 0.98
    assert absent.any()
    assert unstable.any()
    assert not absent.all()
    assert not unstable.all()


def test_rows_with_different_flags_do_not_touch_each_other(pair: Pair) -> None:
    inputs = torch_inputs(
        graph_inputs(pair.ours.numbers, "mask_decoder", {"b": ROWS, "q": 3}, seed=2)
    )
    together = pair.ours.decode(**inputs)
    for row in (0, ROWS - 1):
        alone = pair.ours.decode(**{name: x[row : row + 1] for name, x in inputs.items()})
        for found, wanted in zip(together, alone, strict=True):
            assert relative_error(found[row : row + 1], wanted) < TOLERANCE


def test_the_pointer_of_a_mask_prompt_is_upstreams(pair: Pair) -> None:
    size = pair.ours.numbers.image_size
    mask = torch.zeros(ROWS, 1, size, size)
    mask[:, :, size // 4 : size // 2, size // 3 :] = 1
    theirs = pair.theirs._use_mask_as_output(pair.vision_features, pair.high_res, mask)[5]
    *_, ours = pair.ours.decode(
        pair.vision_features,
        torch.zeros(ROWS, 1, 2),
        torch.full((ROWS, 1), LABEL_PAD),
        pair.ours.mask_downsample(mask),
        has_mask_input=torch.ones(ROWS, dtype=torch.bool),
        multimask=torch.zeros(ROWS, dtype=torch.bool),
        add_no_mem_embed=torch.zeros(ROWS, dtype=torch.bool),
        **pair.finer,
    )
    assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("binarize", [False, True], ids=["tracked", "prompted"])
def test_memories_are_upstreams(pair: Pair, binarize: bool) -> None:
    numbers = pair.ours.numbers
    inputs = torch_inputs(graph_inputs(numbers, "memory_encoder", {"b": ROWS}))
    logits, score = inputs["low_res_masks"], inputs["object_score_logits"]
    assert 0 < (score > 0).sum() < ROWS
    theirs, _ = pair.theirs._encode_new_memory(
        current_vision_feats=pair.features,
        feat_sizes=pair.sizes,
        pred_masks_high_res=torch.nn.functional.interpolate(
            logits, scale_factor=4.0, mode="bilinear", align_corners=False
        ),
        object_score_logits=score[:, None],
        is_mask_from_pts=binarize,
    )
    ours = pair.ours.memorise(pair.projected, logits, score, torch.full((ROWS,), binarize))
    assert relative_error(ours, theirs.flatten(2).transpose(1, 2)) < TOLERANCE


def test_an_object_that_is_absent_leaves_its_own_mark_only_in_sam_2_1(pair: Pair) -> None:
    logits = torch.zeros(2, 1, pair.ours.numbers.low_res, pair.ours.numbers.low_res)
    present, absent = pair.ours.memorise(
        pair.projected[:1].expand(2, -1, -1, -1),
        logits,
        torch.tensor([1.0, 0.0]),  # a score of exactly zero is absent
        torch.zeros(2, dtype=torch.bool),
    )
    mark = pair.ours.no_obj_embed_spatial if pair.ours.is_2_1 else torch.zeros(1)
    torch.testing.assert_close(absent - present, mark.expand_as(present), atol=1e-5, rtol=0)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 0.1, 1.0, 10.0]),
    st.sampled_from([-8.0, 0.0, 8.0]),
)
@settings(max_examples=100, deadline=None)
def test_a_mask_is_selected_as_upstream_selects_it(
    seed: int, steepness: float, shift: float
) -> None:
    from sam2.modeling.sam.mask_decoder import MaskDecoder

    generator = torch.Generator().manual_seed(seed)
    masks = steepness * (torch.randn(6, 4, 16, 16, generator=generator) + shift)
    ious, tokens = torch.rand(6, 4, generator=generator), torch.randn(6, 4, 8, generator=generator)
    ious[0] = 0.5  # ties go to the first
    rule = MaskDecoder.__new__(MaskDecoder)
    torch.nn.Module.__init__(rule)
    rule.dynamic_multimask_stability_delta, rule.dynamic_multimask_stability_thresh = 0.05, 0.98
    single, single_iou = rule._dynamic_multimask_via_stability(masks, ious)
    mask, iou, token = select(masks, ious, tokens, torch.zeros(6, dtype=torch.bool))
    assert torch.equal(mask, single)
    assert torch.equal(iou, single_iou[:, 0])
    assert torch.equal(token, tokens[:, 0])

    best = ious[:, 1:].argmax(1) + 1
    mask, iou, token = select(masks, ious, tokens, torch.ones(6, dtype=torch.bool))
    rows = torch.arange(6)
    assert torch.equal(mask[:, 0], masks[rows, best])
    assert torch.equal(iou, ious[rows, best])
    assert torch.equal(token, tokens[rows, best])


def test_the_tiny_model_of_2_1_encodes_as_upstream() -> None:
    pair = make_pair(VARIANTS["sam2.1_hiera_t"], 128, rows=1)
    test_image_features_are_upstreams(pair)


@pytest.mark.parametrize("size", [0, 32, 100, 130])
def test_an_image_size_that_does_not_divide_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        Sam2(TOY, size)


def test_models_do_not_train() -> None:
    model = Sam2(TOY)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert np.isfinite([p.sum().item() for p in model.parameters()]).all()
