"""Runs that differ in one thing, as tables and charts: `compare`, `sweep`, `--lr-find`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console

from fastft.experiments.results import (
    CONFIDENCE,
    Comparison,
    Interval,
    LrFinding,
    Sweep,
    Variant,
    score_of,
)
from fastft.results.charts import Bar, Line, line_panel, span_panel
from fastft.results.numbers import (
    write_accuracy,
    write_number,
    write_points,
    write_seconds,
    write_span,
)
from fastft.results.plots import BLUE, COLORS, GREY, RED, Panel
from fastft.results.tables import (
    Block,
    Cell,
    Column,
    Exhibit,
    Key,
    Section,
    Table,
    make_table,
    of_source,
    print_table,
)
from fastft.runs.metrics import EpochMetrics


def print_comparison(found: Comparison, console: Console) -> None:
    """Print one table, and what follows from it."""
    print_table(variant_table(found, "Variants"), console)
    for line in conclusions(found):
        console.print(line, markup=False)


def print_sweep(found: Sweep, console: Console) -> None:
    """Print one table: a row for each start and rate."""
    print_table(variant_table(found, "Learning rates"), console)


def experiments_section(
    found: Sequence[tuple[str, Comparison | Sweep]],
) -> Section | None:
    """All experiments, each with its chart and its table.

    Args:
        found: name of a source, and what it holds.
    """
    names = [name for name, _ in found]
    blocks: list[Block] = []
    lead, keys = [], []
    for name, each in found:
        score, table = (
            score_of(each.variants),
            variant_table(each, of_source(name, names, "Variants")),
        )
        if isinstance(each, Comparison):
            lead += [of_source(name, names, f"{line}.") for line in conclusions(each)]
            keys += [
                Key(
                    write_points(gain.mean),
                    "points",
                    of_source(name, names, f"{score.name}, fine-tuned against {other}"),
                )
                for other, gain in each.gains.items()
            ]
            title = of_source(name, names, "What starting from weights brings")
            blocks.append(Exhibit(title, comparison_panels(each)[1], table))
        else:
            keys += [
                Key(
                    write_number(lr),
                    "learning rate",
                    of_source(name, names, f"the best rate, {start}"),
                )
                for start, lr in each.best.items()
            ]
            title = of_source(name, names, f"{score.title} by learning rate")
            blocks.append(Exhibit(title, (sweep_panel(each),), table))
    return Section("experiments", "Experiments", tuple(lead), tuple(blocks), tuple(keys))


def conclusions(found: Comparison) -> list[str]:
    """Conclusions that the intervals allow, one line for each other variant."""
    seeds, lines = len(found.variants[0].runs), []
    for name, gain in found.gains.items():
        if gain.low is None:
            verdict = f"one seed shows nothing about {name}; take --seeds 5"
        elif gain.is_positive:
            verdict = f"fine-tuning beats {name} by {100 * gain.mean:.1f} points"
        elif gain.high is not None and gain.high < 0:
            verdict = f"{name} beats fine-tuning by {-100 * gain.mean:.1f} points"
        else:
            verdict = f"fine-tuning and {name} cannot be told apart"
        if gain.low is not None and gain.high is not None:
            verdict += (
                f" ({CONFIDENCE:.0%} interval {100 * gain.low:.1f} to {100 * gain.high:.1f}, "
                f"{seeds} paired seeds)"
            )
        lines.append(verdict)
    return lines


def variant_table(found: Comparison | Sweep, title: str) -> Table:
    """A row for each variant: its accuracy, and by how much fine-tuning is better."""

    def name(each: Variant) -> Cell:
        is_best = isinstance(found, Sweep) and any(
            found.best_variant(start) is each for start in found.best
        )
        return Cell(f"{each.name}, best" if is_best else each.name, None, "good" if is_best else "")

    columns: list[Column[Variant]] = [
        Column("", name),
        Column(score_of(found.variants).name, lambda each: each.accuracy.mean, write_accuracy),
        Column("95% interval", _bounds),
    ]
    if isinstance(found, Comparison):
        columns.append(
            Column("fine-tuning is better by", lambda each: _gain(found.gains.get(each.name)))
        )
    columns += [
        Column("lr", lambda each: Cell(f"{each.lr:g} (head x{each.head_lr_factor:g})", each.lr)),
        Column("a run takes", lambda each: each.seconds, write_seconds),
    ]
    return make_table(title, found.variants, columns)


def _gain(found: Interval | None) -> Cell:
    if found is None:
        return Cell("")
    span = write_span(found.low, found.high, write_points)
    return Cell(f"{write_points(found.mean)} ({span})", found.mean)


def comparison_panels(found: Comparison) -> tuple[str, tuple[Panel, ...]]:
    """The heading, and the charts: all seeds' curves with their mean, and where they ended."""
    ends = [
        Bar(
            each.name,
            each.accuracy.mean,
            write_accuracy(each.accuracy.mean),
            COLORS[at % len(COLORS)],
            low=each.accuracy.low,
            high=each.accuracy.high,
            points=tuple(each.accuracies),
        )
        for at, each in enumerate(found.variants)
    ]
    config, score = found.config, score_of(found.variants)
    heading = (
        f"{config.get('epochs')} epochs at {config.get('size')} px, "
        f"{len(found.variants[0].runs)} seeds, recipe {config.get('recipe')}"
    )
    return heading, (
        _curves(f"Evaluation {score.name}", found.variants, lambda row: row.score),
        _curves("Evaluation loss", found.variants, lambda row: row.eval_loss, from_zero=True),
        span_panel("Last epoch: each seed, mean and 95% interval", ends, x_label=score.name),
    )


def sweep_panel(found: Sweep) -> Panel:
    """Accuracy by learning rate: a line for each start, a dot for each seed."""
    lines = []
    for start in found.best:
        variants = found.points(start)
        best = found.best_variant(start)
        lines.append(
            Line(
                f"{start}: best {best.accuracy.mean:.3f} at {best.lr:g}",
                tuple((each.lr, each.accuracy.mean) for each in variants),
                dots=tuple((each.lr, value) for each in variants for value in each.accuracies),
            )
        )
    seeds = len(found.variants[0].runs)
    return line_panel(
        f"{score_of(found.variants).title} after {found.config.get('epochs')} epochs, {seeds} seed"
        f"{'s' if seeds > 1 else ''} each",
        lines,
        x_label="learning rate",
        x_ticks=sorted({each.lr for each in found.variants}),
        log_x=True,
        from_zero=False,
    )


def lr_find_panel(found: LrFinding) -> Panel:
    """The loss at rising rates, averaged and as it came, with the suggestion."""

    def draw(axes: Axes) -> None:
        axes.plot(found.lrs, found.losses, color=BLUE, alpha=0.3, lw=1, label="each step")
        axes.plot(found.lrs, found.averaged, color=BLUE, label="averaged")
        axes.axvline(found.lowest, color=GREY, lw=1, ls="--", label=f"lowest: {found.lowest:.2g}")
        height = float(np.interp(np.log(found.suggestion), np.log(found.lrs), found.averaged))
        axes.plot(
            found.suggestion,
            height,
            color=RED,
            marker="o",
            ls="",
            label=f"suggested: {found.suggestion:.2g}",
        )
        low, high = min(found.averaged), max(found.averaged)
        axes.set(
            xscale="log",
            xlabel="learning rate of the body",
            ylabel="training loss",
            ylim=(low - 0.1 * (high - low), high + 0.35 * (high - low)),
        )
        axes.legend(loc="upper left")

    return Panel("Rising learning rates", draw, height=4.2, width=7.5)


def _curves(
    title: str,
    variants: Sequence[Variant],
    of: Callable[[EpochMetrics], float],
    *,
    from_zero: bool = False,
) -> Panel:
    """Each seed faint, their mean strong; runs that stopped early end where they stopped."""
    lines = []
    for variant in variants:
        curves = [[of(row) for row in run.epochs] for run in variant.runs]
        lines += [Line("", _points(curve), is_faint=True) for curve in curves]
        shortest = min(map(len, curves))
        means = np.mean([curve[:shortest] for curve in curves], axis=0)
        lines.append(Line(variant.name, _points(means.tolist())))
    return line_panel(title, lines, x_label="epoch", from_zero=from_zero)


def _points(curve: Sequence[float]) -> tuple[tuple[float, float | None], ...]:
    return tuple((at + 1.0, value) for at, value in enumerate(curve))


def _bounds(each: Variant) -> str:
    """The interval of a score, cut where none can lie."""
    low, high = each.accuracy.low, each.accuracy.high
    known = low is not None and high is not None
    least = score_of([each]).least
    return write_span(max(least, low or 0.0), min(1.0, high or 0.0)) if known else "one seed"
