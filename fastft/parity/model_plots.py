"""A comparison of the models that loaders train: on the terminal, as a picture and in a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from rich.console import Console

from fastft.parity.equivalence import CURVE_FACTOR, AccuracyResult, CurveMatch, Equivalence
from fastft.results.charts import Bar, span_panel
from fastft.results.numbers import write_number, write_signed
from fastft.results.plots import BAND, COLORS, GREY, INK, Panel, save_panels
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
from pipelines.atomic import write_whole
from pipelines.errors import DataError

#: Equal losses have no logarithm; float32 resolves no less than this of a loss of about 1.
_LEAST_LOSS = 1e-7
_TONES = {"equivalent": "good", "different": "bad"}


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
        print_table(curve_table(result), console)
    print_table(difference_table(result), console)
    print_table(matrix_table(result), console)
    console.print(_scope(result))
    for line in conclusion(result):
        console.print(line, markup=False)


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


def accuracy_section(results: Sequence[tuple[str, AccuracyResult]]) -> Section | None:
    """Whether the loaders train the same models.

    Args:
        results: name of a source, and what it holds.
    """
    names = [name for name, _ in results]
    lead, blocks, keys = [], list[Block](), []
    for name, result in results:
        passed = "passed" if result.passed else "failed"
        told = f"Models of all loaders: {passed}. {_scale(result)}. All start from {result.start}."
        lead.append(of_source(name, names, told))
        verdicts = [found.verdict for *_, found in _differences(result)]
        alike = f"{verdicts.count('equivalent')} of {len(verdicts)}"
        what = f"of models shown equivalent within {result.margin:g} points"
        keys.append(Key(alike, "comparisons", of_source(name, names, what)))
        loss, distance, differences, matrix = accuracy_panels(result)
        title = of_source(name, names, "Accuracy of the models")
        blocks.append(Exhibit(title, (differences, matrix), difference_table(result)))
        if result.findings.curves:
            title = of_source(name, names, "Loss curves")
            blocks.append(Exhibit(title, (loss, distance), curve_table(result)))
        blocks.append(matrix_table(result))
    return Section("models", "Models", tuple(lead), tuple(blocks), tuple(keys))


def conclusion(result: AccuracyResult) -> list[str]:
    """The findings, a line for each thing that is not as it should be, then the verdict."""
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


def curve_table(result: AccuracyResult) -> Table:
    """How far each loader's loss curves lie from the reference's, and the control's."""
    curves = result.findings.curves
    first = next(iter(curves.values()))
    title = (
        f"Loss curves against {result.reference}'s: root mean square difference, "
        f"{len(result.control_losses)} seeds"
    )
    table = make_table(title, curves.items(), (
        Column("loader", lambda each: each[0]),
        Column("first step", lambda each: each[1].first, _write_loss),
        Column(f"first {first.early_steps} steps", lambda each: each[1].early, _write_loss),
        Column(f"all {result.steps} steps", lambda each: each[1].rms, _write_loss),
        Column("times control", lambda each: each[1].ratio, write_number),
        Column("", lambda each: _within(each[1])),
    ))  # fmt: skip
    control = (
        Cell(f"control: {result.control_dtype}"), Cell(""),
        Cell(f"{first.early_limit / CURVE_FACTOR:.5f}"), Cell(f"{first.limit / CURVE_FACTOR:.5f}"),
        Cell("1"), Cell(f"limit {CURVE_FACTOR:g}"),
    )  # fmt: skip
    return Table(table.title, table.heads, (*table.rows, control))


def difference_table(result: AccuracyResult) -> Table:
    """All paired differences of accuracies, with what they show."""
    title = "Final accuracy, points: differences paired by seed with 95% intervals"
    return make_table(title, _differences(result), (
        Column("", lambda each: f"{each[0]} minus {each[1]}"),
        Column("pairs", lambda each: each[2].n),
        Column("mean", lambda each: _mean(result, each[0]) if not each[0].startswith("evaluated")
               else ""),
        Column("difference", lambda each: each[2].mean, write_signed),
        Column("95% interval", lambda each: f"{each[2].low:+.2f} to {each[2].high:+.2f}"),
        Column("p", lambda each: _p(each[2])),
        Column(f"within {result.margin:g}?", lambda each: (
            Cell(each[2].verdict, None, _TONES.get(each[2].verdict, ""))
        )),
    ))  # fmt: skip


def matrix_table(result: AccuracyResult) -> Table:
    """Mean accuracies of models by the loader that trained them and the one that judged them."""
    findings = result.findings
    title = (
        "Cross matrix: trained with (rows), evaluated with (columns), mean accuracy of the first "
        f"{findings.crossed} seeds"
    )
    rows = tuple(
        (Cell(trained), *(Cell(f"{findings.matrix[trained][name]:.2f}") for name in result.loaders))
        for trained in result.loaders
    )
    return Table(title, ("", *result.loaders), rows)


def accuracy_panels(result: AccuracyResult) -> tuple[Panel, Panel, Panel, Panel]:
    """Loss curves, their distances, paired differences of accuracies, and the cross matrix."""
    rows = []
    for name, other, found in _differences(result):
        points: tuple[float, ...] = ()
        if not name.startswith("evaluated"):
            own, others = (result.accuracies[each][each] for each in (name, other))
            points = tuple(a - b for a, b in zip(own, others, strict=True))
        needs = f", takes ~{found.runs_needed} seeds" if _is_open(found) else ""
        rows.append(Bar(
            f"{name} minus {other}: {found.verdict}{needs}", found.mean, write_signed(found.mean),
            _color(result, name.rpartition(" ")[2]), low=found.low, high=found.high, points=points,
        ))  # fmt: skip
    margin = result.margin
    differences = span_panel(
        f"Accuracy, points, paired by seed; band: \u00b1{margin:g}", rows, band=(-margin, margin)
    )
    return (
        Panel(f"Training loss, seed {result.config.get('seed', 0)}",
              lambda axes: _draw_losses(axes, result)),
        Panel(f"Distance from {result.reference}'s loss",
              lambda axes: _draw_distances(axes, result)),
        differences,
        Panel(f"Cross matrix: accuracy, {result.findings.crossed} seeds",
              lambda axes: _draw_matrix(axes, result)),
    )  # fmt: skip


def _differences(result: AccuracyResult) -> list[tuple[str, str, Equivalence]]:
    """One thing, another, and how far they are apart."""
    findings = result.findings
    return [
        *((name, result.baseline, each) for name, each in findings.against_baseline.items()),
        *((name, result.reference, each) for name, each in findings.against_reference.items()),
        *((f"evaluated by {name}", result.reference, each)
          for name, each in findings.evaluation.items()),
    ]  # fmt: skip


def _heading(result: AccuracyResult) -> str:
    machine = result.environment
    verdict = "passed" if result.passed else "FAILED"
    return (
        f"Does every loader train the same model?  {verdict}\n"
        f"{_scale(result)}, on {machine.get('gpu') or machine.get('cpu') or 'a CPU'}"
    )


def _scale(result: AccuracyResult) -> str:
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
            steps, result.losses[name][0], color=_color(result, name), label=name,
            lw=1.5 + 2.2 * (len(stacked) - 1 - rank), solid_capstyle="round",
            alpha=0.3 if name == result.reference and others else 0.9,
        )  # fmt: skip
    axes.plot(
        steps, result.losses[result.baseline][0], color=GREY, lw=1.2, ls=(0, (4, 2)),
        label=f"{result.baseline}: its own crops and order",
    )  # fmt: skip
    axes.set(ylim=(0, None), xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)


def _draw_distances(axes: Axes, result: AccuracyResult) -> None:
    """How far one seed's losses lie from the reference's, beside the control's."""
    steps = np.arange(1, result.steps + 1)
    reference = np.array(result.losses[result.reference][0])
    control = _distance(np.array(result.control_losses[0]), reference)
    axes.plot(
        steps, control, color=GREY, lw=1, ls=":", marker=".",
        label=f"control: {result.control_dtype}",
    )  # fmt: skip
    bottom = _LEAST_LOSS
    for name, match in result.findings.curves.items():
        curve = np.array(result.losses[name][0])
        is_equal = curve.tolist() == reference.tolist()
        axes.plot(
            steps, _distance(curve, reference), color=_color(result, name), lw=1.3, marker=".",
            label=f"{name}: equal" if is_equal else name,
        )  # fmt: skip
        early = match.early_steps + 0.5
        bottom = min(match.early_limit, match.limit) / 200 or _LEAST_LOSS
    if result.findings.curves:  # the limits are the control's, for all alike
        axes.fill_between([0.5, early], 0, match.early_limit, color=BAND, lw=0)
        axes.fill_between(
            [early, result.steps + 0.5], 0, match.limit, color=BAND, lw=0,
            label=f"{CURVE_FACTOR:g} x control's RMS",
        )  # fmt: skip
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
            column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9,
            gid="cell",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="evaluated with", ylabel="trained with", ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _mean(result: AccuracyResult, name: str) -> str:
    own = np.array(result.accuracies[name][name])
    return f"{own.mean():.2f} \u00b1 {own.std(ddof=1):.2f}"


def _interval(found: Equivalence) -> str:
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _is_open(found: Equivalence) -> bool:
    return found.verdict == "not shown" and found.runs_needed is not None


def _within(curve: CurveMatch) -> Cell:
    return Cell("within", 1, "good") if curve.within else Cell("beyond", 0, "bad")


def _write_loss(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _p(found: Equivalence) -> str:
    return "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
