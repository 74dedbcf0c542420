"""The words of a command that lets its user wait."""

import logging
import os
import sys
from collections.abc import Iterator

import pytest

from fastft.system.progress import tell_of_compiling

COMPILING = logging.getLogger("pipelines.kernels.compiled")


@pytest.fixture(autouse=True)
def handlers_go() -> Iterator[None]:
    logger = logging.getLogger("pipelines.kernels")
    before, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:], logger.level = before, level


def test_compiling_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    tell_of_compiling()
    COMPILING.info("compiling one")
    assert capsys.readouterr().err.startswith("fastft: compiles kernels for this machine")
    COMPILING.info("compiling another")
    assert capsys.readouterr().err == ""


def test_forked_processes_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    tell_of_compiling()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    COMPILING.info("compiling one")
    assert capsys.readouterr().err == ""


def test_files_are_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tell_of_compiling()
    COMPILING.info("compiling one")
    assert capsys.readouterr().err == ""
