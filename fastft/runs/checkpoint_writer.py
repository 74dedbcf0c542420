"""Checkpoints written behind the training: copied at once, written by a thread of their own.

What the training waits for is a copy in memory. The order of the file, its CRC-32 and the disk are
the thread's, and hold the interpreter's lock for some milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastft.runs.folder import BEST, LAST, PREVIOUS, remove_old
from pipelines.errors import DataError

#: Key of a buffer: a part of a checkpoint, a name in it, its bytes, whether it is pinned.
_Slot = tuple[str, str, int, bool]


class CheckpointSaver:
    """Writes BEST and LAST of one run folder; what was LAST becomes PREVIOUS.

    At whatever moment the process is killed, BEST is whole, and LAST or PREVIOUS is. What an
    earlier version left goes when its successor is whole. Not to be used from several threads.
    """

    def __init__(
        self, folder: Path, before: Callable[[], None] | None = None, *, trusts_last: bool = False
    ) -> None:
        """Start nothing yet.

        Args:
            folder: the run folder.
            before: called in the writing thread before a LAST takes its place.
            trusts_last: whether LAST has been read, and is whole; else it is read first.
        """
        self._folder, self._before = folder, before
        self._copy = HostCopy()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._trusts_last = trusts_last

    @property
    def busy(self) -> bool:
        """Whether a writing is under way."""
        return self._writing is not None and not self._writing.done()

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> None:
        """Copy a checkpoint and have it written; waits only for the one before it.

        Args:
            checkpoint: what to write; its tensors may be changed as soon as this returns.
            best: whether to write BEST, too: to be used, not to be continued, it holds the weights
                that were evaluated and no others.

        Raises:
            DataError: what was saved before could not be written; this one is not.
        """
        self.wait()
        copy = self._copy.take(checkpoint)
        self._writing = self._thread.submit(self._write, copy, best)

    def wait(self) -> None:
        """Wait until all is on disk.

        Raises:
            DataError: it could not be written; said once.
        """
        if self._writing is None:
            return
        try:
            self._writing.result()
        finally:
            if self._writing.done():  # and not interrupted while it still reads the buffers
                self._writing = None

    def close(self) -> None:
        """Wait until all is on disk, and end the thread.

        Raises:
            DataError: as `wait`.
        """
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, checkpoint: Checkpoint, best: bool) -> None:
        self._copy.wait()
        if best:
            usable = replace(checkpoint, optimizer={}, scaler={}, progress=None)
            usable = replace(usable, model=checkpoint.evaluated, ema=None)
            save_checkpoint(self._folder / BEST, usable)
        save_checkpoint(self._folder / LAST, checkpoint, before=self._make_way)
        self._trusts_last = True
        remove_old(self._folder)

    def _make_way(self) -> None:
        """Make LAST PREVIOUS; meanwhile one of the two is whole."""
        if self._before is not None:
            self._before()
        last, previous = self._folder / LAST, self._folder / PREVIOUS
        if not self._trusts_last:  # one that a run was not continued from must not replace previous
            try:
                load_checkpoint(last)
            except DataError:
                return
        link = self._folder / f".{PREVIOUS}.link"
        link.unlink(missing_ok=True)
        try:
            os.link(last, link)
        except FileNotFoundError:  # somebody removed it
            return
        except OSError:  # a file system without hard links; for a moment there is no LAST
            os.replace(last, previous)
            return
        os.replace(link, previous)
        link.unlink(missing_ok=True)  # replacing a file by itself, as after a kill, does nothing


class HostCopy:
    """A copy of a checkpoint in host memory that is used for the next one again.

    Fresh memory has to be given page by page and cleared by the system first: for 90 MB 0.2 s,
    15 times the copy itself (Xeon, 2 cores).
    """

    def __init__(self) -> None:
        self._buffers: dict[_Slot, torch.Tensor] = {}
        self._copied: list[torch.cuda.Event] = []

    def take(self, checkpoint: Checkpoint) -> Checkpoint:
        """Copy its tensors on the current streams, which the caller's next kernels queue behind.

        On a GPU the copies run when this returns: see `wait`. Strides stay: bringing tensors into
        the order of a file takes longer than copying them.
        """
        used: dict[_Slot, torch.Tensor] = {}
        parts: dict[str, Any] = {
            part: {name: self._take(tensor, part, name, used) for name, tensor in state.items()}
            for part in ("model", "ema", "optimizer")
            if (state := getattr(checkpoint, part)) is not None
        }
        self._buffers = used  # what is no longer needed goes
        self._copied = []
        tensors = (each for part in parts for each in getattr(checkpoint, part).values())
        for device in {each.device for each in tensors if each.is_cuda}:
            # Waiting for a blocking one takes no core.
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            self._copied.append(event)
        return replace(checkpoint, **parts)

    def wait(self) -> None:
        """Wait until the copies are there."""
        for event in self._copied:
            event.synchronize()  # host wait, in the writing thread alone

    def _take(
        self, tensor: torch.Tensor, part: str, name: str, used: dict[_Slot, torch.Tensor]
    ) -> torch.Tensor:
        """The same view of a copy of its storage, which here is a tensor's own."""
        source = tensor.untyped_storage()
        pins = tensor.is_cuda
        slot = part, name, source.nbytes(), pins
        buffer = self._buffers.get(slot)
        if buffer is None:
            buffer = _make_buffer(source.nbytes(), pins)
        content = torch.empty(0, dtype=torch.uint8, device=source.device).set_(source)
        if pins:
            buffer.copy_(content, non_blocking=True)
        else:
            # One thread: torch takes all of them to each tensor, and where cores are busy waits
            # for the slowest each time: 270 ms instead of 40 at a load of 3 on 2 cores.
            np.copyto(buffer.numpy(), content.cpu().numpy())
        used[slot] = buffer
        return torch.empty(0, dtype=tensor.dtype).set_(
            buffer.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )


def _make_buffer(bytes_: int, pins: bool) -> torch.Tensor:
    """uint8[bytes_] of anything."""
    if pins or not bytes_:
        return torch.empty(bytes_, dtype=torch.uint8, pin_memory=pins)
    # NumPy asks for huge pages as torch does not: fewer to be given and cleared.
    return torch.from_numpy(np.empty(bytes_, np.uint8))
