"""Pictures and tables of runs that differ in one thing: `compare`, `sweep`, `--lr-find`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastft.experiments.results import CONFIDENCE, Comparison, Interval, LrFinding, Sweep, Variant
from fastft.system.plots import STYLE, save_figure

# Okabe and Ito's palette, as in `system.plots`; every line has a marker of its own, too.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "D", "^")
_GREY = "#666666"


def print_comparison(found: Comparison, console: Console) -> None:
    """One table, and what follows from it."""
    table = Table("", "accuracy", "95% interval", "fine-tuning is better by", "lr", "a run takes")
    for each in found.variants:
        gain = found.gains.get(each.name)
        table.add_row(
            escape(each.name), f"{each.accuracy.mean:.3f}", _bounds(each.accuracy, 0.0, 1.0),
            "" if gain is None else f"{gain.mean:+.3f} ({_bounds(gain)})",
            f"{each.lr:g} (head x{each.head_lr_factor:g})", f"{each.seconds:.1f} s",
        )  # fmt: skip
    console.print(table)
    for line in conclusions(found):
        console.print(line, markup=False)


def conclusions(found: Comparison) -> list[str]:
    """What the intervals allow to say, one line for each other variant."""
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


def print_sweep(found: Sweep, console: Console) -> None:
    """One table: a row for each rate, a column for each start."""
    table = Table("lr", *(escape(start) for start in found.points))
    for rows in zip(*found.points.values(), strict=True):
        cells = []
        for start, each in zip(found.points, rows, strict=True):
            best = " [bold]best[/bold]" if found.best(start) is each else ""
            cells.append(f"{each.accuracy.mean:.3f} ({_bounds(each.accuracy, 0.0, 1.0)}){best}")
        table.add_row(f"{rows[0].lr:g}", *cells)
    console.print(table)


def draw_comparison(found: Comparison, out: Path) -> None:
    """All curves: accuracy and loss of each seed thin, their mean thick; at the right the ends."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 4.2), layout="constrained")
        accuracy, loss, ends = figure.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
        for number, each in enumerate(found.variants):
            _draw_mean(accuracy, each, number, "eval_accuracy")
            _draw_mean(loss, each, number, "eval_loss")
            _draw_end(ends, each, number)
        accuracy.set(title="Evaluation accuracy", xlabel="epoch")
        loss.set(title="Evaluation loss", xlabel="epoch")
        _keep_in_sight(loss, found.variants)
        accuracy.legend(loc="lower right")
        for axes in (accuracy, loss):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        ends.set(title="Last epoch, each seed and 95% interval", ylim=accuracy.get_ylim())
        ends.set_xticks(range(len(found.variants)), [each.name for each in found.variants])
        ends.set_xlim(-0.5, len(found.variants) - 0.1)
        ends.grid(axis="x", visible=False)
        config = found.config
        figure.suptitle(
            f"{config.epochs} epochs at {config.size} px, {len(found.variants[0].runs)} seeds, "
            f"recipe {config.recipe}",
            x=0.01, ha="left", color=_GREY, fontsize=10,
        )  # fmt: skip
        save_figure(figure, out)


def draw_sweep(found: Sweep, out: Path) -> None:
    """Accuracy by learning rate: a line for each start, a dot for each seed."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        axes = figure.subplots()
        for number, (start, variants) in enumerate(found.points.items()):
            color, marker = _COLORS[number], _MARKERS[number]
            lrs = [each.lr for each in variants]
            means = [each.accuracy.mean for each in variants]
            for each in variants:
                axes.plot(
                    [each.lr] * len(each.runs), each.accuracies, ls="", marker=".", color=color,
                    alpha=0.5,
                )  # fmt: skip
            best = found.best(start)
            axes.plot(
                lrs, means, color=color, marker=marker,
                label=f"{start} (best {best.accuracy.mean:.3f} at {best.lr:g})",
            )  # fmt: skip
        seeds = len(next(iter(found.points.values()))[0].runs)
        axes.set(
            xscale="log", xlabel="learning rate",
            ylabel=f"accuracy after {found.config.epochs} epochs",
            title=f"Learning rates, {seeds} seed{'s' if seeds > 1 else ''} each",
        )  # fmt: skip
        axes.legend(loc="best")
        save_figure(figure, out)


def draw_lr_find(found: LrFinding, out: Path) -> None:
    """The loss at rising rates, averaged and as it came, with the suggestion."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(found.lrs, found.losses, color=_COLORS[0], alpha=0.3, lw=1, label="each step")
        axes.plot(found.lrs, found.averaged, color=_COLORS[0], label="averaged")
        axes.axvline(found.lowest, color=_GREY, lw=1, ls="--", label=f"lowest: {found.lowest:.2g}")
        height = float(np.interp(np.log(found.suggestion), np.log(found.lrs), found.averaged))
        axes.plot(
            found.suggestion, height, color=_COLORS[1], marker="o", ls="",
            label=f"suggested: {found.suggestion:.2g}",
        )  # fmt: skip
        low, high = min(found.averaged), max(found.averaged)
        axes.set(
            xscale="log", xlabel="learning rate of the body", ylabel="training loss",
            title="Rising learning rates",
            ylim=(low - 0.1 * (high - low), high + 0.35 * (high - low)),
        )  # fmt: skip
        axes.legend(loc="upper left")
        save_figure(figure, out)


def _bounds(interval: Interval, least: float = -1.0, most: float = 1.0) -> str:
    """An interval, cut where no value can lie."""
    if interval.low is None or interval.high is None:
        return "one seed"
    return f"{max(least, interval.low):.3f} to {min(most, interval.high):.3f}"


def _draw_mean(axes: Axes, variant: Variant, number: int, what: str) -> None:
    """A variant's curve over epochs; runs that stopped early end where they stopped."""
    color = _COLORS[number]
    curves = [[getattr(row, what) for row in run.epochs] for run in variant.runs]
    for curve in curves:
        axes.plot(range(1, len(curve) + 1), curve, color=color, alpha=0.25, lw=1)
    shortest = min(map(len, curves))
    mean = np.mean([curve[:shortest] for curve in curves], axis=0)
    axes.plot(
        range(1, shortest + 1), mean, color=color, marker=_MARKERS[number], lw=2, label=variant.name
    )


def _draw_end(axes: Axes, variant: Variant, number: int) -> None:
    color, interval = _COLORS[number], variant.accuracy
    spread = np.linspace(-0.12, 0.12, len(variant.runs)) if len(variant.runs) > 1 else [0.0]
    axes.plot(number + np.array(spread), variant.accuracies, ls="", marker=".", color=color)
    reach = 0.0 if interval.high is None else interval.high - interval.mean
    axes.errorbar(
        number + 0.25, interval.mean, yerr=reach, color=color, marker=_MARKERS[number], capsize=4
    )
    axes.annotate(
        f"{interval.mean:.3f}", (number + 0.25, interval.mean), (6, 4), color=color,
        textcoords="offset points", fontsize=9,
    )  # fmt: skip


def _keep_in_sight(axes: Axes, variants: Sequence[Variant]) -> None:
    """Let one wild epoch not flatten the rest."""
    losses = [row.eval_loss for each in variants for run in each.runs for row in run.epochs]
    ends = [run.epochs[-1].eval_loss for each in variants for run in each.runs]
    top = max(float(np.quantile(losses, 0.9)), *ends)
    axes.set_ylim(0, 1.1 * top)
