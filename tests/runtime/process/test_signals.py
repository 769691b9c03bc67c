"""No back end changes a signal handler or the signal stack of its host."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from runtime.backends import BACKENDS
from runtime.bundle.bundle import open_bundle
from runtime.errors import BackendUnavailable, Closed
from runtime.model import Model, load

ROOT = Path(__file__).resolve().parents[3]
DISABLED = 2  # SS_DISABLE
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and sigaltstack")
NAMES = [name for name, row in BACKENDS.items() if not row.is_fallback]


class SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size_bytes", ctypes.c_size_t),
    )


def signal_stack() -> tuple[int, int, int]:
    """Address, flags and bytes of the calling thread's alternate signal stack."""
    found = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address or 0, found.flags, found.size_bytes


def is_mapped(address: int, size_bytes: int) -> bool:
    """Whether a piece of memory is this process's own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address and address + size_bytes <= stop:
            return True
    return False


def handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def actions() -> dict[str, int]:
    """What the kernel knows: bit sets of the signals that are ignored, caught and blocked.

    But for 32 and 33, with which the C library begins to talk to its threads once there are any.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    sets = (line.split(":") for line in lines if line.startswith(("SigIgn", "SigCgt", "SigBlk")))
    return {name: int(bits, 16) & ~(0b11 << 31) for name, bits in sets}


@contextmanager
def untouched() -> Iterator[Callable[[], None]]:
    """Yields a check that signal stack and handlers are what they were; it is made at the end too."""
    before = signal_stack(), handlers(), actions()

    def check() -> None:
        stack = signal_stack()
        assert (stack, handlers(), actions()) == before
        assert stack[1] & DISABLED or is_mapped(stack[0], stack[2])

    check()
    yield check
    check()


def opened(name: str) -> Model:
    try:
        model = load(open_bundle(), name, threads=1)
        model.engine("image_encoder")
        return model
    except BackendUnavailable as error:
        pytest.skip(str(error))


def run(model: Model) -> None:
    size = model.numbers.image_size
    model.encode(np.zeros((1, 3, size, size), np.float32))


@needs_linux
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first to last", "last to first"])
def test_signals_are_left_alone(name: str, order: tuple[int, int]) -> None:
    with untouched() as check:
        models: list[Model | None] = []
        for _ in range(2):
            models.append(opened(name))
            check()
        for model in models:
            assert model is not None
            run(model)
            check()
        del model
        for index in order:
            closed = models[index]
            assert closed is not None
            closed.close()
            check()
            models[index] = closed = None
            check()


@needs_linux
@pytest.mark.parametrize("name", NAMES)
def test_signals_are_left_alone_where_nothing_is_closed(name: str) -> None:
    with untouched():
        models = [opened(name) for _ in range(2)]
        for model in models:
            run(model)
        del model
        while models:
            del models[0]
            gc.collect()


@needs_linux
@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_signals_are_left_alone_by_models_that_other_threads_make_and_drop(name: str) -> None:
    with untouched() as check:
        models = [opened(name)]
        stacks = []

        def elsewhere() -> None:
            own = signal_stack()
            models.append(opened(name))
            run(models[-1])
            models.pop(0).close()
            gc.collect()
            stacks.append((own, signal_stack()))

        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert stacks[0][0] == stacks[0][1]
        check()
        models.pop().close()
        gc.collect()


@needs_linux
@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_a_thread_that_has_a_signal_stack_keeps_it(name: str) -> None:
    memory = ctypes.create_string_buffer(1 << 16)
    found = []

    def with_stack() -> None:
        own = SignalStack(ctypes.addressof(memory), 0, len(memory))
        libc = ctypes.CDLL(None)
        assert libc.sigaltstack(ctypes.byref(own), None) == 0
        for _ in range(2):
            model = opened(name)
            run(model)
            model.close()
            found.append(signal_stack())
        assert libc.sigaltstack(ctypes.byref(SignalStack(0, DISABLED, 0)), None) == 0

    thread = Thread(target=with_stack)
    thread.start()
    thread.join()
    assert found == [(ctypes.addressof(memory), 0, len(memory))] * 2


@pytest.mark.parametrize(
    ("name", "graph"),
    [("ort", "image_encoder"), ("openvino", "image_encoder"), ("openvino", "mask_decoder")],
)
def test_a_closed_model_lets_go_at_once_whoever_still_holds_its_engines(
    name: str, graph: str
) -> None:
    model = opened(name)
    engine: Any = model.engine(graph)
    inner = getattr(engine._whole, "_session", None) or engine._whole._requests[0]
    released = weakref.ref(inner)
    del inner
    assert released() is not None
    model.close()
    assert released() is None
    for _ in range(2):
        with pytest.raises(Closed, match=f"{graph} was asked for after its model had been closed"):
            engine.run({}, {})
        with pytest.raises(Closed, match=graph):
            model.engine(graph)
        model.close()


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
import numpy as np
from runtime.model import load

def model():
    opened = load(None, sys.argv[1], threads=1)
    size = opened.numbers.image_size
    opened.encode(np.zeros((1, 3, size, size), np.float32))
    return opened

models = [model(), model()]
while models:
    models.pop(0).close()
try:
    signal.raise_signal(signal.SIGINT)
    print("nothing")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("name", ["ort", "openvino", "openvino-bf16"])
def test_an_interrupt_after_models_were_closed_first_to_last_is_an_interrupt(name: str) -> None:
    opened(name).close()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, name], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr[-1000:]
