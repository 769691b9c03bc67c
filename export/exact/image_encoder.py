"""`image_encoder` restated by exact algebra; `export.model` holds the plain definition that it must equal.

*Slice work in the slice's pass.* What memory attention does before it first reads memory, and the memory encoder's
projection of the features, depend on the slice alone, not on the object: they are computed here, once.
"""

from __future__ import annotations

from torch import Tensor, nn

from export.exact.hiera import HieraTokens
from export.exact.memory_attention import SelfAttention
from export.exact.repvit import RepVitTokens
from export.exact.tokens import on_tokens, to_map
from export.exact.vit import VitTokens
from export.model.memory_attention import POSITION_SCALE
from export.model.neck import HieraEncoder
from export.model.repvit import RepVitEncoder
from export.model.sam2 import Sam2
from export.model.vit import VitEncoder

TRUNKS: dict[type[nn.Module], type[nn.Module]] = {
    HieraEncoder: HieraTokens,
    VitEncoder: VitTokens,
    RepVitEncoder: RepVitTokens,
}
"""An encoder as `export.model` has it to its cheaper form: a module of the model, from slices (n, 3, S, S) to tokens
(n, T, C) in raster order and what the decoder's `narrowed` gives."""


class ImageEncoderGraph(nn.Module):
    """`image_encoder`."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        memory = model.memory_attention
        self.trunk = TRUNKS[type(model.image_encoder)](model)
        self.memory_position, self.angles = memory.position, memory.angles
        self.before_memory = SelfAttention(memory.layers[0])
        self.projection = on_tokens(model.memory_encoder.pix_feat_proj)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        tokens, finer = self.trunk(image)
        attended = self.before_memory(
            tokens + POSITION_SCALE * self.memory_position.tokens(), self.angles()
        )
        return to_map(tokens), attended, to_map(self.projection(tokens)), *finer
