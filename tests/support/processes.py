"""Runs a function in several processes that know each other, and programs in forked ones."""

import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, multiprocessing

from fastft.train.distributed import World

#: A process that waits for one that has failed ends after so long.
_PATIENCE = timedelta(seconds=60)
#: Forks processes from one that has loaded what takes seconds, and computed nothing: a process
#: whose threads have computed cannot be forked, the child would wait for them.
SERVER = multiprocessing.get_context("forkserver")
#: All that a training loads, and what `commands` and the like add to it.
PRELOADED = [
    "pytest",
    "fastft.train.run",  # before torchvision, which it loads without torch's compiler
    "torchvision",
    "torch._dynamo",  # for DistributedDataParallel
    "torch.distributed.run",
    "fastft.runs.checkpoint_writer",
    "fastft.train.step",
    "fastft.model.sync_bn",
    "fastft.runs.curves",
    "matplotlib.backends.backend_agg",
    "pipelines.conversion.merge",
    "pipelines.loaders.resident_loader",
    "pipelines.loaders.torchvision_loader",
    "tests.support.ready_kernels",
]
SERVER.set_forkserver_preload(PRELOADED)


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
        "gloo",
        store=distributed.FileStore(str(folder / "store"), size),
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    result = function(World(rank, size, rank, size, torch.device("cpu"), 1), *arguments)
    torch.save(result, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def run_program(
    program: Path, *arguments: object, folder: Path, within_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a file as a program that somebody starts, without the seconds that its imports take.

    It may fork. Where the interpreter's own end counts, it is to be started for itself.

    Args:
        program: the file.
        arguments: of its command line.
        folder: for what it says.
        within_s: seconds behind which it is ended, and the test fails.
    """
    said = folder / "stdout", folder / "stderr"
    given = [str(each) for each in (program, *arguments)]
    process = SERVER.Process(target=_be_program, args=(given, *said))
    process.start()
    process.join(within_s)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{program} hangs")
    out, err = (file.read_text() for file in said)
    return subprocess.CompletedProcess(given, process.exitcode, out, err)


def send_briefly(sender: Any, name: str, *arguments: Any) -> None:
    """`parity.stock` of fewer crops; FFCV compiles nothing there, which takes it half a minute."""
    from fastft.parity import stock

    stock._PROBE_EPOCHS = 3
    if name == "ffcv":
        from pipelines.loaders import ffcv_loader

        ffcv_loader.Compiler.set_enabled(False)
        np.random.seed(1)  # noqa: NPY002  # what FFCV draws by
    stock._send_comparison(sender, name, *arguments)


def _be_program(given: list[str], *said: Path) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in any process that is not forked
    warnings.simplefilter("ignore")
    sys.argv = given
    sys.path.insert(0, str(Path(given[0]).parent))
    for descriptor, file in zip((1, 2), said, strict=True):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    runpy.run_path(given[0], run_name="__main__")
