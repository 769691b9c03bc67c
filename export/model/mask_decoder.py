"""Mask decoder: prompts and features to masks, qualities, presence and pointer tokens.

Keys and arithmetic: sam2/modeling/sam/mask_decoder.py and sam/transformer.py (2b90b9f).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.attention import MLP, Attention, LayerNorm2d
from export.variants import Variant

NUM_MASKS = 4  # one single-mask token and three of the multimask set
CROSS_DOWNSAMPLE = 2
STABILITY_DELTA, STABILITY_THRESHOLD = 0.05, 0.98  # build_sam.py, apply_postprocessing


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image attends to the tokens."""

    def __init__(self, variant: Variant, is_first: bool, mlp: type[nn.Module] = MLP) -> None:
        super().__init__()
        dim, heads = variant.d_model, variant.decoder_heads
        self.is_first = is_first
        self.self_attn = Attention(dim, heads)
        self.cross_attn_token_to_image = Attention(dim, heads, CROSS_DOWNSAMPLE)
        self.cross_attn_image_to_token = Attention(dim, heads, CROSS_DOWNSAMPLE)
        self.mlp = mlp(dim, variant.decoder_mlp_dim, dim)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))

    def forward(
        self, tokens: Tensor, image: Tensor, token_pos: Tensor, image_pos: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.is_first:  # no position and no residual: the output replaces the tokens
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pos
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        q, k = tokens + token_pos, image + image_pos
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(q, k, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        q, k = image + image_pos, tokens + token_pos
        image = self.norm4(image + self.cross_attn_image_to_token(q, k, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks and a last look of the tokens at the image; families name their `mlp`'s layers differently."""

    def __init__(self, variant: Variant, mlp: type[nn.Module] = MLP) -> None:
        super().__init__()
        dim = variant.d_model
        self.layers = nn.ModuleList(TwoWayBlock(variant, i == 0, mlp) for i in range(2))
        self.final_attn_token_to_image = Attention(dim, variant.decoder_heads, CROSS_DOWNSAMPLE)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pos: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, image_pos)
        last = self.final_attn_token_to_image(tokens + prompts, image + image_pos, image)
        return self.norm_final_attn(tokens + last), image


class MaskDecoder(nn.Module):
    """All four candidate masks with their qualities, pointer tokens and the object score."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        dim = variant.d_model
        self.transformer = TwoWayTransformer(variant)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.obj_score_token = nn.Embedding(1, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        if variant.trunk.has_high_res:
            self.conv_s0 = nn.Conv2d(dim, dim // 8, 1)
            self.conv_s1 = nn.Conv2d(dim, dim // 4, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim, dim // 8) for _ in range(NUM_MASKS)
        )
        self.iou_prediction_head = MLP(dim, variant.iou_head_dim, variant.iou_head_dim, NUM_MASKS)
        self.pred_obj_score_head = MLP(dim, dim, dim, 1)

    def forward(
        self,
        image: Tensor,
        image_pos: Tensor,
        prompts: Tensor,
        high_res: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image (b, C, G, G) with its dense prompt added, prompts (b, q, C); what `narrowed` gives.

        Returns masks (b, 4, 4 G, 4 G), ious (b, 4), mask tokens (b, 4, C), object score logits (b, 1).
        """
        fixed = [self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight]
        fixed_tokens = torch.cat(fixed).expand(prompts.shape[0], -1, -1)
        shape = image.shape[2:]
        tokens, rows = self.transformer(
            image.flatten(2).transpose(1, 2), image_pos, torch.cat([fixed_tokens, prompts], 1)
        )
        upscaled = self._upscale(rows.transpose(1, 2).unflatten(2, shape), high_res)
        mask_tokens = tokens[:, 2 : 2 + NUM_MASKS]
        mlps = self.output_hypernetworks_mlps
        hyper = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(mlps)], 1)
        masks = (hyper @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        ious = self.iou_prediction_head(tokens[:, 1]).sigmoid()
        return masks, ious, mask_tokens, self.pred_obj_score_head(tokens[:, 0])

    def narrowed(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The encoder's finer levels at stride 4 and 8, of which there may be none, with the channels wanted here."""
        if not levels:
            return ()
        level0, level1 = levels
        return self.conv_s0(level0), self.conv_s1(level1)

    def _upscale(self, image: Tensor, high_res: Sequence[Tensor]) -> Tensor:
        if not high_res:
            return self.output_upscaling(image)
        deconv1, norm, _, deconv2, _ = self.output_upscaling
        x = F.gelu(norm(deconv1(image) + high_res[1]))
        return F.gelu(deconv2(x) + high_res[0])


def select(
    masks: Tensor, ious: Tensor, tokens: Tensor, multimask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The one mask, its iou and its pointer token, by upstream's rules.

    Where `multimask` (b,), the candidate of the best predicted iou among the last three, token included. Elsewhere
    the first mask and token; if that mask is unstable under a small shift of its threshold, the best of three
    replaces mask and iou but not the token (mask_decoder.py _dynamic_multimask_via_stability).
    """
    best = 1 + ious[:, 1:].argmax(-1)
    single = masks[:, 0].flatten(1)
    inner = (single > STABILITY_DELTA).float().sum(-1)
    outer = (single > -STABILITY_DELTA).float().sum(-1)
    stable = torch.where(outer > 0, inner / outer, 1.0) >= STABILITY_THRESHOLD
    first = torch.zeros_like(best)
    mask_index = torch.where(multimask | ~stable, best, first)
    token_index = torch.where(multimask, best, first)
    rows = torch.arange(masks.shape[0], device=masks.device)
    return masks[rows, mask_index].unsqueeze(1), ious[rows, mask_index], tokens[rows, token_index]
