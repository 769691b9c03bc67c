"""SAM 1, MedSAM and LiteMedSAM from a row of the variants table, with the official state-dict keys.

Its two methods have the signatures of the graphs of an `image` in `runtime.bundle.contract` and are the plain, eager
truth that exported graphs are compared with.
"""

from __future__ import annotations

from torch import Tensor, nn

from export.model.image_encoder import image_encoder
from export.model.prompt_encoder import PromptEncoder
from export.model.sam1_decoder import Sam1MaskDecoder, chosen
from export.variants import Variant


class Sam1(nn.Module):
    """One model at its own image size; always in inference mode."""

    def __init__(self, variant: Variant, image_size: int | None = None) -> None:
        super().__init__()
        self.numbers = variant.numbers(variant.image_size if image_size is None else image_size)
        self.image_encoder = image_encoder(variant, self.numbers.image_size)
        self.prompt_encoder = PromptEncoder(variant, self.numbers)
        self.mask_decoder = Sam1MaskDecoder(variant)
        self.eval().requires_grad_(False)

    def encode(self, image: Tensor) -> Tensor:
        """`image_encoder`: prepared images (n, 3, S, S)."""
        (features,) = self.image_encoder(image)
        return features

    def decode(
        self,
        features: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        multimask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`mask_decoder`: selected low-resolution logits and their iou; points are padded by whoever asks."""
        prompts = self.prompt_encoder
        masks, ious = self.mask_decoder(
            features + prompts.dense(mask_input, has_mask_input),
            prompts.image_position(),
            prompts.tokens(point_coords, point_labels),
        )
        return chosen(masks.float(), ious, multimask)
