"""Starting one training as several processes on this machine, by torch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from fastft.system.signals import Stopped, heeded
from pipelines.errors import DataError, UsageError
from pipelines.workers import end_with

#: Set in processes that `--nproc` has started: how many, and by which process.
_STARTED_HERE, _PARENT = "FASTFT_NPROC", "FASTFT_PARENT"


def count_processes(nproc: str) -> int:
    """Number of processes that `--nproc` asks for; 1 in a process that is one of many.

    Raises:
        UsageError: neither a number nor `gpu`, or there is no GPU.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or _STARTED_HERE in os.environ:
        return 1
    if nproc == "gpu":
        import torch

        count = torch.cuda.device_count()
        if not count:
            raise UsageError("--nproc", "gpu, but no GPU is visible", "one", "pass a number")
        return count
    if not nproc.isdecimal() or not 1 <= int(nproc) <= 1024:
        raise UsageError("--nproc", repr(nproc), "a number of processes, or gpu for one per GPU")
    return int(nproc)


def launch(nproc: int, arguments: Sequence[str]) -> None:
    """Run `fastft ARGUMENTS` in so many processes, which know of each other, until all have ended.

    The processes print for themselves, and the first error ends all of them.

    Raises:
        SystemExit: a process ended with an error, which it has printed.
        DataError: a process was killed.
        Stopped: a signal came, which was passed on.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What it reports of failed processes in twenty lines, they and we say in one.
    logging.disable(logging.ERROR)
    os.environ[_STARTED_HERE], os.environ[_PARENT] = str(nproc), str(os.getpid())
    told = heeded()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle=",".join(each.name for each in told),
        # Else it makes a folder for logs that nobody writes, and leaves it behind.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "fastft", *arguments)
    except SignalException as error:
        raise Stopped(int(error.sigval), "") from None
    except ChildFailedError as error:
        failures = error.failures
        # The others are told to end when one has; what it ended by is what counts.
        for rank, code in ((rank, failures[rank].exitcode) for rank in failures):
            if code < 0 and -code not in told:
                name = signal.Signals(-code).name
                remedy = "continue with fastft train --resume"
                if name == "SIGKILL":
                    remedy = f"if memory ran out, take fewer --workers; {remedy}"
                found = f"was ended by {name}"
                raise DataError(f"process {rank + 1} of {nproc}", found, "", remedy) from None
        sys.exit(min(abs(failure.exitcode) for failure in failures.values()))
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[_STARTED_HERE], os.environ[_PARENT]


def end_with_launcher() -> None:
    """In a process that `launch` has started: be told to end if the launcher has not lived to."""
    if _STARTED_HERE in os.environ and _PARENT in os.environ:
        end_with(int(os.environ[_PARENT]), signal.SIGTERM)
