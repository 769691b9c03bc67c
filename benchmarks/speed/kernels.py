"""`python -m benchmarks kernels`: every CUDA kernel on its workload, beside the card's own copy speed.

A kernel is timed only after it has given what its numpy reference gives. Time is the device's, between two events
around many launches; bytes are what has to be moved at the least, so that a percentage of the copy speed is fair.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from kernels.catalogue import KERNELS
from kernels.device import Device, NoDevice
from kernels.kernel import Kernel, KernelCase
from runtime.errors import BackendUnavailable, Mismatch
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

COPY_BYTES = 1 << 30

EXAMPLES = """examples:
  python -m benchmarks kernels
  python -m benchmarks kernels --kernel mask --repeat 1000
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "python -m benchmarks kernels", "Measure every CUDA kernel on this GPU.", EXAMPLES
    )
    names = [kernel.name for kernel in KERNELS]
    p.add_argument("--kernel", action="append", choices=names, help="default: all")
    p.add_argument("--repeat", type=int, default=200, help="launches of each (%(default)s)")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    try:
        device = Device()
    except NoDevice as error:
        raise BackendUnavailable(f"kernels are measured on a CUDA device: {error}") from error
    chosen = [kernel for kernel in KERNELS if args.kernel is None or kernel.name in args.kernel]
    copy = copy_speed(device, args.repeat)
    rows = [
        measure(device, kernel, args.repeat, copy)
        for kernel in tqdm(chosen, unit="kernel", file=sys.stderr)
    ]
    report = {"device": device.name, "copy_bytes_per_s": copy, "kernels": rows}
    print(table(report))
    print_result(report)


def copy_speed(device: Device, repeat: int) -> float:
    """Bytes read and written per second by a copy on the device."""
    stream = device.stream()
    half = COPY_BYTES // 2
    source, target = (device.empty((half,), "uint8", stream=stream) for _ in range(2))
    ms = device.time_ms(lambda: device.copy(source, target, stream=stream), repeat, stream=stream)
    return COPY_BYTES / ms * 1e3


def measure(device: Device, kernel: Kernel, repeat: int, copy: float) -> dict[str, Any]:
    """One kernel's time, bytes and error. Raises Mismatch if it does not compute what its reference does."""
    case, stream = kernel.workload(), device.stream()
    error = worst_error(kernel, case, device.run(kernel, case, stream=stream))
    if not error <= kernel.tolerance:
        raise Mismatch(f"{kernel.name} is off by {error:.1e}; allowed are {kernel.tolerance:.1e}")
    buffers = device.buffers(kernel, case, stream=stream)
    ms = device.time_ms(
        lambda: device.enqueue(kernel, buffers, case.shapes, case.numbers, stream=stream),
        repeat,
        stream=stream,
    )
    moved = kernel.bytes_moved(case)
    return {
        "kernel": kernel.name,
        "latency_ms": round(ms, 5),
        "bytes": moved,
        "share_of_copy": round(moved / ms * 1e3 / copy, 3),
        "error": error,
    }


def worst_error(kernel: Kernel, case: KernelCase, outputs: dict[str, Any]) -> float:
    """Largest difference from the reference over all outputs, relative to the largest magnitude of each."""
    errors = []
    for name, truth in kernel.reference(**case.arrays, **case.numbers).items():
        largest = max(float(np.abs(truth).max()), 1e-6)
        errors.append(float(np.abs(outputs[name].astype(np.float64) - truth).max()) / largest)
    return float(np.max(errors))  # NaN if any is


def table(report: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    lines = [
        f"{report['device']}, copies {report['copy_bytes_per_s'] / 1e9:.0f} GB/s",
        "",
        "| kernel | ms | MB | of copy speed | error |",
        "|---" * 5 + "|",
    ]
    lines += [
        f"| {row['kernel']} | {row['latency_ms']:.4f} | {row['bytes'] / 1e6:.1f} | "
        f"{100 * row['share_of_copy']:.0f} % | {row['error']:.1e} |"
        for row in report["kernels"]
    ]
    return "\n".join(lines)
