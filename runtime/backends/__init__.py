"""Back ends by name; each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from kernels.device import device_name
from kernels.device_array import Buffer
from runtime.backends.base import Backend
from runtime.devices.engine import Engine
from runtime.devices.machine import cores_given, machine_name
from runtime.errors import BackendUnavailable, InputError, MissingPackage
from runtime.process.packages import ONNXRUNTIMES, check_one_onnxruntime, imported

if TYPE_CHECKING:
    from runtime.bundle.bundle import Bundle

__all__ = ["BACKENDS", "HINTS", "Backend", "Buffer", "Engine", "open_backend"]


@dataclass(frozen=True, slots=True)
class BackendRow:
    """Where a back end is, what it is opened with, and what to install for it."""

    module: str
    name: str
    packages: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    is_cuda: bool = False

    @property
    def precision(self) -> str:
        """The type that the back end computes in where a graph does not say otherwise."""
        return str(self.options.get("precision", "fp32"))

    @property
    def is_fallback(self) -> bool:
        """Whether the back end is only worth trying where another one has failed."""
        return self.options.get("attention") == "unfused"

    @property
    def package(self) -> str:
        """The package that it needs and its version; one of several names may be installed."""
        for name in self.packages:
            try:
                return f"{name} {version(name)}"
            except PackageNotFoundError:
                continue
        return f"{self.packages[0]} None"

    @property
    def machine(self) -> str:
        """The machine that this back end's figures and certificates hold for."""
        return f"{machine_name()}, {device_name()}" if self.is_cuda else machine_name()


def _trt(precision: str, attention: str = "fused") -> BackendRow:
    options = {"precision": precision, "attention": attention}
    packages = ("tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings")
    return BackendRow(
        "runtime.backends.tensorrt.trt", "TrtBackend", packages, options, is_cuda=True
    )


def _ort_cuda(provider: str) -> BackendRow:
    options = {"provider": provider}
    packages = ("onnxruntime-gpu",)
    return BackendRow(
        "runtime.backends.ort_cuda", "OrtCudaBackend", packages, options, is_cuda=True
    )


OPENVINO = ("runtime.backends.openvino", "OpenVinoBackend", ("openvino",))
ORT = ("runtime.backends.ort", "OrtBackend", ("onnxruntime", "onnxruntime-gpu"))
BACKENDS = {
    "ort": BackendRow(*ORT),
    "ort-int8": BackendRow(*ORT, {"precision": "int8"}),
    "ort-bf16": BackendRow(*ORT, {"precision": "bf16"}),
    "openvino": BackendRow(*OPENVINO),
    "openvino-bf16": BackendRow(*OPENVINO, {"precision": "bf16"}),
    "openvino-fp16": BackendRow(*OPENVINO, {"precision": "fp16"}),
    "ort-cuda": _ort_cuda("cuda"),
    "ort-tensorrt": _ort_cuda("tensorrt"),
    # Not mixed: queries, keys and values are bfloat16 for the kernel, and what float16 is more exact by would be lost.
    "trt-bf16-kernel": _trt("bf16", "kernel"),
    **{f"trt-{name}": _trt(name) for name in ("bf16", "mixed", "fp16", "fp32")},
    **{f"trt-{name}-unfused": _trt(name, "unfused") for name in ("bf16", "mixed", "fp32")},
}
DEFAULT = "ort"

MAX_THREADS = 1024  # engines make as many as they are told, and end the process where there is no room for them
HINTS = {
    "latency": "one study at a time: threads stay awake between operators",
    "throughput": "several processes share the machine: threads that wait give way",
}


def open_backend(
    name: str,
    bundle: Bundle,
    threads: int | None = None,
    hint: str = "latency",
    stream: int | None = None,
) -> Backend:
    """Open a back end of `BACKENDS`.

    Args:
        name: of the back end.
        bundle: where its graphs come from.
        threads: threads within an operator; None takes every core that this process is given.
        hint: a key of `HINTS`.
        stream: handle of the caller's own CUDA stream, on which steps are enqueued; None makes one.

    Raises BackendUnavailable for an unknown name or one whose package is missing, InputError for a stream where there
    is none, an unknown hint, and a number of threads that no machine has.
    """
    if threads is not None and not (type(threads) is int and 1 <= threads <= MAX_THREADS):
        raise InputError(
            f"found {threads!r} threads; wanted 1 to {MAX_THREADS}, or None for every core"
        )
    if not isinstance(hint, str) or hint not in HINTS:
        raise InputError(f"no hint {hint!r}; there are: {', '.join(HINTS)}")
    if not isinstance(name, str) or name not in BACKENDS:
        raise BackendUnavailable(f"no back end '{name}'; there are: auto, {', '.join(BACKENDS)}")
    row = BACKENDS[name]
    try:
        kind = getattr(imported(row.module), row.name)
    except MissingPackage as error:
        raise BackendUnavailable(f"back end '{name}' cannot be opened: {error}") from error
    if set(row.packages) & set(ONNXRUNTIMES):
        check_one_onnxruntime()
    if stream is not None and not row.is_cuda:
        raise InputError(f"back end '{name}' computes on the host; wanted no stream")
    own = {} if stream is None else {"stream": stream}
    opened: Backend = kind(bundle, threads or cores_given(), hint, **row.options, **own)
    return opened
