"""Where PyTorch runs a benchmark, and clocks and memory meters that are honest about a device that works on its own."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kernels.device import why_not
from runtime.errors import BackendUnavailable

DEVICES = ("cpu", "cuda")
PERIOD_S = 0.005  # between two readings of a memory meter
MIB = 2**20
CLOCKS = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)
SMI_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large and how often: buffers in MiB, side of the large products, timings of each figure."""

    copy_mib: int
    side: int
    repeat: int


def check_device(name: str) -> None:
    """Raise BackendUnavailable unless PyTorch can use a device of `DEVICES` here."""
    import torch

    if name == "cpu" or torch.cuda.is_available():
        return
    reason = why_not() or f"PyTorch {torch.__version__} is built or set up without it"
    raise BackendUnavailable(f"no CUDA for PyTorch here: {reason}")


def default_device() -> str:
    """The fastest of `DEVICES` that is here, as far as can be told without PyTorch."""
    try:
        import torch
    except ModuleNotFoundError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize(device: str) -> None:
    """Wait until a device has done all it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def timed_ms(do: Callable[[], object], device: str) -> float:
    """Milliseconds that something takes, the device idle at both readings of the clock."""
    synchronize(device)
    started = time.perf_counter()
    do()
    synchronize(device)
    return 1e3 * (time.perf_counter() - started)


def precise_fp32() -> None:
    """Make fp32 mean fp32: PyTorch's convolutions on CUDA are TF32 by default, which would be no truth."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def has_onednn() -> bool:
    """Whether `products_by_onednn` changes anything here: PyTorch asks for AVX-512, or bfloat16 on Arm."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def products_by_onednn() -> Iterator[None]:
    """Within it, PyTorch gives products of matrices in fp32 on a CPU to oneDNN instead of MKL, where `has_onednn`.

    MKL takes kernels for AVX2 on processors that are not Intel's, whatever else they have: two fifths of what an
    EPYC with whole AVX-512 units can do. oneDNN may compute in bfloat16 where that is faster, and does with AMX.
    """
    import torch

    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def clocks() -> dict[str, str] | None:
    """What nvidia-smi says of the first card now; None where it is missing or has nothing to say."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(CLOCKS, values, strict=True)) if len(values) == len(CLOCKS) else None


def resident_bytes() -> int:
    """Of this process in the host's memory; 0 where the system does not tell."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(row.split()[1]) for row in text.splitlines() if "VmRSS" in row), 0)


def device_bytes() -> int:
    """In use on the CUDA device, by whomever: engines outside PyTorch allocate past its own count."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


def memory_readers(device: str) -> dict[str, Callable[[], int]]:
    """What a `Meter` can read here: the host's memory, and the device's where there is one."""
    host: dict[str, Callable[[], int]] = {"host": resident_bytes}
    return host | {"device": device_bytes} if device == "cuda" else host


class Meter:
    """How far memory grows above what was in use when the meter was made.

    It reads only within `with`, a few hundred times a second from another thread: not around anything timed, and on
    CUDA not while graphs are captured.

    Args:
        readers: name to a function that gives bytes in use.
    """

    def __init__(self, readers: Mapping[str, Callable[[], int]]) -> None:
        self._readers = readers
        self._base = {name: read() for name, read in readers.items()}
        self._peak = dict(self._base)

    def __enter__(self) -> Meter:
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()
        self._read()

    @property
    def grown_mib(self) -> dict[str, float]:
        """Reader to MiB."""
        return {
            name: round((peak - self._base[name]) / MIB, 1) for name, peak in self._peak.items()
        }

    def _watch(self) -> None:
        while not self._is_done.wait(PERIOD_S):
            self._read()

    def _read(self) -> None:
        for name, read in self._readers.items():
            self._peak[name] = max(self._peak[name], read())
