"""Where a store goes: the GPU's memory, the machine's, or nowhere, with the arithmetic."""

from __future__ import annotations

import torch

from pipelines.beton import Index
from pipelines.errors import UsageError
from pipelines.memory import FreeMemory, free_memory
from pipelines.source import Source
from pipelines.store import Layout, StoreFormat, lay_out

PLACES = ("auto", "gpu", "ram")
#: What training needs of a GPU beside the store: libraries, weights, and per image of a batch at
#: 224 px its activations, which for ResNet-18 are 24 MB in float32. Reasoned, not measured.
_GPU_BYTES, _GPU_BYTES_PER_IMAGE = 2 << 30, 32 << 20
#: What this process needs beside the store and its batches: threads' scratch and then some.
_WORK_BYTES = 128 << 20


def choose_place(layout: Layout, place: str, device: torch.device, *, batch: int, size: int) -> str:
    """`gpu` if that is possible and there is room beside the model, else `ram`.

    Args:
        layout: of the store.
        place: what was asked for, one of PLACES.
        device: where batches go.
        batch: images of a batch of this process.
        size: their side, px.

    Raises:
        UsageError: there is no such place, or no room on a GPU that was asked for.
    """
    if place not in PLACES:
        raise UsageError("store place", repr(place), f"one of {', '.join(PLACES)}")
    if device.type != "cuda":
        if place == "gpu":
            raise UsageError("store place", f"gpu, but batches go to the {device}", "ram")
        return "ram"
    if place == "ram":
        return "ram"
    free, _ = torch.cuda.mem_get_info(device)
    # Torch holds on to memory that it has freed.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    reserve = _GPU_BYTES + batch * _GPU_BYTES_PER_IMAGE * size**2 // 224**2
    if layout.total <= free - reserve:
        return "gpu"
    if place == "gpu":
        raise UsageError(
            "store place",
            f"gpu, where {free / 1e9:.1f} GB are free and training is left {reserve / 1e9:.1f}",
            f"room for {layout.total / 1e9:.1f} GB of pixels", "take ram, or a smaller store",
        )  # fmt: skip
    return "ram"


def require_room(
    source: Source,
    layout: Layout,
    missing: int,
    *,
    promised: int,
    batches: int,
    free: FreeMemory | None = None,
) -> None:
    """Refuse a store that does not fit into the machine's memory.

    Args:
        source: what it is of.
        layout: of the store.
        missing: bytes of it that are still to be filled.
        promised: bytes that other stores of this process will still take.
        batches: bytes of the batches that exist at once.
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
    raise UsageError(
        f"{source.path} in memory",
        f"{found}, and {work / 1e9:.2f} to work with",
        f"at most the {free.bytes / 1e9:.2f} GB {free.limit} that are free",
        f"{remedy}--loader {'ffcv' if isinstance(source, Index) else 'torchvision'}",
    )
