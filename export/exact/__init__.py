"""The graphs of `contract.GRAPHS` as modules to trace, cheaper than the model's own methods and equal to them."""
