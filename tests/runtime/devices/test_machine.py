"""What certificates and compiled models are held to hold for."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.devices import machine
from runtime.devices.machine import CAPS, INSTRUCTIONS, instruction_sets

EPYC = "flags\t\t: fpu sse4_2 avx2 fma\n"
XEON = "flags\t\t: avx2 fma avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16 amx_tile\n"
GRAVITON = "Features\t: fp asimd asimddp asimdhp i8mm bf16 sve\n"
MAC = "hw.optional.neon: 1\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_SME: 0\n"


@pytest.fixture(autouse=True)
def no_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CAPS:
        monkeypatch.delenv(name, raising=False)


def tells(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, *_: Any, **__: Any) -> str:
        if text is None:
            raise FileNotFoundError(path)
        return f"model name\t: Abacus\n{text}\nmodel name\t: Abacus\n{text}"

    monkeypatch.setattr(machine.Path, "read_text", read)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (EPYC, ("AVX2", "FMA")),
        (XEON, ("AVX2", "FMA", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16", "AMX INT8", "AMX BF16")),
        (GRAVITON, ("NEON", "DOTPROD", "FP16", "I8MM", "BF16", "SVE")),
        ("processor: 0", ("unknown",)),
    ],
)
def test_linux_tells(text: str, found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    tells(text, monkeypatch)
    assert instruction_sets() == found


def test_macos_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    tells(None, monkeypatch)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=MAC))
    assert instruction_sets() == ("NEON", "BF16")

    def absent(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", absent)
    assert instruction_sets() == ("unknown",)


def test_other_systems_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    tells(None, monkeypatch)
    monkeypatch.setattr(sys, "platform", "win32")
    assert instruction_sets() == ("unknown",)


def test_a_cap_makes_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    tells(XEON, monkeypatch)
    before = instruction_sets()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert instruction_sets() == (*before, "ONEDNN_MAX_CPU_ISA=AVX2")


def test_a_flag_belongs_to_one_instruction_set() -> None:
    flags = [flag for names in INSTRUCTIONS.values() for flag in names]
    assert len(flags) == len(set(flags)) and all(flag == flag.lower() for flag in flags)


@pytest.mark.parametrize(("platform", "calls"), [("linux", [0]), ("win32", [])])
def test_freed_memory_is_given_back_where_the_system_can(
    platform: str, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    library = SimpleNamespace(malloc_trim=found.append)
    monkeypatch.setattr(machine.sys, "platform", platform)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(machine, "_malloc_trim", machine._malloc_trim.__wrapped__)
    machine.trim_memory()
    assert found == calls


@pytest.mark.parametrize(("system", "calls"), [("linux", [(-8, 1)]), ("win32", [])])
def test_threads_share_a_heap_where_the_system_lets_them(
    system: str, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *option: found.append(option))
    monkeypatch.setattr(machine.sys, "platform", system)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: library)
    machine.share_heap()
    assert found == calls


FREED_IN_A_THREAD = """
import re, threading
from pathlib import Path
from runtime.devices.machine import share_heap, trim_memory

def resident_mib():
    return int(re.search("VmRSS: *([0-9]+)", Path("/proc/self/status").read_text().replace("\\t", " "))[1]) / 1024

share_heap()
bytearray(30 << 20)  # freed at once, whereupon glibc keeps as much at the end of each heap
done, over = threading.Event(), threading.Event()

def work():
    blocks = [bytearray(2 ** 16) for _ in range(400)]
    del blocks
    done.set()
    over.wait()

before = resident_mib()
threading.Thread(target=work).start()
done.wait()
trim_memory()
print(resident_mib() - before)
over.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's heaps")
def test_what_threads_have_freed_is_given_back_while_they_live() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FREED_IN_A_THREAD], stdout=subprocess.PIPE, check=True, text=True
    )
    assert float(done.stdout) < 10  # of 25
