"""The folder of a run: emptied again whenever what was begun in it comes to nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.runs.folder import CONFIG, LAST, METRICS, make_folder
from fastft.system.signals import Stopped
from pipelines.errors import DataError


def stopped_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function in which, at its end, a signal is heard; but only the first time."""
    signals = [Stopped(15)]

    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if signals:
            raise signals.pop()
        return result

    return call


def test_a_signal_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", stopped_once(Path.mkdir))
    with pytest.raises(Stopped), make_folder(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def fail(out: Path, *begun: str, then: Callable[[], None] = lambda: None) -> None:
    """Make a folder, begin files in it, and come to an error."""
    with make_folder(out):
        for name in begun:
            (out / name).touch()
        then()
        raise DataError("process 1 of 2", "lost the others")


@pytest.mark.parametrize("interrupted", ["unlink", "rmdir", "glob"])
def test_a_signal_while_it_is_emptied(
    interrupted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        monkeypatch.setattr(Path, interrupted, stopped_once(getattr(Path, interrupted)))

    with pytest.raises(Stopped):
        fail(tmp_path / "run", CONFIG, METRICS, then=interrupt)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_has_got_somewhere_stays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lost the others"):
        fail(tmp_path, LAST)
    assert os.listdir(tmp_path) == [LAST]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda run: run.mkdir(), "holds no run, expected a run of fastft train"),
        (lambda run: None, "no such folder, expected a run of fastft train"),
    ],
    ids=["empty", "missing"],
)
def test_a_folder_without_a_run_is_refused(
    make: Callable[[Path], None], said: str, tmp_path: Path, fastft: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    make(run)
    status, out, err = fastft("train", "--resume", run)
    assert (status, out) == (1, "")
    assert err == f"{run}: {said}; check --resume\n"
