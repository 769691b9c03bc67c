"""How ONNX Runtime shares a read of memory among threads, and a graph in which its last block is not in the way.

Its fused attention on the CPU cuts queries into blocks of a size that the second-level cache decides, and hands whole
blocks to threads (`onnxruntime/contrib_ops/cpu/bert/multihead_attention.cc`). 1024 queries of 256 channels make blocks
of 51, 102, 204 or 255 and, each time, one of four queries more: on two threads with blocks of 102 one thread has six
and the other five, of which one is hardly any, and with blocks of 255 three and two. The few queries that are left over
are read apart instead, by a node of their own: numbers change by rounding at most, and every thread has as much to do.
"""

from __future__ import annotations

from collections.abc import Collection
from math import ceil

from runtime.bundle.contract import ModelNumbers
from runtime.bundle.memory_reads import PROPERTY, reads_from_json
from runtime.bundle.wire import Field, fields, written
from runtime.files.strict_json import Fault

# Field numbers of onnx.proto3 (ONNX IR version 10).
GRAPH, METADATA = 7, 14
NODE, INITIALIZER = 1, 5
KEY, VALUE = 1, 2  # of an entry of the metadata; 1 is an attribute's name too
INPUT, OUTPUT, NAME, OP_TYPE, ATTRIBUTE = 1, 2, 3, 4, 5
AXIS_VALUE, AXIS_TYPE, INT = 3, 20, 2
DIMS, DATA_TYPE, INT64_DATA, TENSOR_NAME, INT64 = 1, 2, 7, 8, 7

ATTENTION = "MultiHeadAttention"
FEW = 4  # a block that is smaller than others by this factor is read apart
# Of laptops whose system does not tell: Intel's of the eleventh to the thirteenth generation have as much.
USUAL_CACHE_BYTES = 1280 * 1024


def block_size(model: ModelNumbers, cache_bytes: int) -> int:
    """Queries of a block when this network reads memory."""
    channels = model.d_model + model.mem_dim + 1
    return max(1, min(cache_bytes // (16 * channels), channels))


def queries_apart(model: ModelNumbers, threads: int, cache_bytes: int | None) -> int:
    """How many of the last queries had better be read apart: 0 where they keep no thread waiting.

    Args:
        model: whose memory is read.
        threads: that read it.
        cache_bytes: second-level cache of one core; None where nobody knows.
    """
    size = block_size(model, cache_bytes or USUAL_CACHE_BYTES)
    blocks, rest = divmod(model.num_tokens, size)
    somebody_waits = threads > 1 and ceil((blocks + 1) / threads) > ceil(blocks / threads)
    return rest if blocks and rest * FEW <= size and somebody_waits else 0


def read_apart(data: bytes, num_tokens: int, num_apart: int) -> bytes:
    """The graph of memory attention with its last queries read by nodes of their own.

    Args:
        data: ONNX, which says in its metadata where it reads memory.
        num_tokens: queries of a read.
        num_apart: how many of them.

    Without such metadata it is given back as it is. Raises ValueError for what is no ONNX graph.
    """
    try:
        model = list(fields(memoryview(data)))
        reads = _reads(model)
        graph = next(field for field in model if field.number == GRAPH)
        if not isinstance(graph.value, memoryview):
            raise ValueError("its graph is a number")
        body = _with_parts(graph.value, reads, (num_tokens - num_apart, num_apart))
    except (IndexError, StopIteration):
        raise ValueError("it is not whole") from None
    return data[: graph.start] + written(GRAPH, body) + data[graph.stop :]


def _with_parts(graph: memoryview, reads: Collection[list[str]], sizes: tuple[int, int]) -> bytes:
    """A graph's message with every attention that reads memory in two parts."""
    parts, at = [], 0
    for field in fields(graph):
        node = field.value
        if field.number != NODE or not isinstance(node, memoryview):
            continue
        if _texts(node, OP_TYPE) == [ATTENTION] and _texts(node, INPUT)[:2] in reads:
            parts += [bytes(graph[at : field.start]), *_in_two(node, sizes)]
            at = field.stop
    return b"".join([*parts, bytes(graph[at:])])


def _reads(model: list[Field]) -> Collection[list[str]]:
    """Queries and keys of the reads that a model's metadata speaks of."""
    for field in model:
        entry = field.value
        if field.number != METADATA or not isinstance(entry, memoryview):
            continue
        if _texts(entry, KEY) == [PROPERTY]:
            try:
                reads = reads_from_json("".join(_texts(entry, VALUE)))
            except Fault as fault:
                raise ValueError(str(fault)) from None
            return [[read.query, read.key] for read in reads]
    return []


def _in_two(node: memoryview, sizes: tuple[int, int]) -> list[bytes]:
    """What stands for one attention: its queries split, both parts read, results joined; and the parts' sizes."""
    query, *others = _texts(node, INPUT)
    (result,) = _texts(node, OUTPUT)
    name = f"{result}/sizes"
    queries, results = ([f"{result}/{what}_{i}" for i in (0, 1)] for what in ("query", "read"))
    rest = b"".join(
        node[field.start : field.stop]
        for field in fields(node)
        if field.number not in (INPUT, OUTPUT, NAME)
    )
    tensor = written(DIMS, len(sizes)) + written(DATA_TYPE, INT64)
    tensor += b"".join(written(INT64_DATA, size) for size in sizes)
    along = written(KEY, b"axis") + written(AXIS_VALUE, 1) + written(AXIS_TYPE, INT)
    split, concat = (
        written(OP_TYPE, kind) + written(ATTRIBUTE, along) for kind in (b"Split", b"Concat")
    )
    return [
        _node([query, name], queries, split),
        *(_node([part, *others], [out], rest) for part, out in zip(queries, results, strict=True)),
        _node(results, [result], concat),
        written(INITIALIZER, tensor + written(TENSOR_NAME, name.encode())),
    ]


def _node(inputs: list[str], outputs: list[str], rest: bytes) -> bytes:
    """A node of a graph, named after what it gives."""
    named = [(INPUT, text) for text in inputs] + [(OUTPUT, text) for text in outputs]
    ends = b"".join(written(number, text.encode()) for number, text in named)
    return written(NODE, ends + written(NAME, f"{outputs[0]}/node".encode()) + rest)


def _texts(message: memoryview, number: int) -> list[str]:
    """Texts of a message's fields of a number. Raises ValueError for what is no text."""
    values = (field.value for field in fields(message) if field.number == number)
    return [str(value, "utf-8") for value in values if isinstance(value, memoryview)]
