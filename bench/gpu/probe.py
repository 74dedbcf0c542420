"""How DALI decodes on this GPU: each of its ways, before anything else depends on one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from bench.gpu.task import Task, answer
from fastft.decoding import try_decoding
from pipelines.loaders.dali_decode import name_setup, save_findings, takes_regions

#: For each way, of which DALI's start is most.
_LIMIT_S = 60.0


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> dict[str, Any]:
    """Try each way; findings of a GPU are kept, and the loader acts on them from now on."""
    found = try_decoding(task.device, _LIMIT_S, rehearse=not task.on_gpu)
    setup = name_setup(torch.device(task.device))
    if task.on_gpu:
        save_findings(setup, found)
    return {
        "setup": setup, "ways": {way: asdict(each) for way, each in found.items()},
        "takes_regions": takes_regions(found),
    }  # fmt: skip
