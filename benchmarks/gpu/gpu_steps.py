"""What `python -m benchmarks gpu-check` runs, in which order, and what each step has to say in a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.measure.latency import middle_ms

ROOT = Path(__file__).resolve().parents[2]
MODEL, SEED, SIZES = "sam2.1_hiera_t", "2", (512, 1024)
CUDA_BACKENDS = (
    "trt-bf16",
    "trt-bf16-kernel",
    "trt-mixed",
    "ort-cuda",
    "trt-fp16",
    "trt-fp32",
    "ort-tensorrt",
)
# Made and certified beforehand; the others when they are opened.
BUILT = ("trt-bf16", "trt-bf16-kernel", "trt-mixed")
RIVALS = ("torch-bf16", "official-bf16", "official-graph")
OWN_RIVALS = ("trt-bf16", "trt-bf16-kernel", "ort-cuda")
FEWEST_SLICES = "3"  # of a certificate
VOLUME = "128"  # slices of the volume that is timed end to end

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GpuStep:
    """One subprocess.

    Attributes:
        name: also of its log and report.
        arguments: after the interpreter.
        kind: which line of `HEADLINES` tells its outcome.
        share: of the time, in proportion to the other steps' shares; a second or so each at ten minutes.
        least_s: with less time left it is not begun.
        needs: without this file it has nothing to work on.
        makes: if this file is there it has nothing to do.
    """

    name: str
    arguments: tuple[str, ...]
    kind: str
    share: float
    least_s: float
    needs: Path | None = None
    makes: Path | None = None


def all_steps(folder: Path, bundles: Path, backends: Sequence[str]) -> list[GpuStep]:
    """Everything, what is cheap and telling first.

    Args:
        folder: where reports go.
        bundles: where bundles are, or will be exported to.
        backends: names that the runtime knows; the CUDA ones among them are measured.
    """
    available = [name for name in CUDA_BACKENDS if name in backends]
    built = [name for name in BUILT if name in available]
    return [
        _tests(),
        GpuStep(
            "ceilings", ("-m", "benchmarks", "ceilings", "--device", "cuda"), "ceilings", 25, 5
        ),
        GpuStep("kernels", ("-m", "benchmarks", "kernels"), "kernels", 25, 5),
        *(_export(bundles, size) for size in SIZES),
        *(_roofline(folder, bundles, size) for size in SIZES),
        *(_build(bundles, size, name) for size in SIZES for name in built),
        *(_certify(bundles, name) for name in available if name not in BUILT),
        *(_bench(bundles, SIZES[0], name) for name in available),
        *(_bench_of_exact_lengths(bundles, name) for name in available if name == BUILT[0]),
        *(_bench(bundles, SIZES[1], name) for name in available if name in OWN_RIVALS),
        *(_rivals(bundles, size, available) for size in SIZES),
        _compiled_rival(bundles),
    ]


def _tests() -> GpuStep:
    """Of files with tests for a GPU only: others may need what a bare machine does not have."""
    files = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text("utf-8")
    )
    options = ("-q", "-m", "gpu", "-rs", "--continue-on-collection-errors")
    return GpuStep("gpu-tests", ("-m", "pytest", *options, *files), "tests", 60, 10)


def _bundle(bundles: Path, size: int) -> Path:
    return bundles / f"tiny{size}"


def _manifest(bundles: Path, size: int) -> Path:
    return _bundle(bundles, size) / "manifest.json"


def _export(bundles: Path, size: int) -> GpuStep:
    weights = ("--random-weights", SEED, "--model", MODEL, "--image-size", str(size))
    target = ("-o", str(_bundle(bundles, size)))
    arguments = ("-m", "export", *weights, *target)
    return GpuStep(f"export-{size}", arguments, "export", 30, 10, makes=_manifest(bundles, size))


def _roofline(folder: Path, bundles: Path, size: int) -> GpuStep:
    ceilings = ("--ceilings", str(folder / "ceilings.json"))
    arguments = ("-m", "benchmarks", "roofline", str(_bundle(bundles, size)), *ceilings)
    needs = _manifest(bundles, size)
    return GpuStep(f"roofline-{size}", arguments, "roofline", 10, 5, needs=needs)


def _build(bundles: Path, size: int, backend: str) -> GpuStep:
    of = ("--bundle", str(_bundle(bundles, size)), "--backend", backend)
    arguments = ("-m", "runtime.build", *of, "--slices", FEWEST_SLICES)
    needs = _manifest(bundles, size)
    return GpuStep(f"build-{backend}-{size}", arguments, "build", 25, 10, needs=needs)


def _certify(bundles: Path, backend: str) -> GpuStep:
    size = SIZES[0]
    of = ("--bundle", str(_bundle(bundles, size)), "--backend", backend, "--slices", "6")
    arguments = ("-m", "runtime.certify", *of)
    needs = _manifest(bundles, size)
    return GpuStep(f"certify-{backend}-{size}", arguments, "certify", 20, 10, needs=needs)


def _bench(bundles: Path, size: int, backend: str) -> GpuStep:
    of = ("--bundle", str(_bundle(bundles, size)), "--backend", backend)
    needs = _manifest(bundles, size)
    return GpuStep(
        f"bench-{backend}-{size}", ("-m", "runtime.bench", *of), "bench", 12, 8, needs=needs
    )


def _bench_of_exact_lengths(bundles: Path, backend: str) -> GpuStep:
    """The same volume without padding: does one shape for all steps pay?"""
    size = SIZES[0]
    of = ("--bundle", str(_bundle(bundles, size)), "--backend", backend, "--lengths", "exact")
    name = f"bench-{backend}-exact-{size}"
    needs = _manifest(bundles, size)
    return GpuStep(name, ("-m", "runtime.bench", *of), "bench", 12, 8, needs=needs)


def _rivals(bundles: Path, size: int, backends: Sequence[str]) -> GpuStep:
    contenders = [*(name for name in OWN_RIVALS if name in backends), *RIVALS]
    arguments = _race(_bundle(bundles, size), contenders)
    return GpuStep(f"rivals-{size}", arguments, "rivals", 80, 40, needs=_manifest(bundles, size))


def _compiled_rival(bundles: Path) -> GpuStep:
    """Compiling takes minutes, so this comes last and only if they are there."""
    arguments = _race(_bundle(bundles, SIZES[0]), ["official-bf16", "official-vos"])
    needs = _manifest(bundles, SIZES[0])
    return GpuStep(f"rivals-vos-{SIZES[0]}", arguments, "rivals", 240, 150, needs=needs)


def _race(bundle: Path, contenders: Sequence[str]) -> tuple[str, ...]:
    names = ("--contenders", ",".join(contenders))
    passes = ("--device", "cuda", "--slices", "12", "--repeat", "2", "--volume", VOLUME)
    return ("-m", "benchmarks", "rivals", str(bundle), *names, *passes)


def _ceilings_line(report: Report) -> str:
    figures = report["figures"]
    best = max(row["value"] for name, row in figures.items() if name.startswith("bf16"))
    return (
        f"copy {figures['copy']['value']:.0f} GB/s, bf16 {best:.0f} TFLOP/s, launch "
        f"{figures['launch']['value']:.1f} us, graph node {figures['graph node']['value']:.2f} us"
    )


def _kernels_line(report: Report) -> str:
    shares = [100 * row["share_of_copy"] for row in report["kernels"]]
    return f"{len(shares)} kernels, {min(shares):.0f} to {max(shares):.0f} % of copy speed"


def _export_line(report: Report) -> str:
    return f"{report['size_bytes'] / 1e6:.0f} MB"


def _roofline_line(report: Report) -> str:
    total = report["stages"]["total"]
    return f"{total['gflop']:.0f} GFLOP, floor {total['floor_ms']:.3f} ms"


def _certify_line(report: Report) -> str:
    (certificate,) = report["certificates"]
    dice = min(task["lowest_dice"] for task in certificate["propagation"].values())
    speed = f", {certificate['latency_ms']:.2f} ms" if "latency_ms" in certificate else ""
    return f"{'passed' if certificate['passed'] else 'FAILED'}, lowest Dice {dice:.4f}{speed}"


def _bench_line(report: Report) -> str:
    percent = report.get("percent_of_roofline", {}).get("total")
    near = "" if percent is None else f", {percent:.1f} % of roofline"
    whole = report.get("volume_ms")
    volume = "" if whole is None else f", {report['volume_slices']} slices both ways {whole:.0f} ms"
    return f"{middle_ms(report['latency_ms']['total']):.2f} ms per slice{near}{volume}"


def _rivals_line(report: Report) -> str:
    rows = report["contenders"].items()
    times = ", ".join(f"{name} {row['latency_ms']['total']['median']:.2f}" for name, row in rows)
    volumes = ", ".join(f"{name} {row['volume_ms']:.0f}" for name, row in rows if row["volume_ms"])
    return f"ms per slice: {times}; {report['volume_slices']} slices both ways: {volumes}"


HEADLINES: Mapping[str, Callable[[Report], str]] = {
    "ceilings": _ceilings_line,
    "kernels": _kernels_line,
    "export": _export_line,
    "roofline": _roofline_line,
    "certify": _certify_line,
    "bench": _bench_line,
    "rivals": _rivals_line,
}
"""Kind of step to the line that its report makes; the others' is the last of their log."""
