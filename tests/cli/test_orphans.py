"""A command that is killed as by `kill -9`: what it has started ends, too, and nothing stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import effort
import psutil
import pytest
from commands import PATIENCE_S, Case, Living, begin, begin_alone

from fastft.runs.metrics import read_metrics
from fastft.system.isolated import _PROGRAM

Cases = dict[str, Case]
Tried = Callable[..., None]


def until(condition: Callable[[], bool], living: Living) -> None:
    """Wait for it."""
    gives_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < gives_up_s
        assert not living.ends(0.01)


def is_left_by(living: Living) -> list[list[str]]:
    """Kill its first process alone; the command lines of others that do not end by themselves."""
    if not living.ends(0.0):
        os.kill(living.pid, signal.SIGKILL)
    gives_up_s = time.monotonic() + PATIENCE_S
    while family := living.family():
        if time.monotonic() > gives_up_s:
            return [each.cmdline() for each in family]
        psutil.wait_procs(family, timeout=0.05)
    assert living.ends(PATIENCE_S)
    return []


@pytest.mark.parametrize("name", effort.choose(("doctor",), ("bench", "doctor", "synth", "parity")))
def test_what_a_killed_command_has_started_ends(
    name: str, cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    for number in range(effort.scale(1, 5)):
        folder = tmp_path / str(number)
        arguments = cases[name].call(folder / "place")
        if name == "parity":
            arguments.append("--stock")
        living = begin(arguments, folder)
        family = living.family
        until(lambda family=family: len(family()) > 1, living)  # type: ignore[misc]
        assert is_left_by(living) == []
        tried(f"{name} killed by kill -9: processes that stay", 1)


def test_an_early_orphan_ends(tmp_path: Path, tried: Tried) -> None:
    arguments = ["-c", _PROGRAM, "1", str(tmp_path), "none", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ended.returncode, ended.stderr) == (1, "its parent has ended\n")
    tried("parents that end at once")


def _loses_its_parent(data: Path) -> None:
    """A worker of a DataLoader kills its parent before either of two has looked for one."""
    from pipelines.loaders import make_loader, torchvision_loader

    live, parent = torchvision_loader.live_for_parent, os.getpid()

    def live_late(worker: int) -> None:
        with suppress(ProcessLookupError):  # the other worker has done it
            os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            pass
        live(worker)

    torchvision_loader.live_for_parent = live_late
    with make_loader("torchvision", data, batch_size=2, workers=2) as loader:
        next(iter(loader))


def test_an_early_orphaned_worker_ends(data: Path, tmp_path: Path, tried: Tried) -> None:
    living = begin([], tmp_path, _loses_its_parent, data / "train.beton")
    assert living.ends(PATIENCE_S)
    assert is_left_by(living) == []
    tried("parents that end at once")


_RANK = """
import os, subprocess, sys
os.environ.update(FASTFT_NPROC="2", FASTFT_PARENT=str(os.getpid()))
launch = "from fastft.train.launch import end_with_launcher as e; import signal; e()"
rank = launch + "; print(flush=True)"
process = subprocess.Popen([sys.executable, "-c", rank + "; signal.pause()"])
process.wait()
"""


def test_ranks_notice_a_dead_launcher(tmp_path: Path, tried: Tried) -> None:
    living = begin_alone([], tmp_path, ("-c", _RANK))
    until(lambda: (tmp_path / "stdout").stat().st_size > 0, living)
    assert is_left_by(living) == []
    tried("train --nproc 2: launcher killed by kill -9", 1)


@effort.long
def test_ranks_save_when_their_launcher_is_killed(
    cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    for number in range(effort.scale(1, 5)):
        folder = tmp_path / str(number)
        run = folder / "place" / "run"
        arguments = [*cases["train"].call(folder / "place"), "--nproc", "2", "--epochs", "1000"]
        living = begin_alone(arguments, folder)
        metrics = run / "metrics.jsonl"
        until(lambda metrics=metrics: metrics.exists() and metrics.stat().st_size > 0, living)  # type: ignore[misc]
        assert is_left_by(living) == []
        err = (folder / "stderr").read_text()
        assert "Traceback" not in err, err
        assert "fastft: stopped; " in err
        assert (run / "last.safetensors").exists()
        assert read_metrics(metrics)[0]
        tried("train --nproc 2: launcher killed by kill -9", 1)
