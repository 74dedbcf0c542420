"""A field of contenders that run by turns, each in a process of its own.

In each round every contender is timed once, one after the other, in an order that changes from
round to round: a machine that drifts drifts under all. Nobody else works meanwhile. What the
figures say is `verdicts.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.remote import Look, MissingError, Remote, RemoteError


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """A contender.

    Attributes:
        name: in the tables.
        side: `fastft` or `stock`.
        reads: `jpeg`, decoded in each epoch, or `pixels`, decoded before.
        source: what it is opened on: `photos`, the class folder, or a `.beton` of them that holds
            `jpeg` or `raw` pixels.
        make: opens its batches, called with the source, batch size, cores and output side.
        anew: whether each round opens it, and lasts an epoch; else it is read on without end.
        needs: modules beyond what fastft itself needs.
        remedy: what installs them.
    """

    name: str
    side: str
    reads: str
    source: str
    make: Callable[..., Iterator[Any]]
    anew: bool = False
    needs: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(slots=True)
class Laps:
    """Times of a contender's rounds, and the batches that it gave.

    Attributes:
        entrant: whose they are.
        images: of each round.
        wall_s, cpu_s: by round; the latter over all of its processes.
        look: at one epoch, after the rounds.
        fidelity: of ours: one batch against the reference, after the rounds.
    """

    entrant: Entrant
    images: int = 0
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    look: Look | None = None
    fidelity: Any = None


def ordered(names: Sequence[str], turn: int) -> list[str]:
    """The order of a round: another one first each time, and every other time backwards.

    So nobody always follows the same one.
    """
    at = turn % max(1, len(names))
    order = [*names[at:], *names[:at]]
    return order[::-1] if turn % 2 else order


class Field:
    """Times contenders.

    Attributes:
        found: what came of those that ran to the end, by name.
        missing: why others cannot run here, by name.
        failed: what befell others, by name.
    """

    def __init__(self, *, images: int, batch_size: int, epochs: int, warm_batches: int) -> None:
        """Settle what a round is.

        Args:
            images: of an epoch.
            batch_size: of all contenders.
            epochs: of a round; one where a contender is opened anew.
            warm_batches: read before the clock starts: more than anybody has prefetched.
        """
        self.epoch_batches = -(-images // batch_size)
        self._images, self._epochs, self._warm_batches = images, epochs, warm_batches
        self._running: dict[str, tuple[Laps, Remote]] = {}
        self.found: dict[str, Laps] = {}
        self.missing: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def enter(self, entrant: Entrant, remote: Remote) -> None:
        """Let a contender take part, whose process the field ends."""
        self._running[entrant.name] = (Laps(entrant), remote)

    def run(
        self, rounds: int, warm_rounds: int, told: Callable[[str], object] = lambda line: None
    ) -> None:
        """Time all contenders, then look at what they give.

        Args:
            rounds: that count.
            warm_rounds: before those.
            told: called with a line now and then.
        """
        told(f"opening {len(self._running)} contenders")
        self._by_turns(0, lambda laps, remote: remote.ready())  # they open side by side
        self._by_turns(0, lambda laps, remote: remote.settle())
        for turn in range(warm_rounds + rounds):
            told(f"round {turn + 1} of {warm_rounds + rounds}")
            self._by_turns(turn, self._lap if turn >= warm_rounds else self._warm_lap)
        told("looking at what they give")
        self._by_turns(0, self._look)

    def close(self) -> None:
        """End all processes."""
        while self._running:
            self._running.popitem()[1][1].close()

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _by_turns(self, turn: int, act: Callable[[Laps, Remote], object]) -> None:
        """Do one thing with each; who fails is out."""
        for name in ordered(list(self._running), turn):
            try:
                act(*self._running[name])
            except RemoteError as error:
                list_ = self.missing if isinstance(error, MissingError) else self.failed
                list_[name] = str(error)
                self._running.pop(name)[1].close()

    def _warm_lap(self, laps: Laps, remote: Remote) -> None:
        self._lap(Laps(laps.entrant), remote)

    def _lap(self, laps: Laps, remote: Remote) -> None:
        if laps.entrant.anew:
            remote.restart()
        else:
            remote.read(self._warm_batches)
        epochs = 1 if laps.entrant.anew else self._epochs
        cpu_s, wall_s = remote.usage().cpu_s, time.perf_counter()
        images = remote.read(epochs * self.epoch_batches)
        laps.wall_s.append(time.perf_counter() - wall_s)
        laps.cpu_s.append(remote.usage().cpu_s - cpu_s)
        laps.images = epochs * self._images
        if images != laps.images:
            raise RemoteError(f"{laps.entrant.name}: {images} images, expected {laps.images}")
        remote.settle()

    def _look(self, laps: Laps, remote: Remote) -> None:
        if laps.entrant.anew:
            remote.restart()
        else:
            remote.read(-remote.batches % self.epoch_batches)  # on to the end of an epoch
        laps.look = remote.look(self.epoch_batches)
        if laps.entrant.side == "fastft":
            laps.fidelity = remote.call("fidelity")
        self.found[laps.entrant.name] = laps
