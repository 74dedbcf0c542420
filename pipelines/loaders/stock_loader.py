"""torchvision as its tutorials use it: its own random transforms, its own shuffling.

The baseline of speed and of accuracy checks. It follows no plan, so its crops and order agree with
the other loaders' in distribution only; state and early exit work as for all.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision.transforms import v2 as transforms

from pipelines.augment import USUAL, Augment
from pipelines.errors import FastftError, UsageError
from pipelines.forks import is_daemonic
from pipelines.formats.encode import decode
from pipelines.formats.source import Source
from pipelines.loaders.base import Loader
from pipelines.loaders.worker_processes import (
    end_workers,
    live_for_parent,
    out_of_memory,
    raise_errors,
    share,
)
from pipelines.plan import Plan
from pipelines.preprocessing import IMAGENET, Preprocessing

_BILINEAR = transforms.InterpolationMode.BILINEAR


def stock_transform(
    view: str, size: int, augment: Augment = USUAL, preprocessing: Preprocessing = IMAGENET
) -> transforms.Transform:
    """The transforms that torchvision's documentation recommends for fine-tuning.

    Args:
        view, size: see `make_loader`.
        augment: what else; of mixing, nothing.
        preprocessing: see there.

    Raises:
        UsageError: torchvision has no such view.
    """
    to_float = [
        transforms.ToImage(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize(preprocessing.mean, preprocessing.std),
    ]
    side, by = preprocessing.resize_side(size), transforms.InterpolationMode(preprocessing.filter)
    geometry: dict[str, list[transforms.Transform]] = {
        "train": [
            transforms.RandomResizedCrop(size, augment.scale, augment.ratio, by),
            transforms.RandomHorizontalFlip(augment.hflip),
            *_operations(augment),
        ],
        "eval": [transforms.Resize(side, by), transforms.CenterCrop(size)],
        "eval-square": [transforms.Resize([side, side], by), transforms.CenterCrop(size)],
    }
    if view not in geometry:
        raise UsageError("view", repr(view), f"one of {', '.join(geometry)} for the stock loader")
    # On normalized floats, where 0 is the mean colour.
    last = [transforms.RandomErasing(augment.erase)] if augment.erase else []
    return transforms.Compose([*geometry[view], *to_float, *last])


def _operations(augment: Augment) -> list[transforms.Transform]:
    """The transforms of torchvision's own for what `operations` draws, of uint8 tensors."""
    found: list[transforms.Transform] = []
    if augment.vflip:
        found.append(transforms.RandomVerticalFlip(augment.vflip))
    if augment.policy != "none":
        found.append(transforms.ToImage())
    if augment.policy == "trivial":
        found.append(transforms.TrivialAugmentWide(interpolation=_BILINEAR))
    if augment.rand_count:
        found.append(
            transforms.RandAugment(
                augment.rand_count, augment.rand_strength, interpolation=_BILINEAR
            )
        )
    if any(augment.jitter):
        found += [transforms.ToImage(), transforms.ColorJitter(*augment.jitter)]
    if augment.grayscale:
        found += [transforms.ToImage(), transforms.RandomGrayscale(augment.grayscale)]
    return found


class StockLoader(Loader):
    """torchvision's DataLoader and random transforms, behind the loader contract."""

    name = "stock"

    def _begin(self) -> None:
        if self.dtype is None or self.world > 1:
            raise UsageError("stock loader", "uint8 images or several ranks", "neither")
        if self._completion.transform is not None:
            raise UsageError("stock loader", "a transform", "none", "take loader 'torchvision'")
        self._order = torch.Generator()
        self._loader = self._make_loader(self.size)

    def _make_loader(self, size: int) -> DataLoader[Any]:
        return DataLoader(
            _StockDataset(
                self.source, stock_transform(self.view, size, self.augment, self.preprocessing)
            ),
            batch_size=self.batch_size,
            shuffle=self.view == "train" and self.frequencies is None,
            sampler=self._sampler(),
            generator=self._order,
            drop_last=self.drop_last,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=True,
            collate_fn=_Collate(self.source),
            worker_init_fn=live_for_parent,
        )

    def _sampler(self) -> WeightedRandomSampler | None:
        """A sampler of torch's of the same frequencies, which draws with replacement."""
        if self.frequencies is None:
            return None
        weights = self.frequencies.expected.tolist()
        return WeightedRandomSampler(weights, len(weights), generator=self._order)

    def _change_size(self, size: int) -> None:
        """Worker processes have their transforms for good: the next epoch starts others."""
        end_workers(self._loader)
        self._loader = self._make_loader(size)

    def _batches(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        if is_daemonic():
            found = "in a daemonic process, such as a DataLoader's worker, which may start none"
            remedy = "iterate it in the main process, or take loader 'torchvision'"
            raise UsageError(self._title, found, "a process that may start its own", remedy)
        if start:
            raise UsageError("stock loader", f"{start} samples consumed", "0: it cannot resume")
        words = np.random.SeedSequence((plan.seed, plan.epoch)).generate_state(1, np.uint64)
        self._order.manual_seed(int(words[0] >> 1))
        for images, labels in raise_errors(self.source, self._loader):
            images = images.to(self.device, self.dtype, non_blocking=True)
            yield (
                images.to(memory_format=torch.channels_last),
                labels.to(self.device, non_blocking=True),
            )

    def _end(self) -> None:
        """End the worker processes."""
        end_workers(self._loader)


class _StockDataset(Dataset[Any]):
    def __init__(self, source: Source, transform: transforms.Transform) -> None:
        self._source, self._transform = source, transform

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, sample: int) -> tuple[torch.Tensor, Any] | FastftError:
        try:
            image = decode(
                self._source.stored(sample), f"{self._source.path}: {self._source.name(sample)}"
            )
            answers = self._source.columns.answers(self._source.labels)
            return self._transform(image), answers[sample]
        except FastftError as error:
            return error
        except MemoryError:
            return out_of_memory(self._source)


class _Collate:
    """Makes a batch of samples, where it can be read by who asked for it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __call__(self, items: list[Any]) -> tuple[torch.Tensor, NDArray[Any]] | FastftError:
        for item in items:
            if isinstance(item, FastftError):
                return item
        try:
            images = share(torch.stack([image for image, _ in items]))
        except FastftError as error:
            return error
        except MemoryError:
            return out_of_memory(self._source)
        return images, np.stack([answer for _, answer in items])
