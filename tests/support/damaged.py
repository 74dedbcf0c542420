"""Damage to files."""

from pathlib import Path


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Change a bit of a file, or change it back."""
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))
