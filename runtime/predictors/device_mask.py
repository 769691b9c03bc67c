"""Masks for whoever goes on working on the device: a viewer's renderer, a loss, another kernel."""

from __future__ import annotations

from kernels.device_array import DeviceArray
from kernels.mask import KERNEL
from runtime.devices.cuda.memory import CudaMemory
from runtime.errors import InputError
from runtime.model import Model
from runtime.predictors.result import SliceMask


def device_mask(model: Model, slice_mask: SliceMask) -> DeviceArray:
    """A mask (y, x) uint8 at the slice's size, ready on the model's device, bit for bit what the mask on the host is.

    It has `__cuda_array_interface__` and `__dlpack__`: torch, cupy, numba and pycuda take it without a copy.
    It is freed in the order of the model's stream once nobody holds it: who reads it on another stream holds it until
    that is done. Raises InputError for a model on the host.
    """
    memory = model.device_memory
    if not isinstance(memory, CudaMemory):
        raise InputError(
            f"{model.backend.description} has no masks on a device; ask mask() of the slice's for one on the host"
        )
    logits, numbers = memory.put(slice_mask.low_res[None]), {"size": slice_mask.shape}
    shapes = {"logits": logits.shape}
    outputs = {
        name: memory.empty(shape, dtype)
        for name, (shape, dtype) in KERNEL.outputs(shapes, numbers).items()
    }
    memory.run(KERNEL, {"logits": logits, **outputs}, shapes, numbers)
    model.steps.synchronize()
    mask: DeviceArray = outputs["mask"][0]
    return mask
