"""Libraries that are broken or missing, as those of a mixed environment: one line, status 2."""

import subprocess
from collections.abc import Callable

import pytest

from fastft.cli import commands

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "torch: cannot be imported (No module named 'torch'); fastft doctor ",
        ),
        (ImportError("no libjpeg\nmore", name="PIL._imaging"), "PIL: cannot be imported (no libj"),
        (RuntimeError("Failed to find C compiler. Please"), "fastft: Triton needs a C compiler"),
        (
            subprocess.CalledProcessError(1, ["gcc", "main.c", "-shared"]),
            "fastft: Triton needs a C compiler",
        ),
    ],
    ids=["missing", "broken", "no compiler", "no headers"],
)
def test_a_broken_library_is_one_line(
    fastft: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fails() -> int:
        raise error

    monkeypatch.setattr(commands, "run", fails)
    status, _, err = fastft("inspect")
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith(line)


def test_a_library_that_names_no_module_is_told(
    fastft: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> int:
        exec("raise ImportError('numba needs NumPy 2.4 or less')", {"__name__": "numba.core"})
        raise AssertionError

    monkeypatch.setattr(commands, "run", fails)
    assert fastft("inspect")[2].startswith("numba: cannot be imported (numba needs NumPy 2.4")


def test_an_import_of_ours_that_fails_is_a_bug(
    fastft: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> int:
        raise ImportError("cannot import name 'plan'", name="pipelines.plan")

    monkeypatch.setattr(commands, "run", fails)
    with pytest.raises(ImportError, match="plan"):
        fastft("inspect")
