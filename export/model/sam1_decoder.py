"""SAM 1's mask decoder: SAM 2's without finer features, object score, stability fallback and pointer.

Keys and arithmetic: segment_anything/modeling/mask_decoder.py and transformer.py (dca509f).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.model.attention import MLP, LayerNorm2d
from export.model.mask_decoder import NUM_MASKS, TwoWayTransformer
from export.model.sam1_trunk import TwoLayers
from export.variants import Variant


class Sam1MaskDecoder(nn.Module):
    """All four candidate masks with their qualities."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        dim = variant.d_model
        self.transformer = TwoWayTransformer(variant, TwoLayers)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim, dim // 8) for _ in range(NUM_MASKS)
        )
        self.iou_prediction_head = MLP(dim, variant.iou_head_dim, variant.iou_head_dim, NUM_MASKS)

    def forward(self, image: Tensor, image_pos: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Image (b, C, G, G) with its dense prompt added, prompts (b, q, C).

        Returns masks (b, 4, 4 G, 4 G) and ious (b, 4), which nothing keeps between 0 and 1.
        """
        fixed = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens, rows = self.transformer(
            image.flatten(2).transpose(1, 2),
            image_pos,
            torch.cat([fixed.expand(prompts.shape[0], -1, -1), prompts], 1),
        )
        upscaled = self.output_upscaling(rows.transpose(1, 2).unflatten(2, image.shape[2:]))
        mlps = self.output_hypernetworks_mlps
        hyper = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(mlps)], 1)
        masks = (hyper @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        return masks, self.iou_prediction_head(tokens[:, 0])


def chosen(masks: Tensor, ious: Tensor, multimask: Tensor) -> tuple[Tensor, Tensor]:
    """The one mask (b, 1, h, w) and its iou (b,): the best of the last three where `multimask` (b,), else the first."""
    best = 1 + ious[:, 1:].argmax(-1)
    index = torch.where(multimask, best, torch.zeros_like(best))
    rows = torch.arange(masks.shape[0], device=masks.device)
    return masks[rows, index].unsqueeze(1), ious[rows, index]
