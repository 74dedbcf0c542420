"""A pytest plugin that writes a line of JSON for each thing that happens, at once.

    FASTFT_SUITE_REPORT=FILE python -m pytest -p bench.gpu.suite_report ...

`suite` reads it. Tests marked `gpu` come first: they are few, and no other machine runs them.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

#: The environment variable that names the file.
FILE = "FASTFT_SUITE_REPORT"


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _tell("not collected", test=report.nodeid, said=_last_line(report.longrepr))


@pytest.hookimpl(trylast=True)  # after -m has taken its share
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("gpu") is None)
    _tell("collected", tests=len(items))


def pytest_runtest_logstart(nodeid: str) -> None:
    _tell("began", test=nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    _tell("ended", test=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    said = _last_line(report.longrepr) if report.failed else ""
    _tell(report.outcome, test=report.nodeid, when=report.when, seconds=report.duration, said=said)


def _tell(what: str, **more: Any) -> None:
    with open(os.environ[FILE], "a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, **more}) + "\n")


def _last_line(longrepr: Any) -> str:
    """The failure in one line: an assertion's own message, or an error's."""
    crash = getattr(longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else longrepr)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[0] if crash is not None else lines[-1]
