"""The graphs as modules to trace: each `forward` is signed exactly like the contract.

Some are the model's own methods; the others are restated, cheaper and equal, in `export.exact`.
"""

from __future__ import annotations

from torch import Tensor, nn

from export.exact.image_encoder import ImageEncoderGraph
from export.exact.memory_attention import MemoryAttentionGraph
from export.exact.narrow_norms import with_narrow_norms
from export.exact.sam1_encoder import Sam1EncoderTokens
from export.exact.tiny_vit import restated
from export.model.network import Network
from export.model.parts import only
from export.model.sam1 import Sam1
from export.model.sam1_trunk import Sam1Encoder
from export.model.sam2 import Sam2


class MaskDecoderGraph(nn.Module):
    """`mask_decoder` of a model with finer features."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = only(model, "sam_prompt_encoder", "sam_mask_decoder", "obj_ptr_proj")

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
            point_coords,
            point_labels,
            mask_input,
            has_mask_input,
            multimask,
            add_no_mem_embed,
            high_res_feats_0=high_res_feats_0,
            high_res_feats_1=high_res_feats_1,
        )


class CoarseMaskDecoderGraph(nn.Module):
    """`mask_decoder` of a model without finer features."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = only(model, "sam_prompt_encoder", "sam_mask_decoder", "obj_ptr_proj")

    def forward(
        self,
        features: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        multimask: Tensor,
        add_no_mem_embed: Tensor,
    ) -> tuple[Tensor, ...]:
        return self.model.decode(
            features,
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
        self.model = only(model, "memory_encoder", "spatial_perceiver")
        self.model.memory_encoder = with_narrow_norms(model.memory_encoder)

    def forward(
        self,
        projected_features: Tensor,
        low_res_masks: Tensor,
        object_score_logits: Tensor,
        binarize: Tensor,
    ) -> Tensor:
        return self.model.memorise(projected_features, low_res_masks, object_score_logits, binarize)


class SingleEncoderGraph(nn.Module):
    """`image_encoder` of a model of single images."""

    def __init__(self, model: Sam1) -> None:
        super().__init__()
        encoder = model.image_encoder
        is_sam1 = isinstance(encoder, Sam1Encoder)
        self.encoder = Sam1EncoderTokens(encoder) if is_sam1 else restated(encoder)

    def forward(self, image: Tensor) -> Tensor:
        (features,) = self.encoder(image)
        return features


class SingleDecoderGraph(nn.Module):
    """`mask_decoder` of a model of single images."""

    def __init__(self, model: Sam1) -> None:
        super().__init__()
        self.model = only(model, "prompt_encoder", "mask_decoder")

    def forward(
        self,
        features: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        multimask: Tensor,
    ) -> tuple[Tensor, ...]:
        return self.model.decode(
            features, point_coords, point_labels, mask_input, has_mask_input, multimask
        )


MODULES: dict[str, type[nn.Module]] = {
    "image_encoder": ImageEncoderGraph,
    "memory_attention": MemoryAttentionGraph,
    "mask_decoder": MaskDecoderGraph,
    "memory_encoder": MemoryEncoderGraph,
}


SINGLE_MODULES: dict[str, type[nn.Module]] = {
    "image_encoder": SingleEncoderGraph,
    "mask_decoder": SingleDecoderGraph,
}


def graph_module(model: Network, graph: str) -> nn.Module:
    """What is traced as one of a model's graphs."""
    if isinstance(model, Sam1):
        return SINGLE_MODULES[graph](model)
    if graph == "mask_decoder" and not model.numbers.has_high_res:
        return CoarseMaskDecoderGraph(model)
    return MODULES[graph](model)
