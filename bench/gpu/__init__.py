"""Proof on a GPU by one command: `python -m bench.gpu OUT`; see `bench/README.md`.

A part of it is a module here, which a process of its own runs: what one leaves behind slows down no
other, and one that crashes costs its own figures alone.
"""
