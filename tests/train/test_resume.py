"""A run that is left and continued is the run that was not."""

import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from effort import long, scale
from mortal import differences, rows_of
from processes import run_program
from rich.console import Console
from stopped import QUIET, config_of, run_until

from fastft.runs import checkpoint as checkpoint_module
from fastft.runs.checkpoint import load_checkpoint, save_checkpoint
from fastft.runs.folder import BEST, LAST, METRICS, PREVIOUS
from fastft.runs.metrics import read_metrics
from fastft.system.signals import Stopped, StopSignals
from fastft.train.loop import Trainer
from fastft.train.run import resume, train
from fastft.train.step import TrainStep
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.loaders import LOADERS

MORTAL = Path(__file__).parents[1] / "support" / "mortal.py"
Command = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("dropping")


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps that nobody disturbed."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train(config_of(data, out), QUIET)
    return out


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped in its second epoch after six steps."""
    out = tmp_path_factory.mktemp("stopped") / "begun"
    with pytest.MonkeyPatch.context() as patch:
        run_until(config_of(data, out), 5, patch)
    return out


@pytest.fixture
def begun(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / "begun")


# Killed at random moments. In an ordinary run `test_launch` kills a training once, and
# `test_checkpoint_writer_cut_off` a save at every moment.


@long
@pytest.mark.parametrize("loader", [name for name in LOADERS if name != "stock"])
def test_a_run_that_is_killed_again_and_again(
    loader: str, data: Path, tmp_path: Path, tried: Callable[..., None]
) -> None:
    kills = scale(2, 20)
    if loader in ("ffcv", "dali"):
        pytest.importorskip({"dali": "nvidia.dali"}.get(loader, loader))
    ended = run_program(
        *(MORTAL, data, tmp_path, "--loader", loader, "--kills", kills, "--augmented"),
        folder=tmp_path,
        within_s=7200,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["kills"] == kills
    assert found["differences"] == []
    tried("training killed by kill -9", kills)


# Stopped where it can say so.


@pytest.mark.parametrize("step", [0, 3, 4, 6], ids=lambda step: f"in step {step}")
def test_a_stopped_run_resumes_to_the_bit(
    step: int, straight: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run_until(config_of(data, out), step, monkeypatch)
    left = load_checkpoint(out / LAST).progress
    assert left is not None
    assert left["epoch"] * 4 + left["sums"]["steps"] == step + 1
    resume(out, {}, QUIET)
    assert differences(straight, out) == []


def test_every_kind_of_state_is_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growing images, a body that thaws, an average, AdamW, class weights, operations, mixes."""
    train(config_of(data, tmp_path / "source"), QUIET)
    options: dict[str, Any] = {
        "weights": str(tmp_path / "source"),
        "freeze": "backbone",
        "unfreeze_epoch": 1,
        "start_size": 40,
        "size": 48,
        "epochs": 3,
        "ema": 0.9,
        "optimizer": "adamw",
        "amp": "bf16",
        "class_weight": "balanced",
        "label_smoothing": 0.1,
        "micro_batch": 4,
        "augment": "rand-n2-m9",
        "erase": 0.3,
        "mixup": 0.3,
        "cutmix": 1.0,
        "mix_prob": 0.7,
    }
    train(config_of(data, tmp_path / "whole", **options), QUIET)
    parts = config_of(data, tmp_path / "parts", **options)
    for step in (2, 5, 9):
        run_until(parts, step, monkeypatch, or_resume=True)
    train(parts, QUIET, or_resume=True)
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_a_stop_while_evaluating_is_heard(
    straight: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stop = tmp_path / "run", StopSignals()
    real = Trainer._evaluate

    def told(self: Trainer, *given: Any) -> Any:
        stop.requested = signal.SIGINT
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_evaluate", told)
        with pytest.raises(Stopped, match=r"last.safetensors is that of epoch 1 after 4 steps"):
            train(config_of(data, out), QUIET, stop)
    assert read_metrics(out / METRICS)[1] == []
    resume(out, {}, QUIET)
    assert differences(straight, out) == []


def test_patience_remembers(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is learnt, so no epoch is better than the first.
    options = {"lr": 1e-12, "epochs": 9, "patience": 2, "momentum": 0.0}
    config = config_of(data, tmp_path / "run", **options)
    run_until(config, 5, monkeypatch)
    result = resume(config.out, {}, QUIET)
    best = max(range(len(result.epochs)), key=lambda e: result.epochs[e].eval_accuracy)
    assert len(result.epochs) == min(9, best + 3)


def test_a_real_signal_is_heard_at_the_keyboard(
    data: Path, tmp_path: Path, fastft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sent = TrainStep.__call__, []

    def interrupts(self: TrainStep, *arguments: Any) -> Any:
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        return real(self, *arguments)

    monkeypatch.setattr(TrainStep, "__call__", interrupts)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    out = tmp_path / "run"
    status, _, err = fastft(
        "train",
        "--data",
        data,
        "--out",
        out,
        "--weights",
        "none",
        "--size",
        40,
        "--batch-size",
        10,
        "--arch",
        "shufflenet_v2_x0_5",
    )
    assert status == 130
    said = f"fastft: stopped; {out}/last.safetensors is that of epoch 1 after 1 steps"
    assert err == f"{said}; continue with fastft train --resume {out}\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_nothing_is_saved_before_the_first_step(
    data: Path, tmp_path: Path, fastft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("fastft.train.run.build_model", interrupted)
    arguments = ("--data", data, "--out", tmp_path / "run", "--weights", "none", "--size", 40)
    status, _, err = fastft("train", *arguments)
    assert (status, err) == (130, "fastft: interrupted\n")
    assert not (tmp_path / "run").exists()


def test_broken_weights_are_not_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainStep.__call__

    def breaks(self: TrainStep, *arguments: Any) -> Any:
        result = real(self, *arguments)
        if arguments[3] == 2:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("inf"))
        return result

    monkeypatch.setattr(TrainStep, "__call__", breaks)
    out = tmp_path / "run"
    with pytest.raises(
        DataError, match=r"step 3: loss nan.*last.safetensors is that of epoch 1 after [12] s"
    ):
        train(config_of(data, out), QUIET)
    kept = load_checkpoint(out / LAST)
    assert all(torch.isfinite(tensor).all() for tensor in kept.model.values())


# What is found in the folder.


def test_a_damaged_checkpoint_is_passed_over(straight: Path, begun: Path) -> None:
    content = bytearray((begun / LAST).read_bytes())
    content[len(content) // 2] ^= 4
    (begun / LAST).write_bytes(content)
    console = Console(record=True, width=400, file=io.StringIO())
    resume(begun, {}, console)
    assert f"{begun / LAST}: " in console.export_text(clear=False)
    assert f"{PREVIOUS}, the checkpoint before it, is used instead" in console.export_text()
    assert differences(straight, begun) == []


def test_what_was_written_behind_the_checkpoint_is_dropped(straight: Path, begun: Path) -> None:
    with open(begun / METRICS, "a") as file:
        file.write('{"kind": "step", "epoch": 1, "st')
    (begun / ".last.safetensors.abc").write_bytes(b"half")
    (begun / ".config.json.abc").write_bytes(b"half")
    resume(begun, {}, QUIET)
    assert differences(straight, begun) == []


def test_metrics_that_are_gone_are_missed(begun: Path) -> None:
    (begun / METRICS).write_text("")
    with pytest.raises(DataError, match=r"metrics.jsonl: 0 bytes, expected the first [\d,]+"):
        resume(begun, {}, QUIET)


def test_a_run_without_a_checkpoint_begins_again(straight: Path, begun: Path) -> None:
    for name in (LAST, PREVIOUS, BEST):
        (begun / name).unlink()
    resume(begun, {}, QUIET)
    assert differences(straight, begun) == []


def test_a_complete_run_stays_unchanged(straight: Path, data: Path, fastft: Command) -> None:
    before = {file: file.read_bytes() for file in straight.iterdir()}
    status, out, err = fastft("train", "--resume", straight)
    assert (status, err) == (0, "")
    assert f"{straight} is complete: 2 epochs" in out
    assert before == {file: file.read_bytes() for file in straight.iterdir()}
    # More epochs are another run, on its weights.
    status, out, err = fastft("train", "--resume", straight, "--epochs", "9")
    assert (status, out) == (2, "")
    command = f"fastft train --data {data} --weights {straight} --epochs 9 --out NEW"
    assert err.endswith(f"; leave it out; to train further on its weights: {command}\n")
    # One that was killed behind its last checkpoint gets what it lacks.
    for name in ("curves.png", "summary.json"):
        (straight / name).unlink()
    resume(straight, {}, QUIET)
    assert {file.name for file in before} == {file.name for file in straight.iterdir()}


def test_a_job_that_is_started_again_goes_on(
    straight: Path, begun: Path, data: Path, tmp_path: Path
) -> None:
    train(config_of(data, begun), QUIET, or_resume=True)
    assert differences(straight, begun) == []
    with pytest.raises(UsageError, match=r"--lr: 0\.5, and .* was begun with 0\.01"):
        train(config_of(data, begun, lr=0.5), QUIET, or_resume=True)
    train(config_of(data, tmp_path / "new"), QUIET, or_resume=True)
    assert rows_of(tmp_path / "new") == rows_of(straight)


# What would make it another run.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", "8"], "--batch-size: 8, and {run} was begun with 10, expected the same"),
        (["--arch", "resnet18"], "--arch: resnet18, and {run} was begun with shufflenet_v2_x0_5"),
        (
            ["--epochs", "9"],
            "--epochs: 9, and {run} was begun with 2, expected the same; leave it ",
        ),
        (["--lr", "0.5"], "--lr: 0.5, and {run} was begun with 0.01"),
        (["--seed", "4"], "--seed: 4, and {run} was begun with 0"),
        (["--sync-bn"], "--sync-bn: True, and {run} was begun with False"),
        (["--recipe", "fast"], "--recipe: fast, and {run} was begun with standard"),
        (["--out", "{run}"], "--out: {run}, beside --resume {run}"),
        (["--nproc", "none"], "--nproc: 'none', expected a number of processes, or gpu"),
        (["--checkpoint-every", "5x"], "--checkpoint-every: '5x', expected steps"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_another_run_is_refused(
    options: list[str], said: str, begun: Path, fastft: Command
) -> None:
    before = {file: file.read_bytes() for file in begun.iterdir()}
    status, out, err = fastft("train", "--resume", begun, *(o.format(run=begun) for o in options))
    assert (status, out) == (2, "")
    assert err.startswith(said.format(run=begun))
    assert err.count("\n") == 1
    assert before == {file: file.read_bytes() for file in begun.iterdir()}


def test_other_data_are_refused(
    begun: Path, data: Path, photos: Path, tmp_path: Path, fastft: Command
) -> None:
    def refused(name: str, change: Callable[[Path], None], **options: Any) -> str:
        source = shutil.copytree(photos, tmp_path / name)
        change(source)
        convert(ConvertConfig(src=source, out=tmp_path / f"{name}.data", **options))
        status, _, err = fastft("train", "--resume", begun, "--data", tmp_path / f"{name}.data")
        assert status == 2
        return err

    classes = sorted(path.name for path in (photos / "train").iterdir())

    def drop_one(source: Path) -> None:
        next((source / "train" / classes[0]).iterdir()).unlink()

    def rename_class(source: Path) -> None:
        for split in ("train", "test"):
            (source / split / classes[2]).rename(source / split / "zzz")

    def swap(source: Path) -> None:
        first, second = sorted((source / "train" / classes[0]).iterdir())[:2]
        first.rename(source / "x")
        second.rename(first)
        (source / "x").rename(second)

    assert "has 32 images, expected 33 images, which the run" in refused("fewer", drop_one)
    assert f"has classes {classes[0]}, {classes[1]}, zzz, expected classes" in (
        refused("renamed", rename_class)
    )
    assert "has contents " in refused("swapped", swap)
    # The same data elsewhere are the same.
    convert(ConvertConfig(src=photos, out=tmp_path / "moved"))
    status, _, err = fastft("train", "--resume", begun, "--data", tmp_path / "moved")
    assert (status, err) == (0, "")


def test_checkpoints_without_progress_are_refused(begun: Path) -> None:
    content = load_checkpoint(begun / LAST)
    progress = dict(content.progress or {})
    for odd, said in (
        ({}, "does not say where its run stood"),
        (None, "does not say where its run stood"),
        ({**progress, "epoch": "x"}, "a wrong 'epoch': 'x'"),
        ({**progress, "sums": {"steps": 1, "odd": 2}}, "odd"),
        ({**progress, "rows": [1]}, "does not say"),
    ):
        save_checkpoint(begun / LAST, replace(content, progress=odd))
        with pytest.raises(DataError, match=said):
            resume(begun, {}, QUIET)


def test_what_may_change_may_change(begun: Path, data: Path) -> None:
    console = Console(record=True, width=400, file=io.StringIO())
    resume(begun, {"loader": "torchvision", "workers": 2, "checkpoint_every": "0"}, console)
    text = console.export_text()
    assert "not to the bit what it would have been: begun with loader resident, now" in text
    assert load_checkpoint(begun / LAST).config["loader"] == "torchvision"


def test_a_checkpoint_is_read_once(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, read = checkpoint_module.read_tensors, []

    def note(path: Path) -> Any:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(checkpoint_module, "read_tensors", note)
    resume(begun, {}, QUIET)
    assert read.count(LAST) == 1
