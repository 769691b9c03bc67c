"""`python -m benchmarks ceilings`: what this machine can do at the most, measured: copies, products, launches.

Whatever is timed elsewhere is set against these figures rather than against a data sheet. Data is random, because a
card that multiplies zeros draws less power and keeps a higher clock. Each figure is the median of several timings; on
CUDA the device times itself between events, and small products are replayed as one graph so that launches do not count.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.devices import DEVICES, MIB, check_device, clocks, default_device, timed_ms
from runtime.errors import InputError
from runtime.machine import machine_name
from runtime.streams import print_result

TOKENS, CHANNELS = 1024, 256  # M and K of memory attention's products at 512 pixels
SMALL = (256, 512, 1024, 2048)  # their N
BURST = 200  # launches or small products between two readings of the clock
NODES = 1000  # of the graph whose cost per node is taken
HOST_COPY_MIB = 256

EXAMPLES = """examples:
  python -m benchmarks ceilings                            # CUDA where it is, else the processor
  python -m benchmarks ceilings --device cpu --copy-mib 16 --side 256
  python -m benchmarks ceilings --device cuda | tail -n 1 > ceilings.json

The last line is JSON. GB/s of a copy counts bytes read and bytes written; of a transfer to or from the host, each once.
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large and how often: buffers in MiB, side of the large products, timings of each figure."""

    copy_mib: int
    side: int
    repeat: int


USUAL = {"cpu": Sizes(64, 1024, 5), "cuda": Sizes(1024, 8192, 20)}


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing to measure: its name, its unit, and how."""

    name: str
    unit: str
    measure: Callable[[], float]


def figures(device: str, sizes: Sizes) -> list[Figure]:
    """What can be measured on one of `DEVICES`."""
    dtypes = ("bf16", "fp16", "tf32") if device == "cuda" else ("bf16", "fp32")
    shapes = [(sizes.side,) * 3, *((TOKENS, CHANNELS, n) for n in SMALL)]
    products = [
        Figure(
            f"{dtype} {m}x{k}x{n}",
            "TFLOP/s",
            partial(product_tflops, device, dtype, (m, k, n), sizes.repeat),
        )
        for dtype in dtypes
        for m, k, n in shapes
    ]
    copy = Figure("copy", "GB/s", partial(copy_gb_s, device, sizes))
    return [copy, *products, *(_launches(sizes.repeat) if device == "cuda" else [])]


def _launches(repeat: int) -> list[Figure]:
    """What only a device beside the host has."""
    return [
        Figure("launch", "us", partial(launch_us, empty_kernel, repeat)),
        Figure("eager operator", "us", partial(eager_operator_us, repeat)),
        Figure("graph of one node", "us", partial(graph_us, 1, repeat)),
        Figure("graph node", "us", partial(graph_us, NODES, repeat)),
        Figure("host to device", "GB/s", partial(transfer_gb_s, True, repeat)),
        Figure("device to host", "GB/s", partial(transfer_gb_s, False, repeat)),
        Figure("4 bytes to device", "us", partial(round_trip_us, True, repeat)),
        Figure("4 bytes to host", "us", partial(round_trip_us, False, repeat)),
    ]


def copy_gb_s(device: str, sizes: Sizes) -> float:
    """Of a copy within one memory."""
    source = torch.rand(sizes.copy_mib * MIB // 4, device=device)
    target = torch.empty_like(source)
    ms = median_ms(lambda: target.copy_(source), device, sizes.repeat)
    return 2 * source.nbytes / ms / 1e6


def product_tflops(device: str, dtype: str, shape: tuple[int, int, int], repeat: int) -> float:
    """Of (m, k) times (k, n)."""
    m, k, n = shape
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype, torch.float32)
    a, b = torch.randn(m, k, device=device).to(kind), torch.randn(k, n, device=device).to(kind)
    out = torch.empty(m, n, device=device, dtype=kind)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    try:
        ms = _product_ms(lambda: torch.matmul(a, b, out=out), device, m, repeat)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return 2e-9 * m * k * n / ms


def _product_ms(product: Callable[[], Tensor], device: str, rows: int, repeat: int) -> float:
    if device == "cpu" or rows > TOKENS:
        return median_ms(product, device, repeat)
    graph = captured(product, BURST)
    return median_ms(graph.replay, device, repeat) / BURST


def empty_kernel() -> None:
    """A kernel that waits for no cycle."""
    torch.cuda._sleep(0)


def launch_us(launch: Callable[[], object], repeat: int) -> float:
    """Of one launch among many, back to back, from PyTorch."""
    return 1e3 * median_ms(lambda: _many(launch, BURST), "cuda", repeat, by_host=True) / BURST


def eager_operator_us(repeat: int) -> float:
    """Of one of PyTorch's operators on a single number, back to back."""
    x = torch.zeros(1, device="cuda")
    return launch_us(lambda: x.add_(1), repeat)


def graph_us(nodes: int, repeat: int) -> float:
    """Of one node of a CUDA graph of empty kernels; of one node alone it is the launch of a graph."""
    graph = captured(empty_kernel, nodes)
    launches = max(BURST // nodes, 1)
    ms = median_ms(lambda: _many(graph.replay, launches), "cuda", repeat, by_host=True)
    return 1e3 * ms / launches / nodes


def transfer_gb_s(is_to_device: bool, repeat: int) -> float:
    """Between the device and pinned memory of the host."""
    source, target = _two_sides(HOST_COPY_MIB * MIB, is_to_device)
    ms = median_ms(lambda: target.copy_(source, non_blocking=True), "cuda", repeat)
    return source.nbytes / ms / 1e6


def round_trip_us(is_to_device: bool, repeat: int) -> float:
    """Of four bytes, waited for."""
    source, target = _two_sides(4, is_to_device)

    def there() -> None:
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    return 1e3 * median_ms(there, "cuda", 10 * repeat, by_host=True)


def _two_sides(num_bytes: int, is_to_device: bool) -> tuple[Tensor, Tensor]:
    host = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=True)
    device = torch.zeros(num_bytes, dtype=torch.uint8, device="cuda")
    return (host, device) if is_to_device else (device, host)


def captured(do: Callable[[], object], times: int) -> torch.cuda.CUDAGraph:
    """A CUDA graph of something done several times."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        do()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _many(do, times)
    return graph


def median_ms(
    do: Callable[[], object], device: str, repeat: int, *, by_host: bool = False
) -> float:
    """Median milliseconds of several timings after one that does not count: the device's own on CUDA, or the host's."""
    clock = _device_ms if device == "cuda" and not by_host else partial(timed_ms, device=device)
    return float(np.median([clock(do) for _ in range(repeat + 1)][1:]))


def _device_ms(do: Callable[[], object]) -> float:
    """Between two events of the current stream."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    do()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def _many(do: Callable[[], object], times: int) -> None:
    for _ in range(times):
        do()


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks ceilings",
        description="Measure what this machine can do at the most.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--device", choices=DEVICES, default=default_device(), help="to measure (%(default)s)"
    )
    p.add_argument(
        "--copy-mib", type=int, metavar="N", help=f"size of a copy; {_usual('copy_mib')}"
    )
    p.add_argument(
        "--side", type=int, metavar="N", help=f"side of large products; {_usual('side')}"
    )
    p.add_argument("--repeat", type=int, metavar="N", help=f"timings of each; {_usual('repeat')}")
    return p


def _usual(name: str) -> str:
    """Defaults for the help text."""
    values = ", ".join(f"{getattr(sizes, name)} on {device}" for device, sizes in USUAL.items())
    return f"default: {values}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    check_device(args.device)
    asked = {"copy_mib": args.copy_mib, "side": args.side, "repeat": args.repeat}
    if wrong := [name for name, value in asked.items() if value is not None and value < 1]:
        option = wrong[0].replace("_", "-")
        raise InputError(f"found --{option} {asked[wrong[0]]}; wanted 1 or more")
    sizes = replace(USUAL[args.device], **{k: v for k, v in asked.items() if v is not None})
    before = clocks()
    found = {
        figure.name: {"value": float(f"{figure.measure():.4g}"), "unit": figure.unit}
        for figure in tqdm(figures(args.device, sizes), unit="figure", file=sys.stderr)
    }
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "machine": machine_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **asdict(sizes),
        "clocks": {"before": before, "after": clocks()},
        "figures": found,
    }
    print(table(report))
    print_result(report)


def table(report: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    lines = [
        f"{report['device']}; {report['machine']}; PyTorch {report['torch']}",
        "",
        "| | | |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['value']:g} | {row['unit']} |" for name, row in report["figures"].items()
    ]
    return "\n".join(lines)
