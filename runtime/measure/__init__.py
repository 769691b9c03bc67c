"""What is measured: latency, and parity between two models."""
