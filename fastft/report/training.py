"""The section on trainings: curves of runs, what bounds them, and experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fastft.report.charts import Row, Scale, fit_scale, row_chart
from fastft.report.lines import Series, line_chart
from fastft.report.parts import (
    UNKNOWN,
    Block,
    Cell,
    Figure,
    Key,
    Notes,
    Panel,
    Section,
    Table,
    capitalize,
    fold,
    of_source,
    write_accuracy,
    write_measure,
    write_number,
    write_rate,
    write_seconds,
    write_share,
    write_share_tick,
    write_tick,
)
from fastft.report.read_runs import Epoch, Experiment, Run, Variant

Maybe = float | None
#: Settings that say where a run lies, not how it was trained.
_PLACES = ("out", "overwrite")


def training_section(runs: Sequence[Run], experiments: Sequence[Experiment]) -> Section | None:
    """Curves of all runs in one chart each, then what was compared."""
    blocks: list[Block] = []
    if runs:
        blocks += [_overview(runs), *_curves(runs), *_settings(runs)]
    for experiment in experiments:
        blocks += _experiment(experiment, experiments)
    lead = []
    for run in runs:
        # The first line is its figures, which stand in the table.
        lead += [of_source(run, runs, capitalize(line)) for line in run.verdict[1:]]
    return Section("training", "Training", tuple(lead), tuple(blocks)) if blocks else None


def training_keys(runs: Sequence[Run], experiments: Sequence[Experiment]) -> list[Key]:
    """What the head of the page says of trainings."""
    keys = []
    scored = [run for run in runs if run.best is not None]
    if scored:
        best = max(scored, key=lambda run: _best_accuracy(run) or 0.0)
        what = of_source(best, runs, "best accuracy")
        keys.append(Key(write_accuracy(_best_accuracy(best)), "", what))
        epochs = best.epochs[1:] or best.epochs
        waits = [each.wait_share for each in epochs if each.wait_share is not None]
        if waits:
            what = of_source(best, runs, "of training steps spent waiting for input")
            keys.append(Key(write_share(sum(waits) / len(waits)), "", what))
    for experiment in experiments:
        for other, (mean, _, _) in experiment.gains.items():
            what = of_source(experiment, experiments, f"accuracy, fine-tuned against {other}")
            keys.append(Key(_write_points(mean), "points", what))
        for start, lr in experiment.best.items():
            what = of_source(experiment, experiments, f"the best rate, {start}")
            keys.append(Key(write_number(lr), "learning rate", what))
    return keys


def _best_accuracy(run: Run) -> Maybe:
    return run.best.eval_accuracy if run.best is not None else None


def _overview(runs: Sequence[Run]) -> Table:
    heads = ("run", "epochs", "steps", "best accuracy", "at epoch", "images/s", "waiting",
             "loader alone", "model alone", "took", "")  # fmt: skip
    return Table("Runs", heads, tuple(map(_run_cells, runs)),
                 "Images/s and waiting: the mean of all epochs but the first.")  # fmt: skip


def _run_cells(run: Run) -> tuple[Cell, ...]:
    counted = run.epochs[1:] or run.epochs
    rate = _mean(each.img_per_s for each in counted)
    wait = _mean(each.wait_share for each in counted)
    best = run.best
    return (
        Cell(run.name),
        Cell(f"{len(run.epochs):,}", len(run.epochs)),
        Cell(f"{run.steps:,}", run.steps),
        Cell(write_accuracy(_best_accuracy(run)), _best_accuracy(run)),
        Cell(str(best.epoch + 1) if best else UNKNOWN, best.epoch + 1 if best else None),
        Cell(write_rate(rate), rate),
        Cell(write_share(wait), wait),
        Cell(write_rate(run.loader_img_per_s), run.loader_img_per_s),
        Cell(write_rate(run.model_img_per_s), run.model_img_per_s),
        Cell(write_seconds(run.seconds), run.seconds),
        Cell("ended" if run.is_whole else "left before its end"),
    )


def _curves(runs: Sequence[Run]) -> Iterable[Block]:
    if not any(run.epochs or run.losses for run in runs):
        yield Notes(("No step has been taken yet.",))
        return
    ends = [run.losses[-1][0] for run in runs if run.losses]
    ends += [each.epoch + 1.0 for run in runs for each in run.epochs]
    # The losses of the first epoch's steps are shown of a single run alone.
    x = Scale(0.0 if len(runs) == 1 else min(1.0, max(ends)), max(ends))
    table = Table("Epochs", (
        "run", "epoch", "size, px", "training loss", "evaluation loss", "training accuracy",
        "evaluation accuracy", "images/s", "waiting", "training took", "evaluation took",
    ), tuple(_epoch_cells(run, each) for run in runs for each in run.epochs))  # fmt: skip
    losses = _curve_panels(
        "loss", runs, x, lambda e: e.train_loss, lambda e: e.eval_loss, write_measure,
        steps=len(runs) == 1,
    )  # fmt: skip
    accuracies = _curve_panels(
        "accuracy", runs, x, lambda e: e.train_accuracy, lambda e: e.eval_accuracy, write_accuracy
    )
    speed = (
        _panel("Training images/s", runs, x, lambda each: each.img_per_s, write_rate),
        _panel("Share of steps spent waiting", runs, x, lambda e: e.wait_share, write_share),
    )
    yield Figure("Loss and accuracy", "", (*losses, *accuracies), table)
    if any(run.epochs for run in runs):
        yield Figure("Speed", "", speed, table)


def _curve_panels(
    what: str,
    runs: Sequence[Run],
    x: Scale,
    train: Callable[[Epoch], Maybe],
    evaluation: Callable[[Epoch], Maybe],
    write: Callable[[Maybe], str],
    *,
    steps: bool = False,
) -> Iterable[Panel]:
    """Of one run both splits in one panel, of several a panel for each split."""
    if len(runs) > 1:
        yield _panel(f"Training {what}", runs, x, train, write)
        yield _panel(f"Evaluation {what}", runs, x, evaluation, write)
        return
    series = [_series("training", runs[0], train, 0), _series("evaluation", runs[0], evaluation, 1)]
    if steps:
        series.insert(0, Series("steps", tuple(runs[0].losses), 0, faint=True))
    yield _chart(what.capitalize(), series, x, write)


def _panel(
    title: str, runs: Sequence[Run], x: Scale, of: Callable[[Epoch], Maybe],
    write: Callable[[Maybe], str],
) -> Panel:  # fmt: skip
    series = [_series(run.name, run, of, style) for style, run in enumerate(runs)]
    return _chart(title, series, x, write)


def _series(name: str, run: Run, of: Callable[[Epoch], Maybe], style: int) -> Series:
    return Series(name, tuple((each.epoch + 1.0, of(each)) for each in run.epochs), style)


def _chart(title: str, series: Sequence[Series], x: Scale, write: Callable[[Maybe], str]) -> Panel:
    tick = write_share_tick if write is write_share else write_tick
    values = [value for each in series if not each.faint for _, value in each.points]
    # One wild early step must not flatten the rest.
    steps = sorted(v for each in series if each.faint for _, v in each.points if v is not None)
    values += [steps[int(0.98 * (len(steps) - 1))]] if steps else []
    y = fit_scale(values)
    epochs = [float(each) for each in x.ticks(6) if each == int(each)]
    return Panel(title, line_chart(
        title, series, x=x, y=y, x_title="epoch", x_number=write_number, y_number=write,
        y_tick=tick,
        x_ticks=epochs,
    ))  # fmt: skip


def _epoch_cells(run: Run, each: Epoch) -> tuple[Cell, ...]:
    return (
        Cell(run.name),
        Cell(f"{each.epoch + 1:,}", each.epoch + 1),
        Cell(f"{each.size:,}", each.size),
        Cell(write_measure(each.train_loss), each.train_loss),
        Cell(write_measure(each.eval_loss), each.eval_loss),
        Cell(write_accuracy(each.train_accuracy), each.train_accuracy),
        Cell(write_accuracy(each.eval_accuracy), each.eval_accuracy),
        Cell(write_rate(each.img_per_s), each.img_per_s),
        Cell(write_share(each.wait_share), each.wait_share),
        Cell(write_seconds(each.train_s), each.train_s),
        Cell(write_seconds(each.eval_s), each.eval_s),
    )


def _settings(runs: Sequence[Run]) -> Iterable[Block]:
    names = [name for name in fold([list(run.config) for run in runs]) if name not in _PLACES]
    heads = ("", *(run.name for run in runs))

    def rows(chosen: Iterable[str]) -> tuple[tuple[Cell, ...], ...]:
        return tuple(
            (Cell(name), *(Cell(run.config.get(name, "")) for run in runs)) for name in chosen
        )

    if len(runs) == 1:
        yield Table("Settings", ("", "value"), rows(names), folded=True)
        return
    differing = [name for name in names if len({run.config.get(name) for run in runs}) > 1]
    if differing:
        yield Table("Settings that differ", heads, rows(differing))
    alike = [name for name in names if name not in differing]
    same = tuple((Cell(name), Cell(runs[0].config.get(name, ""))) for name in alike)
    yield Table("Settings that all share", ("", "value"), same, folded=True)


# --- compare and sweep --------------------------------------------------------------------------


def _experiment(found: Experiment, experiments: Sequence[Experiment]) -> Iterable[Block]:
    starts = tuple(found.best)
    heads: tuple[str, ...] = ("", "learning rate", "seeds", "accuracy", "95% interval")
    gains = found.gains
    rows = tuple(_variant_cells(each) + _gain_cells(each, gains) for each in found.variants)
    if gains:
        heads += ("fine-tuning is better by, points", "95% interval")
    table = Table(of_source(found, experiments, "Variants"), heads, rows)
    if gains:
        bars = [
            Row(each.name, each.mean, write_accuracy(each.mean), f"s{at % 6}", low=each.low,
                high=each.high, points=each.accuracies)
            for at, each in enumerate(found.variants)
        ]  # fmt: skip
        scale = fit_scale([v for row in bars for v in (row.low, row.high, *row.points)], zero=False)
        chart = row_chart("Accuracy by variant", bars, style="interval", scale=scale,
                          axis=write_tick)  # fmt: skip
        note = "Accuracy of each seed, the mean, and its 95% interval."
        title = of_source(found, experiments, "What starting from weights brings")
        yield Figure(title, note, (Panel("", chart),), table)
    else:
        title = of_source(found, experiments, "Accuracy by learning rate")
        note = "; ".join(f"best {start}: {write_number(lr)}" for start, lr in found.best.items())
        yield Figure(title, note, (_sweep_panel(found, starts),), table)


def _sweep_panel(found: Experiment, starts: Sequence[str]) -> Panel:
    series = []
    for style, start in enumerate(starts):
        points = [(each.lr, each.mean) for each in found.variants
                  if each.lr is not None and each.name.startswith(f"{start},")]  # fmt: skip
        series.append(Series(start, tuple(sorted(points, key=lambda at: at[0])), style))
    rates = sorted({lr for each in series for lr, _ in each.points})
    x = Scale(rates[0], rates[-1], log=True) if rates else Scale(0.0, 1.0)
    y = fit_scale(value for each in series for _, value in each.points)
    title = "Accuracy after the last epoch, mean of seeds"
    return Panel(title, line_chart(
        title, series, x=x, y=y, x_title="learning rate", x_number=write_number,
        y_number=write_accuracy, y_tick=write_tick, x_ticks=rates,
    ))  # fmt: skip


def _variant_cells(each: Variant) -> tuple[Cell, ...]:
    return (
        Cell(each.name),
        Cell(write_number(each.lr), each.lr),
        Cell(f"{len(each.accuracies):,}", len(each.accuracies)),
        Cell(write_accuracy(each.mean), each.mean),
        Cell(_write_span(each.low, each.high, write_accuracy)),
    )


def _gain_cells(each: Variant, gains: dict[str, tuple[Maybe, Maybe, Maybe]]) -> tuple[Cell, ...]:
    if not gains:
        return ()
    if each.name not in gains:
        return Cell(""), Cell("")
    mean, low, high = gains[each.name]
    return Cell(_write_points(mean), mean), Cell(_write_span(low, high, _write_points))


def _write_points(value: Maybe) -> str:
    return UNKNOWN if value is None else f"{100 * value:+.1f}"


def _write_span(low: Maybe, high: Maybe, write: Callable[[Maybe], str]) -> str:
    return "one seed" if low is None or high is None else f"{write(low)} to {write(high)}"


def _mean(values: Iterable[Maybe]) -> Maybe:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
