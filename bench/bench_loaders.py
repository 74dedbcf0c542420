"""Training batches (224 px, float32, normalized): our loaders against their libraries' own ways.

The stock pipelines are written from their libraries' documentation and share no code with ours.
They read the class folder, ours its `.beton`. Same photos, batch, workers, crop distribution.

Every loader is read on without end, epoch after epoch, and a round is a whole number of epochs'
batches out of the middle: nothing that was prefetched while the clock stood counts, and every
epoch's start-up and short last batch does.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from bench.conftest import BATCH, SMOKE_BELOW, Contender, Duel, Photos
from pipelines.convert import ConvertConfig, convert
from pipelines.loaders import make_loader

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZE = 224
#: A round is at least this many images, 2 s on 2 cores: long against a batch's 0.07 s.
ROUND_IMAGES = 2000
#: Read before the clock starts: more than any contender here has prefetched (2 batches for each
#: of 2 workers).
WARM_BATCHES = 10
GOAL = "ratio >= 0.95"

Batch = tuple[torch.Tensor, torch.Tensor]


class Stream:
    """A loader's batches without end, in rounds of whole epochs."""

    def __init__(self, name: str, batches: Iterator[Batch], photos: Photos) -> None:
        self._batches = batches
        epochs = 1 if len(photos) < SMOKE_BELOW else -(-ROUND_IMAGES // len(photos))
        self.round_batches = epochs * -(-len(photos) // BATCH)
        self.images = epochs * len(photos)
        self.contender = Contender(name, self.run, self.prepare)

    def prepare(self) -> None:
        for _ in islice(self._batches, WARM_BATCHES):
            pass

    def run(self) -> int:
        images = sum(len(labels) for _, labels in islice(self._batches, self.round_batches))
        assert images == self.images
        return images


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


def ours(name: str, data: Path, photos: Photos, cores: int) -> Iterator[Batch]:
    with make_loader(name, data, batch_size=BATCH, workers=cores) as loader:
        for epoch in count():
            loader.set_epoch(epoch)
            yield from loader


@pytest.fixture(scope="module")
def beton(photos: Photos, workspace: Path) -> Path:
    out = workspace / "loaders.beton"
    convert(ConvertConfig(src=photos.root, out=out, verify=False))
    return out


@pytest.fixture
def open_stream(photos: Photos, cores: int) -> Iterator[Callable[..., Stream]]:
    with ExitStack() as stack:

        def open_(name: str, read: Callable[..., Iterator[Batch]]) -> Stream:
            batches = read(photos, cores)
            stack.callback(batches.close)
            return Stream(name, batches, photos)

        yield open_
    # What is left of a DALI pipeline must be gone before a later test forks worker processes.
    gc.collect()


STOCK = {"torchvision": stock_torchvision, "dali": stock_dali}


@pytest.fixture(params=STOCK)
def library(request: pytest.FixtureRequest, benchmark) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="needs nvidia-dali")
    benchmark.group = f"train {SIZE} px, float32, normalized: {request.param}"
    return request.param


def test_stock(library: str, duel: Duel, open_stream: Callable[..., Stream]) -> None:
    duel(open_stream(f"stock {library}", STOCK[library]).contender)


def test_ours(
    library: str, duel: Duel, open_stream: Callable[..., Stream], beton: Path, photos: Photos
) -> None:
    stock = open_stream(f"stock {library}", STOCK[library])
    candidate = open_stream(f"fastft {library}", partial(ours, library, beton))
    duel(candidate.contender, stock.contender, GOAL)
    assert_alike(candidate, stock, photos)


def assert_alike(candidate: Stream, stock: Stream, photos: Photos) -> None:
    """Every sample once an epoch, and pixels of one distribution (crops and order are random)."""
    means = []
    for stream in (candidate, stock):
        labels: Counter[int] = Counter()
        total = 0.0
        for images, targets in islice(stream._batches, stream.round_batches):
            assert images.shape == (len(targets), 3, SIZE, SIZE)
            assert images.dtype == torch.float32
            assert targets.dtype == torch.int64
            labels.update(targets.tolist())
            total += float(images.mean()) * len(targets)
        assert labels.total() == stream.images
        means.append(total / stream.images)
    assert abs(means[0] - means[1]) < 0.15
