"""A run by an earlier version, whose checkpoints are by `torch.save`, goes on and is used."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damaged import flip
from mortal import differences
from old_checkpoints import age
from rich.console import Console
from stopped import QUIET, config_of, run_until

from fastft.runs.checkpoint import load_checkpoint
from fastft.runs.folder import BEST, LAST
from fastft.train.run import resume, train

Command = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("dropping")


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps that nobody disturbed."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train(config_of(data, out, ema=0.9, optimizer="adamw"), QUIET)
    return out


@pytest.fixture
def begun(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, stopped in its second epoch after six steps, as an earlier version left it."""
    out = tmp_path / "begun"
    run_until(config_of(data, out, ema=0.9, optimizer="adamw"), 5, monkeypatch)
    age(out)
    return out


@pytest.fixture
def finished(straight: Path, tmp_path: Path) -> Path:
    """A complete run, as an earlier version left it."""
    age(shutil.copytree(straight, tmp_path / "finished"))
    return tmp_path / "finished"


@pytest.mark.parametrize("damaged", [False, True])
def test_an_old_run_resumes_to_the_bit(damaged: bool, straight: Path, begun: Path) -> None:
    left = {"best.pt", "last.pt", "previous.pt"}
    assert left < set(os.listdir(begun))
    assert not {BEST, LAST} & set(os.listdir(begun))
    if damaged:
        flip(begun / "last.pt", (begun / "last.pt").stat().st_size // 2)
    console = Console(record=True, width=400, file=io.StringIO())
    resume(begun, {}, console)
    said = f"{begun}/last.pt: not readable as a checkpoint: last/data/"
    assert (said in console.export_text()) == damaged
    assert differences(straight, begun) == []
    # The best checkpoint is that of before until there is a better one.
    assert not (left - {"best.pt"}) & set(os.listdir(begun))
    assert not ((begun / BEST).exists() and (begun / "best.pt").exists())


def test_a_complete_old_run_stays_unchanged(finished: Path, fastft: Command) -> None:
    before = {file: file.read_bytes() for file in finished.iterdir()}
    status, out, err = fastft("train", "--resume", finished)
    assert (status, err) == (0, "")
    assert f"{finished}/best.pt" in out
    assert before == {file: file.read_bytes() for file in finished.iterdir()}


def test_an_old_run_is_used_as_weights(
    straight: Path, finished: Path, data: Path, tmp_path: Path
) -> None:
    options = {"epochs": 1, "arch": "auto"}
    for name, source in (("first", straight), ("second", finished)):
        train(config_of(data, tmp_path / name, weights=str(source), **options), QUIET)
    first, second = (load_checkpoint(tmp_path / name / LAST).model for name in ("first", "second"))
    assert all(torch.equal(each, second[name]) for name, each in first.items())


@pytest.mark.usefixtures("undrawn")
def test_an_old_run_is_evaluated_and_predicts(
    straight: Path, finished: Path, data: Path, photos: Path, tmp_path: Path, fastft: Command
) -> None:
    for name, run in (("first", straight), ("second", finished)):
        out = tmp_path / name
        assert fastft("evaluate", run, "--data", data, "--out", out)[0] == 0
        assert fastft("predict", run, photos / "test", "--csv", out / "found.csv")[0] == 0
    for name in ("predictions.csv", "found.csv"):
        files = [(tmp_path / run / name).read_bytes() for run in ("first", "second")]
        assert files[0] == files[1]
