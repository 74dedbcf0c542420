"""Executes a plan's operations on pixels in host memory: by a thread that has them, or by some."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.compiling import compiling
from pipelines.kernels import changes
from pipelines.operations import Operations
from pipelines.preprocessing import IMAGENET, Preprocessing
from pipelines.transfer import BatchPool, normalizing_factors
from pipelines.workers import make_threads

#: Bytes behind images that a changer may read and write.
READ_PAST = changes.READ_PAST
#: Images of a piece of a thread's work.
_PIECE = 8
#: The type that kernels write for a dtype; bfloat16, which NumPy lacks, as its bits.
_WRITTEN: dict[torch.dtype | None, type[np.generic]] = {
    None: np.uint8,
    torch.uint8: np.uint8,
    torch.bfloat16: np.uint16,
}


def written_for(dtype: torch.dtype | None) -> type[np.generic]:
    """The type that kernels write where a dtype is asked for; None is uint8."""
    return _WRITTEN.get(dtype, np.float32)


def as_asked(written: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A kernel's output in the dtype that was asked for."""
    if dtype is None:
        return written
    return written.view(torch.bfloat16) if dtype == torch.bfloat16 else written.to(dtype)


def find_changes(operations: Operations, count: int, size: int) -> changes.Changes:
    """The operations of a batch as the kernel takes them, checked.

    Args:
        operations: of B images.
        count: B.
        size: S.

    Raises:
        ValueError: operations that no plan draws.
    """
    operations.check(count, size)
    matrices = operations.matrices(size)
    return changes.Changes(operations.codes, operations.values, operations.boxes, matrices)


def take(of_rows: changes.Changes, part: slice) -> changes.Changes:
    """Those of some of the images."""
    codes, values, boxes, matrices = of_rows
    return changes.Changes(codes[part], values[part], boxes[part], matrices[part])


class Changer:
    """One thread's scratch memory for images of one size after another."""

    def __init__(self, preprocessing: Preprocessing = IMAGENET) -> None:
        """Take no memory yet; images are normalized as the form says."""
        self._mean_std = preprocessing.mean, preprocessing.std
        self._size, self._factors = -1, normalizing_factors(0, *self._mean_std)
        self._scratch = changes.make_scratch(0)

    def run(self, operations: Operations, pixels: NDArray[np.uint8], out: NDArray[Any]) -> None:
        """Change images, and normalize them.

        Args:
            operations: of B images.
            pixels: uint8[B, S, S * 3], which is overwritten, and READ_PAST bytes behind it.
            out: [B, S, S * 3] of a type that `written_for` gives.

        Raises:
            ValueError: operations that no plan draws.
        """
        self.change(find_changes(operations, *pixels.shape[:2]), pixels, out)

    def change(
        self, of_rows: changes.Changes, pixels: NDArray[np.uint8], out: NDArray[Any]
    ) -> None:
        """The same of what `find_changes` has found for these images, or more of their batch."""
        size = pixels.shape[1]
        if size != self._size:
            self._size, self._factors = size, normalizing_factors(size, *self._mean_std)
            self._scratch = changes.make_scratch(size)
        changes.change_rows(pixels, of_rows, self._scratch, *self._factors, out.view(np.uint8))

    def load(self) -> None:
        """Compile the kernel, or load it from the cache on disk."""
        nothing = Operations(
            np.empty((0, 1), np.int32), np.empty((0, 1)), np.empty((0, 4), np.int32)
        )
        with compiling():
            self.run(nothing, np.empty((0, 1, 3), np.uint8), np.empty((0, 1, 3), np.uint8))


class BatchChanger:
    """Changes batches that another library has made, on threads of its own."""

    def __init__(
        self, dtype: torch.dtype | None, workers: int, preprocessing: Preprocessing = IMAGENET
    ) -> None:
        """Begin to load the kernel.

        Args:
            dtype: of normalized batches; None for uint8.
            workers: threads.
            preprocessing: how they are normalized.
        """
        self._preprocessing = preprocessing
        self._dtype, self._pool = dtype, BatchPool((0,), np.uint8)
        self._local = threading.local()
        self._threads = make_threads(workers, "fastft-change")
        self._loaded = self._threads.submit(Changer().load)

    def run(self, operations: Operations, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """Change a batch, and normalize it.

        Args:
            operations: of B images.
            pixels: uint8[B, S, S, 3], which stay as they are.

        Returns:
            [B, S, S, 3], the caller's for good.
        """
        count, size = pixels.shape[:2]
        if self._pool.shape[1:2] != (size,) or self._pool.shape[0] < count:
            self._pool = BatchPool((count, size, size, 3), written_for(self._dtype))
        batch = self._pool.take()
        out, of_rows = batch.numpy(), find_changes(operations, count, size)
        self._loaded.result()

        def change(at: int) -> None:
            part = slice(at, min(at + _PIECE, count))
            shape = part.stop - at, size, size * 3
            try:
                changer: Changer = self._local.changer
            except AttributeError:
                changer = self._local.changer = Changer(self._preprocessing)
            bytes_ = shape[0] * shape[1] * shape[2]
            own = np.empty(bytes_ + READ_PAST, np.uint8)[:bytes_].reshape(shape)
            own[:] = pixels[part].reshape(shape)
            changer.change(take(of_rows, part), own, out[part].reshape(shape))

        list(self._threads.map(change, range(0, count, _PIECE)))
        return as_asked(batch[:count], self._dtype)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)
