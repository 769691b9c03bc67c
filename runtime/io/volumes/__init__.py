"""Volume files, format by format, and the volume that they hold."""
