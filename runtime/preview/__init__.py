"""Pictures of what was found: which way up, slice by slice, a sheet of them."""
