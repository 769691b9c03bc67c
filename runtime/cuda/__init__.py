"""The runtime on a CUDA device: tensors stay there, steps are replayed as graphs, and the host reads two scalars.

Imports without a device, a driver or cuda-core; `runtime.cuda.place.open_place` says what is missing.
"""
