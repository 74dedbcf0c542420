"""One table out of the JSON: what was measured, against what it was to be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from bench.gpu.rows import ROWS, Row, clip
from pipelines.errors import DataError, FormatError

BEGIN, END = "<!-- gpu -->", "<!-- /gpu -->"
#: What the table is preceded by in a file: the name of its JSON.
OF = "<!-- of"
_VERSIONS = ("torch", "torchvision", "nvidia-dali-cuda120", "ffcv", "numba", "numpy", "pillow")
HEAD = ("what", "figure", "beside it", "goal")
#: Keys of findings that hold no figures.
_NO_FIGURES = {"failed", "traceback", "skipped"}

Results = Mapping[str, Any]


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
    if not isinstance(found, dict) or found.get("what") != "gpu" or "machine" not in found:
        raise FormatError(path, "JSON of something else", "one that bench.gpu wrote")
    return found


def merge(several: Sequence[Results], paths: Sequence[Path]) -> Results:
    """The findings of several runs on one machine as those of one; a later one's count.

    Raises:
        FormatError: they are of different cards, or one is a rehearsal's.
    """
    first = several[0]
    parts: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    for results, path in zip(several, paths, strict=True):
        for key in (_card, _is_rehearsal):
            if key(results) != key(first):
                raise FormatError(path, key(results), f"{key(first)}, as in {paths[0]}")
        for name, variants in results["parts"].items():
            parts.setdefault(name, {}).update(variants)
        for name, took_s in results["seconds"].items():
            seconds[name] = took_s + (seconds.get(name, 0.0) if name == "all" else 0.0)
    return {**first, "parts": parts, "seconds": seconds}


def _card(results: Results) -> str:
    return str(results["machine"].get("environment", {}).get("gpu") or "no GPU")


def _is_rehearsal(results: Results) -> str:
    return "a rehearsal" if results["rehearsal"] else "measured"


def as_table(results: Results) -> Table:
    """For a terminal."""
    card = _card(results)
    title = "rehearsal on a CPU: figures mean nothing" if results["rehearsal"] else card
    table = Table(*HEAD, title=title, caption=beneath(results))
    for row in find_rows(results["parts"]):
        table.add_row(*map(escape, row))
    return table


def as_markdown(results: Results) -> str:
    """For README."""
    rows = find_rows(results["parts"])
    lines = [_line(HEAD), _line(("---",) * len(HEAD)), *map(_line, rows)]
    return "\n".join([*lines, "", beneath(results)])


def beneath(results: Results) -> str:
    """On what it was measured, and how it is done again."""
    found = results["machine"]
    machine = found.get("environment", {})
    driver = found.get("driver", {}).get("driver_version", "?")
    versions = ", ".join(f"{name} {machine[name]}" for name in _VERSIONS if machine.get(name))
    return (
        f"Measured by `python -m bench.gpu` on {results['date']}: {_card(results)}, "
        f"driver {driver}, CUDA {found.get('cuda')}, {machine.get('cpus', '?')} cores of "
        f"{machine.get('cpu', '?')}, Python {machine.get('python', '?')}, {versions}; "
        f"{results['seconds'].get('all', 0):.0f} s in all."
    )


def find_rows(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """A row for each thing measured, and for what failed; nothing is filled in.

    Args:
        parts: findings by part and variant; what was ended halfway has figures and has failed.
    """
    for name, variants in parts.items():
        make = ROWS.get(name)
        with_figures = {key: each for key, each in variants.items() if set(each) - _NO_FIGURES}
        if make is not None and with_figures:
            yield from make(with_figures)
        for variant, each in variants.items():
            if "failed" in each:
                yield f"{name} {variant}".strip(), "failed", clip(str(each["failed"])), ""


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")
