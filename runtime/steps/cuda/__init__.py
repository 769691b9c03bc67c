"""Steps on a CUDA device: encodings made ahead, graphs captured and replayed, and two scalars read by the host.

Imports without a device, a driver or cuda-core; `runtime.devices.cuda.memory.open_memory` says what is missing.
"""
