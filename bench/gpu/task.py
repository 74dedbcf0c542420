"""What a part's process is told, and how it answers."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fastft.bench_config import Task as LoaderTask
from fastft.child import ANSWER
from pipelines.errors import FastftError


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a part measures, as JSON on its process's command line.

    Attributes:
        variant: which of the part's contenders; some parts have one alone.
        device: `cuda`, or `cpu` for a rehearsal, whose figures mean nothing.
        root: of the project.
        photos: class folders in `train` and `test`.
        data: the same as `train.beton` and `test.beton`.
        many: a `.beton` of each training photo several times: epochs that last.
        size: side of the images that come out, px.
        batches: sizes of batches that loaders and kernel are measured with.
        batch: size of those that are learnt from.
        epochs: of a run from end to end.
        seconds: for each figure.
        workers: threads or processes that decode.
    """

    variant: str
    device: str
    root: str
    photos: str
    data: str
    many: str
    size: int
    batches: tuple[int, ...]
    batch: int
    epochs: int
    seconds: float
    workers: int

    @property
    def on_gpu(self) -> bool:
        """Whether the figures mean something."""
        return self.device != "cpu"

    def loader(self, name: str, batch_size: int) -> LoaderTask:
        """The same for `fastft.gauge`, which measures a loader."""
        return LoaderTask(
            loader=name, data=self.many, workers=self.workers, view="train", size=self.size,
            batch_size=batch_size, seconds=self.seconds, arch="resnet18", amp="auto",
            device=self.device, seed=0, cold=False,
        )  # fmt: skip

    def as_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def answer(measure: Callable[[Task], Mapping[str, Any]], arguments: list[str]) -> None:
    """Measure what the first argument asks for; the answer goes to the folder that is the second.

    Whatever is raised becomes `failed`, a line that says why: it is a finding like any other.
    """
    text, folder = arguments
    values = json.loads(text)
    task = Task(**{**values, "batches": tuple(values["batches"])})
    try:
        found = dict(measure(task))
    except FastftError as error:
        found = {"failed": str(error)}
    except Exception as error:  # the libraries' own
        found = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        found["traceback"] = traceback.format_exc(limit=-4)
    (Path(folder) / ANSWER).write_text(json.dumps(found))
    sys.stdout.flush()


def wait(device: str | torch.device) -> None:
    """Until the device has nothing left to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def per_second(work: Callable[[], object], task: Task, *, at_once: int = 16) -> float:
    """How often a second something can be done, once it has been done twice.

    Args:
        work: queues it on the device.
        task: for how long, and where.
        at_once: after so many the device is waited for, as a queue without end would outlast the
            clock.
    """
    for _ in range(2):
        work()
    wait(task.device)
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < task.seconds:
        for _ in range(at_once if task.on_gpu else 1):
            work()
            done += 1
        wait(task.device)
    return done / (time.perf_counter() - started)


def gpu_bytes() -> int:
    """What all processes have taken of the GPU: pools, contexts and code, too."""
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(total - free)
