"""Loaders: executors of the plan. `make_loader` builds one by name."""

from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError
from pipelines.formats.layout import Depth
from pipelines.formats.source import Source, open_source, require_prepared
from pipelines.loaders.base import Loader
from pipelines.loaders.completion import Transform
from pipelines.plan import Decode
from pipelines.preprocessing import IMAGENET, Preprocessing
from pipelines.sampling import Sampler

if TYPE_CHECKING:
    import torch

__all__ = ["LOADERS", "SCALING", "Loader", "make_loader"]

#: name -> module, class
LOADERS = {
    "torchvision": ("torchvision_loader", "TorchvisionLoader"),
    "stock": ("stock_loader", "StockLoader"),
    "ffcv": ("ffcv_loader", "FfcvLoader"),
    "dali": ("dali_loader", "DaliLoader"),
    "resident": ("resident_loader", "ResidentLoader"),
}
#: Those that decode `scaled` without a store.
SCALING = ("torchvision", "ffcv")
#: Arguments of `resident` alone.
_STORE = ("store", "store_side", "store_file", "store_place", "store_least", "epochs")
#: Arguments of other libraries' loaders, and ours for it.
_KNOWN_ELSEWHERE = {
    "num_workers": "workers",
    "num_threads": "workers",
    "max_workers": "workers",
    "image_size": "size",
    "img_size": "size",
    "resolution": "size",
    "crop_size": "size",
    "input_size": "size",
    "out_size": "size",
    "output_size": "size",
    "root": "data",
    "path": "data",
    "data_dir": "data",
    "dataset": "data",
    "fname": "data",
    "file": "data",
    "source": "data",
    "bs": "batch_size",
    "batch": "batch_size",
    "random_seed": "seed",
    "device_id": "device",
    "local_rank": "rank",
    "shard_id": "rank",
    "num_shards": "world",
    "world_size": "world",
    "num_replicas": "world",
    "split": "view",
    "mode": "view",
    "cache": "store",
    "augmentation": "augment",
    "backend": "name",
    "loader": "name",
}
_PLAN = "view='train' shuffles by the seed, view='eval' keeps the files' order"
_CROPS = "view decides: 'train' and 'recordio' crop and flip, 'eval' and 'eval-square' do not"
_FORM = "Preprocessing(filter=..., crop_share=..., mean=..., std=...)"
#: Arguments that have no counterpart, and why.
_NOT_NEEDED = {
    "shuffle": _PLAN,
    "batch_sampler": _PLAN,
    "order": _PLAN,
    "generator": _PLAN,
    "random_shuffle": _PLAN,
    "distributed": "rank and world share the batches",
    "transforms": "transform takes a function of uint8 batches, augment what the plan draws",
    "pipelines": _CROPS,
    "train": "give view='train'",
    "is_training": "give view='train' or view='eval'",
    "target_transform": "labels are the class numbers, int64, or of other tasks float32[B, C]",
    "mean": f"give preprocessing={_FORM}; normalize=False gives uint8 images",
    "std": f"give preprocessing={_FORM}; normalize=False gives uint8 images",
    "interpolation": f"give preprocessing={_FORM}",
    "crop_pct": f"give preprocessing={_FORM}",
    "pin_memory": "leave it out: for device='cuda' it is done",
    "pin_memory_device": "leave it out: for device='cuda' it is done",
    "persistent_workers": "leave it out: workers live until close()",
    "prefetch_factor": "leave it out: each loader reads ahead",
    "prefetch_queue_depth": "leave it out: each loader reads ahead",
    "batches_ahead": "leave it out: each loader reads ahead",
    "collate_fn": "leave it out: batches are (images, labels)",
    "worker_init_fn": "leave it out: the plan alone is random, by its seed",
    "timeout": "leave it out: a worker that ends is noticed",
    "multiprocessing_context": "leave it out",
    "os_cache": "leave it out",
    "epoch": "call set_epoch(epoch) before each epoch",
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
    decode: Decode = "exact",
    augment: Augment = USUAL,
    transform: Transform | None = None,
    sampler: Sampler = "shuffle",
    preprocessing: Preprocessing = IMAGENET,
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
        decode: `exact`, or `scaled`: the inverse DCT shrinks JPEGs by 2, 4 or 8 while what is shown
            stays twice the output, which is faster for photos of some megapixels and gives other
            pixels; of `ffcv`, `torchvision`, and `resident` with `store_side`.
        augment: what a training view does beyond its usual crop and mirror: `Augment(policy=
            "trivial", erase=0.25, mixup=0.2)`. With `mixup` or `cutmix` labels are float32[B, C],
            as those of data of several labels or a number are in any case.
        transform: a function of your own, of uint8 images [B, 3, S, S] on `device`, before they are
            normalized; it gives the same. What it draws of torch's random numbers is a function of
            (seed, epoch, batch, rank), so a run resumes exactly; other numbers of processes draw
            otherwise, and no check of pixels knows it.
        sampler: how often a training view shows each sample; an epoch keeps its length. `shuffle`:
            once. `balanced`: so that each class comes as often as every other. `sqrt`: between the
            two. `weights`: as the data set's column of weights says. A sample that comes again has
            other crops, flips and operations.
        preprocessing: the form that a model wants its images in: the filter that all views resize
            by, the share of the shorter side that evaluation shows, mean and deviation.
        apply_exif: whether images of a class folder are turned upright as their EXIF says; None:
            no. A `.beton` has been prepared by `fastft convert`; what is given must be what it has.
        depth: what becomes of more than 8 bits per channel, likewise: `clip` (default) or `scale`.
        **options: of the `resident` loader alone. `store`: `rgb`, or `yuv420`, half the bytes
            (chroma of what is no 4:2:0 JPEG loses detail). `store_side`: images whose shorter side
            is longer are shrunk to it, px; 0 keeps sizes. `store_file`: where to keep the pixels
            for the next run. `store_place`: `auto`, `gpu` or `ram`. `store_least`: of several
            ranks on GPUs, a function that gives the least of all ranks' numbers, such as an
            all-reduce: then `auto` is the same place for all of them, else each one's own.
            `epochs`: how many it will be iterated for. On a CPU, of one or two no pixels are kept,
            which is faster, of more all at once; of a number that nobody knows those that are asked
            for again.

    Raises:
        UsageError: an unknown loader, view or argument, a library that is not installed, arguments
            out of range, a `.beton` that is prepared otherwise, `drop_last` with fewer samples than
            one batch, a sampler that the data do not suit, or pixels that fit into no memory.
        DataError: the data cannot be read, or hold weights that are none.
    """
    if name not in LOADERS:
        raise UsageError("loader", repr(name), f"one of {', '.join(LOADERS)}")
    for option in options:
        if option not in _STORE:
            raise _unknown(option)
        if name != "resident":
            raise UsageError(option, f"given for loader {name!r}", "loader 'resident'")
    module, kind = LOADERS[name]
    loader: Any = getattr(importlib.import_module(f"pipelines.loaders.{module}"), kind)
    if isinstance(data, str | Path):
        source = open_source(Path(data), apply_exif=apply_exif, depth=depth)
    else:
        source = data
        require_prepared(source, apply_exif, depth)
    made = loader(
        source,
        view=view,
        size=size,
        batch_size=batch_size,
        seed=seed,
        device=device,
        dtype=dtype,
        normalize=normalize,
        workers=workers,
        rank=rank,
        world=world,
        drop_last=drop_last,
        decode=decode,
        augment=augment,
        transform=transform,
        sampler=sampler,
        preprocessing=preprocessing,
        **options,
    )
    assert isinstance(made, Loader)
    return made


def _unknown(option: str) -> UsageError:
    """The error for an unknown argument; it names ours of the same meaning or of a like name."""
    ours = [
        *(name for name in inspect.signature(make_loader).parameters if name != "options"),
        *_STORE,
    ]
    remedy = _NOT_NEEDED.get(option, "")
    meant = _KNOWN_ELSEWHERE.get(option)
    if meant is None and not remedy:
        meant = next(iter(difflib.get_close_matches(option, ours, 1)), None)
    if meant is not None:
        remedy = f"write {meant}"
    return UsageError(
        f"make_loader({option}=...)",
        "no such argument",
        "" if remedy else (f"one of {', '.join(ours)}"),
        remedy,
    )
