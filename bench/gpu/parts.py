"""The parts of `bench.gpu`: what each takes, how long it may take, and the runs they are taken in.

A machine with a GPU is there for minutes. So each process has a limit, which its part's figures say
before it begins, and the limits of a run add up to less than the run may take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.gpu import (
    augmented,
    corruption,
    end_to_end,
    fed,
    loaders,
    pixels,
    startup,
    steady,
    steps,
)

#: Seconds that a process pays for imports and the CUDA context before anything else: an estimate.
#: Some pay more, and have their patience for that.
START_UP_S = 8.0
#: A process that takes this many times what is expected hangs.
PATIENCE = 3.0
#: Seconds that a command may take on such a machine, less a minute for whatever else it does.
RUN_LIMIT_S = 540.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A module of this package, and how long its processes take on an H200 with 16 cores.

    The seconds are estimates; no GPU has run this.

    Attributes:
        name: what `--only` calls it.
        seconds: that one time is expected to take, without start-ups.
        variants: what it measures.
        module: whose part it is, and under whose name its findings are kept; '': its own.
        times: how often each variant is measured.
        processes: that are started one after the other for each time, with the libraries.
        apart: each variant has a process of its own.
    """

    name: str
    seconds: float
    variants: tuple[str, ...] = ("",)
    module: str = ""
    times: int = 1
    processes: int = 1
    apart: bool = False

    @property
    def section(self) -> str:
        """The name of its module."""
        return self.module or self.name

    @property
    def expected_s(self) -> float:
        """The seconds that one of its child processes takes."""
        return self.times * (self.processes * START_UP_S + self.seconds)

    @property
    def limit_s(self) -> float:
        """The seconds after which it is ended."""
        return self.times * (self.processes * START_UP_S + PATIENCE * self.seconds)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The variants of each of its children."""
        return tuple((name,) for name in self.variants) if self.apart else (self.variants,)

    @property
    def limit_in_all_s(self) -> float:
        """The limits of all its children."""
        return self.limit_s * len(self.groups)


#: Without these no other part has anything to read: the first of every run.
PHOTOS = Part(name="photos", seconds=6)
#: The most telling first.
PARTS = (
    Part(name="probe", seconds=8, processes=5),
    Part(name="suite", seconds=38),
    Part(name="corruption", seconds=18, variants=corruption.VARIANTS),
    Part(name="machine", seconds=2),
    Part(name="kernel", seconds=6),
    Part(name="fed", seconds=22, variants=fed.VARIANTS, apart=True),
    Part(name="end_to_end", seconds=3, variants=end_to_end.OURS, times=3, apart=True),
    Part(name="from_photos", seconds=3, variants=(end_to_end.FROM_PHOTOS,), module="end_to_end"),
    Part(name="tutorial", seconds=45, variants=(end_to_end.TUTORIAL,), module="end_to_end"),
    Part(
        name="tutorial_workers",
        seconds=10,
        variants=(end_to_end.WITH_WORKERS,),
        module="end_to_end",
    ),
    Part(name="steady", seconds=9, variants=steady.VARIANTS),
    Part(name="steps", seconds=34, variants=tuple(steps.WAYS)),
    Part(name="startup", seconds=4, variants=startup.VARIANTS, times=3),
    Part(name="pixels", seconds=10, variants=pixels.VARIANTS),
    Part(name="loaders", seconds=10, variants=loaders.VARIANTS),
    Part(name="changing", seconds=20),
    Part(name="augmented", seconds=35, variants=augmented.VARIANTS, apart=True),
)
#: Runs that between them have every part.
RUNS = {
    "1": ("probe", "suite", "corruption", "machine", "kernel", "fed", "steady", "pixels"),
    "2": (
        "end_to_end",
        "from_photos",
        "tutorial",
        "tutorial_workers",
        "steps",
        "startup",
        "loaders",
    ),
    "3": ("changing", "augmented"),
}


def choose(names: Iterable[str]) -> tuple[Part, ...]:
    """The parts of these names, in the order of PARTS, behind the photos."""
    wanted = set(names)
    return PHOTOS, *(part for part in PARTS if part.name in wanted)


def sum_of_limits(parts: Iterable[Part]) -> float:
    """The most seconds that a run of these takes."""
    return sum(part.limit_in_all_s for part in parts)


def limit_lines() -> Iterator[str]:
    """Each run's parts with their limits and sums, for people."""
    for run, names in RUNS.items():
        parts = choose(names)
        yield f"run {run}: {sum_of_limits(parts):.0f} s at most, of {RUN_LIMIT_S:.0f}"
        for part in parts:
            children = len(part.groups)
            yield (
                f"  {part.name:18} {part.limit_in_all_s:4.0f} s"
                f" = {children} x {part.times} x ({part.processes} x {START_UP_S:.0f}"
                f" + {PATIENCE:.0f} x {part.seconds:g})"
            )
    every = choose(part.name for part in PARTS)
    expected = sum(part.expected_s * len(part.groups) for part in every)
    yield f"all parts in one run: {expected:.0f} s expected; --budget 560 leaves out what is over"
