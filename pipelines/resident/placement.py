"""The place of a store: the GPU's memory, the machine's, or nowhere, with the arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipelines.errors import UsageError
from pipelines.formats.beton import Index
from pipelines.formats.source import Source
from pipelines.memory import FreeMemory, free_memory
from pipelines.resident.store import Layout, StoreFormat, lay_out

PLACES = ("auto", "gpu", "ram")
#: What training needs of a GPU beside the store: libraries, weights, and per image of a batch at
#: 224 px its activations, which for ResNet-18 are 24 MB in float32. Reasoned, not measured.
_GPU_BYTES, _GPU_BYTES_PER_IMAGE = 2 << 30, 32 << 20
#: What this process needs beside the store and its batches: threads' scratch and then some.
_WORK_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class GpuRoom:
    """Memory of a GPU, bytes.

    Attributes:
        free: what is not in use.
        reserve: what training is left of it.
    """

    free: int
    reserve: int

    @property
    def for_pixels(self) -> int:
        """Bytes that stores may take."""
        return max(0, self.free - self.reserve)


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a store.

    Attributes:
        on_gpu: the GPU's memory; else the machine's.
        gpu_bytes: what GPUs have for pixels that do not fit there: the one that has least; None
            where nobody has looked.
    """

    on_gpu: bool
    gpu_bytes: int | None = None


def gpu_room(device: torch.device, *, batch: int, size: int) -> GpuRoom:
    """Bytes of a GPU that are free, and that are left to training.

    Args:
        device: the GPU.
        batch: images of a batch of this process.
        size: their side, px.
    """
    free, _ = torch.cuda.mem_get_info(device)
    # Torch holds on to memory that it has freed.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return GpuRoom(free, _GPU_BYTES + batch * _GPU_BYTES_PER_IMAGE * size**2 // 224**2)


def choose_place(
    layout: Layout,
    place: str,
    device: torch.device,
    *,
    batch: int,
    size: int,
    least: Callable[[float], float] | None = None,
) -> Place:
    """The GPU if that is possible and there is room beside the model, else the machine's memory.

    Args:
        layout: of the store.
        place: what was asked for, one of PLACES.
        device: where batches go.
        batch, size: see `gpu_room`.
        least: gives the least of all ranks' numbers, so that all of them choose alike; it is asked
            if `place` is `auto` and `device` a GPU. None: this one is alone, or chooses by itself.

    Raises:
        UsageError: there is no such place, or no room on a GPU that was asked for.
    """
    if place not in PLACES:
        raise UsageError("store place", repr(place), f"one of {', '.join(PLACES)}")
    if device.type != "cuda":
        if place == "gpu":
            raise UsageError("store place", f"gpu, but batches go to the {device}", "ram")
        return Place(on_gpu=False)
    if place == "ram":
        return Place(on_gpu=False)
    room = gpu_room(device, batch=batch, size=size)
    spare: float = room.for_pixels - layout.total
    if place == "auto" and least is not None:
        spare = least(spare)
    if spare >= 0:
        return Place(on_gpu=True)
    if place == "gpu":
        free, reserve = room.free, room.reserve
        raise UsageError(
            "store place",
            f"gpu, where {free / 1e9:.1f} GB are free and training is left {reserve / 1e9:.1f}",
            f"room for {layout.total / 1e9:.1f} GB of pixels",
            "take ram, or a smaller store",
        )
    return Place(on_gpu=False, gpu_bytes=max(0, layout.total + int(spare)))


def require_room(
    source: Source,
    layout: Layout,
    missing: int,
    *,
    promised: int,
    batches: int,
    gpu_bytes: int | None = None,
    gpus: int = 1,
    free: FreeMemory | None = None,
) -> None:
    """Refuse a store that does not fit into the machine's memory.

    Args:
        source: what it is of.
        layout: of the store.
        missing: bytes of it that are still to be filled.
        promised: bytes that other stores of this process will still take.
        batches: bytes of the batches that exist at once.
        gpu_bytes: what each GPU has for pixels, if these were to go there and did not fit.
        gpus: how many GPUs of this machine the training has.
        free: what there is; measured if None.

    Raises:
        UsageError: with the arithmetic, and what would fit.
    """
    free = free or free_memory()
    work = _WORK_BYTES + batches
    room = free.bytes - promised - work
    if missing <= room:
        return
    for kind, side in (("yuv420", 0), ("rgb", 256), ("yuv420", 256)):
        smaller = lay_out(source, StoreFormat(kind=kind, shorter_px=side)).total
        # Other data would shrink likewise.
        both = smaller * (1 + promised / layout.total)
        if smaller < layout.total and both <= free.bytes - work:
            option = f"--store {kind}" + f" --store-side {side}" * bool(side)
            remedy = f"take {option} ({smaller / 1e9:.2f} GB) or "
            break
    else:
        remedy = "take "
    found = f"{missing / 1e9:.2f} GB of pixels as {layout.format.kind}"
    if promised:
        found += f", beside {promised / 1e9:.2f} for other data"
    expected = f"at most the {free.bytes / 1e9:.2f} GB {free.limit} that are free"
    if gpu_bytes is not None:
        expected += (
            f", or {gpu_bytes / 1e9:.2f} GB of pixels on {'each' if gpus > 1 else 'the'} GPU"
        )
        if layout.total <= gpus * gpu_bytes:
            together = f"{gpus} x {gpu_bytes / 1e9:.2f} GB on all GPUs together would hold them"
            remedy = f"{together}, but each shows photos of the whole set: {remedy}"
    raise UsageError(
        f"{source.path} in memory",
        f"{found}, and {work / 1e9:.2f} to work with",
        expected,
        f"{remedy}--loader {'ffcv' if isinstance(source, Index) else 'torchvision'}",
    )
