"""Runs on a page: a table of them, their curves, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fastft.results.numbers import (
    mean,
    write_accuracy,
    write_measure,
    write_rate,
    write_seconds,
    write_share,
)
from fastft.results.read import flatten
from fastft.results.tables import (
    Block,
    Cell,
    Column,
    Exhibit,
    Key,
    Notes,
    Section,
    Table,
    capitalize,
    fold,
    make_table,
    of_source,
)
from fastft.runs.curves import comparison_panels, run_panels
from fastft.runs.measures import Measure, score_name
from fastft.runs.metrics import EpochMetrics
from fastft.runs.result import Run, wait_share

Named = tuple[str, Run]
#: Settings that say where a run lies, not how it was trained.
_PLACES = ("out", "overwrite")


def runs_section(runs: Sequence[Named]) -> Section | None:
    """All runs together: one run's curves as its own picture has them, several runs' overlaid.

    Args:
        runs: name of a source, and what it holds.
    """
    names = [name for name, _ in runs]
    lead = []
    for name, run in runs:
        # The first line is its figures, which stand in the table.
        lines = run.bound.verdict.splitlines()[1:]
        lead += [of_source(name, names, capitalize(line)) for line in lines]
    blocks: list[Block] = [_overview(runs)]
    if any(run.steps for _, run in runs):
        panels = (
            comparison_panels(runs)
            if len(runs) > 1
            else run_panels(runs[0][1].steps, runs[0][1].epochs)
        )
        blocks.append(Exhibit("Curves", panels, _epoch_table(runs)))
    else:
        blocks.append(Notes(("No step has been taken yet.",)))
    return Section(
        "training", "Training", tuple(lead), (*blocks, *_settings(runs)), tuple(_keys(runs, names))
    )


def _keys(runs: Sequence[Named], names: Sequence[str]) -> Iterable[Key]:
    scored = [(name, run, run.best.score) for name, run in runs if run.best is not None]
    if scored:
        name, run, score = max(scored, key=lambda each: each[2])
        what = of_source(name, names, f"best {run.measures.score.name}")
        yield Key(write_accuracy(score), "", what)
        if run.wait_share is not None:
            what = of_source(name, names, "of training steps spent waiting for input")
            yield Key(write_share(run.wait_share), "", what)


def _overview(runs: Sequence[Named]) -> Table:
    def rate(named: Named) -> float | None:
        epochs = named[1].epochs
        return mean(each.img_per_s for each in epochs[1:] or epochs)

    def best(named: Named) -> EpochMetrics | None:
        return named[1].best

    return make_table(
        "Runs",
        runs,
        (
            Column("run", lambda named: named[0]),
            Column("epochs", lambda named: len(named[1].epochs)),
            Column("steps", lambda named: len(named[1].steps)),
            Column(
                f"best {_score_name(runs)}",
                lambda named: each.score if (each := best(named)) else None,
                write_accuracy,
            ),
            Column("at epoch", lambda named: each.epoch + 1 if (each := best(named)) else None),
            Column("images/s", rate, write_rate),
            Column("waiting", lambda named: named[1].wait_share, write_share),
            Column("loader alone", lambda named: named[1].bound.loader_img_per_s, write_rate),
            Column("model alone", lambda named: named[1].bound.model_img_per_s, write_rate),
            Column(
                "took",
                lambda named: named[1].summary.seconds if named[1].summary else None,
                write_seconds,
            ),
            Column("", lambda named: "ended" if named[1].summary else "left before its end"),
        ),
        note="Images/s and waiting: the mean of all epochs but the first.",
    )


def _epoch_table(runs: Sequence[Named]) -> Table:
    rows = [(name, each) for name, run in runs for each in run.epochs]
    score = _score_name(runs)
    training = score
    if score != "score" and rows:
        training = rows[0][1].measures.training.name
    others = {each.key: each for _, row in rows for each in row.measures.others}
    return make_table(
        "Epochs",
        rows,
        (
            Column("run", lambda row: row[0]),
            Column("epoch", lambda row: row[1].epoch + 1),
            Column("size, px", lambda row: row[1].size),
            Column("training loss", lambda row: row[1].train_loss, write_measure),
            Column("evaluation loss", lambda row: row[1].eval_loss, write_measure),
            Column(f"training {training}", lambda row: row[1].training_score, write_accuracy),
            Column(f"evaluation {score}", lambda row: row[1].score, write_accuracy),
            *(_other_column(each) for each in others.values()),
            Column("images/s", lambda row: row[1].img_per_s, write_rate),
            Column("waiting", lambda row: wait_share(row[1]), write_share),
            Column("training took", lambda row: row[1].train_s, write_seconds),
            Column("evaluation took", lambda row: row[1].eval_s, write_seconds),
        ),
    )


def _score_name(runs: Sequence[Named]) -> str:
    return score_name([run.measures.task for _, run in runs if run.epochs] or ["classes"])


def _other_column(measure: Measure) -> Column[tuple[str, EpochMetrics]]:
    """One more measure of the evaluation; empty in rows of other tasks."""
    name = f"eval_{measure.key}"
    return Column(
        f"evaluation {measure.name}",
        lambda row: getattr(row[1], name),
        lambda value: "" if value is None else measure.write(value),
    )


def _settings(runs: Sequence[Named]) -> Iterable[Block]:
    configs = [flatten(run.settings.config) for _, run in runs]
    names = [name for name in fold([list(each) for each in configs]) if name not in _PLACES]

    def table(title: str, chosen: Iterable[str], shown: Sequence[Mapping[str, str]]) -> Table:
        heads = ("", *(name for name, _ in runs)) if len(shown) > 1 else ("", "value")
        rows = tuple((Cell(name), *(Cell(each.get(name, "")) for each in shown)) for name in chosen)
        return Table(title, heads, rows, folded=len(shown) == 1)

    differing = [name for name in names if len({each.get(name) for each in configs}) > 1]
    if differing:
        yield table("Settings that differ", differing, configs)
    alike = [name for name in names if name not in differing]
    yield table("Settings" if len(runs) == 1 else "Settings that all share", alike, configs[:1])
