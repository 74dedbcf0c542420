"""Draws beyond crop and mirror: operations of each sample, a mix of each step.

Each sample gets operations in an order, with their values, as arrays: `reference` says what they
do to pixels, `kernels` do it. Loaders draw nothing.

A sample's numbers are a function of (seed, epoch, sample) alone, a step's of (seed, epoch, batch).
Each setting has numbers of its own: a further one changes nothing of what others draw.

Source: torchvision.transforms.v2, whose classes draw alike and in this order: RandomVerticalFlip,
TrivialAugmentWide, RandAugment, ColorJitter, RandomGrayscale, RandomErasing; MixUp, CutMix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from pipelines import codes
from pipelines.augment import BINS, Augment
from pipelines.order import BLOCK, Floats, Ints, make_key, uniform

#: Purposes of the numbers of one (seed, epoch); part of the seed, so never renumber. 1 to 3 are
#: orders and boxes.
_OPERATIONS, _MIXES = 4, 5
#: Draws reserved per sample, and where each setting's begin: never renumber.
_DRAWS = 128
_VFLIP, _TRIVIAL, _RANDS, _JITTER, _GRAY, _ERASE = 0, 1, 8, 40, 48, 50
_ERASE_TRIES = 10
#: RandomErasing's defaults: share of the image, height by width.
_ERASE_SCALE, _ERASE_RATIO = (0.02, 0.33), (0.3, 3.3)
#: The policies' operations, in torchvision's order.
_SPACE = (
    codes.NOTHING,
    codes.SHEAR_X,
    codes.SHEAR_Y,
    codes.TRANSLATE_X,
    codes.TRANSLATE_Y,
    codes.ROTATE,
    codes.BRIGHTNESS,
    codes.SATURATION,
    codes.CONTRAST,
    codes.SHARPNESS,
    codes.POSTERIZE,
    codes.SOLARIZE,
    codes.AUTO_CONTRAST,
    codes.EQUALIZE,
)
#: Those whose values are told in whole numbers, with their units.
_WHOLE = {
    codes.TRANSLATE_X: " px",
    codes.TRANSLATE_Y: " px",
    codes.ROTATE: "°",
    codes.POSTERIZE: " bits",
    codes.SOLARIZE: "",
}
_JITTERED = (codes.BRIGHTNESS, codes.CONTRAST, codes.SATURATION, codes.HUE)
#: Every order of these four.
_ORDERS = np.array(list(permutations(range(len(_JITTERED)))))
#: More than any operation's value: kernels make whole numbers of them.
_MOST_VALUE = 1e5
_BLENDS = (codes.BRIGHTNESS, codes.CONTRAST, codes.SATURATION, codes.SHARPNESS)


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations of a few samples, K one after the other.

    Attributes:
        codes: int32[B, K], see `codes`.
        values: float64[B, K], what each takes.
        boxes: int32[B, 4] top, left, height, width of what is painted over, output px.
    """

    codes: NDArray[np.int32]
    values: Floats
    boxes: NDArray[np.int32]

    def take(self, part: slice) -> Operations:
        """Those of some of the samples."""
        return Operations(self.codes[part], self.values[part], self.boxes[part])

    def check(self, count: int, size: int) -> None:
        """Refuse what kernels would read or write out of bounds by.

        Args:
            count: B.
            size: side of the images, px.

        Raises:
            ValueError: other shapes, an unknown operation, a value that is no number, a box that
                reaches out of the image.
        """
        fits = self.codes.shape == self.values.shape and self.boxes.shape == (count, 4)
        if not fits or self.codes.ndim != 2 or len(self.codes) != count:
            raise ValueError(f"operations: {self.codes.shape}, expected those of {count} images")
        top, left, height, width = self.boxes.astype(np.int64).T
        inside = (self.boxes >= 0).all() and ((top + height <= size) & (left + width <= size)).all()
        known = (self.codes >= codes.NOTHING) & (self.codes <= codes.ERASE)
        bits = self.values[self.codes == codes.POSTERIZE]
        sound = (np.abs(self.values) < _MOST_VALUE).all() and ((bits >= 0) & (bits <= 8)).all()
        if not (inside and known.all() and sound):
            found = "an unknown code, a value that none has, or a box outside the image"
            raise ValueError(f"operations: {found}")

    def matrices(self, size: int) -> Floats:
        """float64[B, K, 6]: where in the image an output pixel of a geometric operation is taken.

        Of pixel (x, y), counted from the centre of S x S px: a x + b y + c, d x + e y + f.
        Source: torchvision.transforms.v2.functional, `_get_inverse_affine_matrix`.
        """
        drawn, values, half = self.codes, self.values, size / 2
        found = np.zeros((*drawn.shape, 6))
        found[..., 0] = found[..., 4] = 1.0
        for code, at, corner in ((codes.SHEAR_X, 1, 2), (codes.SHEAR_Y, 3, 5)):
            is_it = drawn == code
            found[is_it, at], found[is_it, corner] = values[is_it], values[is_it] * half
        for code, at in ((codes.TRANSLATE_X, 2), (codes.TRANSLATE_Y, 5)):
            found[drawn == code, at] = -values[drawn == code]
        is_turned = drawn == codes.ROTATE
        angle = np.radians(values[is_turned])
        found[is_turned, 0] = found[is_turned, 4] = np.cos(angle)
        found[is_turned, 1], found[is_turned, 3] = -np.sin(angle), np.sin(angle)
        return found

    def describe(self, row: int) -> list[str]:
        """A sample's operations in words."""
        said = []
        for code, value in zip(self.codes[row].tolist(), self.values[row].tolist(), strict=True):
            if code == codes.ERASE:
                said.append("erase {2}x{3}".format(*self.boxes[row]))
            elif code != codes.NOTHING:
                said.append((codes.NAMES[code] + _say(code, value)).strip())
        return said


@dataclass(frozen=True, slots=True)
class Mix:
    """A step's mixing of each image with the one before it in the batch, the first with the last.

    Attributes:
        share: of the image itself, in pixels and in its label; 1: nothing is mixed.
        box: top, left, bottom, right of what is the other's, px, of CutMix; None: MixUp blends.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw_operations(
    augment: Augment, *, seed: int, epoch: int, samples: Ints, size: int
) -> Operations:
    """The operations of any samples, in the order given.

    Args:
        augment: that changes pixels.
        seed, epoch: of the plan.
        samples: int64[B].
        size: output side S, px.
    """
    key = make_key(seed, epoch, _OPERATIONS)
    parts = [
        _draw(augment, key, samples[at : at + BLOCK], size)
        for at in range(0, max(len(samples), 1), BLOCK)
    ]
    drawn, values, boxes = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Operations(drawn, values, boxes)


def draw_mix(augment: Augment, *, seed: int, epoch: int, batch: int, size: int) -> Mix:
    """Draw the mix of an epoch's batch of a number.

    Args:
        augment: that mixes.
        seed, epoch: of the plan.
        batch: counted from 0.
        size: output side S, px.
    """
    sequence = np.random.SeedSequence((seed, epoch, _MIXES, batch))
    random = np.random.Generator(np.random.Philox(sequence))
    mixes, cuts, top_at, left_at = random.random(4).tolist()
    if mixes >= augment.mix_prob:
        return Mix(1.0)
    is_cut = not augment.mixup or (bool(augment.cutmix) and cuts < augment.mix_switch)
    alpha = augment.cutmix if is_cut else augment.mixup
    share = float(random.beta(alpha, alpha))
    if not is_cut:
        return Mix(share)
    center_y, center_x = int(top_at * size), int(left_at * size)
    half = int(0.5 * math.sqrt(1.0 - share) * size)
    top, bottom = max(center_y - half, 0), min(center_y + half, size)
    left, right = max(center_x - half, 0), min(center_x + half, size)
    return Mix(1.0 - (bottom - top) * (right - left) / size**2, (top, left, bottom, right))


def _draw(
    augment: Augment, key: np.uint64, samples: Ints, size: int
) -> tuple[NDArray[np.int32], Floats, NDArray[np.int32]]:
    """Codes and values by column, and boxes."""
    columns: list[tuple[NDArray[np.int32], Floats]] = []
    none, boxes = np.zeros(len(samples)), np.zeros((len(samples), 4), np.int32)

    def number(draw: int) -> Floats:
        return uniform(key, samples, draw, _DRAWS)

    def chosen(share: float, draw: int, code: int) -> NDArray[np.int32]:
        return np.where(number(draw) < share, np.int32(code), np.int32(codes.NOTHING))

    if augment.vflip:
        columns.append((chosen(augment.vflip, _VFLIP, codes.FLIP_DOWN), none))
    if augment.policy == "trivial":
        picked, bins = (_index(number(_TRIVIAL + at), n) for at, n in ((0, len(_SPACE)), (1, BINS)))
        columns.append(_resolve(_wide(), picked, bins, number(_TRIVIAL + 2)))
    for nth in range(augment.rand_count):
        first = _RANDS + 2 * nth
        picked = _index(number(first), len(_SPACE))
        strength = np.full(len(samples), augment.rand_strength)
        columns.append(_resolve(_rand_augment(size), picked, strength, number(first + 1)))
    if any(augment.jitter):
        columns += _draw_jitter(augment.jitter, [number(_JITTER + at) for at in range(5)])
    if augment.grayscale:
        columns.append((chosen(augment.grayscale, _GRAY, codes.GRAY), none))
    if augment.erase:
        erased = chosen(augment.erase, _ERASE, codes.ERASE)
        at = np.flatnonzero(erased)
        boxes[at] = _erased_boxes(key, samples[at], size)
        erased[boxes[:, 2] == 0] = codes.NOTHING
        columns.append((erased, none))
    drawn, values = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
    return drawn, values, boxes


def _draw_jitter(
    reach: tuple[float, float, float, float], numbers: list[Floats]
) -> list[tuple[NDArray[np.int32], Floats]]:
    """The four operations of ColorJitter, in each sample's own order."""
    orders = _ORDERS[_index(numbers[0], len(_ORDERS))]
    drawn = np.zeros((len(orders), len(_JITTERED)), np.int32)
    values = np.zeros(drawn.shape)
    for kind, (code, far, number) in enumerate(zip(_JITTERED, reach, numbers[1:], strict=True)):
        if not far:
            continue
        low, high = (-far, far) if code == codes.HUE else (max(0.0, 1.0 - far), 1.0 + far)
        place = orders == kind
        drawn[place] = code
        values[place] = low + (high - low) * number
    return list(zip(drawn.T, values.T, strict=True))


def _erased_boxes(key: np.uint64, samples: Ints, size: int) -> NDArray[np.int32]:
    """int32[B, 4] top, left, height, width, px; zeros where none of RandomErasing's tries fits."""
    boxes = np.zeros((len(samples), 4), np.int32)
    open_ = np.arange(len(samples))
    log_low, log_high = np.log(_ERASE_RATIO)
    low, high = _ERASE_SCALE
    for attempt in range(_ERASE_TRIES):
        ids, first = samples[open_], _ERASE + 1 + 4 * attempt
        share, by, down, across = (uniform(key, ids, first + at, _DRAWS) for at in range(4))
        area = size * size * (low + (high - low) * share)
        ratio = np.exp(log_low + (log_high - log_low) * by)
        height, width = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (height < size) & (width < size)
        top, left = np.floor(down * (size - height + 1)), np.floor(across * (size - width + 1))
        boxes[open_[fits]] = np.stack((top, left, height, width), axis=1)[fits]
        open_ = open_[~fits]
        if not open_.size:
            break
    return boxes


def _resolve(
    space: NDArray[np.float32], picked: Ints, bins: Ints, signs: Floats
) -> tuple[NDArray[np.int32], Floats]:
    """Codes and values of a policy's choices.

    Args:
        space: float32[operations, bins] magnitudes.
        picked, bins: int64[B].
        signs: float64[B] in [0, 1).
    """
    drawn = np.array(_SPACE, np.int32)[picked]
    values = space[picked, bins].astype(np.float64)
    is_signed = (drawn >= codes.SHEAR_X) & (drawn <= codes.SHARPNESS)
    values[is_signed & (signs < 0.5)] *= -1
    moved = np.isin(drawn, (codes.TRANSLATE_X, codes.TRANSLATE_Y))
    values[moved] = np.trunc(values[moved])
    values[np.isin(drawn, _BLENDS)] += 1.0
    values[drawn == codes.SOLARIZE] *= 255.0
    return drawn, values


@cache
def _wide() -> NDArray[np.float32]:
    """TrivialAugmentWide's magnitudes, float32[operations, bins]."""
    return _magnitudes(shear=0.99, translate=32.0, rotate=135.0, blend=0.99, bits=6)


@cache
def _rand_augment(size: int) -> NDArray[np.float32]:
    """RandAugment's magnitudes for images of S px, float32[operations, bins]."""
    translate = 150.0 / 331.0 * size
    return _magnitudes(shear=0.3, translate=translate, rotate=30.0, blend=0.9, bits=4)


def _magnitudes(
    *, shear: float, translate: float, rotate: float, blend: float, bits: int
) -> NDArray[np.float32]:
    most = {
        **dict.fromkeys((codes.SHEAR_X, codes.SHEAR_Y), shear),
        **dict.fromkeys((codes.TRANSLATE_X, codes.TRANSLATE_Y), translate),
        codes.ROTATE: rotate,
        **dict.fromkeys(_BLENDS, blend),
    }
    rows = [_linspace(0.0, most.get(code, 0.0)) for code in _SPACE]
    steps = np.arange(BINS, dtype=np.float32) / np.float32((BINS - 1) / bits)
    rows[_SPACE.index(codes.POSTERIZE)] = np.rint(8 - steps)
    rows[_SPACE.index(codes.SOLARIZE)] = _linspace(1.0, 0.0)
    return np.stack(rows)


def _linspace(start: float, end: float) -> NDArray[np.float32]:
    """float32[bins] as torch.linspace makes them: from both ends, each rounded twice.

    Where torch's own are fused multiply-adds, some are a last bit off.
    """
    step, at = np.float32((end - start) / (BINS - 1)), np.arange(BINS, dtype=np.float32)
    up, down = np.float32(start) + step * at, np.float32(end) - step * at[::-1]
    return np.where(at < BINS // 2, up, down)


def _index(numbers: Floats, count: int) -> Ints:
    """int64[B] in 0..count-1 of float64[B] in [0, 1)."""
    return (numbers * count).astype(np.int64)


def _say(code: int, value: float) -> str:
    if code in (codes.GRAY, codes.FLIP_DOWN, codes.AUTO_CONTRAST, codes.EQUALIZE):
        return ""
    if code in _WHOLE:
        return f" {round(value)}{_WHOLE[code]}"
    return f" {value:.2f}"
