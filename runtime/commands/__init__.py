"""The commands behind the doors, and the options that they share."""
