"""The charts of a comparison of the models that loaders train, and its files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fastft.parity.equivalence import CURVE_FACTOR, AccuracyResult, Equivalence
from fastft.results.charts import Bar, span_panel
from fastft.results.numbers import write_signed
from fastft.results.plots import BAND, COLORS, GREY, INK, Panel, save_panels
from pipelines.atomic import write_whole
from pipelines.errors import DataError

#: Equal losses have no logarithm; float32 resolves no less than this of a loss of about 1.
_LEAST_LOSS = 1e-7


def save_accuracy(result: AccuracyResult, out: Path) -> None:
    """Write accuracy.json and accuracy.png to the folder `out`, each whole or not at all.

    Raises:
        DataError: they cannot be written.
    """
    text = json.dumps(asdict(result), indent=1, allow_nan=False) + "\n"
    save_panels(accuracy_panels(result), out / "accuracy.png", _heading(result), columns=2)
    try:
        write_whole(out / "accuracy.json", text)
    except OSError as error:
        reason = (error.strerror or "cannot be written").lower()
        raise DataError(out / "accuracy.json", reason, "a file to write") from error


def accuracy_panels(result: AccuracyResult) -> tuple[Panel, Panel, Panel, Panel]:
    """Loss curves, their distances, paired differences of accuracies, and the cross matrix."""
    rows = []
    for name, other, found in differences(result):
        points: tuple[float, ...] = ()
        if not name.startswith("evaluated"):
            own, others = (result.accuracies[each][each] for each in (name, other))
            points = tuple(a - b for a, b in zip(own, others, strict=True))
        needs = f", takes ~{found.runs_needed} seeds" if _is_open(found) else ""
        rows.append(
            Bar(
                f"{name} minus {other}: {found.verdict}{needs}",
                found.mean,
                write_signed(found.mean),
                _color(result, name.rpartition(" ")[2]),
                low=found.low,
                high=found.high,
                points=points,
            )
        )
    margin = result.margin
    apart = span_panel(
        f"Accuracy, points, paired by seed; band: \u00b1{margin:g}", rows, band=(-margin, margin)
    )
    return (
        Panel(
            f"Training loss, seed {result.config.get('seed', 0)}",
            lambda axes: _draw_losses(axes, result),
        ),
        Panel(
            f"Distance from {result.reference}'s loss", lambda axes: _draw_distances(axes, result)
        ),
        apart,
        Panel(
            f"Cross matrix: accuracy, {result.findings.crossed} seeds",
            lambda axes: _draw_matrix(axes, result),
        ),
    )


def differences(result: AccuracyResult) -> list[tuple[str, str, Equivalence]]:
    """One thing, another, and how far they are apart."""
    findings = result.findings
    return [
        *((name, result.baseline, each) for name, each in findings.against_baseline.items()),
        *((name, result.reference, each) for name, each in findings.against_reference.items()),
        *(
            (f"evaluated by {name}", result.reference, each)
            for name, each in findings.evaluation.items()
        ),
    ]


def _heading(result: AccuracyResult) -> str:
    machine = result.environment
    verdict = "passed" if result.passed else "FAILED"
    return (
        f"Does every loader train the same model?  {verdict}\n"
        f"{describe_scale(result)}, on {machine.get('gpu') or machine.get('cpu') or 'a CPU'}"
    )


def describe_scale(result: AccuracyResult) -> str:
    """The size of the comparison in words."""
    config = result.config
    return (
        f"{config.get('seeds')} runs each, {result.steps:,} steps of {config.get('batch_size')} "
        f"images, {result.dtype}; {result.train_images:,} training and {result.eval_images:,} "
        "evaluation images"
    )


def _color(result: AccuracyResult, name: str) -> str:
    if name == result.reference:
        return INK
    if name == result.baseline:
        return GREY
    return COLORS[(result.loaders.index(name) - 1) % len(COLORS)]


def _draw_losses(axes: Axes, result: AccuracyResult) -> None:
    """One seed's loss by step, of every loader."""
    steps = np.arange(1, result.steps + 1)
    # Widest first: where curves coincide, all of them remain visible.
    others = [name for name in result.loaders if name not in (result.reference, result.baseline)]
    stacked = [result.reference, *others]
    for rank, name in enumerate(stacked):
        axes.plot(
            steps,
            result.losses[name][0],
            color=_color(result, name),
            label=name,
            lw=1.5 + 2.2 * (len(stacked) - 1 - rank),
            solid_capstyle="round",
            alpha=0.3 if name == result.reference and others else 0.9,
        )
    axes.plot(
        steps,
        result.losses[result.baseline][0],
        color=GREY,
        lw=1.2,
        ls=(0, (4, 2)),
        label=f"{result.baseline}: its own crops and order",
    )
    axes.set(ylim=(0, None), xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)


def _draw_distances(axes: Axes, result: AccuracyResult) -> None:
    """Draws one seed's distances from the reference's losses, beside the control's."""
    steps = np.arange(1, result.steps + 1)
    reference = np.array(result.losses[result.reference][0])
    control = _distance(np.array(result.control_losses[0]), reference)
    axes.plot(
        steps,
        control,
        color=GREY,
        lw=1,
        ls=":",
        marker=".",
        label=f"control: {result.control_dtype}",
    )
    bottom = _LEAST_LOSS
    for name, match in result.findings.curves.items():
        curve = np.array(result.losses[name][0])
        is_equal = curve.tolist() == reference.tolist()
        axes.plot(
            steps,
            _distance(curve, reference),
            color=_color(result, name),
            lw=1.3,
            marker=".",
            label=f"{name}: equal" if is_equal else name,
        )
        early = match.early_steps + 0.5
        bottom = min(match.early_limit, match.limit) / 200 or _LEAST_LOSS
    if result.findings.curves:  # the limits are the control's, for all alike
        axes.fill_between([0.5, early], 0, match.early_limit, color=BAND, lw=0)
        axes.fill_between(
            [early, result.steps + 0.5],
            0,
            match.limit,
            color=BAND,
            lw=0,
            label=f"{CURVE_FACTOR:g} x control's RMS",
        )
    axes.set(yscale="log", xlabel="step", xlim=(0.5, result.steps + 0.5))
    axes.set_ylim(bottom=bottom)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 8)  # room for the legend
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, ncols=2, loc="upper left")


def _distance(curve: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.maximum(np.abs(curve - reference), _LEAST_LOSS)
    return distance


def _draw_matrix(axes: Axes, result: AccuracyResult) -> None:
    names = result.loaders
    matrix = np.array([[result.findings.matrix[row][name] for name in names] for row in names])
    # Four margins to full colour: what differs within the margin hardly differs in colour.
    middle = result.findings.matrix[result.reference][result.reference]
    span = 4 * result.margin
    edges = np.arange(len(names) + 1) - 0.5
    axes.pcolormesh(edges, edges, matrix, cmap="RdBu", vmin=middle - span, vmax=middle + span)
    for row, column in np.ndindex(*matrix.shape):
        value = matrix[row, column]
        color = "#fefefe" if abs(value - middle) > 0.6 * span else "#010101"
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            color=color,
            fontsize=9,
            gid="cell",
        )
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="evaluated with", ylabel="trained with", ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _is_open(found: Equivalence) -> bool:
    return found.verdict == "not shown" and found.runs_needed is not None
