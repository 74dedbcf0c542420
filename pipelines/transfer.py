"""From uint8 pixels in host memory to normalized batches on the device.

The only owner of pinned buffers and of the copy stream. What crosses the bus is uint8, a quarter
of float32; normalization happens on the device. A batch that has been yielded is the caller's for
good: no buffer behind it is used again.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

#: Pinned slots: one is being filled, one copied, one was just copied.
_SLOTS = 3
_CACHE_LINE = 64
#: Arrays that cross together begin at multiples of this: torch and Triton ask for up to 16.
_ALIGN = 16
_TORCH_DTYPES: dict[type[np.generic], torch.dtype] = {
    np.uint8: torch.uint8,
    np.bool_: torch.bool,
    np.float32: torch.float32,
    np.float64: torch.float64,
    np.int32: torch.int32,
    np.int64: torch.int64,
}
#: Writes pixels of uint8[B, S, S, 3] * scale + bias to a tensor of their shape.
Fused = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


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
        fused: Fused | None = None,
    ) -> None:
        """Prepare factors.

        Args:
            size: side S, px.
            mean, std: of each channel, for pixels scaled to 0-1.
            device: where the pixels lie.
            dtype: float32, bfloat16 or float16; None leaves uint8 as it is.
            fused: does all of it in one kernel of the device; None: torch's operations do.
        """
        self.size, self.dtype, self._fused = size, dtype, fused
        factors = normalizing_factors(size, mean, std)
        self._scale, self._bias = (torch.from_numpy(each).to(device) for each in factors)
        self._pool: BatchPool | None = None

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """A new tensor; within 1e-6 of ((pixels / 255) - mean) / std in float32."""
        count, size = len(pixels), self.size
        if self.dtype is None:
            return pixels.clone().permute(0, 3, 1, 2)
        if self._fused is not None:
            out = torch.empty(pixels.shape, dtype=self.dtype, device=pixels.device)
            self._fused(pixels, self._scale, self._bias, out)
            return out.permute(0, 3, 1, 2)
        rows = pixels.reshape(count * size, size * 3)
        scaled = self._memory(count).view(rows.shape)
        scaled.copy_(rows)
        torch.addcmul(self._bias, scaled, self._scale, out=scaled)
        images = scaled.view(count, size, size, 3).permute(0, 3, 1, 2)
        return images.to(self.dtype)

    def _memory(self, count: int) -> torch.Tensor:
        """float32[count, S, S, 3] of anything."""
        shape = (count, self.size, self.size, 3)
        if self._scale.device.type != "cpu":  # torch keeps a pool of its own there
            return torch.empty(shape, device=self._scale.device)
        if self._pool is None or self._pool.shape[0] < count:
            self._pool = BatchPool(shape, np.float32)
        return self._pool.take()[:count]


class Change(Protocol):
    """A batch's operations for a GPU."""

    @property
    def arrays(self) -> Sequence[NDArray[Any]]:
        """Tables that it needs there, in host memory."""

    def run(self, pixels: torch.Tensor, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        """Change uint8[B, S, S, 3] on the GPU; `arrays` are there, too."""


def to_device(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    normalizer: Normalizer,
    device: torch.device,
    changes: Iterator[Change] | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Move batches of uint8[B, S, S, 3] pixels and their labels, in host memory, to `device`.

    On a GPU the copy runs on a stream of its own beside the caller's kernels, which wait for it on
    the device; the host waits only for a pinned slot whose last copy has not ended. There,
    `changes` are executed, one of each batch.
    """
    if device.type != "cuda":
        for pixels, labels in batches:
            yield normalizer(pixels), labels
        return
    stream, slots = make_stream(device), PinnedSlots(device)
    for pixels, labels in batches:
        change = None if changes is None else next(changes)
        with torch.cuda.stream(stream):
            tables = () if change is None else change.arrays
            pixels, targets, *there = slots.send((pixels.numpy(), labels.numpy(), *tables))
            if change is not None:
                pixels = change.run(pixels, there)
            images = normalizer(pixels)
        hand_over(stream, images, targets)
        yield images, targets


def make_stream(device: torch.device) -> Any:
    """A stream beside the caller's; None, which stands for no stream, where there is no GPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


def hand_over(stream: Any, *tensors: torch.Tensor) -> None:
    """Let the caller's kernels wait for the stream, on the device, and his tensors outlive it."""
    if stream is None:
        return
    caller = torch.cuda.current_stream(stream.device)
    caller.wait_stream(stream)
    for tensor in tensors:
        tensor.record_stream(caller)


class PinnedSlots:
    """Pinned memory in which copies to one device begin; each piece in turn."""

    def __init__(self, device: torch.device) -> None:
        self._slots = [PinnedSlot(device) for _ in range(_SLOTS)]
        self._turn = 0

    def take(self, bytes_: int) -> PinnedSlot:
        """The next slot, with room for so many bytes; waits until its last copy has ended."""
        slot = self._slots[self._turn % _SLOTS]
        self._turn += 1
        slot.prepare(bytes_)
        return slot

    def send(self, arrays: Sequence[NDArray[Any]]) -> list[torch.Tensor]:
        """Copy some arrays to the device, all at once, on the current stream."""
        places, total = [], 0
        for array in arrays:
            places.append(slice(total, total + array.nbytes))
            total += -(-array.nbytes // _ALIGN) * _ALIGN
        slot = self.take(total)
        for array, place in zip(arrays, places, strict=True):
            slot.array[place] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        there = slot.send(total)
        return [
            there[place].view(_TORCH_DTYPES[array.dtype.type]).view(array.shape)
            for array, place in zip(arrays, places, strict=True)
        ]


class PinnedSlot:
    """A piece of pinned memory, and the event that tells when its last copy has ended.

    Attributes:
        array: uint8[...], its bytes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._pins = device, device.type == "cuda"
        self._memory = torch.empty(0, dtype=torch.uint8)
        self.array: NDArray[np.uint8] = self._memory.numpy()
        self._copied: Any = torch.cuda.Event() if self._pins else None  # type: ignore[no-untyped-call]

    def prepare(self, bytes_: int) -> None:
        """Make it free to write `bytes_` to."""
        if self._copied is not None:
            self._copied.synchronize()  # host wait, only if the copy of three turns ago still runs
        if len(self._memory) < bytes_:
            # A quarter more than asked for: pinning is slow, and crops vary in size.
            self._memory = torch.empty(
                bytes_ + bytes_ // 4, dtype=torch.uint8, pin_memory=self._pins
            )
            self.array = self._memory.numpy()

    def send(self, bytes_: int) -> torch.Tensor:
        """uint8[bytes_] on the device, copied on the current stream."""
        target = torch.empty(bytes_, dtype=torch.uint8, device=self._device)
        self.send_to(target)
        return target

    def send_to(self, target: torch.Tensor) -> None:
        """Fill a uint8[...] of the device from the slot's beginning, on the current stream."""
        target.copy_(self._memory[: len(target)], non_blocking=True)
        if self._copied is not None:
            self._copied.record()


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
