"""Tensors in device memory as other libraries see them; here the memory is the host's, which takes the same way."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import dlpack
from kernels.device_array import DeviceArray, device_array, is_device_array
from kernels.dlpack import CPU, CUDA


def on_host(array: np.ndarray) -> DeviceArray:
    return DeviceArray(array.ctypes.data, array.shape, array.dtype, array, device=(CPU, 0))


def on_cuda(array: np.ndarray, stream: int | None = None) -> DeviceArray:
    return DeviceArray(array.ctypes.data, array.shape, array.dtype, array, stream)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "int16", "bool"])
def test_numpy_and_torch_take_it_without_a_copy(dtype: str) -> None:
    truth = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for taken in (np.from_dlpack(on_host(truth)), torch.from_dlpack(on_host(truth)).numpy()):
        np.testing.assert_array_equal(taken, truth)
        assert taken.dtype == truth.dtype
        assert np.shares_memory(taken, truth)


def test_what_was_lent_is_kept_until_it_is_given_back_and_no_longer() -> None:
    before = len(dlpack._lent)
    taken = torch.from_dlpack(on_host(np.arange(3.0)))
    gc.collect()
    assert len(dlpack._lent) == before + 1
    assert taken.tolist() == [0, 1, 2]
    del taken
    gc.collect()
    assert len(dlpack._lent) == before
    capsule = on_host(np.arange(3.0)).__dlpack__()
    assert len(dlpack._lent) == before + 1
    del capsule  # that nobody took
    gc.collect()
    assert len(dlpack._lent) == before


def test_what_was_borrowed_is_kept_and_given_back() -> None:
    lent: list[bool] = []

    class Owner(np.ndarray):
        def __del__(self) -> None:
            lent.clear()

    array = np.arange(6.0).view(Owner)
    lent.append(True)
    ours = device_array(array)
    del array
    gc.collect()
    assert lent and ours.shape == (6,)
    del ours
    gc.collect()
    assert not lent


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.data())
def test_views_are_numpys(shape: list[int], data: st.DataObject) -> None:
    truth = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    ours = on_host(truth)
    assert (ours.ndim, ours.size, ours.nbytes, len(ours)) == (
        truth.ndim,
        truth.size,
        truth.nbytes,
        len(truth),
    )
    start, stop = (data.draw(st.none() | st.integers(-6, 6)) for _ in range(2))
    np.testing.assert_array_equal(np.from_dlpack(ours[start:stop]), truth[start:stop])
    np.testing.assert_array_equal(np.from_dlpack(ours.reshape((-1,))), truth.reshape(-1))
    if len(truth) and truth.ndim > 1:
        index = data.draw(st.integers(-len(truth), len(truth) - 1))
        np.testing.assert_array_equal(np.from_dlpack(ours[index]), truth[index])


def test_what_is_no_view_is_refused() -> None:
    ours = on_host(np.zeros((3, 4)))
    with pytest.raises(IndexError):
        ours[3]
    with pytest.raises(ValueError, match="step 2"):
        ours[::2]
    with pytest.raises(ValueError, match="is not"):
        ours.reshape((5, -1))


def test_the_cuda_array_interface_says_where_what_and_when() -> None:
    array = np.zeros((2, 5), np.float32)
    interface = on_cuda(array, stream=77)[1:].__cuda_array_interface__
    assert interface == {
        "version": 3,
        "shape": (1, 5),
        "typestr": "<f4",
        "data": (array.ctypes.data + 20, False),
        "strides": None,
        "stream": 77,
    }
    assert not hasattr(on_host(array), "__cuda_array_interface__")
    assert on_cuda(array).__dlpack_device__() == (CUDA, 0)


def interfaced(array: np.ndarray, **more: Any) -> Any:
    """What pycuda's GPUArray, cupy's and numba's arrays show."""
    interface = {
        "version": 3,
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (array.ctypes.data, False),
        **more,
    }
    return SimpleNamespace(__cuda_array_interface__=interface)


@pytest.mark.parametrize("strides", [None, (12, 4)])
def test_anybodys_array_is_taken_without_a_copy(strides: tuple[int, ...] | None) -> None:
    array = np.zeros((2, 3), np.float32)
    theirs = interfaced(array, strides=strides, stream=9)
    ours = device_array(theirs)
    assert (ours.address, ours.shape, ours.dtype) == (array.ctypes.data, (2, 3), np.float32)
    assert ours.owner is theirs and ours.stream == 9
    assert device_array(ours) is ours


def test_an_array_out_of_order_is_refused_with_its_strides() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) with strides \(4, 12\)"):
        device_array(interfaced(np.zeros((3, 2), np.float32), strides=(4, 12)))
    with pytest.raises(ValueError, match="C order"):
        device_array(torch.zeros(3, 2).T)
    assert device_array(torch.zeros(3, 1).T).shape == (1, 3)
    assert device_array(torch.zeros(0, 3).T).shape == (3, 0)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="list has neither"):
        device_array([1, 2])
    with pytest.raises(BufferError, match="no type"):
        on_host(np.zeros(2, "datetime64[s]")).__dlpack__()
    with pytest.raises(BufferError, match="code"):
        device_array(torch.zeros(2, dtype=torch.complex64))


def test_where_an_array_lies_is_told_by_its_interfaces() -> None:
    array = np.zeros(3)
    assert is_device_array(interfaced(array)) and is_device_array(on_cuda(array))
    assert not is_device_array(array) and not is_device_array(torch.zeros(3))
    assert not is_device_array([1])
    assert is_device_array(SimpleNamespace(__dlpack_device__=lambda: (CUDA, 0)))


def test_neither_a_copy_nor_another_device_is_lent() -> None:
    ours = on_host(np.zeros(3))
    assert np.from_dlpack(ours, copy=False).shape == (3,)
    for asked in ({"copy": True}, {"dl_device": (CUDA, 0)}):
        with pytest.raises(BufferError, match="lent as it is"):
            ours.__dlpack__(**asked)
