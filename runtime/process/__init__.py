"""What a command is to its shell: exit codes, signals, streams, a lack of memory, packages that are missing."""
