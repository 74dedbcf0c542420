"""Augmentation beyond crop and mirror: its settings.

`operations` draws from them what happens to each sample, and how each step mixes its batch.

Source: torchvision.transforms.v2, whose classes mean the same: RandomResizedCrop,
RandomHorizontalFlip, RandomVerticalFlip, TrivialAugmentWide, RandAugment, ColorJitter,
RandomGrayscale, RandomErasing, MixUp, CutMix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.errors import UsageError

#: torchvision's RandomResizedCrop defaults.
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
#: Named ways to choose operations; `rand` may say how many and how strong: rand-n2-m9.
POLICIES = ("none", "trivial", "rand")
#: Magnitudes that the policies choose from.
BINS = 31
_RAND = re.compile(r"rand(-n(?P<count>[1-9][0-9]?))?(-m(?P<strength>[0-9]{1,2}))?")
_RAND_COUNT, _RAND_STRENGTH, _MOST_RAND = 2, 9, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """The settings; the defaults are crop and mirror, and nothing else.

    Attributes:
        policy: `none`; `trivial`, TrivialAugmentWide: one operation for each image; `rand`,
            RandAugment: several, such as rand-n2-m9, which are `rand`'s defaults. Bilinear.
        scale: share of the photo's area that a crop has, at least and at most.
        ratio: a crop's width by its height, at least and at most.
        hflip, vflip: probabilities of a mirror image, and of one upside down.
        color_jitter: how far brightness, contrast and saturation may be off, and how far hue may be
            turned (0.5 is half of the circle): one number for the first three, or three, or four.
        grayscale: probability of no colours.
        erase: probability that a rectangle is painted over, in the mean colour.
        mixup, cutmix: alpha of the Beta distribution that images are mixed by; 0: not at all.
        mix_prob: probability that a step mixes.
        mix_switch: of such, that it is cutmix where both are asked for.
    """

    policy: str = "none"
    scale: tuple[float, float] = SCALE
    ratio: tuple[float, float] = RATIO
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: tuple[float, ...] = ()
    grayscale: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5

    def __post_init__(self) -> None:
        if self.policy not in POLICIES and not _RAND.fullmatch(self.policy):
            found = repr(self.policy)
            raise UsageError("augment", found, f"one of {', '.join(POLICIES)}, or like rand-n2-m9")
        if self.rand_count > _MOST_RAND or self.rand_strength >= BINS:
            expected = f"at most n{_MOST_RAND} and m{BINS - 1}"
            raise UsageError("augment", repr(self.policy), expected)
        _require_range("scale", self.scale, 1e-4, 1.0)
        _require_range("ratio", self.ratio, 0.01, 100.0)
        for name in ("hflip", "vflip", "grayscale", "erase", "mix_prob", "mix_switch"):
            _require(name, getattr(self, name), 0.0, 1.0, "a probability, 0 to 1")
        for name in ("mixup", "cutmix"):
            _require(name, getattr(self, name), 0.0, 100.0, "an alpha, 0 (none) to 100")
        if len(self.color_jitter) not in (0, 1, 3, 4):
            found = f"{len(self.color_jitter)} numbers"
            expected = "1, 3 or 4: brightness, contrast, saturation, hue"
            raise UsageError("color_jitter", found, expected)
        for part in self.color_jitter[:3]:
            _require("color_jitter", part, 0.0, 10.0, "0 to 10")
        for part in self.color_jitter[3:]:
            _require("color_jitter", part, 0.0, 0.5, "a hue of 0 to 0.5")

    @property
    def rand_count(self) -> int:
        """Operations of RandAugment; 0 for other policies."""
        return self._rand("count", _RAND_COUNT)

    @property
    def rand_strength(self) -> int:
        """RandAugment's magnitude, 0 to 30; 0 for other policies."""
        return self._rand("strength", _RAND_STRENGTH)

    def _rand(self, part: str, usual: int) -> int:
        found = _RAND.fullmatch(self.policy)
        return 0 if found is None else int(found[part] or usual)

    @property
    def jitter(self) -> tuple[float, float, float, float]:
        """Brightness, contrast, saturation and hue."""
        given = self.color_jitter
        if not given:
            return 0.0, 0.0, 0.0, 0.0
        brightness, contrast, saturation = given[:3] if len(given) > 1 else given * 3
        return brightness, contrast, saturation, given[3] if len(given) == 4 else 0.0

    @property
    def changes_pixels(self) -> bool:
        """Whether images need more than crop and mirror."""
        return bool(
            self.vflip
            or self.policy == "trivial"
            or self.rand_count
            or any(self.jitter)
            or self.grayscale
            or self.erase
        )

    @property
    def mixes(self) -> bool:
        """Whether steps mix their images."""
        return bool((self.mixup or self.cutmix) and self.mix_prob)


def _require_range(name: str, given: tuple[float, float], least: float, most: float) -> None:
    if len(given) != 2 or not least <= given[0] <= given[1] <= most:
        found = " to ".join(f"{each:g}" for each in given)
        raise UsageError(name, found, f"{least:g} to {most:g}, the lower number first")


def _require(name: str, value: float, least: float, most: float, expected: str) -> None:
    if not least <= value <= most:  # also catches NaN
        raise UsageError(name, f"{value:g}", expected)


#: The plan where nothing is asked: crop and mirror.
USUAL = Augment()
