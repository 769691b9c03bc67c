"""What only a CUDA machine can tell."""
