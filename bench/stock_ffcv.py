"""FFCV's own pipeline, in a process of its own.

Importing FFCV sets torch's and numba's threads, and each of its loaders changes a numba type that
compiled functions are filed under: beside it, nobody else's figures would be their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

#: Kept to the end of the process: numba's finalizers trip over what FFCV did.
LOADERS: list[Any] = []


def stock_batches(data: Path, batch_size: int, cores: int, size: int) -> Iterator[Any]:
    """Source: FFCV's ImageNet example (ffcv-imagenet), whose normalization is on a GPU."""
    import numpy as np
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
        str(data), batch_size=batch_size, num_workers=cores, order=OrderOption.RANDOM,
        os_cache=True, drop_last=False,
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(),
                NormalizeImage(mean, std, np.float32), ToTensor(),
                ToTorchImage(convert_back_int16=False),
            ],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )  # fmt: skip
    LOADERS.append(loader)
    for _ in count():
        yield from loader


class RemoteFfcv:
    """Batches without end in another process, read by number."""

    def __init__(self, data: Path, batch_size: int, cores: int, size: int) -> None:
        context = get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(child, data, batch_size, cores, size), daemon=True
        )
        self._process.start()
        child.close()

    def read(self, batches: int) -> int:
        """Read batches; returns their images."""
        self._pipe.send(batches)
        return int(self._pipe.recv()[0].total())

    def look(self, batches: int) -> tuple[Counter[int], float]:
        """Read batches; returns their labels, counted, and the sum of the images' means."""
        self._pipe.send(-batches)
        return self._pipe.recv()

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, data: Path, batch_size: int, cores: int, size: int) -> None:
    batches = stock_batches(data, batch_size, cores, size)
    while True:
        asked = pipe.recv()
        labels: Counter[int] = Counter()
        total = 0.0
        for images, targets in islice(batches, abs(asked)):
            labels.update(targets.tolist())
            if asked < 0:
                assert images.shape[1:] == (3, size, size)
                total += float(images.mean()) * len(targets)
        pipe.send((labels, total))
