"""Shared instruments: a toy model with random weights, its bundle exported once a session, and the fake back end."""

from __future__ import annotations

import ctypes
import gc
import locale
import os
import shutil
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import ModelNumbers
from runtime.files.cache import VARIABLE
from runtime.model import Model
from tests.fake_backend import FakeBackend
from tests.fakes import FAKE_NUMBERS, fake_model

# PyTorch's, here and in children. Models of tests are too small to be shared out between threads, which only wait for
# each other then, and burn a core at that.
os.environ["OMP_NUM_THREADS"] = "1"

# Hypothesis fails an example that takes more than 200 ms, which on a slow or busy machine says nothing about the code.
# A CUDA machine's own environment, in which tests marked `gpu` run, may be without it.
if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own: what this user has certified must not decide what they run on."""
    with pytest.MonkeyPatch.context() as patch:
        folder: Path = tmp_path_factory.mktemp("cache")
        patch.setenv(VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Shells start what runs in the background with SIGINT ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield


@pytest.fixture(scope="module", autouse=True)
def left_tidy() -> Iterator[None]:
    """What a module's tests leave in circles goes with it, sessions and tensors among it, and so does the locale that
    ITK's writer of DICOM leaves behind, by which what children print would be decoded.
    """
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)
    gc.collect()
    gc.freeze()  # what is left belongs to packages and to the session
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc keeps what was freed
        trim(0)


@pytest.fixture(scope="session", autouse=True)
def imports_are_frozen() -> None:
    """What the packages that were imported hold, a million objects, is not searched for circles again and again.

    What tests make is searched less often than usual, since each module ends with a search.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(scope="session", autouse=True)
def sessions_have_one_thread() -> Iterator[None]:
    """So have those of ONNX Runtime, unless a test says how many: theirs spin while they wait, for each other and for
    cores that the other tests run on, which takes twice the time.
    """
    if not find_spec("onnxruntime"):
        yield
        return
    import onnxruntime

    class OneThread(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = 1

    unsaid = onnxruntime.capi._pybind_state.get_default_session_options()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", OneThread)
        patch.setattr(unsaid, "intra_op_num_threads", 1)
        yield


@pytest.fixture(scope="session")
def toy():
    """The toy model in torch, seeded random weights loaded."""
    from export.model.sam2 import Sam2
    from export.random_weights import random_state
    from tests.variants import TOY

    model = Sam2(TOY)
    model.load_state_dict(random_state(model, seed=12), strict=True)
    return model


@pytest.fixture(scope="session")
def toy_bundle(toy, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy model as a bundle."""
    return written(toy, tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="session")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model whose memory our own kernel reads, seeded random weights, as a bundle."""
    from export.model.sam2 import Sam2
    from export.random_weights import random_state
    from tests.variants import WIDE

    model = Sam2(WIDE)
    model.load_state_dict(random_state(model, seed=8), strict=True)
    return written(model, tmp_path_factory.mktemp("bundles") / "wide")


@pytest.fixture(scope="session")
def toy_sam():
    """A small SAM 1 in torch, seeded random weights loaded."""
    from export.model.network import network
    from export.random_weights import random_state
    from tests.variants import TOY_SAM

    model = network(TOY_SAM)
    model.load_state_dict(random_state(model, seed=12), strict=True)
    return model


@pytest.fixture(scope="session")
def toy_sam_bundle(toy_sam, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """It as a bundle."""
    return written(toy_sam, tmp_path_factory.mktemp("bundles") / "toy_sam")


def written(model, path: Path) -> Bundle:
    """A model with random weights as a bundle; what is traced already is not traced again (`tests/traced.py`)."""
    from export.random_weights import fingerprint
    from export.write_bundle import write_bundle
    from tests.traced import traced

    weights = {"kind": "random", "source": "random", "seed": 12}
    weights |= {"sha256": fingerprint(model.state_dict())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.write_bundle.to_onnx", traced)
        write_bundle(model, path, weights, "Apache-2.0")
    return open_bundle(path)


def in_eight_bits(bundle: Bundle, path: Path) -> Bundle:
    """A copy of a bundle of random weights with graphs in eight bits, whatever masks of noise lose by them."""
    from export.write_bundle import add_int8

    shutil.copytree(bundle.path, path)
    add_int8(path, max_dice_drop=1.0)
    return open_bundle(path)


@pytest.fixture
def no_tracing(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is exported gets the toy's graphs, which takes no time."""
    import onnx

    def traced(model, graph: str) -> onnx.ModelProto:
        return onnx.load_from_string(toy_bundle.read_graph(graph))

    monkeypatch.setattr("export.write_bundle.to_onnx", traced)


@pytest.fixture
def numbers() -> ModelNumbers:
    """Of the fake model."""
    return FAKE_NUMBERS


@pytest.fixture
def fake() -> tuple[Model, FakeBackend]:
    """A model that computes nothing, and the back end that recorded what it was asked."""
    return fake_model()
