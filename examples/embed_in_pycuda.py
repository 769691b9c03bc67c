"""A pycuda program that follows an object through a volume in its own memory, on its own stream, in its own context.

Needs a CUDA device, pycuda and a back end there: medsam2 build makes and certifies TensorRT's engines.
"""

import sys

import numpy as np
import pycuda.driver as cuda

from runtime import VolumePredictor, load
from runtime.measure.phantom import make_phantom
from runtime.predictors.device_mask import device_mask

backend = sys.argv[1] if len(sys.argv) > 1 else "trt-bf16"
phantom = make_phantom((40, 256, 256), seed=3)

cuda.init()
context = cuda.Device(
    0
).retain_primary_context()  # the one that everybody else uses, rather than one of our own
context.push()
try:
    import pycuda.gpuarray as gpuarray  # only with a context

    stream = cuda.Stream()
    volume = gpuarray.to_gpu_async(phantom.pixels, stream=stream)
    model = load(None, backend, stream=stream.handle)
    predictor = VolumePredictor(model)
    predictor.set_volume(volume)  # read where it is

    area = 0.0
    predictor.add(phantom.box(20, 1))
    for found in predictor.stream():
        ours = device_mask(model, found)
        mask = gpuarray.GPUArray(ours.shape, np.uint8, gpudata=ours.address, base=ours)
        area += float(gpuarray.sum(mask, dtype=np.float32).get())
    print(f"{model.backend.description}: {area:.0f} voxels, truth {(phantom.labels == 1).sum()}")
    model.close()
finally:
    context.pop()
    context.detach()
