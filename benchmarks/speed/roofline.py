"""`python -m benchmarks roofline`: the least time that a bundle's graphs can take on a machine with given ceilings.

What is counted is what has to be computed: each product, convolution and attention reads its operands and writes its
result once, in two bytes a number; everything else is taken as fused into them. A graph can be no faster than the sum
over its operators of the time for their arithmetic or their bytes, whichever is longer. Softmax, launches and caches
are left out, so the floor is a bound and not a promise.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.bundle.bundle import Bundle, open_bundle
from runtime.errors import InputError
from runtime.measure.latency import STAGES
from runtime.process.counted import counted
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

if TYPE_CHECKING:
    import onnx

    from benchmarks.speed.onnx_shapes import Shape

BYTES = 2  # of a number in bf16 or fp16
TOTAL = "total"

EXAMPLES = """examples:
  python -m benchmarks ceilings | tail -n 1 > ceilings.json
  python -m benchmarks roofline medsam2 --ceilings ceilings.json
  python -m benchmarks roofline random512 --tflops 790 --gb-s 4300 --rows 2 --slots 7 --pointers 16
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one operator takes: floating-point operations (two for each product and sum) and bytes."""

    operator: str
    flop: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a machine can do: operations and bytes per second."""

    flop_per_s: float
    bytes_per_s: float

    def floor_ms(self, cost: Cost) -> float:
        """The least time that an operator can take."""
        return 1e3 * max(cost.flop / self.flop_per_s, cost.size_bytes / self.bytes_per_s)


def _matrix_product(node: onnx.NodeProto, ins: Sequence[Shape], out: Shape) -> int:
    return 2 * math.prod(out) * ins[0][-1]


def _gemm(node: onnx.NodeProto, ins: Sequence[Shape], out: Shape) -> int:
    is_turned = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * math.prod(out) * ins[0][0 if is_turned else 1]


def _convolution(node: onnx.NodeProto, ins: Sequence[Shape], out: Shape) -> int:
    return 2 * math.prod(out) * math.prod(ins[1][1:])


def _transposed_convolution(node: onnx.NodeProto, ins: Sequence[Shape], out: Shape) -> int:
    return 2 * math.prod(ins[0]) * math.prod(ins[1][1:])


def _attention(node: onnx.NodeProto, ins: Sequence[Shape], out: Shape) -> int:
    (rows, queries, channels), keys = ins[0], ins[1][1]
    return 2 * rows * queries * keys * (channels + ins[2][-1])


OPERATORS: Mapping[str, Callable[[onnx.NodeProto, Sequence[Shape], Shape], int]] = {
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MultiHeadAttention": _attention,
}
"""What counts, and how many operations it takes, given the shapes of inputs and output."""


def graph_costs(model: onnx.ModelProto, axes: Mapping[str, int]) -> list[Cost]:
    """Every operator of a graph that counts, at given lengths of its dynamic axes. Raises BundleError."""
    from benchmarks.speed.onnx_shapes import infer_shapes

    given = {value.name for value in model.graph.input}
    # Every memory is read, which pooled ones are only where there are several.
    read = (
        {"memory_weight": np.ones((axes["b"], axes["k"]), np.float32)}
        if "memory_weight" in given
        else {}
    )
    shapes = infer_shapes(model, axes, read)
    costs = []
    for node in model.graph.node:
        if count := OPERATORS.get(node.op_type):
            ins, out = [shapes[name] for name in node.input if name], shapes[node.output[0]]
            numbers = math.prod(out) + sum(map(math.prod, ins))
            costs.append(Cost(node.op_type, count(node, ins, out), BYTES * numbers))
    return costs


def step_costs(
    bundle: Bundle, rows: int = 1, slots: int | None = None, pointers: int | None = None
) -> dict[str, list[Cost]]:
    """Costs of a tracked slice by stage of `runtime.measure.latency.STAGES`.

    Raises InputError for a bundle in eight bits.

    Args:
        bundle: whose graphs to count.
        rows: objects times directions that advance together.
        slots: memories that each reads; None is a full memory.
        pointers: object pointers that each reads; None is all there can be.
    """
    axes = {
        "n": 1,
        "b": rows,
        "k": bundle.model.num_maskmem if slots is None else slots,
        "p": bundle.model.max_obj_ptrs if pointers is None else pointers,
        "q": 1,
    }
    import onnx

    return {
        STAGES[graph]: graph_costs(onnx.load_from_string(bundle.read_graph(graph)), axes)
        for graph in bundle.model.graphs
    }


def floor_ms(costs: Mapping[str, Sequence[Cost]], ceilings: Ceilings) -> dict[str, float]:
    """The least milliseconds of every stage, and of all together as "total"."""
    floors = {stage: sum(map(ceilings.floor_ms, own)) for stage, own in costs.items()}
    return {**floors, TOTAL: sum(floors.values())}


def read_ceilings(path: Path, product: str) -> Ceilings:
    """From what `python -m benchmarks ceilings` wrote: its copy, and the fastest product of a dtype such as "bf16".

    Raises InputError.
    """
    try:
        figures = json.loads(path.read_bytes())["figures"]
        products = [row["value"] for name, row in figures.items() if name.startswith(f"{product} ")]
        return Ceilings(1e12 * max(products), 1e9 * figures["copy"]["value"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not tell the ceilings of {product} products and copies ({error!r}); "
            "wanted the last line of python -m benchmarks ceilings"
        ) from error


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks roofline",
        "Count a bundle's arithmetic and bytes, and the least time they take.",
        EXAMPLES,
    )
    p.add_argument("bundle", metavar="BUNDLE")
    p.add_argument(
        "--ceilings", type=Path, metavar="F.json", help="of python -m benchmarks ceilings"
    )
    p.add_argument("--product", default="bf16", help="dtype whose ceiling counts (%(default)s)")
    p.add_argument("--tflops", type=float, metavar="X", help="a ceiling by hand, with --gb-s")
    p.add_argument("--gb-s", type=float, metavar="X", help="a ceiling by hand, with --tflops")
    p.add_argument("--rows", type=int, default=1, help="objects times directions (%(default)s)")
    p.add_argument("--slots", type=int, metavar="N", help="memories read; default: a full memory")
    p.add_argument("--pointers", type=int, metavar="N", help="default: as many as can be")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    counts = {"rows": args.rows, "slots": args.slots, "pointers": args.pointers}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"found --{name} {count}; wanted 1 or more")
    ceilings = _ceilings(args)
    bundle = open_bundle(args.bundle)
    costs = step_costs(bundle, **counts)
    floors = floor_ms(costs, ceilings)
    everything = {**costs, TOTAL: [cost for own in costs.values() for cost in own]}
    report: dict[str, Any] = {
        "model": bundle.model.name,
        "model_image_size": bundle.model.image_size,
        **counts,
        "tflops": ceilings.flop_per_s / 1e12,
        "gb_s": ceilings.bytes_per_s / 1e9,
        "stages": {
            stage: {
                "operators": len(own),
                "gflop": round(sum(cost.flop for cost in own) / 1e9, 3),
                "mb": round(sum(cost.size_bytes for cost in own) / 1e6, 3),
                "floor_ms": round(floors[stage], 6),
            }
            for stage, own in everything.items()
        },
    }
    print(table(report))
    print_result(report)


def _ceilings(args: argparse.Namespace) -> Ceilings:
    by_hand = (args.tflops, args.gb_s)
    if args.ceilings is not None and by_hand == (None, None):
        return read_ceilings(args.ceilings, args.product)
    if args.ceilings is None and all(value is not None and value > 0 for value in by_hand):
        return Ceilings(1e12 * args.tflops, 1e9 * args.gb_s)
    raise InputError("wanted either --ceilings, or both --tflops and --gb-s above 0")


def table(report: Mapping[str, Any]) -> str:
    """The report for people, in Markdown."""
    lines = [
        f"{report['model']} at {report['model_image_size']} pixels, {counted(report['rows'], 'row')}, ceilings "
        f"{report['tflops']:.3g} TFLOP/s and {report['gb_s']:.4g} GB/s",
        "",
        "| stage | operators | GFLOP | MB | floor, ms |",
        "|---" * 5 + "|",
    ]
    lines += [
        f"| {stage} | {row['operators']} | {row['gflop']:.1f} | {row['mb']:.1f} | {row['floor_ms']:.4f} |"
        for stage, row in report["stages"].items()
    ]
    return "\n".join(lines)
