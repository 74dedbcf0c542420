"""The report of a model of several labels: each one's average precision, counts, mistakes."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastft.evaluate.evaluated import FINDINGS, PREDICTIONS, WORST, Evaluated, Report, to_json
from fastft.evaluate.label_result import LabelEvaluation, LabelRow, LabelSample
from fastft.evaluate.label_section import label_line, print_label_evaluation
from fastft.evaluate.outputs import csv_lines
from fastft.evaluate.predictions import find_thresholds
from fastft.evaluate.target_plots import draw_precisions, draw_worst
from fastft.model.label_scores import (
    HALF,
    LabelScores,
    average_precisions,
    best_thresholds,
    count,
    mean_average_precision,
    sigmoid,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
#: All that it leaves.
LABEL_FILES = (FINDINGS, PREDICTIONS, "labels.png", WORST)


@dataclass(frozen=True, slots=True)
class LabelFindings:
    """All that the outputs say.

    Attributes:
        probabilities: float64[N, C].
        has, told: bool[N, C]: the truth, and the decisions at the thresholds.
        thresholds: float64[C].
        precisions: float64[C], average precision; NaN where no sample has the label.
        score: mAP.
        plain_score: of the images alone, if other views were averaged in.
        scores: of the decisions.
        best, best_scores: float64[C] thresholds of the highest F1 on these samples, and what they
            come to.
        losses: float64[N].
    """

    probabilities: Floats
    has: Bools
    told: Bools
    thresholds: Floats
    precisions: Floats
    score: float
    plain_score: float | None
    scores: LabelScores
    best: Floats
    best_scores: LabelScores
    losses: Floats

    @property
    def exact(self) -> int:
        """The number of samples of which each label was told right."""
        return int((self.told == self.has).all(1).sum())

    def worst(self, most: int) -> list[int]:
        """The samples of the highest loss, the highest first; equal ones in order."""
        order: list[int] = np.argsort(-self.losses, kind="stable")[:most].tolist()
        return order


def judge_labels(
    outputs: NDArray[np.float32],
    labels: NDArray[np.float32],
    thresholds: Floats,
    plain: NDArray[np.float32] | None = None,
) -> LabelFindings:
    """Judge a model of several labels by its outputs.

    Args:
        outputs: float32[N, C], finite.
        labels: float32[N, C], 0 or 1.
        thresholds: float64[C], of probabilities.
        plain: float32[N, C], of the images alone, where `outputs` are an average of several views.
    """
    has, probabilities = labels >= HALF, sigmoid(outputs)
    precisions, told = average_precisions(outputs, has), probabilities >= thresholds
    best = best_thresholds(probabilities, has)
    wide = outputs.astype(np.float64)
    # -log of the probability of what is right: log(1 + exp(-x)), without overflow.
    losses = np.logaddexp(0, np.where(has, -wide, wide)).mean(1)
    return LabelFindings(
        probabilities=probabilities,
        has=has,
        told=told,
        thresholds=thresholds,
        precisions=precisions,
        score=mean_average_precision(precisions),
        plain_score=None
        if plain is None
        else mean_average_precision(average_precisions(plain, has)),
        scores=count(told, has),
        best=best,
        best_scores=count(probabilities >= best, has),
        losses=losses,
    )


def report_labels(evaluated: Evaluated) -> Report:
    """Judge outputs by the labels of the samples."""
    outputs, names = evaluated.outputs, evaluated.checkpoint.classes
    thresholds = find_thresholds(evaluated.checkpoint, evaluated.path, evaluated.config.threshold)
    findings = judge_labels(
        outputs.logits,
        outputs.labels,
        np.broadcast_to(thresholds, len(names)).copy(),
        outputs.plain,
    )
    rows = _sample_rows(findings, names, evaluated.names)
    worst = findings.worst(evaluated.config.n)
    found = LabelEvaluation(
        **evaluated.how,
        seconds=evaluated.seconds,
        top_losses=tuple(rows[at] for at in worst),
        **label_figures(findings, names),
    )
    head = [*(each.name for each in fields(LabelSample)), *names]
    table = (
        [*astuple(row), *probabilities]
        for row, probabilities in zip(rows, findings.probabilities.tolist(), strict=True)
    )
    shown = [(evaluated.see(at), _describe(rows[at])) for at in worst]
    title = f"{evaluated.title}: {label_line(found)}"
    contents: tuple[Any, ...] = (
        [to_json(asdict(found))],
        csv_lines(chain([head], table)),
        draw_precisions(found.labels, title),
        draw_worst(shown, "Highest losses: what was told, and what is right"),
    )
    files = dict(zip(LABEL_FILES, contents, strict=True))
    return Report(findings, files, partial(print_label_evaluation, found))


def label_figures(findings: LabelFindings, names: tuple[str, ...]) -> dict[str, Any]:
    """The figures as plain numbers, none rounded."""
    scores, samples = findings.scores, len(findings.has)
    known = scores.support > 0
    columns = (
        _known(findings.precisions, known),
        scores.precision.tolist(),
        scores.recall.tolist(),
        scores.f1.tolist(),
        findings.thresholds.tolist(),
        _known(findings.best_scores.f1, known),
        _known(findings.best, known),
        scores.support.tolist(),
        scores.predicted.tolist(),
    )
    return {
        "samples": samples,
        "exact": findings.exact,
        "mean_average_precision": findings.score,
        "plain_mean_average_precision": findings.plain_score,
        "micro_f1": scores.micro_f1,
        "macro_f1": scores.macro_f1,
        "subset_accuracy": findings.exact / samples,
        "label_accuracy": float((findings.told == findings.has).mean()),
        "loss": float(findings.losses.mean()),
        "labels": tuple(LabelRow(*row) for row in zip(names, *columns, strict=True)),
    }


def _known(values: Floats, known: Bools) -> list[float | None]:
    pairs = zip(values.tolist(), known.tolist(), strict=True)
    return [value if is_known else None for value, is_known in pairs]


def _sample_rows(
    findings: LabelFindings, names: tuple[str, ...], samples: list[str]
) -> list[LabelSample]:
    def join(row: Bools) -> str:
        return ";".join(names[at] for at in np.flatnonzero(row))

    rows = zip(samples, findings.has, findings.told, findings.losses.tolist(), strict=True)
    return [
        LabelSample(name, join(has), join(told), join(has & ~told), join(told & ~has), loss)
        for name, has, told, loss in rows
    ]


def _describe(row: LabelSample) -> tuple[str, str, str, bool]:
    """A photo's caption: predicted and true labels, the loss, and whether the labels are right."""
    right = not row.missed and not row.added
    return row.predicted or "no label", row.truth or "no label", f"loss {row.loss:.2f}", right
