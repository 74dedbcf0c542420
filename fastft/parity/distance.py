"""Distances of pixels in levels of 255: counted once, summed up in several ways."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The share of pixels that `most_but_0_1_percent` leaves out.
_RARE = 0.001


@dataclass(frozen=True, slots=True)
class Distance:
    """Over all channels of all pixels of some images.

    Attributes:
        images: how many.
        mean: of the absolute differences, levels.
        most_but_0_1_percent: their 99.9th percentile, levels.
        most: their maximum, levels.
        psnr_db: peak signal-to-noise ratio; None for no difference at all.
        exact: share of equal values.
    """

    images: int
    mean: float
    most_but_0_1_percent: int
    most: int
    psnr_db: float | None
    exact: float


class Differences:
    """Counts absolute differences by level."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)
        self._images = 0

    def add(self, found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Count uint8[B, ...] against what it should be; returns each image's mean difference."""
        apart = np.abs(found.astype(np.int16) - wanted)
        self._counts += np.bincount(apart.ravel(), minlength=256)
        self._images += len(found)
        means: NDArray[np.float64] = apart.reshape(len(apart), -1).mean(1, dtype=np.float64)
        return means

    def distance(self) -> Distance:
        """The distance over all that has been counted so far.

        Raises:
            ValueError: nothing has.
        """
        total = int(self._counts.sum())
        if not total:
            raise ValueError("no pixels were compared")
        levels = np.arange(256)
        squares = float(self._counts @ levels**2) / total
        rare = np.searchsorted(np.cumsum(self._counts), (1 - _RARE) * total)
        return Distance(
            images=self._images,
            mean=float(self._counts @ levels) / total,
            most_but_0_1_percent=int(rare),
            most=int(np.flatnonzero(self._counts)[-1]),
            psnr_db=10 * math.log10(255**2 / squares) if squares else None,
            exact=float(self._counts[0]) / total,
        )
