"""The augmentation plan: which sample comes when, with which crop box and flip.

Here and in `operations` augmentation is drawn; loaders execute rows and draw nothing.

- `order` is a permutation, a function of (seed, epoch) and how many samples there are: `order.py`
  makes it, as an array for most sets and computed where it is asked for in very large ones.
- Box and flip of a sample are functions of (seed, epoch, sample) alone: its draws are numbers
  `sample * 64 + k` of one SplitMix64 stream, which can be computed anywhere without the others.
  Removing a sample, resuming, or asking for one rank's samples shifts nothing.
- Where samples come more than once (`sampling`), the order's numbers are visits: of N samples,
  `sample + N * n` is a further one of a sample, with draws of its own. What takes samples refuses
  such a number, as it is N or more; `Plan.samples` has them.

Views (S the output side, R `Preprocessing.resize_side` of it, by default 256/224 S):

- `train`: torchvision's RandomResizedCrop and horizontal flip; whole-pixel boxes.
- `recordio`: MXNet ImageRecordIter's: shorter side 0.75-1.5 R (never under S), random crop, flip.
- `eval`: Resize(R) of the shorter side, then CenterCrop(S); timm's `crop_mode` `center`.
- `eval-square`: Resize of both sides to R, then CenterCrop(S); timm's `squash`. Its `border`, which
  fills up what is no square, is not to be had.
- `native`: an S x S piece from anywhere, at its own scale: what a decoder alone makes of an image.
  An image with a side under S gives what it has, enlarged.

A row's geometry is whole numbers: a crop of the image is resized, and S x S pixels are cut out of
that. The resize filter ends at the crop. It is the box in `train` and `native`, and the whole image
in the other views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.augment import RATIO, SCALE, USUAL, Augment
from pipelines.errors import UsageError
from pipelines.operations import Mix, Operations, draw_mix, draw_operations
from pipelines.order import BLOCK, Floats, Ints, make_key, make_order, shares_of, uniform
from pipelines.preprocessing import IMAGENET, Filter, Preprocessing
from pipelines.sampling import Frequencies, find_samples

VIEWS = ("train", "recordio", "eval", "eval-square", "native")
#: Views that visit the samples in another order each epoch.
SHUFFLED = ("train", "recordio")

#: How JPEGs are decoded: as they are, or at a part of their size where that is enough.
Decode = Literal["exact", "scaled"]
DECODES: tuple[Decode, ...] = get_args(Decode)

#: Places in the resized image where evaluation cuts: torchvision's FiveCrop, in another order.
PLACES = ("center", "top-left", "top-right", "bottom-left", "bottom-right")
_EVALUATING = ("eval", "eval-square")

#: Tries of torchvision's RandomResizedCrop.
_TRIES = 10
#: ImageRecordIter's min_random_scale and max_random_scale in the tutorial's older draft.
_JITTER = (0.75, 1.5)
#: The purpose of some numbers of one (seed, epoch); part of the seed: never renumber. 1, 3 and 7
#: are orders, 4 and 5 operations and mixes.
_BOX = 2
#: Factors by which an inverse DCT can shrink; times as large as the output that a crop then stays.
_SHRINKS, _SPARE = (2, 4, 8), 2
#: Draws reserved per sample: 10 tries of 4 numbers, then the flip.
_DRAWS, _FLIP_DRAW = 64, 63
#: float64[B] in [0, 1): a draw of each sample, by number.
_uniform = partial(uniform, of=_DRAWS)


@dataclass(frozen=True, slots=True)
class Rows:
    """The plan's rows of a few samples.

    Attributes:
        samples: int64[B].
        crops: int32[B, 4] top, left, height, width of what is resized, source px.
        resized: int32[B, 2] height and width that it is resized to, px.
        corners: int32[B, 2] top and left of the output in that, px.
        flips: bool[B].
        shrinks: int32[B], the part of its size at which a JPEG is decoded: 1, or 1 / 2, 4 or 8.
        size: output side S, px.
        operations: what changes pixels beyond that; None: nothing.
        filter: that it is resized by, one of FILTERS.
    """

    samples: Ints
    crops: NDArray[np.int32]
    resized: NDArray[np.int32]
    corners: NDArray[np.int32]
    flips: NDArray[np.bool_]
    shrinks: NDArray[np.int32]
    size: int
    operations: Operations | None = None
    filter: Filter = "bilinear"

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, part: slice) -> Rows:
        """Some of the rows."""
        names = ("samples", "crops", "resized", "corners", "flips", "shrinks")
        parts: dict[str, Any] = {name: getattr(self, name)[part] for name in names}
        operations = None if self.operations is None else self.operations.take(part)
        return replace(self, **parts, operations=operations)

    @property
    def boxes(self) -> Floats:
        """float64[B, 4] top, left, height, width: what the output shows of the image, source px."""
        start, extent = self.crops[:, :2], self.crops[:, 2:]
        scale = extent / self.resized
        shown = np.where(self.resized == self.size, extent, self.size * scale)
        return np.concatenate((start + self.corners * scale, shown), axis=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """One epoch of one view.

    Attributes:
        view: one of VIEWS.
        size: output side S, px.
        seed, epoch: what the randomness is a function of.
        order: int64[N], the samples in the order in which they come, or their visits; beyond
            `order.WHOLE_LIMIT` samples computed where it is asked for, see `make_order`.
        widths, heights: int32[N] by sample, px.
        decode: one of DECODES.
        augment: what else is drawn.
        place: one of PLACES, where evaluation's views cut.
        repeats: whether samples come more than once, or never.
        preprocessing: the model's, of which rows have filter and share.
    """

    view: str
    size: int
    seed: int
    epoch: int
    order: Ints
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    decode: Decode = "exact"
    augment: Augment = USUAL
    place: str = "center"
    repeats: bool = False
    preprocessing: Preprocessing = IMAGENET

    def __len__(self) -> int:
        return len(self.order)

    def samples(self, visits: Ints) -> Ints:
        """int64[B]: the samples that are visited; where each comes once, they are the same."""
        return find_samples(visits, len(self.widths)) if self.repeats else visits

    def rows(self, visits: Ints) -> Rows:
        """The rows of any visits, in the order given; a sample is one of its visits."""
        visits = np.asarray(visits)  # of an order that is computed, too
        samples, count = self.samples(visits), len(visits)
        crops = np.empty((count, 4), np.int32)
        resized, corners = np.full((count, 2), self.size, np.int32), np.zeros((count, 2), np.int32)
        flips = np.zeros(count, np.bool_)
        key = make_key(self.seed, self.epoch, _BOX)
        for start in range(0, count, BLOCK):
            part = slice(start, start + BLOCK)
            chosen = visits[part]
            height = self.heights[samples[part]].astype(np.float64)
            width = self.widths[samples[part]].astype(np.float64)
            if self.view == "train":
                crops[part] = _random_resized_crops(key, chosen, height, width, self.augment)
            elif self.view == "native":
                crops[part] = self._native_crops(key, chosen, height, width)
            else:
                crops[part, :2], crops[part, 2], crops[part, 3] = 0, height, width
                resized[part], corners[part] = self._resize(key, chosen, height, width)
            if self.view in SHUFFLED:
                flips[part] = _uniform(key, chosen, _FLIP_DRAW) < self.augment.hflip
        shrinks = np.ones(count, np.int32)
        if self.decode == "scaled":
            shrinks = find_shrinks(crops[:, 2:], resized)
        operations = self.operations(visits)
        parts = samples, crops, resized, corners, flips, shrinks, self.size, operations
        return Rows(*parts, self.preprocessing.filter)

    def mix(self, batch: int) -> Mix | None:
        """The mix of a batch, counted from the epoch's beginning; None: this plan mixes none."""
        if not self.augment.mixes:
            return None
        here = {"seed": self.seed, "epoch": self.epoch, "size": self.size}
        return draw_mix(self.augment, batch=batch, **here)

    def batches(
        self,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        drop_last: bool = False,
    ) -> Iterator[Rows]:
        """The rows of one rank, a batch at a time, computed as they are asked for; see `shares`."""
        shares = self.shares(batch_size, rank=rank, world=world, start=start, drop_last=drop_last)
        return map(self.rows, shares)

    def shares(
        self,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        drop_last: bool = False,
        partners: bool = False,
    ) -> Iterator[Ints]:
        """The samples of one rank, or its visits, a batch at a time.

        Args:
            batch_size: samples per global batch, over all ranks.
            rank, world: rank r of w takes the r-th of w equal slices of each global batch (when
                the batch does not divide, the first slices hold one sample more).
            start: samples already consumed by all ranks together: a multiple of `batch_size`,
                or all of them.
            drop_last: leave out a last batch that is not full.
            partners: begin each share with the sample before it in the global batch, of the batch's
                first one that is the last one.
        """
        return shares_of(self.order, batch_size, rank, world, start, drop_last, partners)

    def operations(self, visits: Ints) -> Operations | None:
        """The operations of any visits beyond crop and mirror; None: there are none."""
        if not self.augment.changes_pixels:
            return None
        here = {"seed": self.seed, "epoch": self.epoch, "size": self.size}
        return draw_operations(self.augment, samples=visits, **here)

    def _native_crops(self, key: np.uint64, samples: Ints, height: Floats, width: Floats) -> Floats:
        crop_h, crop_w = np.minimum(height, self.size), np.minimum(width, self.size)
        top = np.floor(_uniform(key, samples, 0) * (height - crop_h + 1))
        left = np.floor(_uniform(key, samples, 1) * (width - crop_w + 1))
        return np.stack((top, left, crop_h, crop_w), axis=1)

    def _resize(
        self, key: np.uint64, samples: Ints, height: Floats, width: Floats
    ) -> tuple[Floats, Floats]:
        """[B, 2] resized height and width, px; [B, 2] top and left of the output in that."""
        side = self.preprocessing.resize_side(self.size)
        if self.view == "eval-square":
            resized_h = resized_w = np.full(len(samples), float(side))
        else:
            short: Floats | float = float(side)
            if self.view == "recordio":
                low, high = _JITTER
                scale = low + (high - low) * _uniform(key, samples, 0)
                short = np.maximum(np.rint(side * scale), self.size)
            # torchvision's Resize(int): int(size * long / short) in double precision.
            portrait = width <= height
            resized_w = np.where(portrait, short, np.floor(short * width / height))
            resized_h = np.where(portrait, np.floor(short * height / width), short)
        slack_h, slack_w = resized_h - self.size, resized_w - self.size
        if self.view == "recordio":
            top = np.floor(_uniform(key, samples, 1) * (slack_h + 1))
            left = np.floor(_uniform(key, samples, 2) * (slack_w + 1))
        elif self.place == "center":
            # torchvision's center_crop: int(round(d / 2.0)), which rounds halves to even.
            top, left = np.rint(slack_h / 2), np.rint(slack_w / 2)
        else:
            top = slack_h * self.place.startswith("bottom")
            left = slack_w * self.place.endswith("right")
        return np.stack((resized_h, resized_w), axis=1), np.stack((top, left), axis=1)


def make_plan(
    widths: NDArray[np.int32],
    heights: NDArray[np.int32],
    *,
    view: str,
    size: int = 224,
    seed: int = 0,
    epoch: int = 0,
    decode: Decode = "exact",
    augment: Augment = USUAL,
    place: str = "center",
    frequencies: Frequencies | None = None,
    preprocessing: Preprocessing = IMAGENET,
) -> Plan:
    """Plan one epoch over samples of the given dimensions.

    Training views visit the samples in random order, the others in file order, each once unless
    frequencies say otherwise.

    Args:
        widths, heights: int32[N], px.
        view: one of VIEWS.
        size: output side, px.
        seed, epoch: not negative.
        decode: `scaled` lets the inverse DCT shrink a JPEG by 2, 4 or 8 while what it shows stays
            twice the output.
        augment: what else is drawn, of a training view.
        place: one of PLACES, of evaluation's views.
        frequencies: of the samples, of a training view; None: each comes once.
        preprocessing: the model's, of which rows have filter and share.

    Raises:
        UsageError: an unknown view, place or way to decode, a size, seed or epoch out of range, or
            what another view draws.
    """
    if view not in VIEWS:
        raise UsageError("view", repr(view), f"one of {', '.join(VIEWS)}")
    if decode not in DECODES:
        raise UsageError("decode", repr(decode), f"one of {', '.join(DECODES)}")
    check_place(place, view)
    _require_drawn(augment, view)
    if frequencies is not None and (view not in SHUFFLED or len(frequencies) != len(widths)):
        found = f"frequencies of {len(frequencies)} samples with view {view!r}"
        raise UsageError("sampler", found, f"those of {len(widths)}, a training view")
    if not 1 <= size <= 8192:
        raise UsageError("size", str(size), "1 to 8192 px")
    if seed < 0 or epoch < 0:
        raise UsageError("seed and epoch", f"{seed} and {epoch}", "numbers from 0 on")
    if frequencies is None:
        order = make_order(len(widths), seed=seed, epoch=epoch, shuffled=view in SHUFFLED)
    else:
        order = frequencies.draw(seed=seed, epoch=epoch)
    sides, repeats = (widths, heights), frequencies is not None
    made = Plan(view, size, seed, epoch, order, *sides, decode, augment, place, repeats)
    return replace(made, preprocessing=preprocessing)


def check_place(place: str, view: str) -> None:
    """Refuse a place that a view does not cut at.

    Raises:
        UsageError: it is none of PLACES, or the view none of evaluation's.
    """
    if place not in PLACES or (place != "center" and view not in _EVALUATING):
        found = f"{place!r} with view {view!r}"
        expected = f"one of {', '.join(PLACES)}, with view {' or '.join(_EVALUATING)}"
        raise UsageError("place", found, expected)


def _require_drawn(augment: Augment, view: str) -> None:
    """Refuse settings that a view would ignore."""
    if view not in SHUFFLED and augment != USUAL:
        raise UsageError("augment", f"given with view {view!r}", "view 'train' or 'recordio'")
    if view != "train" and (augment.scale, augment.ratio) != (SCALE, RATIO):
        raise UsageError("scale and ratio", f"given with view {view!r}", "view 'train'")


def find_shrinks(extents: NDArray[np.int32], resized: NDArray[np.int32]) -> NDArray[np.int32]:
    """Factors by which an inverse DCT may shrink, so that twice the size that is wanted stays.

    Args:
        extents: int[B, 2] height and width of what is resized, px.
        resized: int[B, 2] height and width that it is resized to, px.

    Returns:
        int32[B]: 1, 2, 4 or 8.
    """
    spare = (extents // (_SPARE * resized)).min(axis=1)
    shrinks = np.ones(len(spare), np.int32)
    for shrink in _SHRINKS:
        shrinks[spare >= shrink] = shrink
    return shrinks


def _random_resized_crops(
    key: np.uint64, samples: Ints, height: Floats, width: Floats, augment: Augment
) -> NDArray[np.int32]:
    """Source: torchvision.transforms.RandomResizedCrop.get_params, for many images at once."""
    boxes = np.empty((len(samples), 4), np.int32)
    open_ = np.arange(len(samples))
    (low, high), (log_low, log_high) = augment.scale, np.log(augment.ratio)
    for attempt in range(_TRIES):
        ids, h, w = samples[open_], height[open_], width[open_]
        area = h * w * (low + (high - low) * _uniform(key, ids, 4 * attempt))
        ratio = np.exp(log_low + (log_high - log_low) * _uniform(key, ids, 4 * attempt + 1))
        crop_w, crop_h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (crop_w > 0) & (crop_w <= w) & (crop_h > 0) & (crop_h <= h)
        done, ids, crop_h, crop_w = open_[fits], ids[fits], crop_h[fits], crop_w[fits]
        boxes[done, 0] = np.floor(_uniform(key, ids, 4 * attempt + 2) * (h[fits] - crop_h + 1))
        boxes[done, 1] = np.floor(_uniform(key, ids, 4 * attempt + 3) * (w[fits] - crop_w + 1))
        boxes[done, 2], boxes[done, 3] = crop_h, crop_w
        open_ = open_[~fits]
        if not open_.size:
            return boxes
    boxes[open_] = _central_crops(height[open_], width[open_], augment.ratio)
    return boxes


def _central_crops(height: Floats, width: Floats, limits: tuple[float, float]) -> Floats:
    """The largest central crop of a permitted ratio, for images too long for ten tries."""
    low, high = limits
    ratio = width / height
    crop_w = np.where(ratio > high, np.maximum(np.rint(height * high), 1), width)
    crop_h = np.where(ratio < low, np.maximum(np.rint(width / low), 1), height)
    top, left = np.floor((height - crop_h) / 2), np.floor((width - crop_w) / 2)
    return np.stack((top, left, crop_h, crop_w), axis=1)
