"""Pixels that are decoded once and kept: in RAM, in a file, on a GPU."""
