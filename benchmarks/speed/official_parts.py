"""Parts of other families' official packages, to build the official SAM 2 predictor around.

Such a package is called `sam2` too. It is installed into a folder of its own (`ORACLES`; the Makefile does it), and its
modules are imported while those of the real one are set aside. Its root, which starts hydra, is never run.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from benchmarks.speed.official_sam1 import without_torchvision
from export.trunks import RepVitTrunk, VitTrunk
from export.variants import Variant
from runtime.errors import MissingPackage

ORACLES = "MEDSAM2_ORACLES"
"""Names the folder with a folder for each package; by default `oracles` in the environment that Python runs in."""
EFFICIENT_TAM = "efficient-track-anything"  # 1.0
EDGE_TAM = "edgetam-dimos"  # 1.0.1; modeling as in facebookresearch/EdgeTAM 9cc44bf


def other_parts(
    variant: Variant, image_size: int, config: DictConfig
) -> dict[str, torch.nn.Module]:
    """Parts that a row's official package has of its own, by the names of the predictor's arguments; SAM 2 has none.

    Args:
        variant: the row.
        image_size: of its image encoder.
        config: of the predictor, whose memory attention is taken as it is configured.

    Raises MissingPackage where the row's package is not installed.
    """
    if isinstance(variant.trunk, RepVitTrunk):
        return _edge_tam(variant, config)
    if not isinstance(variant.trunk, VitTrunk):
        return {}
    with other_sam2(oracle(EFFICIENT_TAM)):
        return {
            "image_encoder": _instance(_vit_encoder(variant, image_size)),
            "memory_attention": _instance(_memory_attention(variant, config)),
        }


def join_parts(predictor: torch.nn.Module, variant: Variant, config: DictConfig) -> None:
    """Have a predictor make EdgeTAM's memories, of which the real package knows nothing, and count those it reads."""
    numbers = variant.latents
    if numbers is None:
        return
    sine = {**_sine(variant.mem_dim)}
    with other_sam2(oracle(EDGE_TAM)):
        perceiver = _instance(
            {
                "_target_": "sam2.modeling.perceiver.PerceiverResampler",
                "depth": numbers.depth,
                "dim": variant.mem_dim,
                "dim_head": variant.mem_dim,
                "heads": 1,
                "ff_mult": 4,
                "hidden_dropout_p": 0.0,
                "attention_dropout_p": 0.0,
                "pos_enc_at_key_value": True,
                "concat_kv_latents": False,
                "num_latents": numbers.placeless,
                "num_latents_2d": numbers.side**2,
                "position_encoding": sine,
                "use_self_attn": True,
            }
        )
    predictor.spatial_perceiver = perceiver
    encoder, attention = predictor.memory_encoder, predictor.memory_attention
    encode, attend = encoder.forward, attention.forward
    tokens = numbers.placeless + numbers.side**2

    def encoded(*inputs: Any, **options: Any) -> dict[str, Any]:
        out = encode(*inputs, **options)
        latents = perceiver(out["vision_features"], out["vision_pos_enc"][0])
        # As a map of one column, which the real package flattens to tokens again.
        features, position = (x.transpose(1, 2).unsqueeze(-1) for x in latents)
        return {"vision_features": features, "vision_pos_enc": [position]}

    def attended(*inputs: Any, **options: Any) -> torch.Tensor:
        spatial = len(options["memory"]) - options["num_obj_ptr_tokens"]
        return attend(*inputs, **options, num_spatial_mem=spatial // tokens)

    encoder.forward, attention.forward = encoded, attended


def _edge_tam(variant: Variant, config: DictConfig) -> dict[str, torch.nn.Module]:
    trunk, numbers = variant.trunk, variant.latents
    assert isinstance(trunk, RepVitTrunk) and numbers is not None
    grid = variant.image_size // trunk.stride
    attention = OmegaConf.create(OmegaConf.to_container(config.memory_attention))
    cross = attention.layer.cross_attention
    del cross.feat_sizes, cross.rope_k_repeat
    cross._target_ = "sam2.modeling.sam.transformer.RoPEAttentionv2"
    cross.q_sizes, cross.k_sizes = [grid] * 2, [numbers.side] * 2
    with other_sam2(oracle(EDGE_TAM)), without_torchvision():
        import timm.models

        def created(name: str, **options: Any) -> torch.nn.Module:
            own = {"pretrained": False, "embed_dim": trunk.dims, "depth": trunk.depths}
            return timm.models.create_model("repvit_m1", **(options | own))

        backbone = importlib.import_module("sam2.modeling.backbones.timm")
        with mock.patch.object(backbone, "create_model", created):
            encoder = _instance(_repvit_encoder(variant))
        return {"image_encoder": encoder, "memory_attention": _instance(attention)}


def _repvit_encoder(variant: Variant) -> dict[str, Any]:
    """As EdgeTAM's configs/edgetam.yaml has it."""
    trunk, modeling = variant.trunk, "sam2.modeling"
    assert isinstance(trunk, RepVitTrunk)
    return {
        "_target_": f"{modeling}.backbones.image_encoder.ImageEncoder",
        "scalp": 1,
        "trunk": {
            "_target_": f"{modeling}.backbones.timm.TimmBackbone",
            "name": "repvit_m1.dist_in1k",
            "features": [f"layer{i}" for i in range(len(trunk.dims))],
        },
        "neck": {
            "_target_": f"{modeling}.backbones.image_encoder.FpnNeck",
            "position_encoding": _sine(variant.d_model),
            "d_model": variant.d_model,
            "backbone_channel_list": list(reversed(trunk.dims)),
            "fpn_top_down_levels": [2, 3],
            "fpn_interp_model": "nearest",
        },
    }


def _sine(channels: int) -> dict[str, Any]:
    return {
        "_target_": "sam2.modeling.position_encoding.PositionEmbeddingSine",
        "num_pos_feats": channels,
        "normalize": True,
        "scale": None,
        "temperature": 10000,
    }


def _memory_attention(variant: Variant, config: DictConfig) -> DictConfig:
    attention = OmegaConf.create(OmegaConf.to_container(config.memory_attention))
    if variant.pooling:
        target = f"sam2.modeling.sam.transformer.EfficientRoPEAttention{variant.pooling}"
        attention.layer.cross_attention._target_ = target
    return attention


def oracle(name: str) -> Path:
    """Where a package lies. Raises MissingPackage."""
    home = os.environ.get(ORACLES)
    folder = (Path(home) if home else Path(sys.prefix) / "oracles") / name
    if not (folder / "sam2").is_dir():
        raise MissingPackage(
            f"{folder} is not there: python -m pip install --no-deps --target {folder} {name}"
        )
    return folder


@contextmanager
def other_sam2(folder: Path) -> Iterator[None]:
    """Within it, `sam2` and what is below it are the package in a folder."""
    aside = _taken()
    root = ModuleType("sam2")
    root.__path__ = [str(folder / "sam2")]
    sys.modules["sam2"] = root
    sys.path.insert(0, str(folder))  # for what the package brings along
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _taken()
        sys.modules.update(aside)


def _taken() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "sam2"]
    return {name: sys.modules.pop(name) for name in names}


def _instance(config: DictConfig | dict[str, Any]) -> torch.nn.Module:
    return instantiate(OmegaConf.create(config), _recursive_=True)


def _vit_encoder(variant: Variant, image_size: int) -> dict[str, Any]:
    """As the repository's configs/efficienttam/*.yaml have it; the package comes without them."""
    trunk, modeling = variant.trunk, "sam2.modeling"
    assert isinstance(trunk, VitTrunk)
    windowed = [i for i in range(trunk.depth) if i not in trunk.global_att_blocks]
    return {
        "_target_": f"{modeling}.backbones.image_encoder.ImageEncoder",
        "scalp": 0,
        "trunk": {
            "_target_": f"{modeling}.backbones.vitdet.ViT",
            "img_size": image_size,
            "patch_size": trunk.stride,
            "embed_dim": trunk.dim,
            "depth": trunk.depth,
            "num_heads": trunk.num_heads,
            "window_size": trunk.window,
            "window_block_indexes": windowed,
            "pretrain_img_size": trunk.pos_embed_size * trunk.stride,
        },
        "neck": {
            "_target_": f"{modeling}.backbones.image_encoder.ViTDetNeck",
            "position_encoding": _sine(variant.d_model),
            "d_model": variant.d_model,
            "backbone_channel_list": [trunk.dim],
            "neck_norm": "LN",
        },
    }
