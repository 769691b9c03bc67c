"""Memory of a CUDA device, its streams, and buffers that captured work finds again."""
