"""The official networks that see single images: `segment-anything`, and LiteMedSAM rebuilt of timm's parts.

Neither needs torchvision for what is asked of it here: SAM 1's package is entered below its root, and timm finds
nothing but names in its place.
"""

from __future__ import annotations

import enum
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from export.trunks import Sam1Trunk, TinyVitTrunk
from export.variants import Variant


def official_sam1(variant: Variant) -> nn.Module:
    """`Sam` as upstream's builder makes it for a row of the variants table, weights not loaded."""
    modeling, size = _modeling(), variant.image_size
    grid = size // variant.trunk.stride
    dim = variant.d_model
    prompt_encoder = modeling.PromptEncoder(
        embed_dim=dim,
        image_embedding_size=(grid, grid),
        input_image_size=(size, size),
        mask_in_chans=variant.mask_channels,
    )
    transformer = modeling.TwoWayTransformer(
        depth=2,
        embedding_dim=dim,
        mlp_dim=variant.decoder_mlp_dim,
        num_heads=variant.decoder_heads,
    )
    mask_decoder = modeling.MaskDecoder(
        num_multimask_outputs=3,
        transformer=transformer,
        transformer_dim=dim,
        iou_head_depth=3,
        iou_head_hidden_dim=variant.iou_head_dim,
    )
    sam = modeling.Sam(
        image_encoder=_encoder(variant, size),
        prompt_encoder=prompt_encoder,
        mask_decoder=mask_decoder,
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    return sam.eval().requires_grad_(False)


def sam_predictor(sam: nn.Module) -> Any:
    """Upstream's `SamPredictor`; images are to be resized by whoever sets them, which wants torchvision."""
    _modeling()
    with without_torchvision():
        predictor = importlib.import_module("segment_anything.predictor")
    return predictor.SamPredictor(sam)


def _encoder(variant: Variant, size: int) -> nn.Module:
    trunk = variant.trunk
    if isinstance(trunk, TinyVitTrunk):
        return TimmTinyVit(trunk, variant.d_model)
    assert isinstance(trunk, Sam1Trunk)
    return _modeling().ImageEncoderViT(
        depth=trunk.depth,
        embed_dim=trunk.dim,
        img_size=size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=trunk.num_heads,
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=trunk.global_blocks,
        window_size=trunk.window,
        out_chans=variant.d_model,
    )


def _modeling() -> Any:
    name = "segment_anything"
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations is not None, (
            "the tests want segment-anything==1.0: make test"
        )
        parent = ModuleType(name)
        parent.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = parent
    return importlib.import_module(f"{name}.modeling")


class TimmTinyVit(nn.Module):
    """timm's `TinyVit` with LiteMedSAM's stem, strides, names and neck."""

    def __init__(self, trunk: TinyVitTrunk, d_model: int) -> None:
        super().__init__()
        with without_torchvision():
            from timm.models.tiny_vit import TinyVit
        self.body = TinyVit(
            num_classes=0,
            embed_dims=trunk.dims,
            depths=trunk.depths,
            num_heads=trunk.num_heads,
            window_sizes=trunk.windows,
            drop_path_rate=0.0,
        )
        for conv in (self.body.patch_embed.conv1, self.body.patch_embed.conv2):
            old = conv.conv
            conv.conv = nn.Conv2d(old.in_channels, old.out_channels, 1, bias=False)
        self.body.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.body.head = nn.Identity()
        bare = _modeling().ImageEncoderViT(
            img_size=16, embed_dim=trunk.dims[-1], depth=0, out_chans=d_model
        )
        self.neck = bare.neck

    def forward(self, image: Tensor) -> Tensor:
        return self.neck(self.body.forward_features(image))


def load_official(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights strictly, by the names of the released files."""
    if isinstance(model.image_encoder, TimmTinyVit):
        state = {renamed(name): tensor for name, tensor in state.items()}
    model.load_state_dict(state, strict=True)


def renamed(name: str) -> str:
    """LiteMedSAM's name of a tensor to that of timm's encoder."""
    prefix, _, name = name.partition(".")
    if prefix != "image_encoder" or name.startswith("neck."):
        return f"{prefix}.{name}"
    name = name.replace(".c.", ".conv.")
    for i, conv in ((0, "conv1"), (2, "conv2")):
        name = name.replace(f"patch_embed.seq.{i}.", f"patch_embed.{conv}.")
    parts = name.split(".")
    if parts[0] == "layers":
        stage = int(parts[1]) + (parts[2] == "downsample")
        parts[:2] = ["stages", str(stage)]
    return ".".join([prefix, "body", *parts])


class _Nothing:
    """Stands in for whatever is imported and never called."""

    def __init__(self, *_: object, **__: object) -> None:
        pass


class _InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _Names(ModuleType):
    """A module that has every name."""

    __version__ = "0.28.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _InterpolationMode if name == "InterpolationMode" else _Nothing


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        is_asked_for = name.partition(".")[0] == "torchvision"
        return (
            importlib.util.spec_from_loader(name, self, is_package=True) if is_asked_for else None
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Names(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Imports of torchvision give names alone; afterwards nobody finds them any more."""
    finder = _Finder()
    before = {name for name in sys.modules if name.partition(".")[0] == "torchvision"}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            if name not in before:
                del sys.modules[name]
