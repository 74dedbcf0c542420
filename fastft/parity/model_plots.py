"""A comparison of loaders as tables for the terminal, as one picture and as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fastft.parity.equivalence import CURVE_FACTOR, AccuracyResult, Equivalence
from fastft.system.plots import STYLE
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError

# Okabe and Ito's palette, as in `system.plots`; the reference is black, the baseline grey.
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_REFERENCE_COLOR, _BASELINE_COLOR, _BAND_COLOR = "#000000", "#888888", "#009E73"
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_STYLE: Any = {**STYLE, "axes.titlesize": 11, "axes.titlelocation": "left"}
#: Equal losses have no logarithm; float32 resolves no less than this of a loss of about 1.
_LEAST_LOSS = 1e-7


def print_accuracy(result: AccuracyResult, console: Console) -> None:
    """Print what was compared, each finding, and what follows."""
    config, findings = result.config, result.findings
    console.print(
        f"\n{config['seeds']} runs per loader, epochs: {config['epochs']}, {result.steps} steps of "
        f"{config['batch_size']} images of {config['size']} px, {result.dtype}; "
        f"{result.train_images:,} training and {result.eval_images:,} evaluation images."
    )
    console.print(f"All start from {result.start}, with a new output layer.", markup=False)
    if result.left_out and not config["loaders"]:
        console.print(
            f"Left out, not installed or unable to read these data: {', '.join(result.left_out)}."
        )
    if findings.curves:
        console.print(_curve_table(result))
    console.print(_accuracy_table(result))
    console.print(_matrix_table(result))
    console.print(_scope(result))
    for line in conclusion(result):
        console.print(line, markup=False)


def save_accuracy(result: AccuracyResult, out: Path) -> None:
    """Write accuracy.json and accuracy.png to the folder `out`, each whole or not at all.

    Raises:
        DataError: they cannot be written.
    """
    text = json.dumps(asdict(result), indent=1, allow_nan=False) + "\n"
    for name, content in (
        ("accuracy.png", draw_accuracy(result)), ("accuracy.json", text.encode()),
    ):  # fmt: skip
        try:
            with AtomicFile(out / name) as file:
                with open(file.descriptor, "wb", closefd=False) as stream:
                    stream.write(content)
                file.publish()
        except OSError as error:
            reason = (error.strerror or "cannot be written").lower()
            raise DataError(out / name, reason, "a file to write") from error


def conclusion(result: AccuracyResult) -> list[str]:
    """What was found, a line for each thing that is not as it should be, then the verdict."""
    findings, margin = result.findings, f"{result.config['margin']:g}"
    lines = [
        f"{name}: its loss curve lies {curve.ratio:.1f} times as far from {result.reference}'s as "
        f"{result.control_dtype} does, more than {CURVE_FACTOR:g}"
        for name, curve in findings.curves.items()
        if not curve.within
    ]
    for what, found in (
        (f"trained with {{}} against {result.baseline}", findings.against_baseline),
        (f"trained with {{}} against {result.reference}", findings.against_reference),
        (f"evaluated with {{}} against {result.reference}", findings.evaluation),
    ):
        for name, each in found.items():
            where = what.format(name)
            if each.verdict == "different":
                lines.append(f"{where}: different, {_interval(each)} points")
            elif each.verdict == "not shown":
                lines.append(
                    f"{where}: not shown to lie within {margin}: {_interval(each)} points"
                    + (
                        f"; about {each.runs_needed} seeds would show it if so"
                        if each.runs_needed
                        else ""
                    )
                )
    open_ends = any("not shown" in line for line in lines)
    verdict = "passed, though not all is shown" if open_ends else "passed"
    return [*lines, f"{verdict if result.passed else 'FAILED'} in {result.seconds:.0f} s"]


def _scope(result: AccuracyResult) -> str:
    if result.config["weights"] == "none":
        return "This shows training from random weights; fine-tuning differs less from run to run."
    return (
        "This shows that fine-tuning from this start goes alike. Training from random weights "
        "(--weights none) differs more from run to run and needs more seeds."
    )


def _curve_table(result: AccuracyResult) -> Table:
    curves = result.findings.curves
    controls = len(result.control_losses)
    table = Table(
        title=f"Loss curves against {result.reference}'s: root mean square difference, "
        f"{controls} seeds",
        title_justify="left",
    )
    early = next(iter(curves.values())).early_steps
    table.add_column("loader")
    for name in (
        "first step",
        f"first {early} steps",
        f"all {result.steps} steps",
        "times control",
    ):
        table.add_column(name, justify="right")
    table.add_column("")
    for name, curve in curves.items():
        table.add_row(
            name, f"{curve.first:.5f}", f"{curve.early:.5f}", f"{curve.rms:.5f}",
            f"{curve.ratio:.2f}", "within" if curve.within else "[red]beyond[/red]",
        )  # fmt: skip
    curve = next(iter(curves.values()))
    table.add_section()
    table.add_row(
        f"control: {result.control_dtype}", "", f"{curve.early_limit / CURVE_FACTOR:.5f}",
        f"{curve.limit / CURVE_FACTOR:.5f}", f"limit {CURVE_FACTOR:g}",
    )  # fmt: skip
    return table


def _accuracy_table(result: AccuracyResult) -> Table:
    findings = result.findings
    table = Table(
        title="Final accuracy, points; differences paired by seed with 95% intervals",
        title_justify="left",
    )
    table.add_column("loader")
    table.add_column("mean ± sd", justify="right")
    table.add_column(f"minus {result.reference}")
    table.add_column(f"minus {result.baseline}")
    table.add_column(f"within {result.config['margin']:g} of {result.baseline}?")
    for name in result.loaders:
        own = np.array(result.accuracies[name][name])
        reference = findings.against_reference.get(name)
        baseline = findings.against_baseline.get(name)
        table.add_row(
            name, f"{own.mean():.2f} ± {own.std(ddof=1):.2f}",
            _interval(reference) if reference else "", _interval(baseline) if baseline else "",
            f"{_colored(baseline)}, {_p(baseline)}" if baseline else "",
        )  # fmt: skip
    return table


def _matrix_table(result: AccuracyResult) -> Table:
    findings = result.findings
    table = Table(
        title="Cross matrix: trained with (rows), evaluated with (columns), mean accuracy of the "
        f"first {findings.crossed} seeds",
        title_justify="left",
    )
    table.add_column("")
    for name in result.loaders:
        table.add_column(name, justify="right")
    for trained in result.loaders:
        row = findings.matrix[trained]
        table.add_row(trained, *(f"{row[name]:.2f}" for name in result.loaders))
    table.add_section()
    verdicts = [findings.evaluation.get(name) for name in result.loaders]
    table.add_row(
        f"minus {result.reference}", *(f"{each.mean:+.2f}" if each else "" for each in verdicts)
    )
    table.add_row(
        f"within {result.config['margin']:g}?",
        *(_colored(each) if each else "" for each in verdicts),
    )
    return table


def _interval(found: Equivalence) -> str:
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _colored(found: Equivalence) -> str:
    color = {"equivalent": "green", "different": "red", "not shown": "yellow"}[found.verdict]
    return f"[{color}]{found.verdict}[/{color}]"


def _p(found: Equivalence) -> str:
    return "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"


def draw_accuracy(result: AccuracyResult) -> bytes:
    """Curves, paired differences and cross matrix as a PNG."""
    with mpl.rc_context(_STYLE):
        width = 15 + 0.7 * max(0, len(result.loaders) - 4)
        figure = Figure(figsize=(width, 5.8), layout="constrained")
        figure.suptitle(_heading(result), fontsize=11.5, ha="left", x=0.008)
        parts: Any = figure.subfigures(1, 3, width_ratios=(1.15, 1, 0.95), wspace=0.03)
        left, middle, right = parts
        _draw_curves(left, result)
        _draw_differences(middle, result)
        _draw_matrix(right, result)
        FigureCanvasAgg(figure)
        png = io.BytesIO()
        figure.savefig(png, dpi=110, format="png")
    return png.getvalue()


def _heading(result: AccuracyResult) -> str:
    config, machine = result.config, result.environment
    verdict = "passed" if result.passed else "FAILED"
    return (
        f"Does every loader train the same model?  {verdict}\n"
        f"{config['seeds']} runs each, {result.steps} steps of {config['batch_size']} images at "
        f"{config['size']} px, {result.dtype}, on {machine['gpu'] or machine['cpu'] or 'a CPU'}"
    )


def _color(result: AccuracyResult, name: str) -> str:
    if name == result.reference:
        return _REFERENCE_COLOR
    if name == result.baseline:
        return _BASELINE_COLOR
    return _COLORS[(result.loaders.index(name) - 1) % len(_COLORS)]


def _draw_curves(figure: SubFigure, result: AccuracyResult) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.2, 1))
    steps = np.arange(1, result.steps + 1)
    reference = np.array(result.losses[result.reference])
    controls = np.array(result.control_losses)
    # Widest first: where curves coincide, all of them remain visible.
    others = [name for name in result.loaders if name not in (result.reference, result.baseline)]
    stacked = [result.reference, *others]
    for rank, name in enumerate(stacked):
        above.plot(
            steps, result.losses[name][0], color=_color(result, name), label=name,
            lw=1.5 + 2.2 * (len(stacked) - 1 - rank), solid_capstyle="round",
            alpha=0.3 if name == result.reference and others else 0.9,
        )  # fmt: skip
    above.plot(
        steps, result.losses[result.baseline][0], color=_BASELINE_COLOR, lw=1.2, ls=(0, (4, 2)),
        label=f"{result.baseline}: its own crops and order",
    )  # fmt: skip
    above.set(title=f"Training loss, seed {result.config['seed']}", ylim=(0, None))
    above.legend(fontsize=8)
    control = _distance(controls[0], reference[0])
    below.plot(
        steps,
        control,
        color="#666666",
        lw=1,
        ls=":",
        marker=".",
        label=f"control: {result.control_dtype}",
    )
    for name in others:
        curve = np.array(result.losses[name][0])
        below.plot(
            steps, _distance(curve, reference[0]), color=_color(result, name), lw=1.3, marker=".",
            label=name if curve.tolist() != reference[0].tolist() else f"{name}: equal",
        )  # fmt: skip
    bottom = _LEAST_LOSS
    if result.findings.curves:
        match = next(iter(result.findings.curves.values()))
        early = match.early_steps + 0.5
        below.fill_between([0.5, early], 0, match.early_limit, color=_BAND_COLOR, alpha=0.13, lw=0)
        below.fill_between(
            [early, result.steps + 0.5], 0, match.limit, color=_BAND_COLOR, alpha=0.13, lw=0,
            label=f"{CURVE_FACTOR:g} x control's RMS",
        )  # fmt: skip
        bottom = min(match.early_limit, match.limit) / 200 or _LEAST_LOSS
    below.set(
        title=f"Distance from {result.reference}'s loss", yscale="log", xlabel="step",
        xlim=(0.5, result.steps + 0.5),
    )  # fmt: skip
    below.set_ylim(bottom=bottom)
    low, high = below.get_ylim()
    below.set_ylim(low, high * 8)  # room for the legend
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend(fontsize=8, ncols=2, loc="upper left")


def _distance(curve: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.maximum(np.abs(curve - reference), _LEAST_LOSS)
    return distance


def _draw_differences(figure: SubFigure, result: AccuracyResult) -> None:
    """A row per comparison: each seed's difference, their mean and its interval, the verdict."""
    axes = figure.subplots()
    findings, margin = result.findings, result.config["margin"]
    own = {name: np.array(result.accuracies[name][name]) for name in result.loaders}
    rows: list[tuple[str, str, Equivalence]] = [
        (name, result.baseline, each) for name, each in findings.against_baseline.items()
    ]
    rows += [(name, result.reference, each) for name, each in findings.against_reference.items()]
    axes.axvspan(-margin, margin, color=_BAND_COLOR, alpha=0.13, lw=0)
    axes.axvline(0, color="#999999", lw=0.8)
    for row, (name, other, found) in enumerate(rows):
        differences, color = own[name] - own[other], _color(result, name)
        # Equal differences lie upon each other: spread across, evenly and the same each time.
        spread = np.linspace(-0.16, 0.16, len(differences))
        axes.plot(
            differences, row + 0.12 + spread, ls="", marker="o", ms=4.5, mfc="none", mec=color,
            alpha=0.7,
        )  # fmt: skip
        axes.errorbar(
            found.mean, row - 0.2, xerr=[[found.mean - found.low], [found.high - found.mean]],
            color=color, marker="D", ms=6, lw=2, capsize=4,
        )  # fmt: skip
        axes.annotate(
            f"{_verdict(found)}, {_p(found)}", (0.0, row - 0.42),
            xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            fontsize=8.5, va="center",
        )  # fmt: skip
    reach = max(
        [margin, *(abs(edge) for *_, each in rows for edge in (each.low, each.high))]
        + [float(np.abs(own[name] - own[other]).max()) for name, other, _ in rows]
    )
    axes.set(
        title=f"Accuracy, paired by seed; band: ±{margin:g}",
        xlabel="points; diamond: mean and 95% interval",
        xlim=(-reach * 1.12, reach * 1.12), ylim=(len(rows) - 0.4, -0.65),
    )  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{name}\nminus {other}" for name, other, _ in rows])
    axes.grid(axis="y", visible=False)


def _verdict(found: Equivalence) -> str:
    if found.verdict == "not shown" and found.runs_needed:
        return f"not shown: takes ~{found.runs_needed} seeds"
    return found.verdict


def _draw_matrix(figure: SubFigure, result: AccuracyResult) -> None:
    axes = figure.subplots()
    names = result.loaders
    matrix = np.array([[result.findings.matrix[row][name] for name in names] for row in names])
    margin = result.config["margin"]
    # Four margins to full colour: what differs within the margin hardly differs in colour.
    middle, span = result.findings.matrix[result.reference][result.reference], 4 * margin
    axes.imshow(matrix, cmap="RdBu", vmin=middle - span, vmax=middle + span, aspect="auto")
    for row, column in np.ndindex(*matrix.shape):
        value = matrix[row, column]
        color = "white" if abs(value - middle) > 0.6 * span else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(
        title=f"Cross matrix: accuracy, {result.findings.crossed} seeds",
        xlabel="evaluated with",
        ylabel="trained with",
    )
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
