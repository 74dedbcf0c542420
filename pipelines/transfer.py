"""From uint8 pixels in host memory to normalized batches on the device.

The only owner of pinned buffers and of the copy stream. What crosses the bus is uint8, a quarter
of float32; normalization happens on the device. A batch that has been yielded is the caller's for
good: no buffer behind it is used again.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Pinned slots: one is being filled, one copied, one was just copied.
_SLOTS = 3
_CACHE_LINE = 64


def normalizing_factors(
    size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and bias, float32[S * 3] each, so that pixel * scale + bias is normalized.

    As long as one image row, so that inner loops are, too, and not three channels short.
    """
    scale, bias = 1 / (255 * np.array(std)), -np.array(mean) / np.array(std)
    return np.tile(scale.astype(np.float32), size), np.tile(bias.astype(np.float32), size)


class Normalizer:
    """Turns uint8[B, S, S, 3] into normalized [B, 3, S, S], channels_last, on one device."""

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        """Prepare factors.

        Args:
            size: side S, px.
            mean, std: of each channel, for pixels scaled to 0-1.
            device: where the pixels lie.
            dtype: float32, bfloat16 or float16; None leaves uint8 as it is.
        """
        self._size, self.dtype = size, dtype
        factors = normalizing_factors(size, mean, std)
        self._scale, self._bias = (torch.from_numpy(each).to(device) for each in factors)
        self._pool: BatchPool | None = None

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """A new tensor; within 1e-6 of ((pixels / 255) - mean) / std in float32."""
        count, size = len(pixels), self._size
        if self.dtype is None:
            return pixels.clone().permute(0, 3, 1, 2)
        rows = pixels.reshape(count * size, size * 3)
        scaled = self._memory(count).view(rows.shape)
        scaled.copy_(rows)
        torch.addcmul(self._bias, scaled, self._scale, out=scaled)
        images = scaled.view(count, size, size, 3).permute(0, 3, 1, 2)
        return images.to(self.dtype)

    def _memory(self, count: int) -> torch.Tensor:
        """float32[count, S, S, 3] of anything."""
        shape = (count, self._size, self._size, 3)
        if self._scale.device.type != "cpu":  # torch keeps a pool of its own there
            return torch.empty(shape, device=self._scale.device)
        if self._pool is None or self._pool.shape[0] < count:
            self._pool = BatchPool(shape, np.float32)
        return self._pool.take()[:count]


def to_device(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    normalizer: Normalizer,
    device: torch.device,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Move batches of uint8[B, S, S, 3] pixels and int64[B] labels, in host memory, to `device`.

    On a GPU the copy runs on a stream of its own beside the caller's kernels, which wait for it on
    the device; the host waits only for a pinned slot whose last copy has not ended.
    """
    if device.type != "cuda":
        for pixels, labels in batches:
            yield normalizer(pixels), labels
        return
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    slots: list[_Slot | None] = [None] * _SLOTS
    for number, (pixels, labels) in enumerate(batches):
        slot = slots[number % _SLOTS]
        if slot is None or len(slot.pixels) < len(pixels):
            slot = slots[number % _SLOTS] = _Slot(pixels, labels)
        slot.copied.synchronize()  # host wait, only if the copy of three batches ago still runs
        slot.pixels[: len(pixels)].copy_(pixels)
        slot.labels[: len(labels)].copy_(labels)
        caller = torch.cuda.current_stream(device)
        with torch.cuda.stream(stream):
            images = normalizer(slot.pixels[: len(pixels)].to(device, non_blocking=True))
            targets = slot.labels[: len(labels)].to(device, non_blocking=True)
            slot.copied.record(stream)
        caller.wait_event(slot.copied)
        for tensor in (images, targets):
            tensor.record_stream(caller)
        yield images, targets


class BatchPool:
    """Memory for batches that threads write and callers keep for as long as they like.

    A batch's memory is taken again only after the last tensor on it is gone. Fresh memory has to
    be given page by page and cleared by the system first. It is NumPy's, which asks for huge pages
    as torch does not.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """Batches of `shape` and `dtype`; safe to use from several threads."""
        self.shape, self._dtype = shape, dtype
        self._free: deque[NDArray[Any]] = deque()

    def take(self) -> torch.Tensor:
        """A batch of anything; its memory comes back by itself.

        Share it as a tensor only: `tensor.numpy()` keeps it, an array that NumPy derives from an
        array of ours would not.
        """
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _aligned(self.shape, self._dtype)
        lent = memory.view()
        # The tensor holds this view and nothing else does: when it dies, nobody has the batch.
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent)


def _aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """An array of anything that begins with a cache line, which compiled code may write past it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


class _Slot:
    """A pinned buffer for one batch, and the event that tells when its copy has ended."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.pixels = torch.empty_like(pixels, pin_memory=True)
        self.labels = torch.empty_like(labels, pin_memory=True)
        self.copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
