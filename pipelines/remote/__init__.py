"""Data on an address: object stores and web servers, as inputs, outputs and training data."""
