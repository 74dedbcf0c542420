"""Kernels of a process that forks others, loaded when this is imported: each would take a second.

A fork server finds it by the folder that the tests run in, and passes over it elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.changing.on_cpu import Changer
from pipelines.kernels import compiled
from pipelines.loaders.image_files import FileRenderer


def load() -> None:
    """Load them from disk; nothing where none are yet."""
    if not any(Path(compiled.__file__).parent.glob("__pycache__/*.nbc")):
        return
    renderer = FileRenderer([], view="eval", size=8, batch=1, workers=1)
    renderer._compiled.result()
    renderer.threads.shutdown()  # a process that has threads cannot be forked
    Changer().load()


load()
