"""Where memory attention reads memory: what the exporter writes into that graph's metadata, and back ends read there.

A read is attention of one head over N keys (`ModelNumbers.num_keys`), scaled by 1 / sqrt(C). Key j has weight w_j and
value m_j, which `kernels.pack_values` makes of the graph's inputs:

    result = sum_j w_j e^s_j m_j / sum_j w_j e^s_j  with  s_j = query . key_j / sqrt(C)

`ModelProto.metadata_props` holds under `PROPERTY` a JSON list with one object a read, in the order of the layers, which
names a tensor of the graph for each attribute of `MemoryReadNames`. After a read the graph goes on from its result and
its residual alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from runtime.bundle.contract import ModelNumbers, TensorSpec
from runtime.files.strict_json import Fault, Numbers, Object, Text, parse

GRAPH = "memory_attention"
PROPERTY = "medsam2_runtime.memory_reads"
PACKED = ("memory", "memory_weight", "obj_ptrs", "obj_ptr_weight")
"""Inputs of the graph that values and weights are made of: arguments of `kernels.pack_values`."""
MAX_READS = 64  # one a layer; SAM 2 has four


@dataclass(frozen=True, slots=True)
class MemoryReadNames:
    """Names of the float32 tensors of one read, with T, C, M as in `ModelNumbers`.

    Attributes:
        residual: (b, T, C), what the layer adds to after the read.
        query: (b, T, C).
        key: (b, N, C).
        result: (b, T, M).
    """

    residual: str
    query: str
    key: str
    result: str


def read_specs(model: ModelNumbers) -> dict[str, TensorSpec]:
    """Shapes of a read's tensors by the attribute of `MemoryReadNames`; "N" is the axis of keys."""
    tokens = TensorSpec(("b", model.num_tokens, model.d_model))
    return {
        "residual": tokens,
        "query": tokens,
        "key": TensorSpec(("b", "N", model.d_model)),
        "result": TensorSpec(("b", model.num_tokens, model.mem_dim)),
    }


RULES = Numbers(
    Object(required={field.name: Text() for field in fields(MemoryReadNames)}), 1, MAX_READS
)


def reads_to_json(reads: Iterable[MemoryReadNames]) -> str:
    """What the exporter writes."""
    return json.dumps([asdict(read) for read in reads])


def reads_from_json(text: str) -> tuple[MemoryReadNames, ...]:
    """What back ends read. Raises Fault for anything else than `reads_to_json` gives."""
    entries = parse(text.encode())
    RULES.check(entries, "")
    results = [entry["result"] for entry in entries]
    if len(set(results)) < len(results):
        raise Fault(f"two reads have one result: {', '.join(results)}")
    return tuple(MemoryReadNames(**entry) for entry in entries)
