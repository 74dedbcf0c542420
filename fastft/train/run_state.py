"""The state of a run beside its weights: what a checkpoint needs to continue it exactly.

Of randomness nothing needs to be kept: crops, flips and order are the plan's, a function of seed,
epoch and sample; what the network draws is a function of seed, step and process; rates are a
function of the step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fastft.config.train import How
from fastft.runs.checked import STRICT, Count, Seconds, checked
from fastft.runs.metrics import EpochMetrics
from fastft.train.step_log import Sums
from pipelines.errors import FormatError, UsageError
from pipelines.formats.beton import Index
from pipelines.formats.source import Source

#: What `identify` gives.
_IDENTITY = {"images": int, "classes": list, "labels": str, "content": str}


@dataclass(slots=True)
class RunState:
    """The position of a run.

    Attributes:
        data: what the run learns from and is judged by, see `identify`.
        how: what numbers also depend on, beside the settings: for a word of warning.
        epoch: the present epoch.
        consumed: how many of its samples have been trained on, by all processes together.
        sums: of its steps.
        rows: the epochs that are over.
        best: score and negative loss of the best of them.
        best_epoch: which one that is.
        averaged: steps that the weights' average has seen.
        metrics_bytes: how much of `metrics.jsonl` belongs to this state.
        seconds: how long the run has taken.
        is_done: whether there is nothing left to do.
        compiled: how its steps are computed, see `compiling`.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    data: Mapping[str, Any]
    how: Mapping[str, str | int | None]
    epoch: Count = 0
    consumed: Count = 0
    sums: Sums = field(default_factory=Sums)
    rows: list[EpochMetrics] = field(default_factory=list)
    best: Annotated[tuple[float, float], Field(strict=False)] = (-1.0, 0.0)
    best_epoch: Count = 0
    averaged: Count = 0
    metrics_bytes: Count = 0
    seconds: Seconds = 0.0
    is_done: bool = False
    compiled: How = "off"

    def __str__(self) -> str:
        """The state in words."""
        if self.consumed:
            return f"of epoch {self.epoch + 1} after {self.sums.steps} steps"
        return f"of epoch {self.epoch}"

    def finish_epoch(self, row: EpochMetrics, *, epochs: int, patience: int) -> None:
        """Stand at the beginning of the next epoch, or at the end.

        Args:
            row: what came of the epoch.
            epochs: how many there are at most.
            patience: end after so many without a better score; 0: never.
        """
        self.rows.append(row)
        # The lower loss decides between epochs with the same score. Any is better than none.
        if len(self.rows) == 1 or (row.score, -row.eval_loss) > self.best:
            self.best, self.best_epoch = (row.score, -row.eval_loss), self.epoch
        out_of_patience = patience > 0 and self.epoch - self.best_epoch >= patience
        self.epoch, self.consumed, self.sums = self.epoch + 1, 0, Sums()
        self.is_done = out_of_patience or self.epoch == epochs

    def pack(self) -> dict[str, Any]:
        """The state as JSON values."""
        rows = [row.pack() for row in self.rows]
        packed: dict[str, Any] = json.loads(json.dumps({**asdict(self), "rows": rows}))
        return packed


def unpack_state(packed: Mapping[str, Any], path: Path) -> RunState:
    """The state that a checkpoint holds.

    Raises:
        FormatError: it is none.
    """
    try:
        sums = checked(Sums, packed["sums"])
        rows = [checked(EpochMetrics, row) for row in packed["rows"]]
        state = checked(RunState, {**packed, "sums": sums, "rows": rows})
        if odd := _find_odd(state):
            raise ValueError(odd)
    except (TypeError, ValueError, KeyError) as error:
        found = f"does not say where its run stood ({error!s:.200})"
        raise FormatError(path, found, "a checkpoint of this version", "train again") from error
    return state


def _find_odd(state: RunState) -> str:
    """The values of a state that cannot be together; '' if all can."""
    if len(state.rows) != state.epoch or any(row.epoch != i for i, row in enumerate(state.rows)):
        return f"epoch is {state.epoch}, with rows of other epochs"
    if state.best_epoch > max(0, state.epoch - 1):
        return f"best_epoch is {state.best_epoch} of {state.epoch}"
    if (state.consumed > 0) != (state.sums.steps > 0):
        return f"consumed is {state.consumed} after {state.sums.steps} steps"
    for split in ("train", "eval"):
        data = state.data.get(split)
        kinds = {name: type(value) for name, value in data.items()} if type(data) is dict else {}
        if kinds != _IDENTITY or not all(
            type(name) is str for name in state.data[split]["classes"]
        ):
            return f"data do not tell {split} from others"
    return ""


def identify(source: Source) -> dict[str, Any]:
    """The identity of a data set, wherever it lies, as JSON values."""
    digest = hashlib.sha256()
    for column in (source.widths, source.heights):
        digest.update(column.tobytes())
    if isinstance(source, Index) and source.checksums is not None:
        digest.update(source.checksums.tobytes())
    elif isinstance(source, Index):
        digest.update(source.sizes.tobytes())
    else:
        for sample in range(len(source)):
            digest.update(source.name(sample).encode("utf-8", "surrogateescape") + b"\0")
    labels = source.columns.answers(source.labels).tobytes()
    if source.columns.task != "classes":  # the same bytes may mean something else
        labels += source.columns.task.encode()
    if source.columns.weights is not None:  # by which an order may be drawn
        labels += source.columns.weights.tobytes()
    return {
        "images": len(source),
        "classes": list(source.classes),
        "labels": hashlib.sha256(labels).hexdigest(),
        "content": digest.hexdigest(),
    }


def require_same_data(
    path: Path | str, found: Mapping[str, Any], begun: Mapping[str, Any], whose: str
) -> None:
    """Refuse other data than a run was begun with.

    Args:
        path: where the data are.
        found, begun: what `identify` says of them, and said then.
        whose: who was begun with the others.

    Raises:
        UsageError: with what differs.
    """
    if found == begun:
        return

    def described(data: Mapping[str, Any]) -> str:
        if found.get("images") != begun.get("images"):
            return f"{data['images']:,} images"
        if found.get("classes") != begun.get("classes"):
            return f"classes {', '.join(data['classes'])}"
        what = "labels" if found.get("labels") != begun.get("labels") else "contents"
        return f"{what} {str(data[what.removesuffix('s') if what == 'contents' else what])[:8]}"

    raise UsageError(
        path,
        f"has {described(found)}",
        f"{described(begun)}, which {whose} was begun with",
        "pass its --data, or train anew into another --out",
    )
