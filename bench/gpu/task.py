"""The task of a part's process, and how it answers: a line of JSON for each row, as it comes.

Nothing heavy is imported before it is needed: some parts only start other processes.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.config.bench import Task as LoaderTask
from fastft.system.isolated import ANSWER
from pipelines.augment import USUAL
from pipelines.errors import FastftError

if TYPE_CHECKING:
    import torch

Found = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The task of a part, as JSON on its process's command line.

    Attributes:
        variants: the part's contenders that this process measures, one after the other.
        variant: the one whose turn it is; some parts have one alone, without a name.
        rows: a file that gets a line for each finding.
        device: `cuda`, or `cpu` for a rehearsal, whose figures mean nothing.
        root: of the project.
        photos: class folders in `train` and `test`.
        data: the same as `train.beton` and `test.beton`.
        many: the same, with each training photo several times: epochs that last.
        size: side of the images that come out, px.
        batches: sizes of batches that loaders are measured with.
        trained: sizes of batches that are learnt from; the largest is the usual one.
        epochs: of a run from end to end.
        times: how often a whole process is timed.
        rounds: how often contenders of one process take turns.
        seconds: for each figure.
        workers: threads or processes that decode.
    """

    variants: tuple[str, ...] = ("",)
    variant: str = ""
    rows: str = ""
    device: str
    root: str
    photos: str
    data: str
    many: str
    size: int
    batches: tuple[int, ...]
    trained: tuple[int, ...]
    epochs: int
    times: int
    rounds: int
    seconds: float
    workers: int

    @property
    def on_gpu(self) -> bool:
        """Whether the figures mean something."""
        return self.device != "cpu"

    @property
    def batch(self) -> int:
        """Size of the batches that are usually learnt from."""
        return max(self.trained)

    @property
    def many_photos(self) -> str:
        """The `.beton` of very many training photos."""
        return str(Path(self.many) / "train.beton")

    def loader(self, name: str, batch_size: int) -> LoaderTask:
        """The same for `bench.worker`, which measures a loader."""
        return LoaderTask(
            loader=name,
            data=self.many_photos,
            workers=self.workers,
            view="train",
            size=self.size,
            batch_size=batch_size,
            decode="exact",
            augment=USUAL,
            seconds=self.seconds,
            arch="resnet18",
            amp="auto",
            device=self.device,
            seed=0,
            cold=False,
        )

    def as_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def read_task(text: str) -> Task:
    """A task from its JSON."""
    values = json.loads(text)
    lists = {field.name for field in fields(Task) if str(field.type).startswith("tuple")}
    return Task(
        **{name: tuple(value) if name in lists else value for name, value in values.items()}
    )


def answer(measure: Callable[[Task], Iterator[Found]], arguments: list[str]) -> None:
    """Measure each variant that the first argument asks for; the second is a folder for ANSWER.

    `measure` gives all that it has found of its variant so far, again and again, so that a process
    that is killed keeps what it had. Whatever is raised becomes `failed`, a line that says why: it
    is a finding like any other, and the next variant has its turn.
    """
    text, folder = arguments
    task = read_task(text)
    with open(task.rows, "a", encoding="utf-8") as rows:

        def tell(variant: str, found: Found, done: bool) -> None:
            rows.write(json.dumps({"variant": variant, "found": found, "done": done}) + "\n")
            rows.flush()

        for variant in task.variants:
            found: Found = {}
            try:
                for found in measure(replace(task, variant=variant)):
                    tell(variant, found, False)
            except FastftError as error:
                found = {**found, "failed": str(error)}
            except Exception as error:  # the libraries' own
                said = (str(error).splitlines() or [""])[0]
                found = {**found, "failed": f"{type(error).__name__}: {said}"}
                found["traceback"] = traceback.format_exc(limit=-4)
            tell(variant, found, True)
    (Path(folder) / ANSWER).write_text("{}")
    sys.stdout.flush()


def wait(device: str | torch.device) -> None:
    """Until the device has nothing left to do."""
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def per_second(work: Callable[[], object], task: Task, *, at_once: int = 16) -> float:
    """Calls per second of something that has been called twice.

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
    """GPU memory of all processes: pools, contexts and code, too."""
    import torch

    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(total - free)
