"""The GPU, its driver, and how fast bytes move: what the other figures are shares of."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import torch

from bench.gpu.task import Found, Task, answer, per_second
from fastft.system.environment import environment

#: More than any cache holds; a rehearsal's.
_BYTES, _FEW_BYTES = 1 << 30, 1 << 20
_ASKED = "driver_version,name,memory.total,clocks.max.sm,clocks.max.mem,pcie.link.gen.current"


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """The card's size, and bytes per second."""
    found: dict[str, Any] = {}
    if task.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        found["multiprocessors"] = properties.multi_processor_count
        found["memory_bytes"] = properties.total_memory
    yield {**found, "bytes_per_s": copy_rates(task)}


def describe() -> dict[str, Any]:
    """Versions, processor, card and driver: what all figures hold for."""
    return {"environment": environment(), "cuda": torch.version.cuda, "driver": ask_driver()}


def ask_driver() -> dict[str, str]:
    """The output of nvidia-smi, if it is there."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    said = subprocess.run(
        [program, f"--query-gpu={_ASKED}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    values = said.stdout.splitlines()[0].split(", ") if said.stdout else []
    return dict(zip(_ASKED.split(","), values, strict=False))


def copy_rates(task: Task) -> dict[str, float]:
    """Bytes per second: to the GPU, from it, and within it, where each is read and written."""
    count = _BYTES if task.on_gpu else _FEW_BYTES
    here, there = (torch.empty(count, dtype=torch.uint8, device=task.device) for _ in range(2))
    host = torch.empty(count, dtype=torch.uint8, pin_memory=task.on_gpu)
    return {
        "host_to_device": count * per_second(lambda: here.copy_(host, non_blocking=True), task),
        "device_to_host": count * per_second(lambda: host.copy_(here, non_blocking=True), task),
        "within_device": 2 * count * per_second(lambda: there.copy_(here), task),
    }
