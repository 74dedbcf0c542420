"""`python -m bench.gpu OUT`: everything that only a GPU can show, as one table and one JSON.

Needs a CUDA GPU and the project, no network. Its parts run in processes of their own, each of which
has a limit; what there is no time left for is said, not left out. OUT gets
`gpu_{card}_{date}.json`, written anew after each row, so that what was measured stays if the
machine goes; a file of the same name is added to.

    python -m bench.gpu OUT --run 1              # three runs, of 9 minutes at most each
    python -m bench.gpu OUT --run 2
    python -m bench.gpu OUT --run 3
    python -m bench.gpu OUT --budget 560         # or one, without what there is no time for
    python -m bench.gpu OUT --only loaders,fed   # some parts
    python -m bench.gpu --limits                 # how long each part may take, and each run
    python -m bench.gpu FILE FILE --table        # such JSONs' table
    python -m bench.gpu OUT --rehearse           # on a CPU: that all runs; its figures mean nothing
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.gpu.machine import describe
from bench.gpu.parts import PARTS, RUN_LIMIT_S, RUNS, Part, choose, limit_lines
from bench.gpu.running import run_parts, write_json
from bench.gpu.table import BEGIN, END, OF, as_markdown, as_table, find_rows, merge, read_results
from bench.gpu.task import Task
from bench.results_table import write_between
from pipelines.errors import DataError
from pipelines.workers import cpu_count

ROOT = Path(__file__).resolve().parents[2]
#: The width of a table that goes to a file.
_WIDTH = 180


def main() -> int:
    """Measure; the status is 1 if anything failed, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", nargs="*", type=Path, metavar="OUT", help="a folder for the JSON")
    parser.add_argument("--table", action="store_true", help="OUT are such JSONs: print the table")
    parser.add_argument("--write", type=Path, metavar="README.md", help="and put it there")
    parser.add_argument("--limits", action="store_true", help="print what parts and runs may take")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--run", choices=tuple(RUNS), help="the parts of one of three runs")
    which.add_argument("--only", help="parts, with commas between")
    parser.add_argument("--rehearse", action="store_true", help="small, on the CPU")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="S",
        help=f"seconds; {RUN_LIMIT_S:.0f}, or to rehearse any",
    )
    asked = parser.parse_args()
    if asked.limits:
        print("\n".join(limit_lines()))
        return 0
    names = [part.name for part in PARTS]
    only = RUNS[asked.run] if asked.run else asked.only.split(",") if asked.only else names
    if unknown := sorted(set(only) - set(names)):
        parser.error(f"--only {','.join(unknown)}: expected parts out of {', '.join(names)}")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if asked.table and asked.out:
        return show(asked.out, asked.write, console)
    if len(asked.out) != 1:
        parser.error("expected one folder for the JSON")
    if not asked.rehearse and not torch.cuda.is_available():
        print("bench.gpu: torch sees no CUDA GPU; --rehearse runs it on the CPU", file=sys.stderr)
        return 2
    if asked.rehearse:  # beside others' threads its own would mostly wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    budget_s = asked.budget or (math.inf if asked.rehearse else RUN_LIMIT_S)
    with tempfile.TemporaryDirectory(prefix="fastft-gpu-") as folder:
        parts = choose(only)
        try:
            results = run(parts, Path(folder), asked.out[0], console, asked.rehearse, budget_s)
        except DataError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    console.print(as_table(results))
    sections = {part.section for part in parts}
    return int(
        any("failed" in each for name in sections for each in results["parts"][name].values())
    )


def show(paths: list[Path], readme: Path | None, console: Console) -> int:
    """Print the table of some JSONs, or put it into README; gives the exit status."""
    try:
        results = merge([read_results(path) for path in paths], paths)
        if readme is None:
            console.print(as_table(results))
        else:
            of = " ".join(map(str, paths))
            write_between(readme, f"{OF} {of} -->\n\n{as_markdown(results)}", BEGIN, END)
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def run(
    parts: tuple[Part, ...],
    folder: Path,
    out: Path,
    console: Console,
    rehearse: bool,
    budget_s: float,
) -> dict[str, Any]:
    """Run the parts; the JSON is written after each row, and keeps what an older one has."""
    started = time.monotonic()
    results: dict[str, Any] = {
        "what": "gpu",
        "date": date.today().isoformat(),
        "rehearsal": rehearse,
        "parts": {},
        "seconds": {},
        "machine": describe(),
    }
    machine = "rehearsal" if rehearse else _plain_name(torch.cuda.get_device_name())
    path = out / f"gpu_{machine}_{results['date']}.json"
    out.mkdir(parents=True, exist_ok=True)
    if path.exists():
        before = read_results(path)
        results["parts"], results["seconds"] = dict(before["parts"]), dict(before["seconds"])

    def tell(section: str, variant: str, found: Mapping[str, Any]) -> None:
        for what, figure, beside, _ in find_rows({section: {variant: found}}):
            said = f"{time.monotonic() - started:4.0f} s  {what}: {figure}; {beside}"
            console.print(said, markup=False, highlight=False)

    run_parts(
        parts, make_task(folder, rehearse), folder, results, path, budget_s=budget_s, tell=tell
    )
    took_s = results["seconds"].get("all", 0.0) + time.monotonic() - started
    results["seconds"]["all"] = took_s
    write_json(path, results)
    console.print(str(path), markup=False)
    return results


def make_task(folder: Path, rehearse: bool) -> Task:
    """The task that every part gets."""
    return Task(
        device="cpu" if rehearse else "cuda",
        root=str(ROOT),
        photos=str(folder / "photos"),
        data=str(folder / "data"),
        many=str(folder / "many"),
        size=40 if rehearse else 224,
        batches=(4, 8) if rehearse else (128, 256),
        trained=(4, 8) if rehearse else (128, 256),
        epochs=2 if rehearse else 5,
        times=1 if rehearse else 3,
        rounds=2 if rehearse else 5,
        seconds=0.1 if rehearse else 0.5,
        workers=cpu_count(),
    )


def _plain_name(gpu: str) -> str:
    """`NVIDIA H200` -> `h200`."""
    return re.sub(r"[^a-z0-9]+", "_", gpu.lower().replace("nvidia", "")).strip("_") or "gpu"


if __name__ == "__main__":
    sys.exit(main())
