"""Tells how many images each class has, whether some are rare, and what a sampler makes of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import one_line
from pipelines.formats.source import Source
from pipelines.loaders.base import Loader
from pipelines.sampling import Frequencies, Sampler

#: Classes that are told one by one.
_TOLD = 5
#: A class is rare with fewer images than a tenth of the most frequent one's, where accuracy hardly
#: notices it; or with fewer than a model learns a class from without weights for it, unless all
#: classes are about that small.
_RARE_SHARE, _FEW, _FEW_SHARE = 0.1, 20, 0.5
#: Rare classes that are named.
_NAMED = 3


def describe_imbalance(loader: Loader, class_weight: str) -> list[str]:
    """Lines on how often classes come, and what could be done about rare ones.

    Args:
        loader: of the training split.
        class_weight: what was asked for of the loss; empty: nothing.
    """
    source, sampler = loader.source, loader.sampling
    lines = [describe_classes(source)]
    if sampler == "shuffle" and not class_weight:
        lines.append(advise(source))
    if sampler != "shuffle":
        lines.append(describe_sampler(source, sampler, loader.frequencies))
        if class_weight:
            lines.append(
                f"--class-weight {class_weight} counts beside --sampler {sampler}: it multiplies "
                "the loss of images that come as often as the sampler says"
            )
    return lines


def count_images(source: Source) -> NDArray[np.int64]:
    """int64[C]: the images of each class, or with each label; empty where there are numbers."""
    columns = source.columns
    if columns.task == "number":
        return np.zeros(0, np.int64)
    counts: NDArray[np.int64] = (
        np.bincount(source.labels, minlength=len(source.classes))
        if columns.targets is None
        else (columns.targets > 0).sum(axis=0)
    )
    return counts


def describe_classes(source: Source) -> str:
    """The images of each class, in one line; of many classes the least and the most."""
    counts, what = count_images(source), _kind(source)
    if len(counts) < 2:
        return ""
    if counts.min() == counts.max():
        return f"{counts[0]:,} images of each {what}"
    if len(counts) <= _TOLD:
        each = (f"{name} {n:,}" for name, n in zip(_names(source), counts.tolist(), strict=True))
        return f"images of each {what}: {', '.join(each)}"
    low, high = int(counts.argmin()), int(counts.argmax())
    return (
        f"images of each {what}: from {counts[low]:,} ({_name(source, low)}) to {counts[high]:,} "
        f"({_name(source, high)}), {np.median(counts):,.0f} in the median"
    )


def advise(source: Source) -> str:
    """The rare classes and what helps, in one line; '' if there are none."""
    counts, what = count_images(source), _kind(source)
    if len(counts) < 2:
        return ""
    most = int(counts.max())
    few = (counts < _FEW) & (counts < _FEW_SHARE * most)
    rare = np.flatnonzero((counts > 0) & (few | (counts < _RARE_SHARE * most)))
    if not rare.size:
        return ""
    rare = rare[np.argsort(counts[rare], kind="stable")]
    said = [f"{_name(source, each)} ({counts[each]:,})" for each in rare[:_NAMED].tolist()]
    more = f" and {len(rare) - _NAMED:,} more" if len(rare) > _NAMED else ""
    plural = "" if len(rare) == 1 else "es" if what == "class" else "s"
    common = _name(source, int(counts.argmax()))
    return (
        f"rare {what}{plural}: {', '.join(said)}{more}, beside {common} ({most:,}); --sampler "
        "balanced shows them more often, --class-weight balanced lets them count more"
    )


def describe_sampler(source: Source, sampler: Sampler, frequencies: Frequencies | None) -> str:
    """The frequencies of images, in one line.

    Args:
        source: the images.
        sampler: what was asked for.
        frequencies: what came of it; None: all images come alike.
    """
    if frequencies is None:
        return f"sampler {sampler}: all images come alike, as without it"
    expected = frequencies.expected
    low, high = int(expected.argmin()), int(expected.argmax())
    begin = f"sampler {sampler}: an epoch is {len(expected):,} draws"
    if sampler == "weights" or source.columns.task != "classes":
        return f"{begin}; an image comes {expected[low]:.2g} to {expected[high]:.2g} times"
    often, seldom = (_name(source, int(source.labels[at])) for at in (high, low))
    return (
        f"{begin}; an image of {often} comes {expected[high]:.2g} times, one of {seldom} "
        f"{expected[low]:.2g} times"
    )


def _kind(source: Source) -> str:
    return "class" if source.columns.task == "classes" else "label"


def _name(source: Source, at: int) -> str:
    return one_line(source.classes[at])


def _names(source: Source) -> tuple[str, ...]:
    return tuple(map(one_line, source.classes))
