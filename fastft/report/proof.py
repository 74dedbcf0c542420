"""Sections on what is right: parity of pixels and models, evaluations; and the machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastft.report.charts import Row, Scale, row_chart
from fastft.report.parts import (
    UNKNOWN,
    Block,
    Cell,
    Figure,
    Key,
    Panel,
    Picture,
    Section,
    Table,
    fold,
    of_source,
    write_accuracy,
    write_measure,
    write_number,
    write_share,
    write_signed,
    write_tick,
)
from fastft.report.read_proof import Accuracy, Evaluation, Pixels, PixelVerdict

Maybe = float | None
#: A confusion matrix of more classes is no table any more; classes that a chart shows.
_MOST_MATRIX, _MOST_CLASSES = 12, 16
_MOST_PAIRS = 20
#: Shades of a cell of the matrix.
_SHADES = 9


def parity_section(pixels: Sequence[Pixels], models: Sequence[Accuracy]) -> Section | None:
    """Whether the loaders feed the same pixels, and train the same models."""
    blocks: list[Block] = []
    for each in pixels:
        blocks += _pixel_blocks(each, pixels)
    for found in models:
        blocks += _model_blocks(found, models)
    lead = ["Distances from the reference are in levels of 255."] if pixels else []
    for found in models:
        passed = "passed" if found.passed else "failed"
        lead.append(of_source(found, models, f"Models of all loaders: {passed}. {found.told}"))
    return Section("parity", "Parity", tuple(lead), tuple(blocks)) if blocks else None


def evaluation_section(evaluations: Sequence[Evaluation]) -> Section | None:
    """How good the models are, and where they err."""
    blocks: list[Block] = []
    lead = []
    for each in evaluations:
        line = (
            f"{each.right:,} of {each.samples:,} images right, accuracy "
            f"{write_accuracy(each.accuracy)}{_span(each.interval)}, loss "
            f"{write_measure(each.loss)}, macro F1 {write_accuracy(each.macro_f1)}."
        )
        lead.append(of_source(each, evaluations, line))
        blocks += _evaluation_blocks(each, evaluations)
    return Section("evaluation", "Evaluation", tuple(lead), tuple(blocks)) if blocks else None


def machine_section(environments: Sequence[tuple[str, dict[str, str]]]) -> Section | None:
    """Machines and versions, sources with the same ones together.

    Args:
        environments: name of a source and what it ran on.
    """
    together: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, facts in environments:
        together.setdefault(tuple(facts.items()), []).append(name)
    if not together:
        return None
    columns = [dict(facts) for facts in together]
    heads = ("", *(", ".join(dict.fromkeys(names)) for names in together.values()))
    rows = tuple(
        (Cell(fact), *(Cell(column.get(fact) or UNKNOWN) for column in columns))
        for fact in fold([list(column) for column in columns])
    )
    table = Table("Machine and versions", heads, rows)
    return Section("machine", "Machine and versions", (), (table,))


def proof_keys(
    pixels: Sequence[Pixels], models: Sequence[Accuracy], evaluations: Sequence[Evaluation]
) -> list[Key]:
    """What the head of the page says of parity and evaluations."""
    keys = []
    for each in pixels:
        kept = f"{sum(v.passed for v in each.verdicts)} of {len(each.verdicts)}"
        what = of_source(each, pixels, "feed the pixels that they state")
        keys.append(Key(kept, "loaders", what))
    for found in models:
        alike = [each for each in found.differences if each.verdict == "equivalent"]
        count = f"{len(alike)} of {len(found.differences)}"
        what = f"of models shown equivalent within {write_number(found.margin)} points"
        keys.append(Key(count, "comparisons", of_source(found, models, what)))
    for judged in evaluations:
        what = f"accuracy on {judged.samples:,} images"
        keys.append(Key(write_accuracy(judged.accuracy), "", of_source(judged, evaluations, what)))
    return keys


# --- parity -------------------------------------------------------------------------------------


def _pixel_blocks(found: Pixels, among: Sequence[Pixels]) -> Iterable[Block]:
    verdicts = {each.loader: each for each in found.verdicts}
    heads = ("", "", "states", "comes from")
    rows = tuple(
        (Cell(each.loader), _verdict_cell(each), Cell(_stated(each)), Cell(_cause(each)))
        for each in found.verdicts
    )
    title = of_source(found, among, f"Loaders, {found.images:,} images")
    yield Table(title, heads, rows)
    table = Table(
        of_source(found, among, "Distances"),
        ("loader", "stage", "view", "mean", "99.9 %", "maximum", "PSNR, dB", "equal pixels"),
        tuple(
            (
                Cell(each.loader), Cell(each.stage), Cell(each.view),
                Cell(_write_level(each.mean), each.mean), Cell(write_number(each.rare), each.rare),
                Cell(write_number(each.most), each.most),
                Cell("" if each.psnr_db is None else f"{each.psnr_db:.1f}", each.psnr_db),
                Cell(_write_exact(each.exact), each.exact),
            )
            for each in found.rows
        ),
    )  # fmt: skip
    whole = [each for each in found.rows if each.stage == "whole"]
    if whole:
        means = []
        for each in whole:
            verdict = verdicts.get(each.loader)
            tone = "bad" if verdict is not None and not verdict.passed else "ours"
            label = f"{each.loader}, {each.view}"
            means.append(Row(label, each.mean, _write_level(each.mean), tone))
        most = [Row(row.label, each.most, write_number(each.most), row.tone)
                for row, each in zip(means, whole, strict=True)]  # fmt: skip
        panels = (
            Panel("Mean difference, levels", row_chart("Mean difference by loader", means)),
            Panel("Largest difference, levels", row_chart("Largest difference by loader", most)),
        )
        title = of_source(found, among, "From sample to batch")
        yield Figure(title, "", panels, table)
    else:
        yield table
    if found.stock:
        title = of_source(found, among, "The libraries' own evaluation pipelines")
        cells = tuple(
            (Cell(each.name), Cell(_write_level(each.mean), each.mean),
             Cell(write_number(each.most), each.most))
            for each in found.stock
        )  # fmt: skip
        yield Table(title, ("", "mean", "maximum"), cells)
    if found.picture is not None:
        title = of_source(found, among, "Where the pixels differ most")
        picture = found.picture
        yield Picture(title, picture.uri, picture.width, picture.height)


def _verdict_cell(verdict: PixelVerdict) -> Cell:
    if not verdict.in_order:
        return Cell("failed: out of order", 0, "bad")
    if verdict.passed:
        return Cell("passed" if verdict.stated else "states nothing", 1, "good")
    return Cell("failed", 0, "bad")


def _stated(verdict: PixelVerdict) -> str:
    if len(verdict.stated) != 2:
        return ""
    mean, most = verdict.stated
    return f"mean {write_number(mean)}, at most {write_number(most)}" if most else "0"


def _cause(verdict: PixelVerdict) -> str:
    return "no difference" if verdict.cause == "nothing" else verdict.cause


def _model_blocks(found: Accuracy, among: Sequence[Accuracy]) -> Iterable[Block]:
    margin = found.margin or 0.0
    rows = [
        Row(f"{each.what}: {each.verdict}", each.mean, write_signed(each.mean),
            "bad" if each.verdict == "different" else "ours", low=each.low, high=each.high)
        for each in found.differences
    ]  # fmt: skip
    cells = tuple(
        (
            Cell(each.what), Cell(f"{each.n:,}", each.n),
            Cell(write_signed(each.mean), each.mean),
            Cell(f"{write_signed(each.low)} to {write_signed(each.high)}"),
            Cell(write_number(each.p), each.p), _tone_cell(each.verdict),
        )
        for each in found.differences
    )  # fmt: skip
    heads = ("", "pairs", "difference, points", "95% interval", "p", "")
    title = of_source(found, among, "Accuracy of the models")
    if rows:
        reach = [abs(v) for row in rows for v in (row.low, row.high) if v is not None]
        end = 1.15 * max([margin, *reach]) or 1.0
        chart = row_chart(
            "Differences of accuracy, points", rows, style="interval", scale=Scale(-end, end),
            axis=write_tick, band=(-margin, margin),
        )  # fmt: skip
        note = (
            f"Points, with 95% intervals; shaded: within the margin of {write_number(margin)}. The "
            f"same models evaluated by another loader are held against {found.reference}'s."
        )
        yield Figure(title, note, (Panel("", chart),), Table(title, heads, cells))
    curves = tuple(
        (
            Cell(each.loader), Cell(write_number(each.first), each.first),
            Cell(write_number(each.rms), each.rms), Cell(write_number(each.ratio), each.ratio),
            Cell("within", 1, "good") if each.within else Cell("beyond", 0, "bad"),
        )
        for each in found.curves
    )  # fmt: skip
    if curves:
        title = f"Loss curves against {found.reference}'s, root mean square"
        measures = ("loader", "first step", "all steps", "times the control", "")
        yield Table(of_source(found, among, title), measures, curves)


def _tone_cell(verdict: str) -> Cell:
    return Cell(verdict, None, {"equivalent": "good", "different": "bad"}.get(verdict, ""))


# --- evaluation ---------------------------------------------------------------------------------


def _evaluation_blocks(found: Evaluation, among: Sequence[Evaluation]) -> Iterable[Block]:
    hardest = sorted(found.classes, key=lambda each: each.f1 if each.f1 is not None else 2.0)
    rows = [Row(each.name, each.f1, write_accuracy(each.f1)) for each in hardest[:_MOST_CLASSES]]
    cells = tuple(
        (
            Cell(each.name), Cell(write_accuracy(each.precision), each.precision),
            Cell(write_accuracy(each.recall), each.recall), Cell(write_accuracy(each.f1), each.f1),
            Cell(f"{each.support:,}", each.support),
        )
        for each in hardest
    )  # fmt: skip
    title = of_source(found, among, "Classes, the hardest first")
    chart = row_chart("F1 by class", rows, scale=Scale(0.0, 1.0))
    heads = ("class", "precision", "recall", "F1", "images")
    yield Figure(title, "F1, of 1.", (Panel("", chart),), Table(title, heads, cells))
    if len(found.classes) <= _MOST_MATRIX:
        yield _matrix(found, of_source(found, among, "Truth, and what was predicted"))
    elif found.confused:
        title = of_source(found, among, "Most confused")
        pairs = tuple(
            (
                Cell(truth),
                Cell(predicted),
                Cell(f"{count:,}", count),
                Cell(write_share(share), share),
            )
            for truth, predicted, count, share in found.confused[:_MOST_PAIRS]
        )
        yield Table(title, ("truth", "predicted", "images", "share of the truth"), pairs)
    if found.picture is not None:
        title = of_source(found, among, "Highest losses")
        yield Picture(title, found.picture.uri, found.picture.width, found.picture.height)


def _matrix(found: Evaluation, title: str) -> Table:
    names = [each.name for each in found.classes]
    rows = []
    for at, (name, counts) in enumerate(zip(names, found.confusion, strict=True)):
        total = sum(counts) or 1
        cells = [
            Cell(f"{count:,}", count, f"{'right' if at == column else 'wrong'}-"
                 f"{round(_SHADES * (count / total) ** 0.5)}")
            for column, count in enumerate(counts)
        ]  # fmt: skip
        rows.append((Cell(name), *cells))
    return Table(title, ("truth", *names), tuple(rows))


def _span(interval: Sequence[Maybe]) -> str:
    known = [write_accuracy(value) for value in interval if value is not None]
    return f" (95% interval {' to '.join(known)})" if len(known) == 2 else ""


def _write_level(value: Maybe) -> str:
    return UNKNOWN if value is None else f"{value:.3f}" if value else "0"


def _write_exact(value: Maybe) -> str:
    if value is None:
        return UNKNOWN
    # 99.9999 % must not read as 100 %.
    return "100 %" if value >= 1 else f"{min(value, 0.99999):.3%}"
