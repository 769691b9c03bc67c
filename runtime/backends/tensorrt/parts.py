"""What TensorRT's engines are built of: whole graphs, or the segments of one whose memory is read by our own kernel."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.memory_read import KEY_CHANNELS, VALUE_CHANNELS
from runtime.backends.lowering.cut_graph import CutGraph, cut_graph
from runtime.backends.lowering.typed_graph import Precision, typed_graph
from runtime.backends.refusals import read_whole_graph
from runtime.backends.tensorrt.build import Profile, profiles
from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import ModelNumbers
from runtime.errors import BackendUnavailable


@dataclass(frozen=True, slots=True)
class EnginePart:
    """What one engine is built of.

    Attributes:
        name: of the graph in the contract, or of a segment.
        typed: ONNX in the types that it is to be computed in.
        profiles: shapes to make it for.
        uses_tf32: as in `trt_build.build_engine`.
    """

    name: str
    typed: bytes
    profiles: list[Profile]
    uses_tf32: bool


def parts(
    bundle: Bundle, graph: str, precision: Precision
) -> tuple[list[EnginePart], CutGraph | None]:
    """Everything that a graph's engines are built of, in the order in which they run, and how it was cut, if it was.

    Raises BackendUnavailable without onnx or for a model that the kernel does not read, BundleError for a graph that no
    engine can be built of.
    """
    uses_tf32, data = precision.lowers(graph), read_whole_graph(bundle, graph)
    if not precision.cuts(graph):
        typed = typed_graph(data, graph, precision)
        return [EnginePart(graph, typed, profiles(bundle.model, graph), uses_tf32)], None
    check_kernel_reads(bundle.model)
    cut = cut_graph(data, bundle.model)
    segments = [
        EnginePart(
            segment.name,
            typed_graph(segment.data, graph, precision),
            profiles(bundle.model, graph, segment.inputs),
            uses_tf32,
        )
        for segment in cut.segments
    ]
    return segments, cut


def kernel_reads(model: ModelNumbers) -> bool:
    """Whether `kernels.memory_read` has a model's numbers of channels, and every token of a memory is a key."""
    is_whole = model.keys_per_memory == model.memory_tokens
    return is_whole and (model.d_model, model.mem_dim) == (KEY_CHANNELS, VALUE_CHANNELS)


def check_kernel_reads(model: ModelNumbers) -> None:
    """Raises BackendUnavailable for a model whose memory the kernel does not read."""
    if not kernel_reads(model):
        raise BackendUnavailable(
            f"{model.name} has {model.d_model} channels and memories of {model.mem_dim}, which it reads by "
            f"{model.keys_per_memory} keys of {model.memory_tokens}; the kernel that reads memory wants {KEY_CHANNELS} "
            f"and {VALUE_CHANNELS} and all keys, as every released SAM 2 has: take a back end without -kernel"
        )
