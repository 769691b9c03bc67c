"""SAM 2 and 2.1 from a row of the variants table, with the official state-dict keys.

Its four methods have the signatures of the four graphs in `runtime.bundle.contract` and are the plain, eager truth
that exported graphs are compared with. `load_state_dict(strict=True)` on an official file is the proof of shape.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.attention import MLP
from export.model.image_encoder import image_encoder
from export.model.mask_decoder import MaskDecoder, select
from export.model.memory_attention import MemoryAttention
from export.model.memory_encoder import MemoryEncoder
from export.model.perceiver import LatentPosition, Perceiver
from export.model.position import DistanceCode, SineMap
from export.model.prompt_encoder import PromptEncoder
from export.variants import Variant
from runtime.bundle.contract import HIGH_RES, MASK_SCALE, NO_OBJ_SCORE

MEMORY_SCALE, MEMORY_BIAS = 20.0, -10.0  # sigmoid_scale/bias_for_mem_enc of every official config


class Sam2(nn.Module):
    """One model at one image size; always in inference mode."""

    def __init__(self, variant: Variant, image_size: int | None = None) -> None:
        super().__init__()
        self.numbers = variant.numbers(variant.image_size if image_size is None else image_size)
        dim, mem_dim, grid = variant.d_model, variant.mem_dim, self.numbers.grid
        self.image_encoder = image_encoder(variant, self.numbers.image_size)
        self.memory_attention = MemoryAttention(variant, grid)
        self.memory_encoder = MemoryEncoder(variant)
        self.sam_prompt_encoder = PromptEncoder(variant, self.numbers)
        self.sam_mask_decoder = MaskDecoder(variant)
        self.mask_downsample = nn.Conv2d(1, 1, MASK_SCALE, stride=MASK_SCALE)
        self.obj_ptr_proj = MLP(dim, dim, dim, dim)
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(variant.num_maskmem, 1, 1, mem_dim))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        self.is_2_1, self.pooling = variant.is_2_1, variant.pooling
        self.has_latents = variant.latents is not None
        if variant.is_2_1:
            self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, mem_dim))
            self.obj_ptr_tpos_proj = nn.Linear(dim, mem_dim)
            self.distance_code = DistanceCode(dim)
        self.memory_position = SineMap(mem_dim, grid)
        if variant.latents is not None:
            self.spatial_perceiver = Perceiver(variant.latents, mem_dim, grid)
            self.memory_position = LatentPosition(variant.latents, mem_dim)
        self.eval().requires_grad_(False)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """`image_encoder`: normalised slices (n, 3, S, S)."""
        *finer, features = self.image_encoder(image)
        return (
            features,
            self.memory_attention.attend_self(features.flatten(2).transpose(1, 2)),
            self.memory_encoder.pix_feat_proj(features),
            *self.sam_mask_decoder.narrowed(finer),
        )

    def condition(
        self,
        attended_features: Tensor,
        memory: Tensor,
        memory_time: Tensor,
        memory_weight: Tensor,
        obj_ptrs: Tensor,
        obj_ptr_pos: Tensor,
        obj_ptr_weight: Tensor,
    ) -> Tensor:
        """`memory_attention`, with weights as log-weights on the logits."""
        slots, tokens = memory.shape[1:3]
        code = self.memory_position.tokens() + self.time_codes()[memory_time].unsqueeze(2)
        ptrs, ptr_pos = self.pointer_tokens(obj_ptrs, obj_ptr_pos)
        pieces = ptrs.shape[1] // obj_ptrs.shape[1]
        weight = torch.cat(
            [
                memory_weight.repeat_interleave(tokens, 1),
                obj_ptr_weight.repeat_interleave(pieces, 1),
            ],
            1,
        )
        out = self.memory_attention(
            attended_features,
            torch.cat([memory.flatten(1, 2), ptrs], 1),
            torch.cat([code.flatten(1, 2), ptr_pos], 1),
            slots * tokens,
            None if bool((weight == 1).all()) else weight.log(),
        )
        return out.transpose(1, 2).unflatten(2, (self.numbers.grid, self.numbers.grid))

    def time_codes(self) -> Tensor:
        """The temporal code of each `memory_time` (num_maskmem + 1, M); the last row is none."""
        return F.pad(self.maskmem_tpos_enc.flatten(1), (0, 0, 0, 1))

    def pointer_tokens(self, obj_ptrs: Tensor, obj_ptr_pos: Tensor) -> tuple[Tensor, Tensor]:
        """Pointers (b, p, C) cut into tokens of M channels (b, p * C / M, M), and their position codes."""
        mem_dim = self.maskmem_tpos_enc.shape[-1]
        ptrs = obj_ptrs.unflatten(-1, (-1, mem_dim))
        if not self.is_2_1:
            return ptrs.flatten(1, 2), torch.zeros_like(ptrs).flatten(1, 2)
        code = self.obj_ptr_tpos_proj(self.distance_code(obj_ptr_pos))
        return ptrs.flatten(1, 2), code.unsqueeze(2).expand_as(ptrs).flatten(1, 2)

    def decode(
        self,
        features: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        multimask: Tensor,
        add_no_mem_embed: Tensor,
        **high_res: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`mask_decoder`: selected, gated low-resolution logits, iou, object score logit, pointer.

        `high_res` are `high_res_feats_0` and `high_res_feats_1`, where a model has them.
        """
        no_memory = self.no_mem_embed.reshape(1, -1, 1, 1)
        features = features + torch.where(add_no_mem_embed[:, None, None, None], no_memory, 0.0)
        prompts = self.sam_prompt_encoder
        masks, ious, tokens, score = self.sam_mask_decoder(
            features + prompts.dense(mask_input, has_mask_input),
            prompts.image_position(),
            prompts.points(point_coords, point_labels),
            [high_res[name] for name in HIGH_RES] if self.numbers.has_high_res else [],
        )
        mask, iou, token = select(masks.float(), ious, tokens, multimask)
        present = score > 0
        mask = torch.where(present[..., None, None], mask, NO_OBJ_SCORE)
        return (
            mask,
            iou,
            score.squeeze(1),
            torch.where(present, self.obj_ptr_proj(token), self.no_obj_ptr),
        )

    def memorise(
        self,
        projected_features: Tensor,
        low_res_masks: Tensor,
        object_score_logits: Tensor,
        binarize: Tensor,
    ) -> Tensor:
        """`memory_encoder`: raw logits (b, 1, 4 G, 4 G) to a memory (b, L, M)."""
        size = self.numbers.mask_size
        logits = F.interpolate(low_res_masks, (size, size), mode="bilinear", align_corners=False)
        mask = torch.where(binarize[:, None, None, None], (logits > 0).float(), logits.sigmoid())
        memory = self.memory_encoder(projected_features, mask * MEMORY_SCALE + MEMORY_BIAS)
        is_map = not self.has_latents
        memory = memory.flatten(2).transpose(1, 2) if is_map else self.spatial_perceiver(memory)
        if self.is_2_1:
            absent = (object_score_logits <= 0)[:, None, None]
            memory = memory + torch.where(absent, self.no_obj_embed_spatial, 0.0)
        return memory
