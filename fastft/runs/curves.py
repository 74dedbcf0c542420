"""The charts of runs: loss, score and where the time went, in a picture and in a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fastft.results.charts import Line, line_panel
from fastft.results.numbers import Number, write_share_tick, write_tick
from fastft.results.plots import GREEN, GREY, RED, Panel, save_panels
from fastft.runs.metrics import EpochMetrics, StepMetrics, read_metrics
from fastft.runs.result import Run, thin_losses, wait_share

Of = Callable[[EpochMetrics], float | None]


def draw_curves(metrics: Path, out: Path) -> None:
    """Draw loss, score and throughput of a run from its `metrics.jsonl` to a PNG.

    Nothing is drawn before the first epoch has ended.
    """
    steps, epochs = read_metrics(metrics)
    if epochs:
        save_panels(run_panels(steps, epochs), out)


def run_panels(steps: Sequence[StepMetrics], epochs: Sequence[EpochMetrics]) -> tuple[Panel, ...]:
    """One run's loss by step and epoch, its score, and where each epoch's time went."""
    best = max((each.score for each in epochs), default=float("nan"))
    losses = [
        Line("steps", thin_losses(steps), is_faint=True),
        _line("training", epochs, lambda each: each.train_loss),
        _line("evaluation", epochs, lambda each: each.eval_loss),
    ]
    rate = float(np.median([each.img_per_s for each in epochs])) if epochs else 0.0
    panels = [line_panel("Loss", losses, x_label="epoch")]
    if epochs:
        measures, names = epochs[0].measures, ["training", "evaluation"]
        if measures.training != measures.score:
            names = [f"training, {measures.training.name}", f"evaluation, {measures.score.name}"]
        scores = [
            _line(names[0], epochs, lambda each: each.training_score),
            _line(names[1], epochs, lambda each: each.score),
        ]
        panels += [
            line_panel(
                f"{measures.score.title} (best evaluation {best:.3f})",
                scores,
                x_label="epoch",
                from_zero=False,
            ),
            Panel(
                f"Seconds per epoch ({rate:,.0f} training images/s)",
                lambda axes: _draw_time(axes, epochs),
            ),
        ]
    return tuple(panels)


def comparison_panels(runs: Sequence[tuple[str, Run]]) -> tuple[Panel, ...]:
    """Several runs in one chart for each thing, by name."""

    def panel(title: str, of: Of, tick: Number = write_tick, from_zero: bool = False) -> Panel:
        lines = [_line(name, run.epochs, of) for name, run in runs]
        return line_panel(title, lines, x_label="epoch", y_tick=tick, from_zero=from_zero)

    tasks = {run.measures.task for _, run in runs if run.epochs}
    names = ("training score", "evaluation score")
    if len(tasks) == 1:
        measures = next(run.measures for _, run in runs if run.epochs)
        names = (f"training {measures.training.name}", f"evaluation {measures.score.name}")
    return (
        panel("Training loss", lambda each: each.train_loss, from_zero=True),
        panel("Evaluation loss", lambda each: each.eval_loss, from_zero=True),
        panel(names[0][0].upper() + names[0][1:], lambda each: each.training_score),
        panel(names[1][0].upper() + names[1][1:], lambda each: each.score),
        panel("Training images/s", lambda each: each.img_per_s, from_zero=True),
        panel("Share of steps spent waiting", wait_share, write_share_tick, from_zero=True),
    )


def _line(name: str, epochs: Sequence[EpochMetrics], of: Of) -> Line:
    return Line(name, tuple((each.epoch + 1.0, of(each)) for each in epochs))


def _draw_time(axes: Axes, epochs: Sequence[EpochMetrics]) -> None:
    """Draw each epoch's time as a stack."""
    ends = np.array([row.epoch + 1 for row in epochs])
    wait = np.array([row.wait_s for row in epochs])
    step = np.array([row.train_s for row in epochs]) - wait
    evaluation = np.array([row.eval_s for row in epochs])
    axes.bar(ends, step, color=GREEN, label="training step")
    axes.bar(ends, wait, bottom=step, color=RED, label="waiting for input")
    axes.bar(ends, evaluation, bottom=step + wait, color=GREY, alpha=0.5, label="evaluation")
    tallest = float((step + wait + evaluation).max())
    axes.set(xlabel="epoch", ylim=(0, tallest * 1.5 or 1.0), xlim=(0.2, len(epochs) + 0.8))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right", fontsize=8)
