"""Today's ratios against a stored run's: python -m bench.against OLD.json NEW.json [--fail-below X]

Seconds depend on the machine and on its mood; how many times as fast one side of a pair was as the
other depends on the code. So that alone is compared: a duel's `ratio`, and what a field says by
`ratio_to` of our loaders and the libraries' own. A change counts where the ranges of the pairs do
not meet. In a run of the suites `--against OLD.json` shows the same beneath the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.verdicts import Ratio
from pipelines.errors import DataError, FormatError

SLOWER, FASTER = "slower than it was", "faster than it was"
#: What must be alike for two runs' ratios to be of the same work, by their names in the JSON.
WORK = ("photos", "images", "cores")

BASELINE = pytest.StashKey[dict[str, Any]]()


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio of both runs.

    Attributes:
        group: of the benchmark.
        contender, other: who was how many times as fast as whom.
        then, now: in the stored run and in this one.
    """

    group: str
    contender: str
    other: str
    then: Ratio
    now: Ratio

    @property
    def factor(self) -> float:
        return self.now.median / self.then.median

    @property
    def verdict(self) -> str:
        """Empty where the two ranges meet."""
        if self.now.high < self.then.low:
            return SLOWER
        return FASTER if self.now.low > self.then.high else ""

    def has_fallen(self, below: float) -> bool:
        """Whether it is below a share of what it was, and not by noise alone."""
        return self.verdict == SLOWER and self.factor < below


def read_results(path: Path) -> dict[str, Any]:
    """A JSON of the suites.

    Raises:
        DataError: it cannot be read.
        FormatError: it is something else.
    """
    remedy = "write one by ./dev bench --benchmark-json=FILE"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be read", "the suites' JSON") from error
    except ValueError as error:
        raise FormatError(path, "is not JSON", "the suites' JSON", remedy) from error
    try:
        ratios_of(found["benchmarks"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(path, "lists no benchmarks", "the suites' JSON", remedy) from error
    return found  # type: ignore[no-any-return]


def ratios_of(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], Ratio]:
    """Ratios of all benchmarks, by group, contender and the other side."""
    found: dict[tuple[str, str, str], Ratio] = {}
    entries = list(entries)
    infos = [entry["extra_info"] for entry in entries]
    ours = {info.get("contender") for info in infos if info.get("side") == "fastft"}
    for entry in entries:
        for contender, other, ratio in _ratios(entry["extra_info"]):
            # In a field each is compared with each: ours with the libraries' own says it all.
            if other not in ours:
                found[entry.get("group") or "", contender, other] = ratio
    return found


def _ratios(info: Mapping[str, Any]) -> Iterator[tuple[str, str, Ratio]]:
    for each in info.get("contenders", ()):  # who started by turns
        yield from _ratios(each)
    if info.get("side") == "stock":
        return
    pairs = dict(info.get("ratio_to") or {})
    if "ratio" in info and "baseline" in info:
        pairs[info["baseline"]] = (info["ratio"], *info["ratio_range"])
    for other, values in pairs.items():
        ratio = Ratio(*map(float, values))
        if ratio.median > 0:
            yield info.get("contender", ""), other, ratio


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Ratios that are in both runs, in the new one's order."""
    before = ratios_of(then["benchmarks"])
    return [
        Change(*key, before[key], ratio)
        for key, ratio in ratios_of(now["benchmarks"]).items()
        if key in before
    ]


def lines_of(
    then: Mapping[str, Any], now: Mapping[str, Any], changes: Sequence[Change], below: float | None
) -> list[str]:
    """The closing table as text, and how many have fallen below a share, if that was asked."""
    lines = []
    if not changes:
        return ["no benchmark with a ratio is in both"]
    was, is_ = then.get("photos") or {}, now.get("photos") or {}
    if unlike := [f"{was[key]} {key}" for key in WORK if key in was and was[key] != is_.get(key)]:
        lines.append(f"it was measured with {', '.join(unlike)}: ratios need not agree")
    rows = [["", "then", "now", "change", ""]]
    group = ""
    for change in changes:
        if change.group != group:
            group = change.group
            rows.append([group, "", "", "", ""])
        pair = f"  {change.contender} / {change.other}"
        rows.append(
            [pair, str(change.then), str(change.now), f"{change.factor:.2f}x", change.verdict]
        )
    # A group's line is a heading: it widens no column.
    widths = [max(len(row[at]) for row in rows if row[1] or not row[0]) for at in range(5)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:4], widths[1:4], strict=True)]
        lines.append("  ".join((row[0].ljust(widths[0]), *cells, row[4])).rstrip())
    if below is not None:
        fallen = sum(change.has_fallen(below) for change in changes)
        lines.append(f"{fallen} of {len(changes)} have fallen below {below:g} of what they were")
    return lines


# --- in a run of the suites --------------------------------------------------------------------


def add_options(group: Any) -> None:
    """Let pytest know `--against` and `--fail-below`; called by its `pytest_addoption`."""
    group.addoption("--against", type=Path, metavar="JSON", help="a stored run to compare with")
    group.addoption(
        "--fail-below",
        type=float,
        metavar="SHARE",
        help="fail if a ratio has fallen below this share of the stored one, its range apart",
    )


def prepare(config: pytest.Config) -> None:
    """Read the stored run before a long one begins; called by `pytest_configure`.

    Raises:
        pytest.UsageError: it cannot be read, or there is none to fall below.
    """
    path: Path | None = config.getoption("against")
    if path is None:
        if config.getoption("fail_below") is not None:
            raise pytest.UsageError("--fail-below: given without --against JSON")
        return
    try:
        config.stash[BASELINE] = read_results(path)
    except DataError as error:
        raise pytest.UsageError(str(error)) from error


def judge(session: pytest.Session, facts: Mapping[str, Any]) -> None:
    """Fail the run if that was asked for and is so; called by `pytest_sessionfinish`."""
    below = session.config.getoption("fail_below")
    if below is None or session.exitstatus != pytest.ExitCode.OK:
        return
    changes = compare(session.config.stash[BASELINE], _this_run(session.config, facts))
    if any(change.has_fallen(below) for change in changes):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def show(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config, facts: Mapping[str, Any]
) -> None:
    """The closing table; called by `pytest_terminal_summary`."""
    then = config.stash.get(BASELINE, None)
    if then is None:
        return
    now, below = _this_run(config, facts), config.getoption("fail_below")
    terminalreporter.section(f"ratios against {config.getoption('against').name}")
    for line in lines_of(then, now, compare(then, now), below):
        terminalreporter.write_line(line)


def _this_run(config: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    # The plugin has no public way to what it has measured but a file.
    measured = config._benchmarksession.benchmarks
    entries = [{"group": each.group, "extra_info": each.extra_info} for each in measured]
    return {"benchmarks": entries, "photos": facts}


# --- on the command line -----------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 if a ratio has fallen, or if a file is broken."""
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--fail-below", type=float, metavar="SHARE")
    asked = parser.parse_args(arguments)
    try:
        then, now = read_results(asked.old), read_results(asked.new)
        changes = compare(then, now)
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(lines_of(then, now, changes, asked.fail_below)))
    if asked.fail_below is None:
        return 0
    return 1 if not changes or any(each.has_fallen(asked.fail_below) for each in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
