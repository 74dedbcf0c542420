"""The form that a model wants its images in, beside their side: filter, share, mean, deviation.

Source: timm, data/config.py and data/transforms_factory.py (`transforms_imagenet_eval`), whose
`interpolation`, `crop_pct`, `mean` and `std` these are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pipelines.errors import UsageError

#: Pillow's antialiased filters that images are resized by.
Filter = Literal["bilinear", "bicubic"]
FILTERS: tuple[Filter, ...] = get_args(Filter)
#: ImageNet's channel means and deviations, of pixels scaled to 0-1: what torchvision's pretrained
#: weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
#: What evaluation shows of the shorter side: 224 of 256 px.
CROP_SHARE = 0.875


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """The form of a model's images; the defaults are torchvision's for its ResNets.

    Attributes:
        filter: one of FILTERS.
        crop_share: share of the resized shorter side that evaluation shows, more than 0, at most 1.
        mean, std: by channel, RGB, of pixels scaled to 0-1.
    """

    filter: Filter = "bilinear"
    crop_share: float = CROP_SHARE
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise UsageError("filter", repr(self.filter), f"one of {', '.join(FILTERS)}")
        if not 0.05 <= self.crop_share <= 1:
            raise UsageError("crop share", f"{self.crop_share:g}", "0.05 to 1")
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            raise UsageError("mean", f"{self.mean}", "three finite numbers, one for each channel")
        if len(self.std) != 3 or not all(1e-4 <= each <= 1e4 for each in self.std):
            raise UsageError("std", f"{self.std}", "three numbers of 0.0001 to 10000")

    def resize_side(self, size: int) -> int:
        """The side that evaluation resizes to before it shows `size` px of it: 256 for 224."""
        return math.floor(size / self.crop_share)


#: The form that torchvision's models want.
IMAGENET = Preprocessing()
