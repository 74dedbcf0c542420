"""Trained models written for others to run."""
