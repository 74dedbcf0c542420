"""The picture of a run: loss, accuracy and where the time went."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastft.runs.metrics import EpochMetrics, StepMetrics, read_metrics
from fastft.system.plots import BLUE, GREEN, GREY, ORANGE, RED, STYLE, save_figure


def draw_curves(metrics: Path, out: Path) -> None:
    """Draw loss, accuracy and throughput of a run from its `metrics.jsonl` to a PNG.

    Nothing is drawn before the first epoch has ended.
    """
    steps, epochs = read_metrics(metrics)
    if not epochs:
        return
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        loss, accuracy, rate = figure.subplots(1, 3)
        _draw_loss(loss, steps, epochs)
        _draw_accuracy(accuracy, epochs)
        _draw_time(rate, epochs)
        for axes in (loss, accuracy, rate):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        save_figure(figure, out)


def _draw_loss(axes: Axes, steps: list[StepMetrics], epochs: list[EpochMetrics]) -> None:
    # The first epoch is whole; the last may not be, in a run that was left.
    per_epoch = sum(row.epoch == 0 for row in steps)
    at = [(row.step + 1) / per_epoch for row in steps]
    axes.plot(at, [row.loss for row in steps], color=BLUE, alpha=0.35, lw=1)
    ends = [row.epoch + 1 for row in epochs]
    axes.plot(ends, [row.train_loss for row in epochs], color=BLUE, marker="o", label="training")
    axes.plot(ends, [row.eval_loss for row in epochs], color=ORANGE, marker="s", label="evaluation")
    # One wild early step must not flatten the rest.
    top = max(
        [float(np.quantile([row.loss for row in steps], 0.98))]
        + [value for row in epochs for value in (row.train_loss, row.eval_loss)]
    )
    axes.set(title="Loss", xlabel="epoch", ylim=(0, top * 1.08))
    axes.set_xlim(0, max(len(epochs), at[-1]) * 1.02)
    axes.legend()


def _draw_accuracy(axes: Axes, epochs: list[EpochMetrics]) -> None:
    ends = [row.epoch + 1 for row in epochs]
    evaluated = [row.eval_accuracy for row in epochs]
    axes.plot(
        ends, [row.train_accuracy for row in epochs], color=BLUE, marker="o", label="training"
    )
    axes.plot(ends, evaluated, color=ORANGE, marker="s", label="evaluation")
    low = min(min(evaluated), min(row.train_accuracy for row in epochs))
    title = f"Accuracy (best evaluation {max(evaluated):.3f})"
    axes.set(title=title, xlabel="epoch", ylim=(max(0, low - 0.08), 1.01))
    axes.set_xlim(0, len(epochs) * 1.02)
    axes.legend(loc="lower right")


def _draw_time(axes: Axes, epochs: list[EpochMetrics]) -> None:
    """Where each epoch's time went, as a stack; the rate is written above it."""
    ends = np.array([row.epoch + 1 for row in epochs])
    wait = np.array([row.wait_s for row in epochs])
    step = np.array([row.train_s for row in epochs]) - wait
    evaluation = np.array([row.eval_s for row in epochs])
    axes.bar(ends, step, color=GREEN, label="training step")
    axes.bar(ends, wait, bottom=step, color=RED, label="waiting for input")
    axes.bar(ends, evaluation, bottom=step + wait, color=GREY, alpha=0.5, label="evaluation")
    median = float(np.median([row.img_per_s for row in epochs]))
    tallest = float((step + wait + evaluation).max())
    axes.set(title=f"Seconds per epoch ({median:,.0f} training images/s)", xlabel="epoch")
    axes.set(ylim=(0, tallest * 1.45), xlim=(0.2, len(epochs) + 0.8))
    axes.legend(loc="upper right", fontsize=8)
