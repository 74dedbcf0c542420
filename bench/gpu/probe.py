"""DALI's ways to decode on this GPU, each tried before anything else depends on one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.gpu.task import Found, Task, answer
from fastft.doctor.dali_decoding import try_way
from pipelines.loaders.dali_decode import (
    REGION,
    WAYS,
    WHOLE,
    Decoding,
    name_setup,
    save_findings,
    takes_regions,
)

#: For each way, of which imports and DALI's start are most; one that hangs leaves time for others.
LIMIT_S, _LIMIT_REHEARSED_S = 20.0, 120.0


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Try each way; findings of a GPU are kept at once, and the loader acts on them from now on."""
    import torch

    setup, data = name_setup(torch.device(task.device)), Path(task.data) / "test.beton"
    limit_s = LIMIT_S if task.on_gpu else _LIMIT_REHEARSED_S
    found: dict[str, Decoding] = {}
    # First what the loader chooses between.
    for way in sorted(WAYS, key=lambda way: way not in (WHOLE, REGION)):
        found[str(way)] = try_way(way, task.device, data, limit_s, rehearse=not task.on_gpu)
        if task.on_gpu:
            save_findings(setup, found)
        yield _as_json(setup, found)


def _as_json(setup: str, found: dict[str, Decoding]) -> dict[str, Any]:
    return {
        "setup": setup,
        "ways": {way: asdict(each) for way, each in found.items()},
        "takes_regions": takes_regions(found),
    }
