"""Rows of the plan to batches, on threads of our own."""
