"""The machine, and memory on the host and on CUDA devices."""
