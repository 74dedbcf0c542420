"""`--compile`: how the steps of a run are computed, and whether another way is worth its start.

`auto` begins with usual steps. Between epochs it holds the seconds that another way would save in
the steps that are left against what its compilation costs: as measured in an earlier run of such
steps on this card, else as assumed here. What turns out slower is left again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, get_args

import torch

from fastft.config.train import Compile, How
from fastft.train.distributed import World
from fastft.train.step import TrainStep
from pipelines.errors import DataError, UsageError, one_line
from pipelines.findings import read_findings, save_findings

HOWS: tuple[How, ...] = get_args(How)
#: Seconds that a compilation costs and the share of a step that it saves, where nobody has measured
#: it. Assumed: no GPU has run this. What is not measured has to earn twice what it costs.
ASSUMED: dict[str, tuple[float, float]] = {"default": (60.0, 0.15), "graph": (5.0, 0.05)}
_CAUTION = 2.0
#: Steps whose median is a measurement, and the most that are remembered.
_ENOUGH_STEPS, _MOST_STEPS = 20, 1000
_SUBJECT = "steps"


@dataclass(frozen=True, slots=True)
class Measured:
    """Steps of one way: their seconds, and what it took to prepare them."""

    step_s: float
    prepared_s: float = 0.0


def choose(
    found: Mapping[str, Measured], step_s: float, steps: int, possible: Sequence[How]
) -> tuple[How, str]:
    """The way that saves most of the time that is left, with the arithmetic; `off` if none does.

    Args:
        found: measurements of such steps, by way.
        step_s: seconds of a usual step.
        steps: how many are left.
        possible: ways to choose from.
    """
    best: How = "off"
    most_s, told = 0.0, ""
    for how in possible:
        if how in found:
            costs_s, saved_s = found[how].prepared_s, steps * (step_s - found[how].step_s)
            earned, source = saved_s > costs_s, "measured before"
        else:
            costs_s, share = ASSUMED[how]
            saved_s = steps * step_s * share
            earned, source = saved_s > _CAUTION * costs_s, "assumed, not measured"
        if earned and saved_s - costs_s > most_s:
            best, most_s = how, saved_s - costs_s
            told = (
                f"{steps:,} steps of {1000 * step_s:.1f} ms are left, of which it saves "
                f"{saved_s:.0f} s and costs {costs_s:.0f} ({source})"
            )
    return best, told


class Compiling:
    """The way a run's steps are computed, from epoch to epoch.

    Attributes:
        how: the way at present.
    """

    def __init__(
        self,
        choice: Compile,
        step: TrainStep,
        *,
        setup: str,
        batch: int,
        size: int,
        world: World,
        say: Callable[[str], None],
    ) -> None:
        """Prepare the steps, if a way was asked for.

        Args:
            choice: `--compile`.
            step: the run's.
            setup: what the speed of steps depends on: card, versions, network, batch.
            batch, size: of a full batch: images of all processes, and their side, px.
            world: the processes, which do as the first.
            say: tells people what is changed and why.

        Raises:
            UsageError: this network cannot be computed in the way that was asked for.
        """
        self._choice, self._step, self._setup, self._world = choice, step, setup, world
        self._batch, self._size, self._say = batch, size, say
        self._took: dict[str, deque[float]] = {how: deque(maxlen=_MOST_STEPS) for how in HOWS}
        self._prepared_s: dict[str, float] = {}
        # Of several processes one alone might fail to compile, and the others wait for it.
        self._tries = choice == "auto" and step.device.type == "cuda" and world.size == 1
        self.how: How = "off"
        step.on_failure = self._fail
        how = _as_how(choice)
        if obstacle := step.find_obstacle(how):
            raise UsageError("--compile", f"{how}, which {obstacle}", "another way", "take off")
        if how != "off":
            self._turn(how)

    def restore(self, saved: str) -> None:
        """Go on as a run's steps were computed when it was saved, if that is left to `auto`."""
        how = _as_how(saved)
        if self._choice == "auto" and not self._step.find_obstacle(how):
            self._turn(how)
        if how != self.how and "default" in (how, self.how):
            self._say(
                f"not to the bit what it would have been: begun with --compile {how}, now "
                f"{self.how}"
            )

    def took(self, seconds: float) -> float:
        """Take in a step of an epoch; gives the seconds of it that went for preparing others."""
        prepared_s = self._step.prepared_s
        if prepared_s and self.how not in self._prepared_s:
            self._prepared_s[self.how] = prepared_s
            return min(seconds, prepared_s)
        self._took[self.how].append(seconds)
        return 0.0

    def decide(self, steps: int) -> None:
        """Between epochs: take another way for the steps that are left, or leave it, if it pays."""
        if not self._tries:
            return
        usual_s, now_s = self._median("off"), self._median(self.how)
        how, told = self.how, ""
        if self.how != "off" and now_s is not None and usual_s is not None:
            if now_s > usual_s:
                how, told = "off", f"{1000 * now_s:.1f} ms a step, {1000 * usual_s:.1f} before"
            self._tries = False
        elif self.how == "off" and usual_s is not None:
            possible = [each for each in HOWS[1:] if not self._step.find_obstacle(each)]
            how, told = choose(self._read(), usual_s, steps, possible)
        if how != self.how:
            self._turn(how)
            self._say(f"--compile auto: {how} from here on; {told}")

    def save(self) -> None:
        """Keep what was measured for later runs."""
        measured: dict[str, Any] = {
            how: asdict(Measured(step_s, self._prepared_s.get(how, 0.0)))
            for how in HOWS
            if (step_s := self._median(how)) is not None
        }
        if self._step.device.type == "cuda" and self._world.is_main and measured:
            with suppress(DataError, OSError):  # a cache that cannot be written is none
                save_findings(
                    _SUBJECT, self._setup, {**read_findings(_SUBJECT, self._setup), **measured}
                )

    def _turn(self, how: How) -> None:
        self.how = how
        self._step.prepare(how, self._batch, self._size)

    def _fail(self, error: Exception) -> None:
        """Go on with usual steps, or refuse to if others were asked for.

        Raises:
            UsageError: they were.
        """
        found = f"{self.how} failed with {type(error).__name__}: {error}"
        if self._choice != "auto":
            raise UsageError("--compile", one_line(found)[:300], "", "take off") from error
        self._say(one_line(f"--compile auto: {found}"[:300] + "; off from here on"))
        self.how, self._tries = "off", False

    def _median(self, how: str) -> float | None:
        took = self._took[how]
        return median(took) if len(took) >= _ENOUGH_STEPS else None

    def _read(self) -> dict[str, Measured]:
        found: dict[str, Measured] = {}
        for how, values in read_findings(_SUBJECT, self._setup).items():
            with suppress(TypeError, ValueError, KeyError):  # of another version
                found[how] = Measured(float(values["step_s"]), float(values["prepared_s"]))
        return found


def _as_how(text: str) -> How:
    """One of the ways; `off` for all else."""
    return next((how for how in HOWS if how == text), "off")


def name_setup(device: torch.device, **other: Any) -> str:
    """The card, torch's version and whatever else the speed of steps depends on."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    told = (f"{name} {value}" for name, value in other.items())
    return ", ".join((card, f"torch {torch.__version__}", *told))
