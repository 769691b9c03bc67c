"""A bundle of graphs: its manifest and files, and the contract of what each graph takes and gives."""
