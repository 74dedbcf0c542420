"""README's picture of the loaders: python -m bench.results_chart FILE.json OUT.png

Shows every loader of a run of the suites, ours and the libraries' own pipelines, by images per
second: those that decode JPEGs, and those that read decoded pixels. The machine stands beneath.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.against import read_results
from bench.results_table import describe_machine, describe_photos
from fastft.system.plots import BLUE, GREY, STYLE, save_figure
from pipelines.errors import DataError, FormatError

#: Headings of the bars, by the kind of data that a contender reads.
READS = {"jpeg": "decodes JPEGs", "pixels": "reads decoded pixels"}
_PALE = "#b9c6d0"


def draw_loaders(results: Mapping[str, Any], out: Path) -> None:
    """Draw the loaders of one run of the suites to a PNG.

    Raises:
        DataError: the run has no loaders, or `out` cannot be written.
    """
    infos = [
        each["extra_info"]
        for each in results["benchmarks"]
        if (each.get("group") or "").startswith("loaders: ")
    ]
    groups = {
        title: sorted(
            (info for info in infos if info["reads"] == reads), key=lambda info: info["img_per_s"]
        )
        for reads, title in READS.items()
    }
    if not all(groups.values()):
        raise DataError(out, "no loaders in these results", "those of bench/bench_loaders.py")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 5.2), layout="constrained")
        rows = [len(group) for group in groups.values()]
        panels = figure.subplots(len(groups), 1, height_ratios=rows)
        for axes, (title, group) in zip(panels, groups.items(), strict=True):
            _draw_group(axes, title, group)
        panels[-1].set_xlabel("images/s")
        caption = f"{describe_photos(results)}; {describe_machine(results)}"
        figure.supxlabel("\n".join(wrap(caption, 125)), fontsize=7, color=GREY)
        save_figure(figure, out)


def _draw_group(axes: Axes, title: str, group: Sequence[Mapping[str, Any]]) -> None:
    colors = [BLUE if info["side"] == "fastft" else _PALE for info in group]
    rates = [info["img_per_s"] for info in group]
    bars = axes.barh([info["contender"] for info in group], rates, color=colors)
    axes.bar_label(bars, [f"{float(f'{rate:.3g}'):,.0f}" for rate in rates], padding=3, fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlim(0, max(rates) * 1.1)
    axes.grid(axis="y", visible=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture; the exit status is 1 if the file is broken."""
    parser = argparse.ArgumentParser(prog="python -m bench.results_chart", description=__doc__)
    parser.add_argument("json", type=Path)
    parser.add_argument("out", type=Path, metavar="OUT.png")
    asked = parser.parse_args(arguments)
    try:
        try:
            draw_loaders(read_results(asked.json), asked.out)
        except KeyError as error:
            raise FormatError(asked.json, f"a benchmark lacks {error}", "") from error
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
