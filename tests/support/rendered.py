"""What loaders make of samples, held against the reference."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_kinds import require_library

from pipelines.formats.source import Source, open_source
from pipelines.loaders import Loader, make_loader
from pipelines.reference import render_batch

LOADERS = ["torchvision", "ffcv", "dali", "resident"]
#: Those that start processes, which take longer than the epochs of a test.
STARTING = ("torchvision", "stock")
#: loader -> distance from the reference in uint8 levels: mean over each batch, maximum
TOLERANCE = {"torchvision": (0, 0), "ffcv": (0, 0), "dali": (0.25, 32), "resident": (0, 0)}


def make(name: str, data: Any, **options: Any) -> Loader:
    """A loader of small batches, or a skip where its library is missing."""
    require_library(name)
    workers = 1 if name in STARTING else 2
    return make_loader(name, data, **{"size": 64, "batch_size": 8, "workers": workers, **options})


def check_pixels(
    name: str,
    data: Path | Source,
    view: str,
    tolerance: tuple[float, int] | None = None,
    **options: Any,
) -> None:
    """Assert that an epoch is the plan's, and its pixels no farther off than the loader states."""
    source = open_source(data) if isinstance(data, Path) else data
    mean, most = tolerance or TOLERANCE[name]
    with make(name, source, view=view, normalize=False, **options) as loader:
        seen = 0
        rows_of = loader.plan.batches(options.get("batch_size", 8))
        for (images, labels), rows in zip(loader, rows_of, strict=True):
            assert images.dtype == torch.uint8
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.tolist() == source.labels[rows.samples].tolist()
            stored = [source.stored(int(sample)) for sample in rows.samples]
            wanted = render_batch(stored, rows)
            apart = np.abs(images.permute(0, 2, 3, 1).numpy().astype(int) - wanted)
            assert apart.max() <= most, source.name(
                int(rows.samples[apart.max((1, 2, 3)).argmax()])
            )
            assert apart.mean() <= mean
            seen += len(labels)
        assert seen == len(source)
