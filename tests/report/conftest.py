"""A page of all that there can be on one, drawn once for those who look at it."""

from pathlib import Path

import pytest
from pages import WRITERS, write_run

from fastft.report.page import write_report


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one source of each kind, and of a second run that was left."""
    folder = tmp_path_factory.mktemp("report")
    sources = [write(folder / kind) for kind, write in WRITERS.items()]
    sources.append(write_run(folder / "other run", lr=0.02, ends=False))
    write_report(sources, folder / "report.html")
    return folder / "report.html"
