"""FFCV's own pipeline, for processes that do nothing else.

Importing FFCV sets torch's and numba's threads, and each of its loaders changes a numba type that
compiled functions are filed under: beside it, nobody else's figures would be their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

#: Set in a smoke run: FFCV compiles its pipeline for 18 s in each process.
INTERPRETED = "FASTFT_BENCH_INTERPRETS_FFCV"
#: Kept to the end of the process: numba's finalizers trip over what FFCV did.
LOADERS: list[Any] = []


def stock_batches(data: Path, batch_size: int, cores: int, size: int) -> Iterator[Any]:
    """Source: FFCV's ImageNet example (ffcv-imagenet), whose normalization is on a GPU."""
    import numpy as np

    if INTERPRETED in os.environ:
        _interpret()
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import (
        NormalizeImage,
        RandomHorizontalFlip,
        Squeeze,
        ToTensor,
        ToTorchImage,
    )

    mean, std = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255
    loader = Loader(
        str(data),
        batch_size=batch_size,
        num_workers=cores,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((size, size)),
                RandomHorizontalFlip(),
                NormalizeImage(mean, std, np.float32),
                ToTensor(),
                ToTorchImage(convert_back_int16=False),
            ],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    LOADERS.append(loader)
    for _ in count():
        yield from loader


def _interpret() -> None:
    """Have Python run what FFCV would compile, and its dictionary of two numbers be Python's."""
    import numba.typed

    numba.typed.Dict = dict
    from ffcv.pipeline import Compiler

    Compiler.set_enabled(False)
