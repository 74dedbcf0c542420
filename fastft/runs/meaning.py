"""The meaning of a model's outputs: its task, and what is needed to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fastft.runs.checked import STRICT, checked
from pipelines.formats.columns import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """The meaning of an output layer.

    Attributes:
        task: `classes`: a softmax; `labels`: a sigmoid of each output; `number`: one output.
        score: of the evaluation split, see `measures`; of classes a checkpoint's `accuracy`.
        thresholds: of `labels`, the probability from which on each was told best on the evaluation
            split, by F1; empty before the first evaluation.
        mean, deviation: of a `number` in the training split: an output is how many deviations it is
            from the mean.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    task: Task = "classes"
    score: Annotated[float, Field(allow_inf_nan=False, le=1)] = 0.0
    thresholds: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(strict=False, fail_fast=True)
    ] = ()
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    deviation: Annotated[float, Field(allow_inf_nan=False, gt=0)] = 1.0

    def after(self, score: float, thresholds: tuple[float, ...]) -> Meaning:
        """The same after an evaluation."""
        return replace(self, score=score, thresholds=thresholds)

    def pack(self) -> dict[str, Any] | None:
        """The meaning as JSON values; None for classes, of which there is nothing to say."""
        if self.task == "classes":
            return None
        return {**asdict(self), "thresholds": list(self.thresholds)}


#: One class of each image.
CLASSES = Meaning()


def read_meaning(packed: Mapping[str, Any] | None, outputs: int) -> Meaning:
    """The meaning that a checkpoint holds.

    Args:
        packed: of `Meaning.pack`; None in one of classes, or of an older version.
        outputs: rows of its output layer.

    Raises:
        TypeError, ValueError: it is none, or of another number of outputs.
    """
    if packed is None:
        return CLASSES
    found = checked(Meaning, packed)
    if found.task == "number" and outputs != 1:
        raise ValueError(f"a number with {outputs} outputs")
    if len(found.thresholds) not in (0, outputs) or (found.thresholds and found.task != "labels"):
        raise ValueError(f"{len(found.thresholds)} thresholds of {outputs} outputs")
    return found
