"""Conversions, and mergers, killed at the k-th call that changes a disk, in their own processes."""

import os
import signal
from pathlib import Path
from typing import Any

from pipelines.conversion import merge as merging
from pipelines.conversion import run as module
from pipelines.conversion.merge import merge
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError
from pipelines.formats.beton import read_index

#: Small, so that there are many moments to be killed at.
TASK_IMAGES = 4
_CALLS = ("pwrite", "write", "ftruncate", "fsync", "fchmod", "rename", "replace", "unlink")


def converts(src: Path, out: Path, k: int, options: dict[str, Any], reached: Any) -> None:
    """Convert, and die at the k-th call; `reached` tells whether there were as many."""
    module._TASK_IMAGES = TASK_IMAGES
    _die_at(k, reached)
    convert(ConvertConfig(src=src, out=out, **options))


def merges(out: Path, k: int, reached: Any) -> None:
    """Merge shards, and die as `converts` does."""
    _die_at(k, reached)
    merge(out)


def _die_at(k: int, reached: Any) -> None:
    left = k

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                if name in ("pwrite", "write"):  # half of it gets there
                    content = memoryview(arguments[1]).cast("B")
                    real(arguments[0], content[: len(content) // 2], *arguments[2:])
                reached.value = True
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(os, name, call)

    for name in _CALLS:
        wrap(name)


def merges_changing(out: Path, shard: Path, change: str, said: Any) -> None:
    """Merge shards, one of which changes when it has been opened to be copied; send what is said.

    Args:
        out: where the shards are.
        shard: the one that changes.
        change: how.
        said: a connection.
    """
    real, index = merging._reopen, read_index(shard)
    size, samples_end = shard.stat().st_size, int((index.pointers + index.sizes).max())
    sizes = {"emptied": 0, "cut short": size // 4, "without tables": samples_end}

    def reopened(piece: Any) -> Any:
        opened = real(piece)
        if piece.path == shard and change in sizes:
            os.truncate(shard, sizes[change])
        elif piece.path == shard and change == "overwritten":
            with shard.open("r+b") as file:
                file.write(b"\xff" * size)
        elif piece.path == shard:
            shard.unlink()
        return opened

    merging._reopen = reopened
    try:
        merge(out)
    except DataError as error:
        said.send(str(error))
    else:
        said.send("")
