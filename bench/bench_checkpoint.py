"""Cost of checkpoints: training ResNet-18 on this CPU, one checkpoint every 50 steps.

A round begins with the checkpoint and ends 50 steps later, whatever is still being written then
waited for. Files lie on a disk, unlike the other suites': fsync is part of what is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from torchvision.models import resnet18

from bench.conftest import Contender, Duel, Tables
from fastft.model.optim import pack_optimizer
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastft.runs.checkpoint_writer import CheckpointSaver
from fastft.system.environment import pick_amp

#: As a fine-tuning on a GPU would ask for them; a step takes some tenths of a second here.
BATCH, SIZE, STEPS = 8, 224, 50
#: Of a smoke run.
SMALL_BATCH, SMALL_SIZE, SMALL_STEPS = 2, 64, 3
GOAL = "ratio >= 0.98"
WRITINGS, SMALL_WRITINGS = 7, 1
#: A pair of them takes 40 s.
MOST_ROUNDS = 3

pytestmark = pytest.mark.benchmark(group=f"training, a checkpoint every {STEPS} steps")


@dataclass(frozen=True, slots=True)
class Training:
    """A training without its input.

    Attributes:
        run: some steps; gives the images that were learnt from.
        checkpoint: of its state.
    """

    run: Callable[[], int]
    checkpoint: Callable[[], Checkpoint]


@pytest.fixture(scope="module")
def rounds(rounds: int) -> int:
    return min(rounds, MOST_ROUNDS)


@pytest.fixture(scope="module")
def training(rounds: int) -> Training:
    small = rounds == 1
    batch, size, steps = (SMALL_BATCH, SMALL_SIZE, SMALL_STEPS) if small else (BATCH, SIZE, STEPS)
    device = torch.device("cpu")
    amp = pick_amp("auto", device)
    torch.manual_seed(0)
    model = resnet18().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,))

    def run() -> int:
        for _ in range(steps):
            with torch.autocast("cpu", dtype=amp, enabled=amp is not None):
                loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return batch * steps

    def checkpoint() -> Checkpoint:
        return Checkpoint(
            model=model.state_dict(),
            arch="resnet18",
            classes=("a",),
            size=size,
            view="eval",
            epoch=1,
            accuracy=0.5,
            optimizer=pack_optimizer(optimizer),
            scaler={},
            config={},
        )

    return Training(run, checkpoint)


def test_saver(training: Training, tmp_path: Path, duel: Duel) -> None:
    """fastft's, behind the training."""
    saver = CheckpointSaver(tmp_path)

    def run() -> int:
        saver.save(training.checkpoint())
        images = training.run()
        saver.wait()
        return images

    duel(Contender("fastft CheckpointSaver", run), Contender("no checkpoints", training.run), GOAL)
    saver.save(training.checkpoint(), best=True)
    saver.close()
    assert_equal(load_checkpoint(tmp_path / "last.safetensors"), training.checkpoint())


def test_in_the_training_thread(training: Training, tmp_path: Path, duel: Duel) -> None:
    """The way that it replaces."""

    def run() -> int:
        save_checkpoint(tmp_path / "last.safetensors", training.checkpoint())
        return training.run()

    duel(Contender("save_checkpoint in between", run), Contender("no checkpoints", training.run))


@pytest.mark.benchmark(group="one checkpoint")
def test_parts(training: Training, rounds: int, tmp_path: Path, tables: Tables) -> None:
    training.run()
    count = SMALL_WRITINGS if rounds == 1 else WRITINGS
    checkpoint = training.checkpoint()
    saver = CheckpointSaver(tmp_path)
    still_s: list[float] = []
    write_s: list[float] = []
    for _ in range(count + 1):
        started = time.perf_counter()
        saver.save(checkpoint)
        copied = time.perf_counter()
        saver.wait()
        still_s.append(copied - started)
        write_s.append(time.perf_counter() - copied)
    saver.close()
    last = tmp_path / "last.safetensors"
    thread_s = seconds(count, lambda: save_checkpoint(tmp_path / "thread.safetensors", checkpoint))
    read_s = seconds(count, lambda: load_checkpoint(last))
    library_s = seconds(count, lambda: load_file(last))
    tables[f"one checkpoint of {last.stat().st_size / 1e6:.1f} MB, no training beside it"] = [
        ["", "ms", "the first", "range"],
        ["training thread stands still", *cells(still_s)],
        ["written behind it", *cells(write_s)],
        ["written in the training thread", *cells(thread_s)],
        ["read, every bit checked", *cells(read_s)],
        ["read by safetensors' load_file, nothing checked", *cells(library_s)],
    ]


def seconds(count: int, call: Callable[[], object]) -> list[float]:
    """Of calls, so many behind the first."""
    taken = []
    for _ in range(count + 1):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return taken


def cells(taken: list[float]) -> list[str]:
    """Median and range, the first apart: it has its memory given."""
    first, *later = (1e3 * each for each in taken)
    return [
        f"{statistics.median(later):.1f}",
        f"{first:.1f}",
        f"{min(later):.1f} - {max(later):.1f}",
    ]


def assert_equal(ours: Checkpoint, theirs: Checkpoint) -> None:
    assert ours.model.keys() == theirs.model.keys()
    assert all(torch.equal(tensor, theirs.model[name]) for name, tensor in ours.model.items())
    assert ours.optimizer.keys() == theirs.optimizer.keys()
    assert all(torch.equal(each, theirs.optimizer[name]) for name, each in ours.optimizer.items())
