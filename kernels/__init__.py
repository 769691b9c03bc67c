"""Array kernels of the runtime: each file states one in numpy, which is what runs on a CPU."""
