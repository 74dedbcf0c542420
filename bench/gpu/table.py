"""One table out of the JSON: what was measured, against what it was to be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from bench.gpu import end_to_end, fed, loaders, pixels, startup, steady, steps
from pipelines.errors import DataError, FormatError

BEGIN, END = "<!-- gpu -->", "<!-- /gpu -->"
#: What the table is preceded by in a file: the name of its JSON.
OF = "<!-- of"
_VERSIONS = ("torch", "torchvision", "nvidia-dali-cuda120", "ffcv", "numba", "numpy", "pillow")
HEAD = ("what", "figure", "beside it", "goal")

Row = tuple[str, str, str, str]
Results = Mapping[str, Any]
Found = Mapping[str, Any]


def read_results(path: Path) -> Results:
    """The JSON of an earlier run.

    Raises:
        DataError: it cannot be read, or is another one's.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be read", "a JSON of bench.gpu") from error
    except ValueError as error:
        raise FormatError(path, "no JSON", "one that bench.gpu wrote") from error
    if not isinstance(found, dict) or found.get("what") != "gpu":
        raise FormatError(path, "JSON of something else", "one that bench.gpu wrote")
    return found


def as_table(results: Results) -> Table:
    """For a terminal."""
    title = "rehearsal on a CPU: figures mean nothing" if results["rehearsal"] else "GPU"
    table = Table(*HEAD, title=title, caption=beneath(results))
    for row in find_rows(results):
        table.add_row(*map(escape, row))
    return table


def as_markdown(results: Results) -> str:
    """For README."""
    lines = [_line(HEAD), _line(("---",) * len(HEAD)), *map(_line, find_rows(results))]
    return "\n".join([*lines, "", beneath(results)])


def beneath(results: Results) -> str:
    """On what it was measured, and how it is done again."""
    found = results["parts"].get("machine", {}).get("", {})
    machine = found.get("environment", {})
    driver = found.get("driver", {}).get("driver_version", "?")
    versions = ", ".join(f"{name} {machine[name]}" for name in _VERSIONS if machine.get(name))
    return (
        f"Measured by `python -m bench.gpu` on {results['date']}: "
        f"{machine.get('gpu') or 'no GPU'}, "
        f"driver {driver}, CUDA {found.get('cuda')}, {machine.get('cpus', '?')} cores of "
        f"{machine.get('cpu', '?')}, Python {machine.get('python', '?')}, {versions}; "
        f"{results['seconds'].get('all', 0):.0f} s in all."
    )


def find_rows(results: Results) -> Iterator[Row]:
    """A row for each thing measured, and for what failed; nothing is filled in."""
    parts = results["parts"]
    for name, variants in parts.items():
        make = _ROWS.get(name)
        whole = {key: each for key, each in variants.items() if "failed" not in each}
        if make is not None and whole:
            yield from make(whole)
        for variant, each in variants.items():
            if "failed" in each:
                yield f"{name} {variant}".strip(), "failed", str(each["failed"])[:160], ""


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _rate(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} M img/s"
    return f"{value:,.0f} img/s"


def _bytes(value: float) -> str:
    return f"{value / 1e9:,.1f} GB"


def _probe(found: Found) -> Iterator[Row]:
    each = found[""]
    for way, decoding in each["ways"].items():
        what = f"DALI decodes: {way}"
        if decoding["failed"]:
            yield what, "failed", decoding["failed"][:160], ""
            continue
        beside = f"{decoding['cpu_ms']:.2f} ms of CPU per image; levels off: "
        beside += f"mean {decoding['mean']:.3f}, most {decoding['most']:g}"
        yield what, _rate(decoding["img_per_s"]), beside, ""
    taken = "regions" if each["takes_regions"] else "whole images"
    yield "DALI decodes from now on", taken, "", ""


def _machine(found: Found) -> Iterator[Row]:
    rates = found[""]["bytes_per_s"]
    text = "; ".join(f"{name.replace('_', ' ')} {rate / 1e9:,.0f}" for name, rate in rates.items())
    yield "bytes copied", f"{rates['within_device'] / 1e9:,.0f} GB/s within", f"GB/s: {text}", ""


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


def _kernel(found: Found) -> Iterator[Row]:
    for row in found[""]["rows"]:
        most = row["batch"] == max(each["batch"] for each in found[""]["rows"])
        if not most and (row["dtype"], row["store"]) != ("bf16", "rgb"):
            continue
        goal = "2 M img/s" if most and (row["dtype"], row["store"]) == ("bf16", "rgb") else ""
        yield (
            f"fused kernel, {row['store']} to {row['dtype']}, batches of {row['batch']}",
            _rate(row["img_per_s"]),
            f"{row['bytes_per_s'] / 1e9:,.0f} GB/s, {row['share_of_copy']:.0%} of a copy's", goal,
        )  # fmt: skip


def _steps(found: Found) -> Iterator[Row]:
    for name in steps.WAYS:
        if name in found:
            rates = {row["batch"]: row["img_per_s"] for row in found[name]["rows"]}
            middle = sorted(rates)[len(rates) // 2]
            beside = "; ".join(f"{batch}: {_rate(rate)}" for batch, rate in rates.items())
            yield f"training step, {name}, batch {middle}", _rate(rates[middle]), beside, ""


_GOALS = {"resident": 0.99, "dali": 0.9}


def _fed(found: Found) -> Iterator[Row]:
    for name in fed.VARIANTS:
        if name in found:
            each = found[name]
            goal = f"{_GOALS[name]:.2f}" if name in _GOALS else ""
            beside = (
                f"{_rate(each['img_per_s'])} of {_rate(each['bound_img_per_s'])}; "
                f"{each['waited_s']:.2f} of {each['seconds']:.1f} s waiting for input"
            )
            what = f"training through `{name}`, share of the compute bound"
            yield what, f"{each['share']:.3f}", beside, goal


def _loaders(found: Found) -> Iterator[Row]:
    for name in loaders.VARIANTS:
        if name not in found or name == loaders.SWEEP:
            continue
        rows = found[name]["rows"]
        best = max(rows, key=lambda row: row["img_per_s"])
        beside = "; ".join(f"{row['batch']}: {row['img_per_s']:,.0f}" for row in rows)
        beside += f"; {best['cores']:.1f} cores, {_bytes(rows[-1]['gpu_bytes'])} of GPU memory"
        goal = ""
        if name == "dali" and loaders.STOCK_DALI in found:
            stock = max(row["img_per_s"] for row in found[loaders.STOCK_DALI]["rows"])
            goal = f"1.0x stock DALI: {best['img_per_s'] / stock:.2f}"
        yield f"`{name}` alone, batches of {best['batch']}", _rate(best["img_per_s"]), beside, goal
    if loaders.SWEEP in found:
        rows = found[loaders.SWEEP]["rows"]
        best = max(rows, key=lambda row: row["img_per_s"])
        beside = "; ".join(f"{row['hw_decoder_load']:g}: {row['img_per_s']:,.0f}" for row in rows)
        figure = f"{best['hw_decoder_load']:g}: {_rate(best['img_per_s'])}"
        yield f"best `hw_decoder_load`, batches of {best['batch']}", figure, beside, ""


def _end_to_end(found: Found) -> Iterator[Row]:
    tutorial = found.get(end_to_end.TUTORIAL)
    for name in end_to_end.VARIANTS:
        if name not in found:
            continue
        each, goal = found[name], ""
        beside = "epochs " + ", ".join(f"{seconds:.1f}" for seconds in each["epochs_s"])
        beside += f" s; accuracy {each['accuracy']:.3f}"
        if tutorial and name in end_to_end.OURS:
            goal = f"5x the tutorial's: {tutorial['seconds'] / each['seconds']:.1f}"
        yield f"process start to checkpoint, `{name}`", f"{each['seconds']:.1f} s", beside, goal


def _startup(found: Found) -> Iterator[Row]:
    for name, each in found.items():
        for when in (startup.FIRST, startup.AGAIN):
            items = "; ".join(f"{item} {s:.1f}" for item, s in each[when]["items"].items())
            what = f"start-up with `{name}`, {when}"
            yield what, f"{each[when]['seconds']:.1f} s", items, "10 s"


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


def _suite(found: Found) -> Iterator[Row]:
    each = found[""]
    beside = "; ".join(each["failures"]) or "none failed"
    yield "tests for a GPU", f"{each['passed']} passed", f"{each['skipped']} skipped; {beside}", ""


_ROWS = {
    "probe": _probe, "machine": _machine, "pixels": _pixels, "kernel": _kernel, "steps": _steps,
    "compiled": _steps, "fed": _fed, "loaders": _loaders, "end_to_end": _end_to_end,
    "startup": _startup, "steady": _steady, "suite": _suite,
}  # fmt: skip
