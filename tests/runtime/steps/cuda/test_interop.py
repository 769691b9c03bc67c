"""Arrays of others in a device's memory go in, and masks come out there, on a device made of host memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime import Point, VideoPredictor, VolumePredictor
from runtime.errors import InputError
from runtime.measure.phantom import Phantom, make_phantom
from runtime.model import Model, load
from runtime.predictors import ImagePredictor
from runtime.predictors.device_mask import device_mask
from runtime.predictors.orientations import fuse_orientations
from tests.cuda import on_device
from tests.kernels import on_host
from tests.kernels.host_device import HostDevice

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")

NUM_SLICES = 13
TOLERANCE = 1e-3  # of the largest logit


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom((NUM_SLICES, 64, 64))


@pytest.fixture(scope="module")
def host() -> Model:
    return load(None, "ort", 1).plain()


class Theirs:
    """An array of somebody else's in the device's memory, as pycuda's or cupy's shows itself."""

    def __init__(self, device: HostDevice, array: np.ndarray, stream: Any) -> None:
        self.held = device.empty(array.shape, array.dtype.name, stream=stream)
        device.copy(array, self.held, stream=stream)
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.held.address, False),
            "strides": None,
            "stream": stream.handle,
        }


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_a_volume_on_the_device_is_read_there(host: Model, phantom: Phantom, dtype: str) -> None:
    model, device = on_device(host)
    theirs = Theirs(device, phantom.pixels.astype(dtype), device.stream())
    found = []
    for volume, chosen in ((theirs, model), (phantom.pixels.astype(dtype), host)):
        predictor = VolumePredictor(chosen)
        used = predictor.set_volume(volume)  # type: ignore[arg-type]
        assert used.kind == ("none" if dtype == "uint8" else "percentile")
        found.append(predictor.add(phantom.box(6, 1)))
    assert np.abs(found[0].segmented.logits - found[1].segmented.logits).max() < 1e-2
    mask = device_mask(model, found[0])
    np.testing.assert_array_equal(np.from_dlpack(mask), found[0].mask())
    with pytest.raises(InputError, match="no masks on a device"):
        device_mask(host, found[1])


def test_images_and_frames_on_the_device_are_read_there(host: Model, phantom: Phantom) -> None:
    model, device = on_device(host)
    stream = device.stream()

    def overwrite(array: Theirs) -> None:
        """On its owner's stream, of which the device's memory knows nothing."""
        device.copy(np.zeros_like(phantom.pixels[6]), array.held, stream=stream)
        stream.sync()

    image = ImagePredictor(model)
    buffer = Theirs(device, phantom.pixels[6], stream)
    image.set_image(buffer)  # type: ignore[arg-type]
    overwrite(buffer)
    right = ImagePredictor(host)
    right.set_image(phantom.pixels[6])
    click = Point(y=30, x=30)
    found, truth = (each.predict(click).segmented.logits for each in (image, right))
    assert np.abs(found - truth).max() <= TOLERANCE * np.abs(truth).max()
    video = VideoPredictor(model)
    buffer = Theirs(device, phantom.pixels[6], stream)
    video.push(buffer)  # type: ignore[arg-type]
    overwrite(buffer)
    frame = video.add(click).segmented.logits
    assert np.abs(frame - truth).max() <= TOLERANCE * np.abs(truth).max()


def test_arrays_that_cannot_be_read_are_refused(host: Model, phantom: Phantom) -> None:
    model, device = on_device(host)
    theirs = Theirs(device, phantom.pixels, device.stream())
    for predictor in (VolumePredictor(host).set_volume, ImagePredictor(host).set_image):
        with pytest.raises(InputError, match="in CUDA memory, and a back end that computes"):
            predictor(theirs)  # type: ignore[arg-type]
    theirs.__cuda_array_interface__["strides"] = (1, 1, 1)
    with pytest.raises(InputError, match="make it contiguous"):
        VolumePredictor(model).set_volume(theirs)  # type: ignore[arg-type]


def test_a_volume_on_the_device_is_seen_along_three_axes(host: Model, phantom: Phantom) -> None:
    model, device = on_device(host)
    found = []
    for volume, chosen in (
        (Theirs(device, phantom.pixels, device.stream()), model),
        (phantom.pixels, host),
    ):
        predictor = VolumePredictor(chosen)
        predictor.set_volume(volume, "none")  # type: ignore[arg-type]
        predictor.add(phantom.box(6, 1))
        result = predictor.propagate(z_range=(4, 9))
        found.append(fuse_orientations(predictor, result, (1.0, 1.0, 1.0)))
    for index, ours in found[0].slices[1].items():
        assert (ours.mask() != found[1].slices[1][index].mask()).mean() < 1e-3
