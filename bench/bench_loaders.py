"""Training batches (224 px, float32, normalized): our loaders against their libraries' own ways.

The stock pipelines are written from their libraries' documentation and share no code with ours.
They read the class folder, ours its `.beton`, which stock FFCV reads, too. Same photos, batch,
workers, crop distribution.

Every loader is read on without end, epoch after epoch, and a round is a whole number of epochs'
batches out of the middle: nothing that was prefetched while the clock stood counts, and every
epoch's start-up and short last batch does. Of `resident`, which decodes in the first epoch alone,
that shows the later ones; its first is timed from making the loader on.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from bench.conftest import BATCH, SMOKE_BELOW, Contender, Duel, Photos
from bench.stock_ffcv import RemoteFfcv
from pipelines.convert import ConvertConfig, convert
from pipelines.loaders import Loader, make_loader

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZE = 224
#: A round is at least this many images, 2 s on 2 cores: long against a batch's 0.07 s.
ROUND_IMAGES = 2000
#: Read before the clock starts: more than any contender here has prefetched (2 batches for each
#: of 2 workers).
WARM_BATCHES = 10
GOALS = {
    "torchvision": "ratio >= 0.95",
    "dali": "ratio >= 0.95",
    "ffcv, JPEG": "ratio >= 1.4",
    "ffcv, raw": "ratio >= 1.0",
    "resident / ffcv, raw": "ratio >= 1.7",
    "resident / torchvision": "ratio >= 6",
    "resident yuv420 / ffcv, raw": "",
    "resident, first epoch / dali": "ratio >= 1.3",
}

Batch = tuple[torch.Tensor, torch.Tensor]


class Batches:
    """A loader's batches without end."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def read(self, batches: int) -> int:
        """Read batches; returns their images."""
        return sum(len(labels) for _, labels in islice(self._batches, batches))

    def look(self, batches: int) -> tuple[Counter[int], float]:
        """Read batches; returns their labels, counted, and the sum of the images' means."""
        labels: Counter[int] = Counter()
        total = 0.0
        for images, targets in islice(self._batches, batches):
            assert images.shape == (len(targets), 3, SIZE, SIZE)
            assert images.dtype == torch.float32
            assert targets.dtype == torch.int64
            labels.update(targets.tolist())
            total += float(images.mean()) * len(targets)
        return labels, total

    def close(self) -> None:
        self._batches.close()


class Stream:
    """A loader's batches in rounds of whole epochs."""

    def __init__(self, name: str, batches: Batches | RemoteFfcv, photos: Photos) -> None:
        self._batches = batches
        epochs = 1 if len(photos) < SMOKE_BELOW else -(-ROUND_IMAGES // len(photos))
        self.round_batches = epochs * -(-len(photos) // BATCH)
        self.images = epochs * len(photos)
        self.contender = Contender(name, self.run, self.prepare)

    def prepare(self) -> None:
        self._batches.read(WARM_BATCHES)

    def run(self) -> int:
        images = self._batches.read(self.round_batches)
        assert images == self.images
        return images

    def mean(self) -> float:
        """Of all pixels of a round, whose samples must all be there."""
        labels, total = self._batches.look(self.round_batches)
        assert labels.total() == self.images
        return total / self.images


class FirstEpoch:
    """A loader made anew for each round, which is its first epoch."""

    def __init__(self, name: str, make: Callable[[], Loader]) -> None:
        self._make = make
        self._loader: Loader | None = None
        self.contender = Contender(name, self.run, self.close)

    def run(self) -> int:
        self._loader = self._make()
        images = Batches(iter(self._loader)).read(len(self._loader))
        assert images == len(self._loader.source)
        return images

    def close(self) -> None:
        if self._loader is not None:
            self._loader.close()
        self._loader = None

    def mean(self) -> float:
        """Of all pixels of an epoch, whose samples must all be there."""
        self.close()
        with self._make() as loader:
            labels, total = Batches(iter(loader)).look(len(loader))
        assert labels.total() == len(loader.source)
        return total / labels.total()


def stock_torchvision(photos: Photos, cores: int) -> Iterator[Batch]:
    """Source: the transfer learning tutorial and references/classification of torchvision."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(
        datasets.ImageFolder(str(photos.root), transform),
        batch_size=BATCH,
        shuffle=True,
        num_workers=cores,
        persistent_workers=True,
    )
    for _ in count():
        yield from loader


def stock_dali(photos: Photos, cores: int) -> Iterator[Batch]:
    """Source: DALI's ResNet-50 example for PyTorch, its crop at the operator's defaults."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator

    @pipeline_def(batch_size=BATCH, num_threads=cores, device_id=None)
    def pipeline():
        encoded, labels = fn.readers.file(
            file_root=str(photos.root), random_shuffle=True, pad_last_batch=True, name="Reader"
        )
        images = fn.decoders.image_random_crop(encoded, output_type=types.RGB)
        images = fn.resize(
            images, resize_x=SIZE, resize_y=SIZE, interp_type=types.INTERP_TRIANGULAR
        )
        images = fn.crop_mirror_normalize(
            images, dtype=types.FLOAT, output_layout="CHW", crop=(SIZE, SIZE),
            mean=[255 * mean for mean in MEAN], std=[255 * std for std in STD],
            mirror=fn.random.coin_flip(probability=0.5),
        )  # fmt: skip
        return images, labels

    loader = DALIClassificationIterator(
        pipeline(), reader_name="Reader", auto_reset=True, last_batch_policy=LastBatchPolicy.PARTIAL
    )
    for _ in count():
        for (batch,) in loader:
            yield batch["data"], batch["label"].squeeze(-1).long()


def ours(name: str, data: Path, photos: Photos, cores: int, **options: Any) -> Iterator[Batch]:
    with make_loader(name, data, batch_size=BATCH, workers=cores, **options) as loader:
        for epoch in count():
            loader.set_epoch(epoch)
            yield from loader


def stock_ffcv(data: Path, photos: Photos, cores: int) -> RemoteFfcv:
    return RemoteFfcv(data, BATCH, cores, SIZE)


@pytest.fixture(scope="module")
def beton(photos: Photos, workspace: Path) -> Path:
    out = workspace / "loaders.beton"
    convert(ConvertConfig(src=photos.root, out=out, verify=False))
    return out


@pytest.fixture(scope="module")
def raw_beton(photos: Photos, workspace: Path) -> Path:
    """The same photos as pixels, 13 times as many bytes."""
    out = workspace / "loaders-raw.beton"
    convert(ConvertConfig(src=photos.root, out=out, mode="raw"))
    return out


@pytest.fixture
def open_stream(photos: Photos, cores: int) -> Iterator[Callable[..., Stream]]:
    with ExitStack() as stack:

        def open_(name: str, read: Callable[..., Iterator[Batch] | RemoteFfcv]) -> Stream:
            batches = read(photos, cores)
            if not isinstance(batches, RemoteFfcv):
                batches = Batches(batches)
            stack.callback(batches.close)
            return Stream(name, batches, photos)

        yield open_
    # What is left of a DALI pipeline must be gone before a later test forks worker processes.
    gc.collect()


@dataclass(frozen=True, slots=True)
class Pair:
    """A library's own pipeline, and our loader beside it."""

    ours: str
    stock: str
    read_ours: Callable[..., Iterator[Batch]] | None
    read_stock: Callable[..., Iterator[Batch] | RemoteFfcv]
    goal: str


@pytest.fixture(params=GOALS)
def pair(request: pytest.FixtureRequest, benchmark, photos: Photos, workspace: Path) -> Pair:
    mine, _, theirs = request.param.partition(" / ")
    theirs = theirs or mine
    for library in (theirs.split(",")[0], mine.split(",")[0]):
        if library in ("dali", "ffcv"):
            pytest.importorskip({"dali": "nvidia.dali", "ffcv": "ffcv"}[library])
    benchmark.group = f"train {SIZE} px, float32, normalized: {request.param}"
    raw: Path | None = request.getfixturevalue("raw_beton") if theirs.endswith("raw") else None
    data: Path = raw or request.getfixturevalue("beton")
    stock = {"torchvision": stock_torchvision, "dali": stock_dali}.get(theirs)
    read: Callable[..., Iterator[Batch]] | None
    if mine == "resident, first epoch":
        read = None
    elif mine.startswith("resident"):
        kind = "yuv420" if mine.endswith("yuv420") else "rgb"
        read = partial(ours, "resident", request.getfixturevalue("beton"), store=kind)
    else:
        read = partial(ours, mine.split(",")[0], data)
    return Pair(mine, theirs, read, stock or partial(stock_ffcv, data), GOALS[request.param])


def test_ours(
    pair: Pair, beton: Path, photos: Photos, cores: int, duel: Duel,
    open_stream: Callable[..., Stream],
) -> None:  # fmt: skip
    stock = open_stream(f"stock {pair.stock}", pair.read_stock)
    candidate: Stream | FirstEpoch
    if pair.read_ours is None:
        make = partial(make_loader, "resident", beton, batch_size=BATCH, workers=cores)
        candidate = FirstEpoch(f"fastft {pair.ours}", make)
    else:
        candidate = open_stream(f"fastft {pair.ours}", pair.read_ours)
    duel(candidate.contender, stock.contender, pair.goal)
    # Every sample once an epoch, and pixels of one distribution: crops and order are random.
    assert abs(candidate.mean() - stock.mean()) < 0.15
