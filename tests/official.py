"""The official `sam2` package (1.1.0) as an oracle, built for any row of the variants table."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from hydra import compose
from hydra.utils import instantiate

from export.variants import Variant

EIGHT_CONNECTED = np.ones((3, 3), int)

# build_sam.py's apply_postprocessing=True
POSTPROCESSING = (
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
    "++model.binarize_mask_from_pts_for_mem_enc=true",
    "++model.fill_hole_area=8",
)


def official_predictor(variant: Variant, image_size: int) -> torch.nn.Module:
    """`SAM2VideoPredictor` as upstream's builder makes it, in eval mode on the CPU, weights not loaded."""
    import sam2  # registers the package's configuration folder with hydra

    assert sam2
    config = compose(
        config_name=_config(variant),
        overrides=[
            "++model._target_=sam2.sam2_video_predictor.SAM2VideoPredictor",
            f"++model.image_size={image_size}",
            *_numbers(variant),
            *POSTPROCESSING,
        ],
    )
    return instantiate(config.model, _recursive_=True).eval().requires_grad_(False)


def _is_released(variant: Variant) -> bool:
    return variant.name.rpartition("_")[2] in ("t", "s", "b+", "l")


def _config(variant: Variant) -> str:
    family = "sam2.1" if variant.is_2_1 else "sam2"
    size = variant.name.rpartition("_")[2] if _is_released(variant) else "t"
    return f"configs/{family}/{family}_hiera_{size}.yaml"


def _numbers(variant: Variant) -> list[str]:
    """Overrides of the tiny configuration; a released size is taken as its own file has it."""
    if _is_released(variant):
        return []
    trunk, attention = "++model.image_encoder.trunk", "++model.memory_attention"
    neck, encoder = "++model.image_encoder.neck", "++model.memory_encoder"
    d, m = variant.d_model, variant.mem_dim
    return [
        f"{trunk}.embed_dim={variant.embed_dim}",
        f"{trunk}.num_heads={variant.num_heads}",
        f"{trunk}.stages={list(variant.stages)}",
        f"{trunk}.global_att_blocks={list(variant.global_att_blocks)}",
        f"{trunk}.window_spec={list(variant.window_spec)}",
        f"{trunk}.window_pos_embed_bkg_spatial_size={[variant.pos_embed_size] * 2}",
        f"{neck}.position_encoding.num_pos_feats={d}",
        f"{neck}.d_model={d}",
        f"{neck}.backbone_channel_list={list(reversed(variant.stage_dims))}",
        f"{attention}.d_model={d}",
        f"{attention}.layer.d_model={d}",
        f"{attention}.layer.dim_feedforward={variant.memory_mlp_dim}",
        f"{attention}.layer.self_attention.embedding_dim={d}",
        f"{attention}.layer.cross_attention.embedding_dim={d}",
        f"{attention}.layer.cross_attention.kv_in_dim={m}",
        f"{attention}.num_layers={variant.memory_layers}",
        f"++model.memory_encoder.in_dim={d}",
        f"{encoder}.out_dim={m}",
        f"{encoder}.position_encoding.num_pos_feats={m}",
        f"{encoder}.mask_downsampler.embed_dim={d}",
        f"{encoder}.fuser.layer.dim={d}",
    ]


def fill_holes_on_any_machine(patch: pytest.MonkeyPatch) -> None:
    """Give upstream the connected components that it otherwise only has with its compiled CUDA extension."""
    patch.setattr("sam2.utils.misc.get_connected_components", _connected_components)


def _connected_components(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    labels, areas = (
        torch.zeros_like(masks, dtype=torch.int32),
        torch.zeros_like(masks, dtype=torch.int32),
    )
    for i, mask in enumerate(masks[:, 0].numpy()):
        found, _ = scipy.ndimage.label(mask, EIGHT_CONNECTED)
        sizes = np.bincount(found.ravel())
        sizes[0] = 0
        labels[i, 0] = torch.from_numpy(found.astype(np.int32))
        areas[i, 0] = torch.from_numpy(sizes[found].astype(np.int32))
    return labels, areas


def official_state(
    predictor: torch.nn.Module, images: torch.Tensor, height: int, width: int
) -> dict[str, object]:
    """What `init_state` makes, from frames (n, 3, S, S) that are already normalised."""
    import sam2.sam2_video_predictor as module

    patch = pytest.MonkeyPatch()
    patch.setattr(module, "load_video_frames", lambda **_: (images, height, width))
    try:
        return predictor.init_state("frames")
    finally:
        patch.undo()
