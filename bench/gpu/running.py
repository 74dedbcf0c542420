"""Runs parts in processes of their own, and keeps what they find as it comes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.gpu.parts import PHOTOS, Part
from bench.gpu.task import Task
from fastft.system.isolated import run_child
from pipelines.atomic import write_whole

#: Between looks at what a process has found.
_LOOK_S = 0.5
#: A rehearsal's processes take as long as they take.
_REHEARSAL_LIMIT_S = 900.0

#: Told of each variant that is done: the part's section, the variant, what was found.
Tell = Callable[[str, str, Mapping[str, Any]], None]


class Rows:
    """Findings of one process, read from the file that it writes while it runs."""

    def __init__(self, path: Path, on_row: Callable[[str, dict[str, Any], bool], None]) -> None:
        """`on_row` is told of each line: the variant, all that was found of it, whether it ends."""
        self._path, self._on_row = path, on_row
        self._read_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rows", daemon=True)

    def __enter__(self) -> Rows:
        self._path.touch()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.read()

    def read(self) -> None:
        """Take the lines that have come since."""
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if not line.endswith(b"\n"):  # half of one, as yet
                    break
                self._read_bytes += len(line)
                row = json.loads(line)
                self._on_row(row["variant"], row["found"], row["done"])

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.read()


def run_parts(
    parts: Iterable[Part],
    task: Task,
    folder: Path,
    results: dict[str, Any],
    path: Path,
    *,
    budget_s: float,
    tell: Tell,
) -> None:
    """Run parts one after the other; `results` are written to `path` with each row.

    Args:
        parts: photos first, which all others read.
        task: what they are told, apart from their variants.
        folder: for the files in which they answer.
        results: `parts` and `seconds` of it are filled in.
        path: the JSON.
        budget_s: how long all of it may take; what there is no time for is said.
        tell: told of each variant that is done.
    """
    started = time.monotonic()
    for part in parts:
        found = results["parts"].setdefault(part.section, {})
        for number, variants in enumerate(part.groups):
            left_s = budget_s - (time.monotonic() - started)
            missing = results["parts"].get(PHOTOS.name, {}).get("", {}).get("failed")
            if part is not PHOTOS and missing:
                why = f"not begun: no photos: {missing}"
            elif left_s < part.expected_s:
                why = f"not begun: {left_s:.0f} s left, {part.expected_s:.0f} expected"
            else:
                why = ""
            if why:
                for variant in variants:
                    found[variant] = {"failed": why}
                    tell(part.section, variant, found[variant])
            else:
                limit_s = _limit(part, task, left_s)
                rows = folder / f"{part.name}-{number}.jsonl"
                told = replace(task, variants=variants, rows=str(rows), times=_times(part, task))
                began = time.monotonic()
                _run_one(part, told, limit_s, results, path, tell)
                took = f"{part.name} {' '.join(variants) if part.apart else ''}".strip()
                results["seconds"][took] = time.monotonic() - began
            write_json(path, results)


def _limit(part: Part, task: Task, left_s: float) -> float:
    if not task.on_gpu:
        return min(_REHEARSAL_LIMIT_S, left_s)
    return min(part.limit_s, left_s)


def _times(part: Part, task: Task) -> int:
    return min(part.times, task.times)


def _run_one(
    part: Part, task: Task, limit_s: float, results: dict[str, Any], path: Path, tell: Tell
) -> None:
    """One process; what it has not come to is said of each of its variants."""
    found, done = results["parts"][part.section], set()
    for variant in task.variants:
        found.pop(variant, None)  # of an earlier run

    def keep(variant: str, row: dict[str, Any], ended: bool) -> None:
        found[variant] = row
        write_json(path, results)
        if ended:
            done.add(variant)
            tell(part.section, variant, row)

    with Rows(Path(task.rows), keep):
        ended = run_child(f"bench.gpu.{part.section}", [task.as_json()], limit_s)
    for variant in task.variants:
        if variant not in done:
            why = ended.get("failed", "gave no answer")
            found[variant] = {**found.get(variant, {}), "failed": why}
            tell(part.section, variant, found[variant])


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write the results whole, or leave what was there."""
    write_whole(path, json.dumps(results, indent=1) + "\n")
