"""What a figure was measured on."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from runtime.process.container import memory_limit_bytes, processor_limit
from runtime.process.counted import counted

# What the libraries beneath us choose kernels by, and the systems' names of it: flags of /proc/cpuinfo for x86 and
# Arm, sysctl's names on macOS.
INSTRUCTIONS = {
    "AVX2": ("avx2", "hw.optional.avx2_0"),
    "FMA": ("fma", "hw.optional.fma"),
    "AVX-VNNI": ("avx_vnni",),
    "AVX-512": ("avx512f", "hw.optional.avx512f"),
    "AVX-512 VNNI": ("avx512_vnni", "hw.optional.avx512vnni"),
    "AVX-512 BF16": ("avx512_bf16",),
    "AVX-512 FP16": ("avx512_fp16",),
    "AMX INT8": ("amx_int8",),
    "AMX BF16": ("amx_bf16",),
    "AMX FP16": ("amx_fp16",),
    "NEON": ("asimd", "hw.optional.neon"),
    "DOTPROD": ("asimddp", "hw.optional.arm.feat_dotprod"),
    "FP16": ("asimdhp", "hw.optional.arm.feat_fp16"),
    "I8MM": ("i8mm", "hw.optional.arm.feat_i8mm"),
    "BF16": ("bf16", "hw.optional.arm.feat_bf16"),
    "SVE": ("sve",),
    "SME": ("sme", "hw.optional.arm.feat_sme"),
}
CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that keep libraries from instruction sets that are there."""
M_ARENA_MAX = -8  # of glibc's malloc.h


def machine_name() -> str:
    """Processor, usable cores and system, for people."""
    return f"{_processor()}, {counted(logical_cores(), 'core')}, {platform.system()}"


def instruction_sets() -> tuple[str, ...]:
    """Keys of `INSTRUCTIONS` that this processor has, and `CAPS` that are set; "unknown" where no system tells."""
    names = _flags()
    sets = [name for name, flags in INSTRUCTIONS.items() if not names.isdisjoint(flags)]
    caps = [f"{cap}={os.environ[cap]}" for cap in CAPS if os.environ.get(cap)]
    return (*(sets or ["unknown"]), *caps)


def _flags() -> set[str]:
    """Names in lower case that the system has for what its processors can do."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
        return set(lines[0].lower().split()) if lines else set()
    except OSError:
        pass
    if sys.platform != "darwin":
        return set()
    try:
        sysctl = subprocess.run(
            ["/usr/sbin/sysctl", "hw.optional"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return set()
    return {name.lower() for name in re.findall(r"^(\S+): 1$", sysctl.stdout, re.MULTILINE)}


def second_level_cache_bytes() -> int | None:
    """Of one core; None where the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
    except OSError:
        return None
    return 1024 * int(text[:-1]) if re.fullmatch(r"[1-9]\d*K", text) else None


def logical_cores() -> int:
    """Those that this process may use, and no more than a container gives it the time of."""
    limit = processor_limit()
    return _own_cores() if limit is None else min(_own_cores(), max(1, int(limit)))


def cores_given() -> int | None:
    """Of a machine's cores those that this process has, by its affinity (`taskset`, batch systems) or a container's
    time; None where it has the machine to itself.

    More threads than that wait for each other. ONNX Runtime makes one for each core of the machine all the same.
    """
    return physical_cores() if logical_cores() < (os.cpu_count() or 1) else None


def _own_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """The same without a core's second thread; all of them where the system does not tell which those are."""
    if not hasattr(os, "sched_getaffinity"):
        return logical_cores()
    cores = (f"/sys/devices/system/cpu/cpu{n}/topology" for n in os.sched_getaffinity(0))
    try:
        own = len({Path(core, "thread_siblings_list").read_text() for core in cores})
    except OSError:
        return logical_cores()
    return min(own, logical_cores())


def memory_bytes() -> float:
    """Memory of the machine in bytes, or what a container gives of it; infinite where nobody tells."""
    try:
        own = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # not every system tells
        own = float("inf")
    return min(own, memory_limit_bytes() or float("inf"))


def peak_memory_mib() -> float | None:
    """Largest resident size of this process so far; None where the system does not tell."""
    try:  # Linux's getrusage counts what the process had before it became this program
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024  # type: ignore[index]
    except (OSError, TypeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def trim_memory() -> None:
    """Give back to the system what was freed; glibc keeps blocks of up to 32 MiB for later, each thread's its own."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


def share_heap() -> None:
    """Have threads take memory from the process's own heap, for programs that run long; before they are started.

    glibc gives them heaps of their own, whose ends `trim_memory` cannot give back: up to 64 MiB of each.
    """
    if sys.platform == "linux" and (set_option := getattr(ctypes.CDLL(None), "mallopt", None)):
        set_option(M_ARENA_MAX, 1)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; looked up once, for each look leaves classes to the collector."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
