"""Files as such: written whole or not at all, read without surprises, kept in a cache."""
