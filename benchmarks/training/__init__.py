"""Training of the embedded demonstration model."""
