"""Savings that are cut off: by `kill -9` at the k-th call that changes a disk, or by a full disk.

For processes of their own, see `processes`.
"""

import errno
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastft.runs.checkpoint import Checkpoint
from fastft.runs.checkpoint_writer import CheckpointSaver
from pipelines.errors import DataError


def small(epoch: int) -> Checkpoint:
    """Everything in it says which epoch it is of."""
    return Checkpoint(
        model={"a": torch.full((3,), float(epoch))}, arch="resnet18", classes=("x",), size=64,
        view="eval", epoch=epoch, accuracy=0.5, optimizer={"state": {0: torch.full((2,), epoch)}},
        scaler={"scale": 2.0}, config={"lr": 0.1}, progress={"step": epoch},
    )  # fmt: skip


class Killer:
    """Ends this process at the k-th call of anything that changes a disk; tells what got there.

    Of the writings, which go to a file that nobody reads yet, each seventh counts.
    """

    def __init__(self, k: int, reached: Any) -> None:
        self._left, self._reached, self._writings = k, reached, 0
        for name in (
            "open", "close", "fchmod", "fsync", "link", "replace", "unlink", "dup",
        ):  # fmt: skip
            self._wrap(os, name)
        fdopen = os.fdopen

        def opened(*arguments: Any) -> Any:
            file = fdopen(*arguments)
            write = file.write

            def half(content: Any) -> Any:
                self._writings += 1
                if not self._writings % 7:
                    if self._left == 1:
                        write(bytes(content)[: len(content) // 2])
                        file.flush()
                    self._count()
                return write(content)

            return Writing(file, half)

        os.fdopen = opened  # type: ignore[assignment]

    def _wrap(self, module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._count()
            result = real(*arguments, **options)
            if name == "replace":
                place = {"best.pt": 0, "last.pt": 1}.get(Path(arguments[1]).name)
                if place is not None:
                    self._reached[place] += 1
            return result

        setattr(module, name, call)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


class Writing:
    """A file whose writing is counted."""

    def __init__(self, file: Any, write: Callable[[Any], Any]) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Writing":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


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
    with pytest.raises(DataError, match=r"last\.pt: cannot be written"):
        saver.close()
