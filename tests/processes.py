"""Runs a function in several processes that know each other, for tests of what they do together."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from fastft.world import World

#: A process that waits for one that has failed ends after so long.
_PATIENCE = timedelta(seconds=60)
#: Forks processes from one that has loaded what takes seconds, and computed nothing: a process
#: whose threads have computed cannot be forked, the child would wait for them.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["pytest", "torchvision", "fastft.saving", "fastft.step", "fastft.sync_bn"]
)


def run_processes(function: Callable[..., Any], size: int, folder: Path, *arguments: Any) -> Any:
    """What `function(world, *arguments)` gives in each of `size` processes, by rank.

    Args:
        function: of a module's top level.
        size: how many processes.
        folder: an empty one, for what they write.
        arguments: for the function.
    """
    folder.mkdir(parents=True, exist_ok=True)
    multiprocessing.start_processes(
        _work, (function, size, folder, arguments), size, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _work(
    rank: int, function: Callable[..., Any], size: int, folder: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(folder / "store"), size), rank=rank,
        world_size=size, timeout=_PATIENCE,
    )  # fmt: skip
    result = function(World(rank, size, rank, size, torch.device("cpu"), 1), *arguments)
    torch.save(result, folder / f"{rank}.pt")
    distributed.destroy_process_group()
