"""The processes of a training: which of them this is, its CPUs, what they tell each other.

`torchrun`, or `fastft train --nproc`, starts the processes and numbers them in the environment;
a process that nobody numbered is a world of one, for which every function here costs nothing.
"""

from __future__ import annotations

import os
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.rendezvous import rendezvous

from fastft.system.environment import pick_device
from fastft.system.signals import Stopped, StopSignals
from pipelines.errors import DataError, FastftError, UsageError
from pipelines.workers import cpu_count

#: How long a process waits for the others: the first evaluation of rank 0's larger share, or a
#: batch from storage that is slow to wake. One that has died is noticed at once.
_PATIENCE = timedelta(minutes=10)
#: What is wrong with settings or data all processes find at once: the first one of a machine says
#: it, and the others, which hold back so long, are ended before they do. So does a process that has
#: lost another: that one says why, and takes a while to end.
_HOLD_BACK_S = 5.0
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank, size: this process's number, and how many there are.
        local_rank, local_size: the same on this machine.
        device: where this process trains.
        cpus: how many CPUs this process may use.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cpus: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The numbers of all processes, by rank: as many from each. One synchronization."""
        if self.size == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        all_ = torch.empty(self.size, len(mine), dtype=torch.float64, device=self.device)
        distributed.all_gather(list(all_), mine)
        return [list(row) for row in all_.tolist()]

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of all processes' numbers, added in the order of ranks: the same everywhere."""
        return [sum(column) for column in zip(*self.gather(values), strict=True)]

    def join(self, rows: torch.Tensor, columns: int) -> torch.Tensor:
        """The rows of all processes, one rank's behind the other's.

        Args:
            rows: [n, columns] on `device`, of one dtype everywhere; n may differ, and be 0.
            columns: the same in each.
        """
        if self.size == 1:
            return rows
        counts = [int(count) for (count,) in self.gather([len(rows)])]
        mine = rows.new_zeros(max(counts), columns)
        mine[: len(rows)] = rows.reshape(len(rows), columns)
        all_ = rows.new_empty(self.size, *mine.shape)
        distributed.all_gather(list(all_), mine)
        return torch.cat([each[:count] for each, count in zip(all_, counts, strict=True)])

    def least(self, value: float) -> float:
        """The least of all processes' numbers: the same everywhere."""
        return min(other for (other,) in self.gather([value]))

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Let every process's tensors, on `device`, become rank 0's."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def share(self, content: bytes | None) -> bytes:
        """Rank 0's bytes; the others give None."""
        if self.size == 1:
            assert content is not None
            return content
        length = int(self.gather([len(content or b"")])[0][0])
        box = torch.empty(length, dtype=torch.uint8, device=self.device)
        if content is not None:
            box.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.broadcast([box])
        return box.cpu().numpy().tobytes()

    def wait(self) -> None:
        """Wait until every process has come here."""
        self.gather([0.0])


#: A process by itself.
ALONE = World()


def is_numbered() -> bool:
    """Whether this process was started as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def require_alone(what: str) -> None:
    """Refuse to be one of several processes, which would all do the same.

    Raises:
        UsageError: this is one.
    """
    if is_numbered():
        raise UsageError(what, "started as one of several processes", "one", "leave out torchrun")


def is_main() -> bool:
    """Whether this process is the only one, or the first."""
    return os.environ.get("RANK", "0") == "0" or not is_numbered()


@contextmanager
def join_world(device: str, stop: StopSignals | None = None) -> Iterator[World]:
    """Join the other processes of this training, and leave them in the end.

    With several processes on a machine each takes its share of the CPUs, unless they have been
    given different ones already: neighbouring cores, with all threads of a core together. Of GPUs
    it takes the one with its local number.

    Args:
        device: `auto`, or a device by name.
        stop: who hears that another process has ended, and this one is to.

    Raises:
        UsageError: there is no such device, or not one GPU for each process.
        DataError: another process ended, or did not come.
    """
    if not is_numbered():
        yield replace(ALONE, device=pick_device(device), cpus=cpu_count())
        return
    world = _read_environment(device)
    gpu = world.device.type == "cuda"
    if gpu:
        torch.cuda.set_device(world.device)
    affinity, threads = os.sched_getaffinity(0), torch.get_num_threads()
    try:
        distributed.init_process_group(
            "nccl" if gpu else "gloo",
            store=_find_store(),
            rank=world.rank,
            world_size=world.size,
            timeout=_PATIENCE,
            device_id=world.device if gpu else None,
        )
        world = replace(world, cpus=_take_cpus(world))
        yield world
    except Stopped as error:
        raise Stopped(error.signal, str(error) if world.is_main else "") from None
    except FastftError:
        if world.local_rank:
            _let_others_speak(stop)
        raise
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        _let_others_speak(stop)
        raise DataError(
            f"process {world.rank + 1} of {world.size}",
            "lost the others",
            "",
            "one of them says why; continue with fastft train --resume",
        ) from error
    finally:
        os.sched_setaffinity(0, affinity)
        torch.set_num_threads(threads)
    # Not after an error: it would wait for the others.
    distributed.destroy_process_group()


def distribute(model: nn.Module, device: torch.device) -> nn.parallel.DistributedDataParallel:
    """A model whose gradients are averaged over all processes, as its backward pass makes them.

    Statistics of batch norm stay each process's own; the first one's are fetched where they count.
    """
    with warnings.catch_warnings():
        # `broadcast_buffers` has a new name from torch 2.13 on, which 2.9 does not know.
        warnings.simplefilter("ignore", FutureWarning)
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


def _let_others_speak(stop: StopSignals | None) -> None:
    """Give another process time to say what is wrong; whoever started us then ends this one.

    Raises:
        Stopped: it has been told to end.
    """
    ends_s = time.monotonic() + _HOLD_BACK_S
    while time.monotonic() < ends_s:
        if stop is not None and stop.requested:
            raise Stopped(stop.requested, "")
        time.sleep(0.05)


def _read_environment(device: str) -> World:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise UsageError(
            "the environment",
            f"WORLD_SIZE is set, and {error} is missing or not a number",
            "what torchrun sets",
            "start it by torchrun or --nproc",
        ) from error
    picked = pick_device(device)
    if picked.type == "cuda":
        if picked.index is not None:
            raise UsageError("--device", f"{device} for {size} processes", "cuda: one GPU for each")
        if torch.cuda.device_count() < local_size:
            found = f"{local_size} processes and {torch.cuda.device_count()} GPUs on this machine"
            raise UsageError("--device", found, "a GPU for each", "pass --nproc gpu")
        picked = torch.device("cuda", local_rank)
    return World(rank, size, local_rank, local_size, picked)


def _find_store() -> Any:
    """The address where the processes find each other.

    torchrun keeps one and the same for those that it starts again: without a name of their own they
    would read there where the dead ones had listened.
    """
    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"fastft-{again}", store)  # type: ignore[attr-defined]


def _take_cpus(world: World) -> int:
    """Keep to this process's share of the machine's CPUs; returns how many those are."""
    mine = sorted(os.sched_getaffinity(0))
    total = cpu_count()  # of all processes, if a container grants less than it shows
    first = world.rank - world.local_rank
    keys = world.gather([zlib.crc32(repr(mine).encode())])[first : first + world.local_size]
    if len({key for (key,) in keys}) > 1:  # somebody has divided them
        count = total
    else:
        count = max(1, total // world.local_size)
        if len(mine) >= world.local_size:
            share = divide_cpus(mine, world.local_size, _CPUS)[world.local_rank]
            os.sched_setaffinity(0, share)
    torch.set_num_threads(count)
    return count


def divide_cpus(cpus: Sequence[int], parts: int, topology: Path) -> list[list[int]]:
    """Divide CPUs into equal parts, such that the threads of a core, and sockets, stay together.

    Args:
        cpus: their numbers, at least `parts`.
        parts: how many shares to make.
        topology: where Linux describes each CPU.
    """

    def place(cpu: int) -> tuple[int, int, int]:
        folder = topology / f"cpu{cpu}" / "topology"
        try:
            package, core = (
                int((folder / name).read_text()) for name in ("physical_package_id", "core_id")
            )
        except (OSError, ValueError):  # a kernel that does not tell
            return 0, cpu, cpu
        return package, core, cpu

    ordered = sorted(cpus, key=place)
    edges = [len(ordered) * part // parts for part in range(parts + 1)]
    return [ordered[a:b] for a, b in pairwise(edges)]


def _is_lost(error: Any) -> bool:
    """Whether an error says that another process is gone: torch has no class for all of them."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
