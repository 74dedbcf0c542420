"""An evaluation that has been run: what its report is made of, and what a report leaves."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from fastft.config.commands import EvaluateConfig
from fastft.evaluate.plots import SHOWN_PX, cut_image
from fastft.runs.checkpoint import Checkpoint
from fastft.train.evaluate import Outputs
from pipelines.errors import one_line
from pipelines.formats.source import Source

#: Files of every report; the first marks a folder as ours, so it is written before the others.
FINDINGS, PREDICTIONS, WORST = "evaluation.json", "predictions.csv", "top_losses.png"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """All that a report is made of.

    Attributes:
        config: what was asked for.
        checkpoint, path: the model, and its file.
        source: the samples.
        order: int64[N], the sample of each row of the outputs.
        outputs: finite.
        how: how it was made, fields of every report's JSON.
        started: by the clock of `time.perf_counter`.
    """

    config: EvaluateConfig
    checkpoint: Checkpoint
    path: Path
    source: Source
    order: NDArray[np.int64]
    outputs: Outputs
    how: Mapping[str, Any]
    started: float

    @property
    def names(self) -> list[str]:
        """The name of each row's sample."""
        return [self.source.name(int(sample)) for sample in self.order]

    @property
    def title(self) -> str:
        """The name of the data, in one line."""
        return one_line(self.source.path.name)

    @property
    def seconds(self) -> float:
        """The seconds until now."""
        return time.perf_counter() - self.started

    def see(self, row: int) -> Image.Image:
        """The part of a row's sample that the model sees, large enough to be looked at."""
        sample, source = int(self.order[row]), self.source
        name = f"{source.path}: {source.name(sample)}"
        view, form = self.checkpoint.view, self.checkpoint.preprocessed
        pixels = cut_image(source.stored(sample), view, SHOWN_PX, name, form)
        return Image.fromarray(pixels)


@dataclass(frozen=True, slots=True)
class Report:
    """The results of an evaluation.

    Attributes:
        findings: all that the outputs say.
        files: the contents of files by their names, in the order of writing: lines, or bytes.
        show: prints it.
    """

    findings: Any
    files: Mapping[str, Iterable[str] | bytes]
    show: Callable[[Console], None]


def to_json(content: Mapping[str, Any]) -> str:
    """The text of a report's JSON."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    # A row of the confusion matrix is a line. Line breaks are never part of a string in JSON.
    return re.sub(r"\[\n[\d\s,]+\]", lambda row: "".join(row[0].split()), text)
