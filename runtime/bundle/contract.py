"""The agreement between the exporter and every runtime: graphs, tensor names, shapes, dtypes, constants.

This is the only file that knows them; exporter, back ends, fake and tests read it. It does not know how a
graph computes what it computes, nor in which order graphs run.

A *kind* of bundle says which graphs there are and what they can do: a `volume` remembers what it has segmented and
tells an object's presence and pointer; an `image` does neither. Families differ in numbers alone: see `ModelNumbers`.

Axes that stay dynamic are strings: `n` slices, `b` rows (an object in one direction), `k` memory slots,
`p` object pointers, `q` points. All host arrays are (z, y, x), boxes half-open; (x, y) order exists only in
`point_coords`, where the model wants it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

FORMAT_VERSION = 5
LOW_RES_SCALE = 4  # pixels of a low-resolution mask along a feature cell, in every family
MASK_SCALE = (
    4  # pixels of a mask as memories are made of it along a low-resolution pixel, in every family
)

PROFILES: Mapping[str, tuple[str, ...]] = {
    "volume": ("sam2",),
    "image": ("sam", "medsam", "litemedsam"),
}
"""How a slice becomes the encoder's input, by kind of bundle. "sam2": a square of S pixels by PIL's antialiased bicubic
filter, whatever the slice's shape, and the mean and deviation of ImageNet. The others: `kernels.image_profiles`."""

PIXEL_MEAN = (0.485, 0.456, 0.406)  # ImageNet, sam2/utils/misc.py load_video_frames
PIXEL_STD = (0.229, 0.224, 0.225)

NO_OBJ_SCORE = -1024.0  # logit of an absent object, sam2/modeling/sam2_base.py
MASK_PROMPT_LOGIT = 10.0  # a mask prompt becomes logits of +-10, sam2_base.py _use_mask_as_output
# Previous logits fed back with clicks are clamped, sam2_video_predictor.py.
PREVIOUS_LOGIT_LIMIT = 32.0

LABEL_PAD, LABEL_NEGATIVE, LABEL_POSITIVE, LABEL_BOX_START, LABEL_BOX_STOP = -1, 0, 1, 2, 3

GRAPHS = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")
"""Every graph that a bundle may hold."""
KINDS: Mapping[str, tuple[str, ...]] = {
    "volume": GRAPHS,
    "image": ("image_encoder", "mask_decoder"),
}
"""Graphs by kind of bundle."""


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """The numbers of a model that the runtime needs; they travel in the manifest.

    Attributes:
        name: row of the exporter's variants table.
        kind: a key of `KINDS`.
        profile: one of the kind's `PROFILES`.
        image_size: side S of the square image in pixels.
        prompt_size: side of the square in whose coordinates points and boxes are given; S in SAM 2.
        grid: side G of the feature map in cells; S / 16 in SAM 2.
        d_model: channels C of a vision feature.
        has_high_res: the decoder also sees finer features of the slice.
        mem_dim: channels M of a memory token; this and what follows is 0 in an `image`.
        memory_tokens: tokens L of a memory as it is stored; G * G in SAM 2.
        keys_per_memory: keys that memory attention makes of a memory, where it reads several; L in SAM 2.
        num_maskmem: memories read per step apart from further prompted ones (7 in SAM 2).
        max_obj_ptrs: frames whose object pointers are read (16 in SAM 2).
    """

    name: str
    kind: str
    profile: str
    image_size: int
    prompt_size: int
    grid: int
    d_model: int
    has_high_res: bool
    mem_dim: int = 0
    memory_tokens: int = 0
    keys_per_memory: int = 0
    num_maskmem: int = 0
    max_obj_ptrs: int = 0

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the model's graphs."""
        return KINDS[self.kind]

    @property
    def num_tokens(self) -> int:
        """Tokens T of a slice's features: G * G."""
        return self.grid**2

    @property
    def low_res(self) -> int:
        """Side of a low-resolution mask in pixels: 4 G."""
        return LOW_RES_SCALE * self.grid

    @property
    def mask_size(self) -> int:
        """Side in pixels of a mask as memories and mask prompts are made of it: 16 G, which is S in SAM 2."""
        return MASK_SCALE * self.low_res

    def num_keys(self, k: int, p: int) -> int:
        """Keys of memory attention: those of k memories, and p pointers cut into pieces of M channels."""
        return k * self.keys_per_memory + p * (self.d_model // self.mem_dim)

    @property
    def no_time(self) -> int:
        """`memory_time` of a slot without temporal code: images of a set have no order."""
        return self.num_maskmem


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape (strings are dynamic axes) and numpy dtype name of one tensor."""

    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.dtype}{self.shape}"

    def fits(self, other: TensorSpec) -> bool:
        """Whether a tensor that an engine describes is this one, whatever it calls the axes of any length."""
        return self._unnamed() == other._unnamed()

    def _unnamed(self) -> tuple[str, tuple[int | None, ...]]:
        return self.dtype, tuple(None if isinstance(side, str) else side for side in self.shape)

    def bind(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """Concrete shape under the given axis lengths. Raises KeyError for an axis that is missing."""
        return tuple(axes[side] if isinstance(side, str) else side for side in self.shape)

    def mismatch(self, shape: tuple[int, ...], dtype: str, axes: dict[str, int]) -> str | None:
        """Why an array does not fit, or None; lengths of dynamic axes met are recorded in `axes`."""
        if dtype != self.dtype or len(shape) != len(self.shape):
            return f"is {dtype}{shape}, contract says {self}"
        for length, side in zip(shape, self.shape, strict=True):
            expected = axes.setdefault(side, length) if isinstance(side, str) else side
            if length != expected:
                return f"is {dtype}{shape}, contract says {self} with {side} = {expected}"
        return None


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """Inputs and outputs of one graph, in order."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def check_inputs(self, graph: str, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Lengths of the dynamic axes; ValueError if a tensor is missing, unknown or misshapen."""
        if arrays.keys() != self.inputs.keys():
            raise ValueError(
                f"{graph}: inputs are {sorted(arrays)}, contract says {sorted(self.inputs)}"
            )
        axes: dict[str, int] = {}
        for name, spec in self.inputs.items():
            array = arrays[name]
            if why := spec.mismatch(array.shape, dtype_name(array.dtype), axes):
                raise ValueError(f"{graph}: input '{name}' {why}")
        return axes

    def difference(self, graph: GraphSpec) -> str | None:
        """The first thing in which a graph, as an engine that has opened it describes it, is not this one, or None.

        Args:
            graph: its tensors by name, in any order; an axis of any length is a string, whatever it is called.
        """
        kinds = (("input", graph.inputs, self.inputs), ("output", graph.outputs, self.outputs))
        for kind, described, wanted in kinds:
            if described.keys() != wanted.keys():
                return f"{kind}s are {sorted(described)}, contract says {sorted(wanted)}"
            for name, spec in wanted.items():
                if not spec.fits(described[name]):
                    return f"{kind} '{name}' is {described[name]}, contract says {spec}"
        return None


@cache
def dtype_name(dtype: np.dtype) -> str:
    """A dtype as specs have it; numpy puts the name together anew, which costs more than the rest of a check."""
    return dtype.name


def graph_specs(model: ModelNumbers) -> dict[str, GraphSpec]:
    """The graphs of a model, keyed by `ModelNumbers.graphs`.

    - `image_encoder`: normalised slices to features; run once a slice. `attended_features` are what memory attention,
      `projected_features` what the memory encoder makes of a slice before it looks at anything else.
    - `memory_attention`: a slice's features conditioned on memories. `memory_time` is the row of the temporal
      code, one past its end for none; `memory_weight` and `obj_ptr_weight` multiply each slot's attention (0 masks
      it exactly, 1 is SAM 2); `obj_ptr_pos` is the signed distance divided by (pointers read - 1).
    - `mask_decoder`: prompt encoder and decoder; masks come selected (best of three if `multimask`, else the
      single mask with SAM 2's stability fallback) and gated by the object score, as raw logits.
      `add_no_mem_embed` marks rows whose features did not pass memory attention.
    - `memory_encoder`: raw logits to a memory; scaling happens here and nowhere else. `binarize` marks prompted
      masks.

    Of an `image`, `image_encoder` gives features alone, and `mask_decoder` takes and gives nothing that has to do with
    memory, with presence or with pointers. Where there are no finer features, neither graph names any.
    """
    encoder, decoder = _encoder(model), _decoder(model)
    if model.kind == "image":
        return {"image_encoder": encoder, "mask_decoder": decoder}
    g, c, m, t, tokens = (
        model.grid,
        model.d_model,
        model.mem_dim,
        model.num_tokens,
        model.memory_tokens,
    )
    return {
        "image_encoder": encoder,
        "memory_attention": GraphSpec(
            inputs={
                "attended_features": TensorSpec(("b", t, c)),
                "memory": TensorSpec(("b", "k", tokens, m)),
                "memory_time": TensorSpec(("b", "k"), "int64"),
                "memory_weight": TensorSpec(("b", "k")),
                "obj_ptrs": TensorSpec(("b", "p", c)),
                "obj_ptr_pos": TensorSpec(("b", "p")),
                "obj_ptr_weight": TensorSpec(("b", "p")),
            },
            outputs={"conditioned_features": TensorSpec(("b", c, g, g))},
        ),
        "mask_decoder": decoder,
        "memory_encoder": GraphSpec(
            inputs={
                "projected_features": TensorSpec(("b", c, g, g)),
                "low_res_masks": TensorSpec(("b", 1, model.low_res, model.low_res)),
                "object_score_logits": TensorSpec(("b",)),
                "binarize": TensorSpec(("b",), "bool"),
            },
            outputs={"memory": TensorSpec(("b", tokens, m))},
        ),
    }


def _encoder(model: ModelNumbers) -> GraphSpec:
    s, g, c = model.image_size, model.grid, model.d_model
    outputs = {"vision_features": TensorSpec(("n", c, g, g))}
    if model.kind == "volume":
        outputs["attended_features"] = TensorSpec(("n", model.num_tokens, c))
        outputs["projected_features"] = TensorSpec(("n", c, g, g))
    return GraphSpec({"image": TensorSpec(("n", 3, s, s))}, {**outputs, **_high_res(model, "n")})


def _decoder(model: ModelNumbers) -> GraphSpec:
    c, g, low = model.d_model, model.grid, model.low_res
    mask = TensorSpec(("b", 1, low, low))
    flag, number = TensorSpec(("b",), "bool"), TensorSpec(("b",))
    inputs = {
        "features": TensorSpec(("b", c, g, g)),
        **_high_res(model, "b"),
        "point_coords": TensorSpec(("b", "q", 2)),
        "point_labels": TensorSpec(("b", "q"), "int64"),
        "mask_input": mask,
        "has_mask_input": flag,
        "multimask": flag,
    }
    outputs = {"low_res_masks": mask, "ious": number}
    if model.kind == "volume":
        inputs["add_no_mem_embed"] = flag
        outputs |= {"object_score_logits": number, "obj_ptr": TensorSpec(("b", c))}
    return GraphSpec(inputs, outputs)


HIGH_RES = ("high_res_feats_0", "high_res_feats_1")
"""Finer features of a slice, of which a network has both or none."""


def _high_res(model: ModelNumbers, axis: str) -> dict[str, TensorSpec]:
    """Finer features, as far as a model has them."""
    if not model.has_high_res:
        return {}
    c, low = model.d_model, model.low_res
    shapes = (c // 8, low, low), (c // 4, low // 2, low // 2)
    return {name: TensorSpec((axis, *shape)) for name, shape in zip(HIGH_RES, shapes, strict=True)}


def feature_bytes(model: ModelNumbers) -> int:
    """What one encoded slice takes: the encoder's outputs, in float32."""
    outputs = graph_specs(model)["image_encoder"].outputs.values()
    return sum(4 * math.prod(spec.bind({"n": 1})) for spec in outputs)
