"""Quality: masks against ground truth."""
