"""A bundle's graphs rewritten into what an engine takes: plain operators, types, segments."""
