"""Rows of the table: what each part's findings say, with medians and ranges, and the goals.

Findings may be of a part that was ended in the middle: each row needs no more than it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.gpu import augmented, corruption, end_to_end, fed, loaders, pixels, steady, steps

#: A row: its name, the figure, what stands beside it, the goal.
Row = tuple[str, str, str, str]
Found = Mapping[str, Any]
_CLIPPED = 300
_SHARES = {"resident": 0.99, "dali": 0.9}
#: The goal from end to end: so much faster than the tutorial's training.
_FASTER = 5
#: Seconds that a start may take.
_START_S = 10


def clip(text: str) -> str:
    """Not too much of a message."""
    return text if len(text) <= _CLIPPED else f"{text[:_CLIPPED]}..."


def rate(value: float) -> str:
    """Images per second."""
    return f"{value / 1e6:.2f} M img/s" if value >= 1e6 else f"{value:,.0f} img/s"


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median and range."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def clocks(found: Found) -> str:
    """The card's clock and power while something ran, or nothing."""
    if not found:
        return ""
    names = {"sm_mhz": "MHz", "memory_mhz": "MHz of memory", "power_w": "W", "celsius": "C"}
    return ", ".join(
        f"{found[name]['median']:,.0f} {unit} (at most {found[name]['max']:,.0f})"
        for name, unit in names.items()
        if name in found
    )


def _photos(found: Found) -> Iterator[Row]:
    each = found[""]
    items = ", ".join(
        f"{name.removesuffix('_s')} {each[name]:.1f}" for name in each if name.endswith("_s")
    )
    yield "photos drawn and converted", f"{each['photos']:,}", f"s: {items}", ""


def _probe(found: Found) -> Iterator[Row]:
    each = found[""]
    for way, decoding in each["ways"].items():
        what = f"DALI decodes: {way}"
        if decoding["failed"]:
            yield what, "failed", clip(decoding["failed"]), ""
            continue
        beside = f"{decoding['cpu_ms']:.2f} ms of CPU per image; levels off: "
        beside += f"mean {decoding['mean']:.3f}, most {decoding['most']:g}"
        yield what, rate(decoding["img_per_s"]), beside, ""
    taken = "regions" if each["takes_regions"] else "whole images"
    yield "DALI decodes from now on", taken, "", ""


def _suite(found: Found) -> Iterator[Row]:
    each = found[""]
    beside = f"{each['skipped']} skipped, {len(each['failures'])} failed"
    if each["running"]:
        beside += f"; ended in {each['running']}"
    if each["not_collected"]:
        beside += f"; not collected: {', '.join(each['not_collected'])}"
    yield "tests for a GPU", f"{each['passed']} of {each['tests']} passed", clip(beside), "all"
    for name, said in each["failures"].items():
        yield f"test {name}", "failed", clip(said), ""


def _corruption(found: Found) -> Iterator[Row]:
    for name in corruption.VARIANTS:
        outputs = found.get(name, {}).get("outputs", {})
        if not outputs:
            continue
        wrong = [f"{output}, {which}" for output in outputs for which in outputs[output]["corrupt"]]
        readings = sum(len(each["passes"]) for each in outputs.values())
        beside = f"{readings} readings of {', '.join(outputs)}"
        other = [each["images"] for of in outputs.values() for each in of["passes"].values()]
        if any(other) and not wrong:
            levels = max(
                each["levels"] for of in outputs.values() for each in of["passes"].values()
            )
            beside += f"; {max(other)} images rounded differently, by {levels:.2f} levels at most"
        figure = "CORRUPT" if wrong else "no batch changed"
        yield (
            f"slow caller of {name}",
            figure,
            clip("; ".join([beside, *wrong])),
            "no batch changed",
        )


def _machine(found: Found) -> Iterator[Row]:
    rates = found[""]["bytes_per_s"]
    text = "; ".join(f"{name.replace('_', ' ')} {each / 1e9:,.0f}" for name, each in rates.items())
    yield "bytes copied", f"{rates['within_device'] / 1e9:,.0f} GB/s within", f"GB/s: {text}", ""


def _kernel(found: Found) -> Iterator[Row]:
    for row in found[""]["rows"]:
        is_goal = (row["store"], row["dtype"], row["batch"]) == ("rgb", "bf16", 1024)
        yield (
            f"fused kernel, {row['store']} to {row['dtype']}, batches of {row['batch']}",
            rate(row["img_per_s"]),
            f"{row['bytes_per_s'] / 1e9:,.0f} GB/s, {row['share_of_copy']:.0%} of a copy's",
            "2 M img/s" if is_goal else "",
        )


def _changing(found: Found) -> Iterator[Row]:
    copied = found[""]["copied_bytes_per_s"]
    for row in found[""]["rows"]:
        if not row["img_per_s"]:
            continue
        rates, moved = row["img_per_s"], row["bytes_per_image"]
        beside = (
            f"{spread(rates)} img/s; passes: {row['passes']}; "
            f"{median(rates) * moved / copied:.0%} of what copies allow"
        )
        goal = ""
        if "whole" in row:
            one, whole = row["operation"], row["whole"]
            beside += f"; levels off: one operation {_off(one)}, all {_off(whole)}"
            goal = _within(one["passed"] and whole["passed"])
        what = f"operations alone, {row['asked']}, batches of {row['batch']}"
        yield what, rate(median(rates)), beside, goal


def _augmented(found: Found) -> Iterator[Row]:
    for loader, each in found.items():
        contenders, batch = each["contenders"], each["batch"]
        plain = [one["img_per_s"] for one in contenders[augmented.NOTHING]["rounds"]]
        for name, contender in contenders.items():
            rounds = contender["rounds"]
            if not rounds:
                continue
            rates = [one["img_per_s"] for one in rounds]
            shares = [mine / theirs for mine, theirs in zip(rates, plain, strict=False)]
            beside = f"{median(one['cores'] for one in rounds):.1f} cores"
            what, goal = f"`{loader}`, {name}, batch {batch}", ""
            if name == augmented.NOTHING:
                beside += f"; {len(rounds)} rounds of {each['steps']} batches"
                yield what, f"{spread(rates)} img/s", beside, goal
                continue
            if "check" in contender:
                beside += f"; levels off: {_off(contender['check'])}"
                goal = _within(contender["check"]["passed"])
            what = f"{what}, share of {augmented.NOTHING}"
            yield what, spread(shares, ".3f"), f"{spread(rates)} img/s; {beside}", goal


def _off(found: Found) -> str:
    """Levels that pixels are off their definition."""
    return f"mean {found['mean']:.4f}, most {found['most']:.3g}"


def _within(passed: bool) -> str:
    return f"the definition's pixels{'' if passed else ': MISSED'}"


def _fed(found: Found) -> Iterator[Row]:
    for each in found.values():
        batch, contenders = each["batch"], each["contenders"]
        bounds = [one["img_per_s"] for one in contenders[fed.BOUND]["rounds"]]
        if not bounds:
            continue
        yield (
            f"compute bound, batch {batch}",
            f"{spread(bounds)} img/s",
            f"{len(bounds)} rounds of {each['steps']} steps; {clocks(each.get('clocks', {}))}",
            "",
        )
        for name, contender in contenders.items():
            if name != fed.BOUND:
                yield from _of_the_bound(name, contender, batch, bounds)
        if "trainer" in each:
            trainer = each["trainer"]
            settings = ", ".join(f"{name} {value}" for name, value in trainer["settings"].items())
            share = median(trainer["img_per_s"]) / median(bounds)
            yield (
                f"`fastft train`, `{trainer['loader']}`, batch {batch}, share of the bound",
                f"{share:.3f}",
                f"{spread(trainer['img_per_s'])} img/s in epochs after the first; "
                f"{sum(trainer['waited_s']):.2f} of {sum(trainer['train_s']):.1f} s waiting for "
                f"input; {settings}",
                "",
            )


def _of_the_bound(
    name: str, contender: Found, batch: int, bounds: Sequence[float]
) -> Iterator[Row]:
    what = f"training through `{name}`, batch {batch}, share of the bound"
    if "missing" in contender:
        yield what, "not here", clip(contender["missing"]), ""
    rounds = contender["rounds"]
    if not rounds:
        return
    rates = [one["img_per_s"] for one in rounds]
    shares = [mine / bound for mine, bound in zip(rates, bounds, strict=False)]
    waited, seconds = (sum(one[key] for one in rounds) for key in ("waited_s", "seconds"))
    beside = f"{spread(rates)} img/s; {waited:.2f} of {seconds:.1f} s waiting for input"
    beside += f"; first batch after {contender['first_batch_s']:.1f} s"
    goal = f"{_SHARES[name]:.2f}" if name in _SHARES else ""
    yield what, spread(shares, ".3f"), beside, goal


def _end_to_end(found: Found) -> Iterator[Row]:
    tutorial = [one["seconds"] for one in found.get(end_to_end.TUTORIAL, {}).get("runs", [])]
    for name in end_to_end.VARIANTS:
        runs = found.get(name, {}).get("runs", [])
        if not runs:
            continue
        seconds, goal = [one["seconds"] for one in runs], ""
        beside = f"{len(runs)} runs of {found[name]['epochs']} epochs; {_items(runs)}; "
        beside += f"accuracy {runs[-1]['accuracy']:.3f}"
        if tutorial and "run_s" in runs[0]:
            goal = f"{_FASTER}x the tutorial's: {median(tutorial) / median(seconds):.1f}"
        yield f"process start to checkpoint, `{name}`", f"{spread(seconds, '.1f')} s", beside, goal


def _startup(found: Found) -> Iterator[Row]:
    for name, each in found.items():
        seconds = [one["seconds"] for one in each["runs"]]
        beside = (
            f"{len(seconds)} runs of one epoch, nothing compiled before; {_items(each['runs'])}"
        )
        yield (
            f"first training with `{name}`",
            f"{spread(seconds, '.1f')} s",
            beside,
            f"{_START_S} s",
        )


def _items(runs: Sequence[Found]) -> str:
    """Medians of the seconds that trainings spent, by name."""
    if "run_s" not in runs[0]:  # the tutorial's
        epochs = [sum(one["epochs_s"]) for one in runs]
        items = {"imports": [one["imported_s"] for one in runs], "epochs": epochs}
    else:
        names = [name for one in runs for name in one["costs_s"]]
        items = {
            name: [one["costs_s"].get(name, 0.0) for one in runs] for name in dict.fromkeys(names)
        }
        items["before the run's own clock"] = [one["seconds"] - one["run_s"] for one in runs]
        items["training"] = [sum(one["train_s"]) for one in runs]
        items["evaluating"] = [sum(one["eval_s"]) for one in runs]
    said = ", ".join(f"{name} {median(values):.2f}" for name, values in items.items())
    without = "run_s" in runs[0] and not any(one["costs_s"] for one in runs)
    return f"s: {said}" + ("; the run told no costs" if without else "")


def _steady(found: Found) -> Iterator[Row]:
    for name in steady.VARIANTS:
        if name in found:
            each = found[name]
            gaps = each["gaps"]
            waits = sum(call["per_step"] for call in each["synchronizing"].values())
            taken = sum(call["per_step"] for call in each["allocating"].values())
            beside = (
                f"{gaps['count']} gaps over 20 us, {gaps['share']:.1%}; a step has {waits:.1f} "
                f"waits of the host for the GPU, {taken:.1f} allocations by the driver"
            )
            yield f"GPU busy, trained through `{name}`", f"{each['busy_share']:.1%}", beside, ""


def _steps(found: Found) -> Iterator[Row]:
    rates = {
        (name, row["batch"]): row["img_per_s"] for name in found for row in found[name]["rows"]
    }
    for batch in sorted({batch for _, batch in rates}):
        names = {how: (f"{steps.OURS}, {how}", batch) for how in steps.HOW}
        ours = {how: rates[key] for how, key in names.items() if key in rates}
        if ours:
            beside = "; ".join(
                f"{how}: {each / ours['eager']:.3f} of eager"
                for how, each in ours.items()
                if how != "eager" and "eager" in ours
            )
            eager = found.get(f"{steps.OURS}, eager", {}).get("rows", [])
            told = [clocks(row["clocks"]) for row in eager if row["batch"] == batch]
            yield (
                f"training step, {steps.OURS}, batch {batch}: {' / '.join(ours)}",
                f"{' / '.join(f'{each:,.0f}' for each in ours.values())} img/s",
                "; ".join(filter(None, [beside, *told])),
                "",
            )
        for (name, size), each in rates.items():
            if size == batch and not name.startswith(f"{steps.OURS}, "):
                yield f"training step, {name}, batch {batch}", rate(each), "", ""


def _pixels(found: Found) -> Iterator[Row]:
    for name in pixels.VARIANTS:
        if name not in found:
            continue
        stages = {(row["stage"], row["view"]): row["distance"] for row in found[name]["rows"]}
        whole = [each for (stage, _), each in stages.items() if stage == "whole"]
        mean, most = max(each["mean"] for each in whole), max(each["most"] for each in whole)
        beside = "; ".join(
            f"{stage} {view}: {each['mean']:.3f}, {each['most']}"
            for (stage, view), each in stages.items()
            if stage != "whole"
        )
        verdict = found[name]["verdicts"][0]
        stated = verdict["stated"]
        goal = f"mean {stated[0]:g}, most {stated[1]}" if stated else "stated, explained"
        if not verdict["passed"]:
            goal += ": MISSED"
        yield f"pixels of `{name}`, levels off", f"mean {mean:.3f}, most {most}", beside, goal


def _loaders(found: Found) -> Iterator[Row]:
    for name in loaders.VARIANTS:
        if name not in found or name == loaders.SWEEP:
            continue
        rows = found[name]["rows"]
        best = max(rows, key=lambda row: row["img_per_s"])
        beside = "; ".join(f"{row['batch']}: {row['img_per_s']:,.0f}" for row in rows)
        beside += (
            f"; {best['cores']:.1f} cores, {rows[-1]['gpu_bytes'] / 1e9:,.1f} GB of GPU memory"
        )
        goal = ""
        if name == "dali" and loaders.STOCK_DALI in found:
            stock = max(row["img_per_s"] for row in found[loaders.STOCK_DALI]["rows"])
            goal = f"1.0x stock DALI: {best['img_per_s'] / stock:.2f}"
        yield f"`{name}` alone, batches of {best['batch']}", rate(best["img_per_s"]), beside, goal
    if loaders.SWEEP in found:
        rows = found[loaders.SWEEP]["rows"]
        best = max(rows, key=lambda row: row["img_per_s"])
        beside = "; ".join(f"{row['hw_decoder_load']:g}: {row['img_per_s']:,.0f}" for row in rows)
        figure = f"{best['hw_decoder_load']:g}: {rate(best['img_per_s'])}"
        yield f"best `hw_decoder_load`, batches of {best['batch']}", figure, beside, ""


#: By the section that a part's findings are kept in.
ROWS: dict[str, Callable[[Found], Iterator[Row]]] = {
    "photos": _photos,
    "probe": _probe,
    "suite": _suite,
    "corruption": _corruption,
    "machine": _machine,
    "kernel": _kernel,
    "changing": _changing,
    "augmented": _augmented,
    "fed": _fed,
    "end_to_end": _end_to_end,
    "steady": _steady,
    "steps": _steps,
    "startup": _startup,
    "pixels": _pixels,
    "loaders": _loaders,
}
