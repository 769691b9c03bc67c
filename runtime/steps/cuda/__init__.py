"""Steps on a CUDA device: encodings made ahead, graphs captured and replayed, and two scalars read by the host.

Imports without a device, a driver or cuda-core; `runtime.steps.cuda.steps.open_cuda` says what is missing.
"""
