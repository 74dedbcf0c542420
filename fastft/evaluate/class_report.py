"""The report of a model of classes: confusion matrix, classes, mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, fields
from functools import partial
from itertools import chain
from typing import Any

from fastft.evaluate.evaluated import FINDINGS, PREDICTIONS, WORST, Evaluated, Report, to_json
from fastft.evaluate.outputs import csv_lines
from fastft.evaluate.plots import draw_confusion, draw_top_losses
from fastft.evaluate.result import ClassRow, ConfusedRow, Evaluation, SampleRow
from fastft.evaluate.scores import Findings, judge
from fastft.evaluate.section import accuracy_line, print_evaluation

#: All that it leaves.
FILES = (FINDINGS, PREDICTIONS, "confusion.png", WORST)


def report_classes(evaluated: Evaluated) -> Report:
    """Judge outputs by the classes of the samples."""
    outputs, classes = evaluated.outputs, evaluated.checkpoint.classes
    findings = judge(outputs.logits, outputs.labels, outputs.plain)
    rows = _sample_rows(findings, classes, evaluated.names)
    worst = findings.samples.worst(evaluated.config.n).tolist()
    found = Evaluation(
        **evaluated.how,
        seconds=evaluated.seconds,
        top_losses=tuple(rows[at] for at in worst),
        **figures(findings, classes),
    )
    title = f"{evaluated.title}: {accuracy_line(found)}"
    table = chain([[each.name for each in fields(SampleRow)]], map(astuple, rows))
    contents: tuple[Any, ...] = (
        [to_json(asdict(found))],
        csv_lines(table),
        draw_confusion(findings.matrix, classes, title),
        draw_top_losses([(evaluated.see(at), rows[at]) for at in worst]),
    )
    files = dict(zip(FILES, contents, strict=True))
    return Report(findings, files, partial(print_evaluation, found))


def _sample_rows(
    findings: Findings, classes: tuple[str, ...], names: Sequence[str]
) -> list[SampleRow]:
    samples = findings.samples
    return [
        SampleRow(name, classes[truth], classes[predicted], *map(float, numbers))
        for name, truth, predicted, *numbers in zip(
            names,
            samples.labels,
            samples.predicted,
            samples.probability,
            samples.truth_probability,
            samples.losses,
            strict=True,
        )
    ]


def figures(findings: Findings, classes: tuple[str, ...]) -> dict[str, Any]:
    """The figures as plain numbers, none rounded."""
    scores = findings.scores
    columns = (scores.precision, scores.recall, scores.f1, scores.support, scores.predicted)
    return {
        "samples": len(findings.samples),
        "right": findings.samples.right,
        "accuracy": findings.accuracy,
        "interval": findings.interval,
        "plain_accuracy": findings.plain_accuracy,
        "loss": findings.loss,
        "macro_f1": scores.macro_f1,
        "classes": tuple(
            ClassRow(name, *row)
            for name, *row in zip(classes, *(each.tolist() for each in columns), strict=True)
        ),
        "confused": tuple(
            ConfusedRow(classes[pair.truth], classes[pair.predicted], pair.count, pair.share)
            for pair in findings.pairs
        ),
        "confusion": tuple(map(tuple, findings.matrix.tolist())),
    }
