"""The libraries' own pipelines, which follow no plan: what they do is compared as distributions.

Their crops are read off probe images and tested against the plan's. Of photos, their training
output is compared with the reference's in brightness, contrast and sharpness, image by image as
populations; their evaluation output, which draws nothing, pixel by pixel.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastft.parity.distance import Differences
from fastft.parity.probe import MAX_PROBES, probe_shape, read_crops, write_probes
from fastft.parity.result import Likeness, StockRow
from pipelines.atomic import unguessable
from pipelines.errors import DataError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.plan import make_plan
from pipelines.preprocessing import IMAGENET
from pipelines.reference import render_batch
from pipelines.workers import not_interrupted

Pixels = NDArray[np.uint8]
#: (samples, view, S, seed, epochs) to a pipeline's output: uint8[B, S, S, 3] in file order.
Stock = Callable[[Index, str, int, int, int], Iterator[Pixels]]

_BATCH = 16
#: Epochs of probes and of photos, and epochs of the plan that they are tested against.
_PROBE_EPOCHS, _PHOTO_EPOCHS, _PLAN_EPOCHS = 8, 4, 40
#: Sides that leave a crop less room than this tell nothing of where it was put.
_ROOM_PX = 20


def compare_stock(name: str, stored: Path, size: int, seed: int) -> StockRow:
    """Look at one stock pipeline, in a process of its own; see `_ffcv` for the reason.

    Args:
        name: of STOCK.
        stored: a `.beton` of photos.
        size: output side, px.
        seed: of its random numbers, where it heeds one.

    Raises:
        DataError: a sample is broken, or the process ended too soon.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_comparison, args=(sender, name, stored, size, seed), daemon=True
    )
    with not_interrupted():
        process.start()
    sender.close()
    try:
        outcome: StockRow | Exception = receiver.recv()
    except EOFError:
        process.join()
        found = f"the process for stock {name} ended with status {process.exitcode}"
        outcome = DataError(stored, found, "", "if memory ran out, take fewer --images")
    finally:
        process.terminate()
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _send_comparison(
    sender: Connection[StockRow | Exception, Any], name: str, stored: Path, size: int, seed: int
) -> None:
    try:
        sender.send(_compare(name, stored, size, seed))
    except Exception as error:  # raised again by the parent
        sender.send(error)
    sender.close()
    os._exit(0)  # past numba's finalizers, which trip over what FFCV did


def _compare(name: str, stored: Path, size: int, seed: int) -> StockRow:
    stock = STOCK[name]
    index = read_index(stored)
    differences = Differences()
    wanted = _rendered(index, "eval", size, seed, epochs=1)
    for found, right in zip(stock(index, "eval", size, seed, 1), wanted, strict=True):
        differences.add(found, right)
    ours = _looks(_rendered(index, "train", size, seed, epochs=_PHOTO_EPOCHS))
    theirs = _looks(stock(index, "train", size, seed, _PHOTO_EPOCHS))
    photos = tuple(
        _same(what, theirs[:, at], ours[:, at])
        for at, what in enumerate(("brightness", "contrast", "sharpness"))
    )
    sharpness = float(np.median(theirs[:, 2]) / np.median(ours[:, 2]))
    with tempfile.TemporaryDirectory(prefix=unguessable("fastft-parity.")) as folder:
        path = Path(folder) / "probes.beton"
        write_probes(path, MAX_PROBES)
        crops = compare_crops(stock(read_index(path), "train", size, seed, _PROBE_EPOCHS), size)
    return StockRow(name, differences.distance(), crops, photos, sharpness)


def compare_crops(output: Iterator[Pixels], size: int) -> tuple[Likeness, ...]:
    """Test the crops in a pipeline's output of probes against the plan's distribution.

    Args:
        output: uint8[B, S, S, 3] of probes, training view.
        size: S.
    """
    from scipy import stats

    crops = read_crops(np.concatenate(list(output)))
    sides = np.array([probe_shape(number)[::-1] for number in range(MAX_PROBES)], np.int32)
    planned = []
    for epoch in range(_PLAN_EPOCHS):
        plan = make_plan(sides[:, 1], sides[:, 0], view="train", size=size, seed=1, epoch=epoch)
        planned.append(plan.rows(plan.order))
    every = np.concatenate([rows.samples for rows in planned])
    theirs = _geometry(crops.boxes, sides[crops.samples])
    ours = _geometry(np.concatenate([rows.boxes for rows in planned]), sides[every])
    tests = [_same(what, theirs[what], ours[what]) for what in ours]
    share = stats.binomtest(int(crops.flips.sum()), len(crops.flips))
    return (*tests, Likeness("flips", float(crops.flips.mean()), float(share.pvalue)))


def _geometry(boxes: NDArray[np.float64], sides: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """Numbers that describe the distribution of crops."""
    area = boxes[:, 2] * boxes[:, 3] / (sides[:, 0] * sides[:, 1])
    room = sides - boxes[:, 2:]
    free = room > _ROOM_PX
    at = np.divide(boxes[:, :2], room, out=np.zeros_like(room), where=free)
    return {
        "area": area,
        "aspect ratio": np.log(boxes[:, 3] / boxes[:, 2]),
        "top": at[free[:, 0], 0],
        "left": at[free[:, 1], 1],
    }


def _looks(output: Iterator[Pixels]) -> NDArray[np.float64]:
    """float64[N, 3]: brightness, contrast and sharpness of each image, levels."""
    looks = []
    for batch in output:
        grey = batch.mean(3)
        steps = np.abs(np.diff(grey, axis=2)).mean((1, 2))
        looks.append(np.stack((grey.mean((1, 2)), grey.std((1, 2)), steps), axis=1))
    return np.concatenate(looks)


def _same(what: str, a: NDArray[np.float64], b: NDArray[np.float64]) -> Likeness:
    from scipy import stats  # takes a second

    result = stats.ks_2samp(a, b)
    return Likeness(what, float(result.statistic), float(result.pvalue))


def _rendered(index: Index, view: str, size: int, seed: int, epochs: int) -> Iterator[Pixels]:
    """The reference's output."""
    for epoch in range(epochs):
        plan = make_plan(index.widths, index.heights, view=view, size=size, seed=seed, epoch=epoch)
        for rows in plan.batches(_BATCH):
            yield render_batch([index.stored(int(sample)) for sample in rows.samples], rows)


def _torchvision(index: Index, view: str, size: int, seed: int, epochs: int) -> Iterator[Pixels]:
    from torchvision.transforms import v2 as transforms

    geometry: list[Any]
    if view == "train":
        geometry = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    else:
        geometry = [transforms.Resize(IMAGENET.resize_side(size)), transforms.CenterCrop(size)]
    transform = transforms.Compose(geometry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for samples in _batches(index) * epochs:
            images = (decode(index.stored(sample), index.name(sample)) for sample in samples)
            yield np.stack([np.asarray(transform(image)) for image in images])


def _dali(index: Index, view: str, size: int, seed: int, epochs: int) -> Iterator[Pixels]:
    """Source: DALI's ResNet-50 example for PyTorch, its operators at their defaults."""
    from nvidia.dali import Pipeline, fn, types

    from pipelines.loaders.dali_feed import as_netpbm

    def encoded(samples: range) -> list[NDArray[np.uint8]]:
        return [encode(index.stored(sample)) for sample in samples]

    def encode(stored: Stored) -> NDArray[np.uint8]:
        if stored.mode == MODE_RAW:
            return as_netpbm(stored, np.zeros(2, np.int32), np.array((stored.height, stored.width)))
        return np.frombuffer(memoryview(stored.data), np.uint8)

    batches = _batches(index) * epochs
    pipe = Pipeline(batch_size=_BATCH, num_threads=2, device_id=None, seed=seed)
    with pipe:
        data = fn.external_source(
            source=map(encoded, batches), batch=True, dtype=types.UINT8, ndim=1
        )
        if view == "train":
            image = fn.decoders.image_random_crop(data, output_type=types.RGB)
            image = fn.resize(
                image, resize_x=size, resize_y=size, interp_type=types.INTERP_TRIANGULAR
            )
            image = fn.flip(image, horizontal=fn.random.coin_flip(probability=0.5))
        else:
            image = fn.decoders.image(data, output_type=types.RGB)
            image = fn.resize(
                image,
                resize_shorter=IMAGENET.resize_side(size),
                interp_type=types.INTERP_TRIANGULAR,
            )
            image = fn.crop(image, crop=(size, size))
        pipe.set_outputs(image)
    pipe.build()
    for _ in batches:
        (output,) = pipe.run()
        yield np.asarray(output.as_tensor()).copy()


def _ffcv(index: Index, view: str, size: int, seed: int, epochs: int) -> Iterator[Pixels]:
    """Source: FFCV's ImageNet example (ffcv-imagenet), without its normalization.

    Each of its loaders changes a type of numba's that functions are filed under in this process,
    ours too; nothing may be compiled or collected after that.
    """
    # First the loader's module, which keeps FFCV's import from changing torch's threads.
    from pipelines.loaders.ffcv_loader import same_threads  # isort: split
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    operations: list[Any]
    if view == "train":
        operations = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip()]
    else:
        ratio = size / IMAGENET.resize_side(size)
        operations = [CenterCropRGBImageDecoder((size, size), ratio=ratio)]
    image, label = index.fields
    with same_threads() as threads:
        loader = Loader(
            str(index.path),
            batch_size=_BATCH,
            num_workers=threads,
            batches_ahead=1,
            seed=seed,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            pipelines={image: [*operations, ToTensor()], label: None},
        )
        _FFCV_LOADERS.append(loader)
        for _ in range(epochs):
            for (batch,) in loader:
                yield batch.numpy().copy()


def _batches(index: Index) -> list[range]:
    return [range(at, min(at + _BATCH, len(index))) for at in range(0, len(index), _BATCH)]


#: Kept to the end of the process.
_FFCV_LOADERS: list[Any] = []
#: Library -> its own pipeline.
STOCK: dict[str, Stock] = {"torchvision": _torchvision, "ffcv": _ffcv, "dali": _dali}
