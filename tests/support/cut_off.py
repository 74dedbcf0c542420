"""Savings that are cut off: by `kill -9` at the k-th call that changes a disk, or by a full disk.

For processes of their own, see `processes`.
"""

import errno
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastft.runs.checkpoint import Checkpoint
from fastft.runs.checkpoint_writer import CheckpointSaver
from fastft.runs.folder import BEST, LAST
from pipelines.errors import DataError


def small(epoch: int) -> Checkpoint:
    """Everything in it says which epoch it is of."""
    return Checkpoint(
        model={"a": torch.full((3,), float(epoch))},
        arch="resnet18",
        classes=("x",),
        size=64,
        view="eval",
        epoch=epoch,
        accuracy=0.5,
        scaler={"scale": 2.0},
        config={"lr": 0.1},
        optimizer={"0/momentum_buffer": torch.full((2,), epoch)},
        progress={"step": epoch},
    )


class Killer:
    """Ends this process at the k-th call of anything that changes a disk; tells what got there."""

    def __init__(self, k: int, reached: Any) -> None:
        self._left, self._reached = k, reached
        for name in (
            "open",
            "close",
            "fchmod",
            "fsync",
            "link",
            "replace",
            "unlink",
            "write",
            "pwrite",
        ):
            self._wrap(name)

    def _wrap(self, name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "write" and self._left == 1:
                file, content = arguments
                real(file, content[: len(content) // 2])
            self._count()
            result = real(*arguments, **options)
            if name == "replace":
                place = {BEST: 0, LAST: 1}.get(Path(arguments[1]).name)
                if place is not None:
                    self._reached[place] += 1
            return result

        setattr(os, name, call)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def saves(folder: Path, first: int, k: int, links: bool, reached: Any) -> None:
    if not links:
        os.link = no_links  # type: ignore[assignment]
    Killer(k, reached)
    saver = CheckpointSaver(folder)
    for epoch in range(first, 4):
        saver.save(small(epoch), best=epoch != 2)
    saver.close()


def runs_full(folder: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    saver = CheckpointSaver(folder)
    saver.save(replace(small(2), model={"a": torch.zeros(50_000)}))
    with pytest.raises(DataError, match=r"last\.safetensors: cannot be written"):
        saver.close()
