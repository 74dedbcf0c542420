"""Compiled inner loops: arrays in, preallocated arrays out. They know nothing of ours."""
