"""Loaders that are kept busy with all that may be done to them, and held against their plan.

Epochs take milliseconds, for there are few photos and they are small; what leaks leaks all the
same. Everything runs in processes that `test_load.py` starts, and says what these held meanwhile.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import numpy as np
from held import Held, Watch

from pipelines.errors import DataError
from pipelines.formats.beton import read_index
from pipelines.formats.source import open_source
from pipelines.loaders import Loader, make_loader
from pipelines.plan import Plan, make_plan
from pipelines.preprocessing import MEAN, STD
from pipelines.reference import render_batch

BATCH = 4
#: The first is what loaders are made with, and the largest.
SIZES = (33, 17, 24)
SEED = 5
#: The sample of the broken data that is.
BROKEN = 9
#: Of a loader that comes and goes; to start its workers takes as long as several.
_LIFE_EPOCHS = 4
#: Longer than anything takes that one process waits for of the other.
_LONG_S = 100.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to read samples.

    Attributes:
        loader: its name.
        options: for `make_loader`.
        of_folder: whether it reads a class folder, not a `.beton`.
        filed: whether it keeps pixels in a file.
        world: processes that share one copy.
        apart: how far an image may be from the reference's in the mean, levels.
    """

    loader: str
    options: dict[str, Any] = field(default_factory=dict)
    of_folder: bool = False
    filed: bool = False
    world: int = 1
    apart: float = 0.0


KINDS = {
    "torchvision": Kind("torchvision", {"workers": 2}),
    "torchvision-folder": Kind("torchvision", {"workers": 1}, of_folder=True),
    "ffcv": Kind("ffcv", {"workers": 2}),
    "dali": Kind("dali", {"workers": 2}, apart=1.5),
    "dali-folder": Kind("dali", {"workers": 1}, of_folder=True, apart=1.5),
    "resident": Kind("resident", {"workers": 2}),
    "resident-yuv420": Kind(
        "resident", {"workers": 2, "store": "yuv420"}, of_folder=True, apart=4.0
    ),
    "resident-file": Kind("resident", {"workers": 2}, filed=True),
    "resident-shared": Kind("resident", {"workers": 1}, world=2),
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How long it goes on.

    Attributes:
        points: how often is looked at what is held, in each of the two parts.
        epochs, seconds: what lies between two points at least.
        warm_up: points before the first that counts.
        plans: epochs that are drawn from.
    """

    points: int
    epochs: int
    seconds: float
    warm_up: int
    plans: int


class Wanted:
    """What a plan means, by the reference: made in advance, so that it is no growth."""

    def __init__(self, path: Path, plans: int) -> None:
        """Render all samples of so many epochs in all sizes."""
        self.source = open_source(path)
        self._plans: dict[tuple[int, int], Plan] = {}
        self._pixels: dict[tuple[int, int], np.ndarray] = {}
        everyone = np.arange(len(self.source))
        stored = [self.source.stored(sample) for sample in everyone.tolist()]
        for epoch in range(plans):
            for size in SIZES:
                plan = make_plan(
                    self.source.widths, self.source.heights, view="train", size=size, seed=SEED,
                    epoch=epoch,
                )  # fmt: skip
                assert sorted(plan.order.tolist()) == everyone.tolist()
                self._plans[epoch, size] = plan
                self._pixels[epoch, size] = render_batch(stored, plan.rows(everyone))

    def shares(self, epoch: int, rank: int, world: int) -> list[np.ndarray]:
        """A rank's samples of an epoch, batch by batch."""
        return list(self._plans[epoch, SIZES[0]].shares(BATCH, rank=rank, world=world))

    def check(self, batch: Any, samples: np.ndarray, epoch: int, size: int, apart: float) -> None:
        """Compare a batch with what these samples are in that epoch."""
        images, labels = batch
        assert labels.tolist() == self.source.labels[samples].tolist()
        found = images.permute(0, 2, 3, 1).numpy()
        if found.dtype != np.uint8:
            found = np.rint((found * np.float32(STD) + np.float32(MEAN)) * 255)
        distance = np.abs(found.astype(int) - self._pixels[epoch, size][samples])
        assert (distance.mean((1, 2, 3)) <= apart).all(), (epoch, size, distance.mean((1, 2, 3)))


class Use:
    """A loader of good data and one of broken data, and what may be done to them."""

    def __init__(self, wanted: Wanted, kind: Kind, bad: Path, folder: Path, rank: int) -> None:
        """Make nothing yet."""
        self.wanted, self._kind, self._bad, self._folder = wanted, kind, bad, folder
        self._rank, self._draw = rank, Random(SEED)
        self._name = open_source(bad).name(BROKEN)
        self.good: Loader
        self.bad: Loader
        self.actions = (
            self.whole, self.left_early, self.begun_twice, self.selected, self.continued,
            self.resized, self.broken,
        )  # fmt: skip
        self.epochs = 0

    def make(self) -> None:
        """Make both."""
        self.good = self._make(self.wanted.source.path, normalize=self._draw.random() < 0.7)
        self.bad = self._make(self._bad, normalize=False)

    def close(self) -> None:
        """Close both, the one sometimes in the middle of an epoch."""
        left = iter(self.good)
        if self._draw.random() < 0.5:
            next(left)
        self.good.close()
        self.bad.close()

    def rest(self) -> None:
        """One whole epoch of each: of one that was left something may still be under way."""
        self.whole()
        self.bad.select(np.delete(np.arange(len(self.wanted.source)), BROKEN))
        for _ in self.bad:
            pass

    def any(self) -> None:
        """One epoch of some sort."""
        self._draw.choice(self.actions)()

    def whole(self) -> None:
        self._check(iter(self.good), self._begin())

    def left_early(self) -> None:
        shares = self._begin()
        self._check(iter(self.good), shares, self._draw.randrange(len(shares)))

    def begun_twice(self) -> None:
        shares = self._begin()
        first = iter(self.good)
        self._check(first, shares, 1 + self._draw.randrange(len(shares) - 1))
        self._check(iter(self.good), shares)
        assert list(first) == []

    def selected(self) -> None:
        epoch = self._epoch()
        self.good.set_epoch(epoch)
        count = len(self.wanted.source)
        samples = np.array(self._draw.sample(range(count), self._draw.randint(1, count)))
        self.good.select(samples)
        world = self._kind.world
        batches = (samples[at : at + BATCH] for at in range(0, len(samples), BATCH))
        self._check(
            iter(self.good), [np.array_split(batch, world)[self._rank] for batch in batches]
        )

    def continued(self) -> None:
        shares = self._begin()
        behind = self._draw.randrange(len(shares))
        self._check(iter(self.good), shares, behind)
        state = self.good.state_dict()
        assert state["consumed"] == behind * BATCH
        self.good.set_epoch(self._epoch())
        self.good.load_state_dict(state)
        self._check(iter(self.good), shares[behind:])

    def resized(self) -> None:
        self.good.set_size(self._draw.choice(SIZES))
        self._check(iter(self.good), self._begin())

    def broken(self) -> None:
        self.bad.set_epoch(self._epoch())
        epoch = self.bad.plan.epoch
        shares = self.wanted.shares(epoch, self._rank, self._kind.world)
        behind = 0
        try:
            for batch in self.bad:
                self.wanted.check(batch, shares[behind], epoch, SIZES[0], self._kind.apart)
                behind += 1
        except DataError as error:
            said = str(error)
            if BROKEN not in np.concatenate(shares[behind:]) or self._name not in said:
                raise
        else:
            assert behind == len(shares)
            # Both files have the same checksums: where processes share memory, the whole one's
            # loader may have put the very pixels there, which were just looked at.
            assert self._kind.world > 1 or BROKEN not in np.concatenate(shares)
        self.epochs += 1

    def _epoch(self) -> int:
        return self._draw.randrange(len(self.wanted._plans) // len(SIZES))

    def _begin(self) -> list[np.ndarray]:
        epoch = self._epoch()
        self.good.set_epoch(epoch)
        return self.wanted.shares(epoch, self._rank, self._kind.world)

    def _check(self, batches: Iterator[Any], shares: list[np.ndarray], count: int = -1) -> None:
        """Take so many batches, or all there are, and no more."""
        loader, kind = self.good, self._kind
        for samples in shares[:count] if count >= 0 else shares:
            batch = next(batches)
            self.wanted.check(batch, samples, loader.plan.epoch, loader.size, kind.apart)
        if count < 0:
            assert next(batches, None) is None
        self.epochs += 1

    def _make(self, path: Path, *, normalize: bool) -> Loader:
        kind = self._kind
        options: dict[str, Any] = dict(kind.options)
        if kind.filed:
            options["store_file"] = self._folder / f"{path.stem}.store"
        return make_loader(
            kind.loader, path, size=SIZES[0], batch_size=BATCH, seed=SEED, normalize=normalize,
            rank=self._rank, world=kind.world, **options,
        )  # fmt: skip


def break_sample(good: Path, bad: Path) -> None:
    """A copy of a `.beton` or of a class folder whose sample BROKEN is cut short."""
    if good.is_dir():
        shutil.copytree(good, bad)
        path = bad / open_source(good).name(BROKEN)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return
    shutil.copyfile(good, bad)
    index = read_index(good)
    with bad.open("r+b") as file:
        file.seek(int(index.pointers[BROKEN] + index.sizes[BROKEN] // 2))
        file.write(bytes(int(index.sizes[BROKEN]) // 2))


Points = dict[str, list[Held]]


class Together:
    """Keeps the processes of a kind in step, as the steps of a training do."""

    def __init__(self, context: Any, count: int) -> None:
        """Of so many processes, which are started by `context`."""
        self._barrier, self._flag = context.Barrier(count), context.Value("b", False)

    def agree(self, rank: int, wanted: bool = True) -> bool:
        """Wait for all; what the first one wants is what all get."""
        if rank == 0:
            self._flag.value = wanted
        self._barrier.wait(_LONG_S)
        agreed = bool(self._flag.value)
        self._barrier.wait(_LONG_S)
        return agreed

    def give_up(self) -> None:
        """Let the others know that they wait in vain."""
        self._barrier.abort()


def keep_busy(use: Use, pace: Pace, agree: Callable[..., bool], look: Callable[[], Held]) -> Points:
    """Use loaders that stay, then ones that come and go; what was held at each point."""

    def come_and_go() -> None:
        use.make()
        agree()  # both processes have the common copy before either lets go of it
        for _ in range(_LIFE_EPOCHS):
            use.any()
        agree()
        use.close()

    def look_at_rest() -> Held:
        use.rest()
        return look()

    use.make()
    for action in use.actions:
        action()
    points = {"stay": list(points_of(use.any, lambda: use.epochs, pace, agree, look_at_rest))}
    agree()
    use.close()
    points["come and go"] = list(points_of(come_and_go, lambda: use.epochs, pace, agree, look))
    return points


def points_of(
    work: Callable[[], None], epochs: Callable[[], int], pace: Pace, agree: Callable[..., bool],
    look: Callable[[], Held],
) -> Iterator[Held]:  # fmt: skip
    """Work, and look at what is held each time that it is time to."""
    for point in range(pace.warm_up + pace.points):
        ends_s, ends = time.monotonic() + pace.seconds, epochs() + pace.epochs
        while agree(epochs() < ends or time.monotonic() < ends_s):
            work()
        held = look()
        agree()  # nobody begins anything before all have looked
        if point >= pace.warm_up:
            yield held


def run_loaders(
    rank: int, kind: str, good: Path, folder: Path, pace: Pace, group: str, together: Together
) -> None:
    """Be one of a kind's processes.

    Args:
        rank: which.
        kind: one of KINDS.
        good: what to read.
        folder: of the kind's own; see `answering`.
        pace: how long.
        group: a number that is no other kind's.
        together: keeps them in step.
    """
    with answering(folder / f"{rank}.json", together) as answer:
        what, bad = KINDS[kind], folder / f"bad{good.suffix}"
        os.environ |= {
            "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(what.world), "MASTER_ADDR": "load",
            "MASTER_PORT": group,
        }  # fmt: skip
        if rank == 0:
            break_sample(good, bad)
        together.agree(rank)
        use = Use(Wanted(good, pace.plans), what, bad, folder, rank)
        name = f"-{crc32(f'  load {group}'.encode()):08x}-"
        watch = Watch(lambda each: name in each or f"torch_{os.getpid()}_" in each)
        points = keep_busy(use, pace, partial(together.agree, rank), watch.look)
        answer |= {"epochs": use.epochs, "points": plain(points)}


def plain(points: Points) -> dict[str, Any]:
    """The points as JSON values."""
    return {part: [astuple(each) for each in found] for part, found in points.items()}


@contextmanager
def answering(path: Path, together: Together) -> Iterator[dict[str, Any]]:
    """Leave what the block puts into a dictionary as a file of JSON, or as `failed` its error."""
    answer: dict[str, Any] = {}
    # A server's processes would start others by a server, too: DataLoader's, in seconds each.
    multiprocessing.set_start_method("fork", force=True)
    gc.freeze()  # what was imported need not be gone through each time that somebody looks
    try:
        yield answer
    except BaseException:
        together.give_up()
        answer = {"failed": traceback.format_exc()}
    path.write_text(json.dumps(answer))
