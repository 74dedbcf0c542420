"""Numbers that lie on the device, of all processes, read without draining its queue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from fastft.train.distributed import World


class Reading:
    """Numbers of all processes on their way to the host; nobody waits before `rows` is called."""

    def __init__(self, world: World, block: torch.Tensor, values: Sequence[float]) -> None:
        """Queue the way; all processes do so, with as many numbers each.

        Args:
            world: the processes.
            block: float64[n] on the device; may be overwritten as soon as this returns.
            values: what this process has to add, from the host.
        """
        self._values = list(values)
        pins = block.device.type == "cuda"
        if world.size == 1:
            all_ = block[None]
        else:
            # Pinned, both here and below: torch waits for the queue where pageable memory is
            # copied.
            own = torch.tensor(self._values, dtype=torch.float64, pin_memory=pins)
            mine = torch.cat([block, own.to(block.device, non_blocking=True)])
            all_ = torch.empty(world.size, len(mine), dtype=torch.float64, device=block.device)
            distributed.all_gather(list(all_), mine)
            self._values = []
        self._rows = torch.empty(all_.shape, dtype=torch.float64, pin_memory=pins)
        self._rows.copy_(all_, non_blocking=True)
        self._there = torch.cuda.Event(blocking=True) if pins else None  # type: ignore[no-untyped-call]
        if self._there is not None:
            self._there.record(torch.cuda.current_stream(block.device))

    def rows(self) -> list[list[float]]:
        """Each process's block and values, by rank; waits until they are there."""
        if self._there is not None:
            self._there.synchronize()  # host wait: for a copy, not for what was queued behind it
        return [[*row, *self._values] for row in self._rows.tolist()]
