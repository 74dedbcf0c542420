"""Conversions that are killed at the k-th call that changes a disk, in processes of their own."""

import os
import signal
from pathlib import Path
from typing import Any

from pipelines import convert as module
from pipelines.convert import ConvertConfig, convert

#: Small, so that there are many moments to be killed at.
TASK_IMAGES = 4
_CALLS = ("pwrite", "write", "ftruncate", "fsync", "fchmod", "rename", "replace", "unlink")


def converts(src: Path, out: Path, k: int, options: dict[str, Any], reached: Any) -> None:
    """Convert, and die at the k-th call; `reached` tells whether there were as many."""
    module._TASK_IMAGES = TASK_IMAGES
    left = k

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                if name in ("pwrite", "write"):  # half of it gets there
                    content = memoryview(arguments[1]).cast("B")
                    real(arguments[0], content[: len(content) // 2], *arguments[2:])
                reached.value = True
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(os, name, call)

    for name in _CALLS:
        wrap(name)
    convert(ConvertConfig(src=src, out=out, **options))
