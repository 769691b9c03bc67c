"""The four graphs as modules to trace: each `forward` is signed exactly like the contract.

Three are the model's own methods. Memory attention is restated with exact algebra that makes it cheaper and
lets slots carry weights without a mask, so that fused attention kernels still apply:

- *Value absorption.* Values carry no rotary code and there is one head, so
  out_proj(P (m Wv + bv)) = (P m) (Wo Wv)^T + (Wo bv + bo): P multiplies the memory's M channels, not C.
- *Weights in the values.* sum_j w_j e^s_j m_j / sum_j w_j e^s_j = (P [w m]) / (P w) with the plain softmax P,
  so one more channel that holds w, and one division, replace any mask. Weight 0 is an exact mask.
- *Half rotation.* Rows of the query and key projections are permuted so that rotary pairs lie in two halves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.attention import attention
from export.model.memory_attention import POSITION_SCALE, MemoryAttentionLayer, RotaryAttention
from export.model.position import halves_order, rotate_halves
from export.model.sam2 import Sam2


class ImageEncoderGraph(nn.Module):
    """`image_encoder`."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model.encode(image)


class MaskDecoderGraph(nn.Module):
    """`mask_decoder`."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        features: Tensor,
        high_res_feats_0: Tensor,
        high_res_feats_1: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        multimask: Tensor,
        add_no_mem_embed: Tensor,
    ) -> tuple[Tensor, ...]:
        return self.model.decode(
            features,
            high_res_feats_0,
            high_res_feats_1,
            point_coords,
            point_labels,
            mask_input,
            has_mask_input,
            multimask,
            add_no_mem_embed,
        )


class MemoryEncoderGraph(nn.Module):
    """`memory_encoder`."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        vision_features: Tensor,
        low_res_masks: Tensor,
        object_score_logits: Tensor,
        binarize: Tensor,
    ) -> Tensor:
        return self.model.memorise(vision_features, low_res_masks, object_score_logits, binarize)


def absorbed_value(layer: RotaryAttention) -> nn.Linear:
    """out_proj after v_proj as one linear layer, multiplied out in float64."""
    v, out = layer.v_proj, layer.out_proj
    merged = nn.Linear(v.in_features, out.out_features)
    merged.weight.data = (out.weight.double() @ v.weight.double()).float()
    merged.bias.data = (out.weight.double() @ v.bias.double() + out.bias.double()).float()
    return merged


def half_ordered(projection: nn.Linear) -> nn.Linear:
    """A query or key projection with its output channels in `halves_order`."""
    order = halves_order(projection.out_features)
    permuted = nn.Linear(projection.in_features, projection.out_features)
    permuted.weight.data = projection.weight[order]
    permuted.bias.data = projection.bias[order]
    return permuted


class RotaryBranch(nn.Module):
    """One attention branch of a layer with the algebra above applied to its weights."""

    def __init__(self, layer: RotaryAttention) -> None:
        super().__init__()
        self.q_proj, self.k_proj = half_ordered(layer.q_proj), half_ordered(layer.k_proj)


class AbsorbedLayer(nn.Module):
    """One layer of memory attention."""

    def __init__(self, layer: MemoryAttentionLayer) -> None:
        super().__init__()
        self.layer = layer
        self.self_branch = RotaryBranch(layer.self_attn)
        self.cross_branch = RotaryBranch(layer.cross_attn_image)
        self.cross_out = absorbed_value(layer.cross_attn_image)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        spatial_key: Tensor,
        ptr_key: Tensor,
        weighted_value: Tensor,
    ) -> Tensor:
        """x (b, T, C), spatial_key (b, k, T, M), ptr_key (b, pieces, M), weighted_value (b, N, M + 1)."""
        own, branch = self.layer.self_attn, self.self_branch
        n = self.layer.norm1(x)
        q, k = (rotate_halves(proj(n), *angles) for proj in (branch.q_proj, branch.k_proj))
        x = x + own.out_proj(attention(q, k, own.v_proj(n), 1))

        branch = self.cross_branch
        q = rotate_halves(branch.q_proj(self.layer.norm2(x)), *angles)
        k = rotate_halves(branch.k_proj(spatial_key), *angles).flatten(1, 2)
        k = torch.cat([k, branch.k_proj(ptr_key)], 1)
        read = attention(q, k, weighted_value, 1)
        x = x + self.cross_out(read[..., :-1] / read[..., -1:])
        return x + self.layer.mlp(x)


class MemoryAttentionGraph(nn.Module):
    """`memory_attention`."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = model
        self.layers = nn.ModuleList(AbsorbedLayer(layer) for layer in model.memory_attention.layers)

    def forward(
        self,
        vision_features: Tensor,
        memory: Tensor,
        memory_time: Tensor,
        memory_weight: Tensor,
        obj_ptrs: Tensor,
        obj_ptr_pos: Tensor,
        obj_ptr_weight: Tensor,
    ) -> Tensor:
        model, plain = self.model, self.model.memory_attention
        time = F.embedding(memory_time, model.time_codes())
        spatial_key = memory + model.memory_position.tokens() + time.unsqueeze(2)
        ptrs, ptr_code = model.pointer_tokens(obj_ptrs, obj_ptr_pos)
        pieces = obj_ptrs.shape[-1] // memory.shape[-1]
        ptr_weight = obj_ptr_weight.unsqueeze(-1).expand(-1, -1, pieces).flatten(1, 2)
        weight = memory_weight[..., None, None]
        value = torch.cat(
            [
                torch.cat([memory * weight, weight.expand_as(memory[..., :1])], -1).flatten(1, 2),
                torch.cat([ptrs * ptr_weight[..., None], ptr_weight[..., None]], -1),
            ],
            1,
        )
        x = vision_features.flatten(2).transpose(1, 2) + POSITION_SCALE * plain.position.tokens()
        angles = plain.angles()
        for layer in self.layers:
            x = layer(x, angles, spatial_key, ptrs + ptr_code, value)
        return plain.norm(x).transpose(1, 2).unflatten(2, vision_features.shape[2:])


MODULES: dict[str, type[nn.Module]] = {
    "image_encoder": ImageEncoderGraph,
    "memory_attention": MemoryAttentionGraph,
    "mask_decoder": MaskDecoderGraph,
    "memory_encoder": MemoryEncoderGraph,
}
