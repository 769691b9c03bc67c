"""Every kernel that has a CUDA source: what tests and benchmarks walk."""

from kernels import mask, memory_read, pack_values, preprocess, slots

KERNELS = (
    preprocess.KERNEL,
    mask.KERNEL,
    slots.GATHER,
    slots.STORE,
    slots.SIMILARITY,
    pack_values.KERNEL,
    memory_read.KERNEL,
)
