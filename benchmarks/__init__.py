"""What is measured: speed, quality, damaged files; and the training of the embedded model."""
