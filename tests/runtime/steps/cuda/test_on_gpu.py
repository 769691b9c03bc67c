"""On a GPU: every back end that can be opened computes what the host does, and neighbours need no copies."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kernels.device import why_not
from runtime import Box, VolumePredictor
from runtime.backends import BACKENDS
from runtime.bundle.bundle import open_bundle
from runtime.commands.certify import certify
from runtime.errors import BackendUnavailable
from runtime.measure.phantom import Phantom, make_phantom
from runtime.model import Model, load
from runtime.predictors.device_mask import device_mask
from runtime.steps.cuda.steps import CudaSteps

REASON = why_not()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.filterwarnings(
        "default"
    ),  # neighbours warn of this and that while they are imported
]
ON_CUDA = [name for name, row in BACKENDS.items() if row.is_cuda and not row.is_fallback]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom((24, 128, 128))


@pytest.fixture(scope="module", params=ON_CUDA)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    try:
        opened = load(None, request.param).plain()
        opened.engine("memory_encoder")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=["trt-bf16", "ort-cuda"])
def first(request: pytest.FixtureRequest) -> str:
    try:
        load(None, request.param).engine("memory_encoder")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return str(request.param)


def follow(model: Model, volume: Any, box: Box) -> dict[int, np.ndarray]:
    predictor = VolumePredictor(model)
    predictor.set_volume(volume, "none")
    predictor.add(box)
    return {found.slice: found.mask() for found in predictor.stream()}


@pytest.mark.parametrize("name", ON_CUDA)
def test_a_back_end_is_certified(name: str) -> None:
    try:
        certificate = certify(open_bundle(), name, 6)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert certificate["passed"], certificate


def test_memory_read_by_our_own_kernel_is_certified(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("onnxscript", reason="a model of its channels is exported first")
    bundle = request.getfixturevalue("wide_bundle")
    try:
        certificate = certify(bundle, "trt-bf16-kernel", 6)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert certificate["passed"], certificate


def test_a_volume_is_what_it_is_on_the_host(model: Model, phantom: Phantom) -> None:
    box = phantom.box(12, 1)
    truth = follow(load(None, "ort").plain(), phantom.pixels, box)
    both = total = 0
    for _ in range(2):  # the second one replays what the first captured
        for index, mask in follow(model, phantom.pixels, box).items():
            both += 2 * int((mask & truth[index]).sum())
            total += int(mask.sum() + truth[index].sum())
    assert both / total > 0.99


def test_steps_are_replayed_where_the_back_end_can_be_captured(
    model: Model, phantom: Phantom
) -> None:
    follow(model, phantom.pixels, phantom.box(12, 1))
    assert isinstance(model.steps, CudaSteps)
    is_native = type(model.backend).__name__ == "TrtBackend"
    assert (model.steps.launches_per_step is not None) == is_native


def test_torch_goes_in_and_out_without_a_copy(first: str, phantom: Phantom) -> None:
    torch = pytest.importorskip("torch")
    stream = torch.cuda.Stream()
    model = load(None, first, stream=stream.cuda_stream).plain()
    with torch.cuda.stream(stream):
        volume = torch.from_numpy(phantom.pixels).cuda(non_blocking=True)
        predictor = VolumePredictor(model)
        predictor.set_volume(volume)
        found = predictor.add(phantom.box(12, 1))
    mask = torch.from_dlpack(device_mask(model, found))
    assert mask.is_cuda
    np.testing.assert_array_equal(mask.cpu().numpy().astype(bool), found.mask())


def test_cupy_goes_in_and_out_without_a_copy(first: str, phantom: Phantom) -> None:
    cupy = pytest.importorskip("cupy")
    model = load(None, first).plain()
    predictor = VolumePredictor(model)
    predictor.set_volume(cupy.asarray(phantom.pixels))
    found = predictor.add(phantom.box(12, 1))
    ours = device_mask(model, found)
    mask = cupy.asarray(ours)
    assert mask.data.ptr == ours.address
    np.testing.assert_array_equal(cupy.asnumpy(mask).astype(bool), found.mask())


def test_a_pycuda_program_embeds_the_runtime_in_its_own_context(
    first: str, phantom: Phantom
) -> None:
    cuda = pytest.importorskip("pycuda.driver", reason="pycuda is not installed")
    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        stream = cuda.Stream()
        embed_in_pycuda(first, phantom, stream)
        gc.collect()  # memory is freed in the stream's order, so that the stream goes after it
        stream.synchronize()
        del stream
    finally:
        context.pop()
        context.detach()


def embed_in_pycuda(backend: str, phantom: Phantom, stream: Any) -> None:
    import pycuda.gpuarray as gpuarray

    volume = gpuarray.to_gpu_async(phantom.pixels, stream=stream)
    model = load(None, backend, stream=stream.handle).plain()
    predictor = VolumePredictor(model)
    predictor.set_volume(volume)
    found = predictor.add(phantom.box(12, 1))
    ours = device_mask(model, found)
    theirs = gpuarray.GPUArray(ours.shape, ours.dtype, gpudata=ours.address, base=ours)
    np.testing.assert_array_equal(theirs.get().astype(bool), found.mask())
    assert len(predictor.propagate().slices[1]) == len(phantom.pixels)
    model.close()
