"""README's picture of the loaders: python -m bench.results_chart FILE.json OUT.png

Shows every loader of a run of the suites, ours and the libraries' own pipelines, by images per
second: those that decode JPEGs, and those that read decoded pixels. The machine stands beneath.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.against import read_results
from fastft.bench.suites import describe_machine, describe_photos, loader_panels, read_suite
from fastft.results.plots import save_panels
from pipelines.errors import DataError


def draw_loaders(path: Path, out: Path) -> None:
    """Draw the loaders of one run of the suites to a PNG.

    Raises:
        DataError: the run has no loaders, or a file cannot be read or written.
    """
    suite, _ = read_suite(read_results(path), str(path))
    panels = loader_panels(suite)
    if not panels:
        raise DataError(path, "no loaders in these results", "those of bench/bench_loaders.py")
    save_panels(panels, out, caption=f"{describe_photos(suite)}; {describe_machine(suite)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture; the exit status is 1 if the file is broken."""
    parser = argparse.ArgumentParser(prog="python -m bench.results_chart", description=__doc__)
    parser.add_argument("json", type=Path)
    parser.add_argument("out", type=Path, metavar="OUT.png")
    asked = parser.parse_args(arguments)
    try:
        draw_loaders(asked.json, asked.out)
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
