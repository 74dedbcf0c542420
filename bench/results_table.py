"""The table of results, from the suites' JSON: python -m bench.results_table FILE.json ...

A row for each of what the suites measure, as far as it is in the files; nothing is filled in. Runs
on synthetic photos make the table; one on real photos stands beside it in brackets. Where two files
hold the same benchmark, the first one counts. With `--write FILE.md` the table takes the place of
what stands between its two markers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.against import read_results
from fastft.bench.suite_rows import Row, find_rows
from fastft.bench.suites import describe_machine, describe_photos, describe_processor
from pipelines.atomic import write_whole
from pipelines.errors import DataError, FormatError

BEGIN, END = "<!-- results -->", "<!-- /results -->"
#: What the table is preceded by in a file: the names of its JSON.
OF = "<!-- of"
HEAD = ("what", "fastft", "baseline in the same run", "ratio")
#: The rows of a short table.
BRIEF = (
    "convert, every image checked",
    "loader `torchvision`",
    "loader `dali`",
    "loader `ffcv`",
    "loader `resident`",
)
SYNTHETIC = "synthetic"
#: What makes all of this anew.
COMMAND = "./dev results"

#: A file of the suites, see `fastft.bench.suites.Suite`.
Results = Any


def render(files: Sequence[Results], *, is_brief: bool = False) -> str:
    """The table and what stands beneath it, as Markdown; a brief one has only the rows of BRIEF."""
    main = [each for each in files if not _is_real(each)]
    real = [each for each in files if _is_real(each)]
    if not main:  # real photos alone need no brackets
        main, real = real, []
    rows = [row for row in _rows_of(main) if not is_brief or row.what in BRIEF]
    beside = {row.what: row for row in _rows_of(real)}
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line(row.cells(beside.get(row.what))) for row in rows]
    return "\n".join([*lines, "", *_beneath(main, real)])


def write_between(path: Path, text: str, begin_mark: str = BEGIN, end_mark: str = END) -> None:
    """Put the text between a file's markers.

    Raises:
        DataError: the file cannot be read or written, or lacks the markers.
    """
    try:
        whole = path.read_text(encoding="utf-8")
        before, begin, rest = whole.partition(begin_mark)
        _, end, after = rest.partition(end_mark)
        if not begin or not end:
            expected = f"{begin_mark} and {end_mark} on lines of their own"
            raise FormatError(path, "lacks the markers", expected)
        write_whole(path, f"{before}{begin}\n{text}\n{end}{after}")
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be written", "a Markdown file") from error


def _rows_of(files: Sequence[Results]) -> list[Row]:
    entries: dict[tuple[str, str], Mapping[str, Any]] = {}
    verdicts: list[Mapping[str, Any]] = []
    for each in files:
        for entry in each["benchmarks"]:
            entries.setdefault((entry.get("group") or "", entry.get("fullname", "")), entry)
        verdicts = verdicts or each.get("verdicts", [])
    return list(find_rows(list(entries.values()), verdicts))


def _is_real(results: Results) -> bool:
    return (results.get("photos") or {}).get("photos", SYNTHETIC) != SYNTHETIC


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _beneath(main: Sequence[Results], real: Sequence[Results]) -> Iterator[str]:
    """The photos, the machine and the command of a run."""
    photos, machine = describe_photos(main[0]), describe_machine(main[0])
    yield f"Measured by `{COMMAND}`{_day(main)}: {photos}; {machine}."
    if real:
        again, processor = f"{COMMAND} DIR", describe_processor(real[0])
        elsewhere = "" if processor == describe_processor(main[0]) else f"; {processor}"
        how = f"`{again}`{_day(real)}{elsewhere}"
        yield f"In brackets the same on {describe_photos(real[0])} ({how})."
    yield (
        "A ratio is the median of pairs of rounds that follow each other, their range in "
        "parentheses."
    )


def _day(files: Sequence[Results]) -> str:
    days = sorted({each["datetime"][:10] for each in files if "datetime" in each})
    return f" on {' and '.join(days)}" if days else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write it; the exit status is 1 if a file is broken."""
    parser = argparse.ArgumentParser(prog="python -m bench.results_table", description=__doc__)
    parser.add_argument("json", type=Path, nargs="+")
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    parser.add_argument("--brief", action="store_true", help="five rows, for the first page")
    asked = parser.parse_args(arguments)
    try:
        try:
            text = render([read_results(path) for path in asked.json], is_brief=asked.brief)
        except KeyError as error:
            names = ", ".join(map(str, asked.json))
            remedy = f"write it anew by {COMMAND}"
            raise FormatError(names, f"a benchmark lacks {error}", "", remedy) from error
        if asked.write is None:
            print(text)
        else:
            names = " ".join(str(path) for path in asked.json)
            write_between(asked.write, f"{OF} {names} -->\n\n{text}")
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
