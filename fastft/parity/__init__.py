"""Proof that loaders feed the same pixels and train the same models."""
