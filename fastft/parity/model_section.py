"""A comparison of the models that loaders train, in words and tables: for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from fastft.parity.equivalence import CURVE_FACTOR, AccuracyResult, CurveMatch, Equivalence
from fastft.parity.model_plots import accuracy_panels, describe_scale, differences
from fastft.results.numbers import write_number, write_signed
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


def accuracy_section(results: Sequence[tuple[str, AccuracyResult]]) -> Section | None:
    """Whether the loaders train the same models.

    Args:
        results: name of a source, and what it holds.
    """
    names = [name for name, _ in results]
    lead, blocks, keys = [], list[Block](), []
    for name, result in results:
        passed = "passed" if result.passed else "failed"
        told = (
            f"Models of all loaders: {passed}. {describe_scale(result)}. All start from "
            f"{result.start}."
        )
        lead.append(of_source(name, names, told))
        verdicts = [found.verdict for *_, found in differences(result)]
        alike = f"{verdicts.count('equivalent')} of {len(verdicts)}"
        what = f"of models shown equivalent within {result.margin:g} points"
        keys.append(Key(alike, "comparisons", of_source(name, names, what)))
        loss, distance, apart, matrix = accuracy_panels(result)
        title = of_source(name, names, "Accuracy of the models")
        blocks.append(Exhibit(title, (apart, matrix), difference_table(result)))
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
    """Distances of each loader's loss curves from the reference's, and the control's."""
    curves = result.findings.curves
    first = next(iter(curves.values()))
    title = (
        f"Loss curves against {result.reference}'s: root mean square difference, "
        f"{len(result.control_losses)} seeds"
    )
    table = make_table(
        title,
        curves.items(),
        (
            Column("loader", lambda each: each[0]),
            Column("first step", lambda each: each[1].first, _write_loss),
            Column(f"first {first.early_steps} steps", lambda each: each[1].early, _write_loss),
            Column(f"all {result.steps} steps", lambda each: each[1].rms, _write_loss),
            Column("times control", lambda each: each[1].ratio, write_number),
            Column("", lambda each: _within(each[1])),
        ),
    )
    control = (
        Cell(f"control: {result.control_dtype}"),
        Cell(""),
        Cell(f"{first.early_limit / CURVE_FACTOR:.5f}"),
        Cell(f"{first.limit / CURVE_FACTOR:.5f}"),
        Cell("1"),
        Cell(f"limit {CURVE_FACTOR:g}"),
    )
    return Table(table.title, table.heads, (*table.rows, control))


def difference_table(result: AccuracyResult) -> Table:
    """All paired differences of accuracies, with what they show."""
    rows = tuple(
        (
            Cell(f"{name} minus {other}"),
            Cell(f"{write_signed(each.mean)} ({each.low:+.2f} to {each.high:+.2f})", each.mean),
            Cell(f"{each.verdict}, {_p(each)}", None, _TONES.get(each.verdict, "")),
        )
        for name, other, each in differences(result)
    )
    title = "Final accuracy, points: differences paired by seed with 95% intervals"
    return Table(title, ("", "points", f"within {result.margin:g}?"), rows)


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


def _interval(found: Equivalence) -> str:
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _within(curve: CurveMatch) -> Cell:
    return Cell("within", 1, "good") if curve.within else Cell("beyond", 0, "bad")


def _write_loss(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _p(found: Equivalence) -> str:
    return "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
