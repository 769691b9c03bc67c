"""Checkpoints: files, the weights in them, whose network they are."""
