"""Speed: the race against PyTorch, its growth, its ceilings."""
