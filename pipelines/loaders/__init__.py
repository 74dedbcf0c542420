"""Loaders: executors of the plan. `make_loader` builds one by name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UsageError
from pipelines.layout import Depth
from pipelines.loaders.base import Loader
from pipelines.source import Source, open_source, require_prepared

if TYPE_CHECKING:
    import torch

__all__ = ["LOADERS", "Loader", "make_loader"]

#: name -> module, class
LOADERS = {
    "torchvision": ("torchvision_loader", "TorchvisionLoader"),
    "stock": ("stock_loader", "StockLoader"),
    "ffcv": ("ffcv_loader", "FfcvLoader"),
    "dali": ("dali_loader", "DaliLoader"),
    "resident": ("resident_loader", "ResidentLoader"),
}


def make_loader(
    name: str,
    data: str | Path | Source,
    *,
    view: str = "train",
    size: int = 224,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    normalize: bool = True,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    apply_exif: bool | None = None,
    depth: Depth | None = None,
    **options: Any,
) -> Loader:
    """Build a loader.

    Args:
        name: `torchvision`, `ffcv`, `dali`, `resident`, or `stock` (torchvision's own transforms
            and shuffling, which follows no plan: the baseline of accuracy checks).
        data: a `.beton`, a class folder (not for `ffcv`), or an open source.
        view: `train`, `recordio`, `eval` or `eval-square`, see `pipelines.plan`.
        size: output side, px. Where `Loader.set_size` will change it, the largest of all: it
            decides whether there is room for what a loader keeps.
        batch_size: samples per global batch, over all ranks.
        seed: of the plan.
        device: where batches arrive.
        dtype: of normalized images: float32 (default), bfloat16 or float16.
        normalize: False gives uint8 images.
        workers: threads or processes that decode; 0 takes every CPU this process may use.
        rank, world: this process's share of each global batch.
        drop_last: leave out a last batch that is not full.
        apply_exif: whether images of a class folder are turned upright as their EXIF says; None:
            no. A `.beton` has been prepared by `fastft convert`; what is given must be what it has.
        depth: what becomes of more than 8 bits per channel, likewise: `clip` (default) or `scale`.
        **options: of the `resident` loader alone. `store`: `rgb`, or `yuv420`, half the bytes
            (chroma of what is no 4:2:0 JPEG loses detail). `store_side`: images whose shorter side
            is longer are shrunk to it, px; 0 keeps sizes. `store_file`: where to keep the pixels
            for the next run. `store_place`: `auto`, `gpu` or `ram`.

    Raises:
        UsageError: an unknown loader or view, a library that is not installed, arguments out of
            range, a `.beton` that is prepared otherwise, `drop_last` with fewer samples than one
            batch, or pixels that fit into no memory.
        DataError: the data cannot be read.
    """
    if name not in LOADERS:
        raise UsageError("loader", repr(name), f"one of {', '.join(LOADERS)}")
    if options and name != "resident":
        raise UsageError(", ".join(options), f"with loader {name!r}", "loader 'resident'")
    module, kind = LOADERS[name]
    loader: Any = getattr(importlib.import_module(f"pipelines.loaders.{module}"), kind)
    if isinstance(data, str | Path):
        source = open_source(Path(data), apply_exif=apply_exif, depth=depth)
    else:
        source = data
        require_prepared(source, apply_exif, depth)
    made = loader(
        source, view=view, size=size, batch_size=batch_size, seed=seed, device=device, dtype=dtype,
        normalize=normalize, workers=workers, rank=rank, world=world, drop_last=drop_last,
        **options,
    )  # fmt: skip
    assert isinstance(made, Loader)
    return made
