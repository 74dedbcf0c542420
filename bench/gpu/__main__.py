"""`python -m bench.gpu OUT`: everything that only a GPU can show, as one table and one JSON.

Needs a CUDA GPU and the project, no network; 9 minutes. Each figure comes from a process of its
own. What there is no time left for is said, not left out. OUT gets `gpu_{machine}_{date}.json`,
written anew after each part, so that what was measured stays if the machine goes.

    python -m bench.gpu bench/results            # all
    python -m bench.gpu OUT --only loaders,fed   # some parts, named in PARTS
    python -m bench.gpu OUT --rehearse           # on a CPU: that all runs; its figures mean nothing
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.gpu import end_to_end, fed, loaders, pixels, steady, steps
from bench.gpu.table import BEGIN, END, OF, as_markdown, as_table, read_results
from bench.gpu.task import Task
from bench.results_table import write_between
from fastft.child import run_child
from fastft.synth import SynthConfig, write_synth
from pipelines.atomic import write_whole
from pipelines.convert import ConvertConfig, convert
from pipelines.errors import DataError
from pipelines.workers import cpu_count

ROOT = Path(__file__).resolve().parents[2]
BUDGET_S = 540.0
#: The tutorial's: of each of two classes 1,000 photos to learn from, 400 to test, of some size.
PHOTOS, TEST_PHOTOS, MEAN_SIZE = 1000, 400, (400, 300)
#: How often each is in the set that loaders are measured on: epochs of 6,000 photos.
TIMES = 3
#: A process that is this much over what is expected hangs.
_PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class Part:
    """A module of this package, its variants, and how long one takes on an H200 with 16 cores.

    The seconds are estimates, to end in time; no GPU has run this.
    """

    name: str
    seconds: float
    variants: tuple[str, ...] = ("",)


#: The most telling first.
PARTS = (
    Part("probe", 40),
    Part("machine", 6),
    Part("pixels", 6, pixels.VARIANTS),
    Part("kernel", 15),
    Part("steps", 6, tuple(name for name in steps.WAYS if "compiled" not in name)),
    Part("fed", 9, fed.VARIANTS),
    Part("loaders", 11, loaders.VARIANTS),
    Part("end_to_end", 20, end_to_end.VARIANTS),
    Part("startup", 14, ("resident", "dali")),
    Part("steady", 10, steady.VARIANTS),
    Part("suite", 50),
    Part("compiled", 45, ("bf16, channels_last, compiled",)),
)
#: Parts that are another one's module.
MODULES = {"compiled": "steps"}


def main() -> int:
    """Measure; the status is 1 if anything failed, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder for the JSON")
    parser.add_argument("--table", action="store_true", help="OUT is such a JSON: print its table")
    parser.add_argument("--write", type=Path, metavar="README.md", help="and put it there")
    parser.add_argument("--only", default="", help="parts, with commas between")
    parser.add_argument("--rehearse", action="store_true", help="small, on the CPU")
    parser.add_argument(
        "--budget", type=float, metavar="S", help="seconds; 540, or to rehearse any"
    )
    asked = parser.parse_args()
    names = [part.name for part in PARTS]
    only = asked.only.split(",") if asked.only else names
    if unknown := sorted(set(only) - set(names)):
        parser.error(f"--only {','.join(unknown)}: expected parts out of {', '.join(names)}")
    console = Console()
    if asked.table:
        return show(asked.out, asked.write, console)
    if not asked.rehearse and not torch.cuda.is_available():
        print("bench.gpu: torch sees no CUDA GPU; --rehearse runs it on the CPU", file=sys.stderr)
        return 2
    parts = [part for part in PARTS if part.name in only]
    budget_s = asked.budget or (math.inf if asked.rehearse else BUDGET_S)
    with tempfile.TemporaryDirectory(prefix="fastft-gpu-") as folder:
        results = run(parts, Path(folder), asked.out, console, asked.rehearse, budget_s)
    console.print(as_table(results))
    return int(
        any("failed" in each for part in results["parts"].values() for each in part.values())
    )


def show(path: Path, readme: Path | None, console: Console) -> int:
    """Print a JSON's table, or put it into README; gives the exit status."""
    try:
        results = read_results(path)
        if readme is None:
            console.print(as_table(results))
        else:
            write_between(readme, f"{OF} {path} -->\n\n{as_markdown(results)}", BEGIN, END)
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def run(
    parts: list[Part], folder: Path, out: Path, console: Console, rehearse: bool, budget_s: float
) -> dict[str, Any]:
    """Make the photos, run the parts, write the JSON after each."""
    started = time.monotonic()
    results: dict[str, Any] = {
        "what": "gpu", "date": date.today().isoformat(), "rehearsal": rehearse, "parts": {},
        "seconds": {},
    }  # fmt: skip
    machine = "rehearsal" if rehearse else _plain_name(torch.cuda.get_device_name())
    path = out / f"gpu_{machine}_{results['date']}.json"
    out.mkdir(parents=True, exist_ok=True)
    task = make_data(folder, rehearse)
    results["seconds"]["photos"] = time.monotonic() - started
    with console.status("") as status:
        for part in parts:
            found: dict[str, Any] = results["parts"].setdefault(part.name, {})
            for variant in part.variants:
                left_s = budget_s - (time.monotonic() - started)
                status.update(
                    f"{part.name} {variant}"
                    + (f", {left_s:.0f} s left" if budget_s < math.inf else "")
                )
                if left_s < part.seconds:
                    found[variant] = {"failed": f"not begun: {left_s:.0f} s left"}
                    continue
                began = time.monotonic()
                module = f"bench.gpu.{MODULES.get(part.name, part.name)}"
                limit_s = min(_PATIENCE * part.seconds, left_s) if not rehearse else 600.0
                told = replace(task, variant=variant).as_json()
                found[variant] = run_child(module, [told], limit_s)
                took_s = time.monotonic() - began
                results["seconds"][f"{part.name} {variant}".strip()] = took_s
                failed = found[variant].get("failed")
                console.print(
                    f"{part.name} {variant}: {failed or f'{took_s:.0f} s'}", markup=False,
                    highlight=False,
                )  # fmt: skip
                write_whole(path, json.dumps(results, indent=1) + "\n")
    results["seconds"]["all"] = time.monotonic() - started
    write_whole(path, json.dumps(results, indent=1) + "\n")
    console.print(str(path), markup=False)
    return results


def make_data(folder: Path, rehearse: bool) -> Task:
    """Photos as the tutorial has them, converted; and each of them several times."""
    photos, data, many = folder / "photos", folder / "data", folder / "many"
    per_class, test, size = (12, 4, (120, 90)) if rehearse else (PHOTOS, TEST_PHOTOS, MEAN_SIZE)
    write_synth(
        SynthConfig(out=photos, classes=2, per_class=per_class, test_per_class=test, size=size)
    )
    convert(ConvertConfig(src=photos, out=data))
    for file, name in _copies(photos / "train"):
        (many / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(file, many / name)
    convert(ConvertConfig(src=many, out=folder / "many.beton", verify=False))
    shutil.rmtree(many)
    return Task(
        variant="", device="cpu" if rehearse else "cuda", root=str(ROOT), photos=str(photos),
        data=str(data), many=str(folder / "many.beton"), size=40 if rehearse else 224,
        batches=(4, 8) if rehearse else (64, 128, 256, 1024), batch=8 if rehearse else 256,
        epochs=2 if rehearse else 5, seconds=0.1 if rehearse else 1.5, workers=cpu_count(),
    )  # fmt: skip


def _copies(root: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(root.glob("*/*")):
        for number in range(TIMES):
            yield file, f"{file.parent.name}/{file.stem}-{number}{file.suffix}"


def _plain_name(gpu: str) -> str:
    """`NVIDIA H200` -> `h200`."""
    return re.sub(r"[^a-z0-9]+", "_", gpu.lower().replace("nvidia", "")).strip("_") or "gpu"


if __name__ == "__main__":
    sys.exit(main())
