"""Where a training's first seconds go: imports, CUDA, model, loader, compilation, first step.

Once with nothing compiled before, as on a new machine, once more with what that has left.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from fastft.child import run_child

#: A variant's caches of compiled kernels are new; the second process finds what the first left.
_CACHES = ("TRITON_CACHE_DIR", "NUMBA_CACHE_DIR")
_LIMIT_S = 100.0
FIRST, AGAIN = "first", "again"


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    from bench.gpu.task import answer

    answer(measure, arguments)


def measure(task: Any) -> dict[str, Any]:
    """Items of two processes' start, seconds; the variant is a loader."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: os.environ.get(name) for name in _CACHES}
        os.environ.update(dict.fromkeys(_CACHES, folder))
        try:
            found = {
                when: run_child("bench.gpu.first_steps", [task.as_json()], _LIMIT_S)
                for when in (FIRST, AGAIN)
            }
        finally:
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
    failed = [each["failed"] for each in found.values() if "failed" in each]
    return {**found, **({"failed": failed[0]} if failed else {})}
