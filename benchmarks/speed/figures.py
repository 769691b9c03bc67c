"""What `python -m benchmarks ceilings` measures with PyTorch: copies, products, launches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.devices import MIB, Sizes, timed_ms

TOKENS, CHANNELS = 1024, 256  # M and K of memory attention's products at 512 pixels
SMALL = (256, 512, 1024, 2048)  # their N
BURST = 200  # launches or small products between two readings of the clock
NODES = 1000  # of the graph whose cost per node is taken
HOST_COPY_MIB = 256


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
