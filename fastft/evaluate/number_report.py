"""The report of a model of a number: its errors, and the largest of them."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastft.evaluate.evaluated import FINDINGS, PREDICTIONS, WORST, Evaluated, Report, to_json
from fastft.evaluate.number_result import NumberEvaluation, NumberSample
from fastft.evaluate.number_section import number_line, print_number_evaluation
from fastft.evaluate.outputs import csv_lines
from fastft.evaluate.target_plots import draw_scatter, draw_worst
from fastft.model.tasks import NumberGoal, judge_numbers
from fastft.runs.meaning import Meaning

Floats = NDArray[np.float64]
#: All that it leaves.
NUMBER_FILES = (FINDINGS, PREDICTIONS, "scatter.png", WORST)


@dataclass(frozen=True, slots=True)
class NumberFindings:
    """All that the outputs say, in the number's own unit.

    Attributes:
        predicted, truth: float64[N].
        mae, rmse, r2: see `NumberEvaluation`.
        plain_r2: of the images alone, if other views were averaged in.
    """

    predicted: Floats
    truth: Floats
    mae: float
    rmse: float
    r2: float
    plain_r2: float | None

    @property
    def errors(self) -> Floats:
        """float64[N]: what was predicted minus the truth."""
        return self.predicted - self.truth

    def worst(self, most: int) -> list[int]:
        """The samples of the largest errors, the largest first; equal ones in order."""
        order: list[int] = np.argsort(-np.abs(self.errors), kind="stable")[:most].tolist()
        return order


def report_numbers(evaluated: Evaluated) -> Report:
    """Judge outputs by the numbers of the samples."""
    outputs, number = evaluated.outputs, evaluated.checkpoint.classes[0]
    findings = judge_number(
        outputs.logits, outputs.labels, evaluated.checkpoint.outputs, outputs.plain
    )
    columns = (findings.truth, findings.predicted, findings.errors)
    rows = [
        NumberSample(*row)
        for row in zip(evaluated.names, *(each.tolist() for each in columns), strict=True)
    ]
    worst = findings.worst(evaluated.config.n)
    found = NumberEvaluation(
        **evaluated.how,
        seconds=evaluated.seconds,
        number=number,
        top_losses=tuple(rows[at] for at in worst),
        **number_figures(findings),
    )
    table = chain([[each.name for each in fields(NumberSample)]], map(astuple, rows))
    shown = [(evaluated.see(at), _describe(rows[at])) for at in worst]
    title = f"{evaluated.title}: {number_line(found)}"
    contents: tuple[Any, ...] = (
        [to_json(asdict(found))],
        csv_lines(table),
        draw_scatter(findings.truth, findings.predicted, number, title),
        draw_worst(shown, f"Largest errors of {number}: what was predicted, and what is right"),
    )
    files = dict(zip(NUMBER_FILES, contents, strict=True))
    return Report(findings, files, partial(print_number_evaluation, found))


def judge_number(
    outputs: NDArray[np.float32],
    labels: NDArray[np.float32],
    meaning: Meaning,
    plain: NDArray[np.float32] | None = None,
) -> NumberFindings:
    """Judge a model of a number by its outputs.

    Args:
        outputs: float32[N, 1], finite.
        labels: float32[N, 1].
        meaning: of the outputs.
        plain: float32[N, 1], of the images alone, where `outputs` are an average of several views.
    """
    goal, truth = NumberGoal(meaning), labels.ravel().astype(np.float64)
    predicted = goal.scale(outputs).ravel()
    found = judge_numbers(predicted, truth)
    return NumberFindings(
        predicted=predicted,
        truth=truth,
        mae=found.others["mae"],
        rmse=found.others["rmse"],
        r2=found.score,
        plain_r2=None if plain is None else judge_numbers(goal.scale(plain).ravel(), truth).score,
    )


def number_figures(findings: NumberFindings) -> dict[str, Any]:
    """The figures as plain numbers, none rounded."""
    return {
        "samples": len(findings.truth),
        "mae": findings.mae,
        "rmse": findings.rmse,
        "bias": float(findings.errors.mean()),
        "median_error": float(np.median(np.abs(findings.errors))),
        "r2": findings.r2,
        "plain_r2": findings.plain_r2,
        "mean": float(findings.truth.mean()),
        "deviation": float(findings.truth.std()),
    }


def _describe(row: NumberSample) -> tuple[str, str, str, bool]:
    """A photo's caption: the predicted and the true number, and the error; none counts as right."""
    return f"{row.predicted:.5g}", f"{row.truth:.5g}", f"off by {row.error:+.3g}", False
