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

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from export.trunks import VitTrunk
from export.variants import Variant
from runtime.errors import MissingPackage

ORACLES = "MEDSAM2_ORACLES"
"""Names the folder with a folder for each package; by default `oracles` in the environment that Python runs in."""
EFFICIENT_TAM = "efficient-track-anything"  # 1.0


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
    if not isinstance(variant.trunk, VitTrunk):
        return {}
    with other_sam2(oracle(EFFICIENT_TAM)):
        return {
            "image_encoder": _instance(_vit_encoder(variant, image_size)),
            "memory_attention": _instance(_memory_attention(variant, config)),
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
            "position_encoding": {
                "_target_": f"{modeling}.position_encoding.PositionEmbeddingSine",
                "num_pos_feats": variant.d_model,
                "normalize": True,
                "scale": None,
                "temperature": 10000,
            },
            "d_model": variant.d_model,
            "backbone_channel_list": [trunk.dim],
            "neck_norm": "LN",
        },
    }
