"""Proof that loaders feed the pixels that the reference defines, and where they do not, why.

Each loader runs three times over the same plan: over the stored samples (`whole`); over the
reference's own decoded pixels, stored raw, so that only its resize is left (`resize`); and over
pieces at their own scale, so that only its decoder is (`decode`). `compare` does the work;
`stock` looks at pipelines that follow no plan. Of loaders that decode `scaled`, what they give of
the stored samples is also held against the exact pixels (`scaled`). Where the plan draws operations
each loader's changed pixels are held against what the definition makes of its own unchanged ones
(`operations`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastft.datasets.splits import usable_loaders
from fastft.parity.distance import Differences, Distance
from fastft.parity.material import Material
from fastft.parity.result import AS_STORED, Row, Verdict
from pipelines.atomic import unguessable
from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.encode import decode
from pipelines.formats.layout import Stored
from pipelines.formats.source import Source
from pipelines.loaders import LOADERS, SCALING, Loader
from pipelines.operations import draw_operations
from pipelines.plan import Decode, Plan, Rows
from pipelines.preprocessing import Preprocessing
from pipelines.reference import OPERATION, SCALED, change, render_batch

_VIEWS = ("train", "eval")
_BATCH = 32
#: A stage that is this much farther from the reference than the other is what it comes from.
_DOMINATES = 3.0

MakeLoader = Callable[..., Loader]


@dataclass(frozen=True, slots=True)
class Worst:
    """The sample whose pixels a loader got least right, for the picture.

    Attributes:
        loader, view: whose and in which view.
        name: of the sample.
        distance: its mean, levels.
        crop: uint8[H, W, 3], what the plan cut, unscaled.
        wanted, found: uint8[S, S, 3].
    """

    loader: str
    view: str
    name: str
    distance: float
    crop: NDArray[np.uint8]
    wanted: NDArray[np.uint8]
    found: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The findings of `compare`."""

    images: int
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    worst: tuple[Worst, ...]

    @property
    def passed(self) -> bool:
        """Whether every loader kept its promise."""
        return all(verdict.passed for verdict in self.verdicts)


def pick_loaders(asked: Sequence[str], decode: Decode = "exact") -> tuple[str, ...]:
    """The loaders to look at: those asked for, or all that are installed and decode so.

    Raises:
        UsageError: an unknown one, or one that executes no plan.
    """
    known = tuple(name for name in LOADERS if name != "stock")
    for name in asked:
        if name not in known:
            raise UsageError("--loaders", repr(name), f"names out of {', '.join(known)}")
    # They read a .beton that is made of the source, whatever the source is.
    usable = usable_loaders(())
    if decode == "scaled":
        usable = tuple(name for name in usable if name in SCALING)
    return tuple(asked) or usable


def compare(
    source: Source,
    makers: Mapping[str, MakeLoader],
    *,
    reference: Source | None = None,
    images: int = 256,
    size: int = 224,
    seed: int = 0,
    augment: Augment = USUAL,
    device: torch.device | str = "cpu",
    workers: int = 0,
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    with_stored: Callable[[Path], None] = lambda path: None,
) -> Comparison:
    """Measure each loader's distance from the reference, stage by stage.

    Args:
        source: the samples.
        makers: name -> what makes the loader, called as `make_loader` without its name.
        reference: where the right pixels come from; None takes the stored ones.
        images: how many samples to look at.
        size: output side, px.
        seed: of the plan.
        augment: whose operations are looked at, too.
        device, workers: of the loaders.
        on_progress: told the loader, stages done, stages in all.
        with_stored: called at the end with a `.beton` of the samples, which then goes away.

    Raises:
        DataError: a sample is broken, or the reference does not fit the source.
    """
    with tempfile.TemporaryDirectory(prefix=unguessable("fastft-parity.")) as folder:
        material = Material(source, reference or source, images, Path(folder))
        runs = [("whole", view, size, material.stored, 0) for view in _VIEWS]
        runs += [("resize", view, size, material.raw, 0) for view in _VIEWS]
        runs += [("decode", "native", side, path, side) for side, path in material.pieces.items()]
        truths = _Truths(material)
        rows, verdicts, worst = [], [], []
        for number, (name, maker) in enumerate(makers.items()):
            counted: dict[tuple[str, str], Differences] = {}
            in_order, stated = True, None
            for at, (stage, view, side, path, part) in enumerate(runs):
                on_progress(name, number * len(runs) + at, len(makers) * len(runs))
                whole = stage == "whole"
                with maker(
                    read_index(path),
                    view=view,
                    size=side,
                    batch_size=_BATCH,
                    seed=seed,
                    device=device,
                    workers=workers,
                    normalize=whole,
                ) as loader:
                    plan, stated = loader.plan, loader.stated
                    exact = replace(plan, decode="exact")
                    wanted = truths.of(plan if whole else exact, part)
                    found = _run(loader, wanted, counted.setdefault((stage, view), Differences()))
                    in_order &= found.in_order
                    if whole:
                        worst.append(_worst(name, found, material, plan, wanted))
                    if whole and plan.decode == "scaled":
                        apart = counted.setdefault(("scaled", view), Differences())
                        _run(loader, truths.of(exact, part), apart)
            if augment.changes_pixels:
                changed = counted.setdefault(("operations", "train"), Differences())
                make = partial(
                    maker,
                    read_index(material.raw),
                    view="train",
                    size=size,
                    batch_size=_BATCH,
                    seed=seed,
                    device=device,
                    workers=workers,
                    normalize=False,
                )
                _run_operations(make, augment, changed)
            mine = [Row(name, *key, each.distance()) for key, each in counted.items()]
            rows += mine
            verdicts.append(_judge(name, mine, stated, augment, in_order=in_order))
        if reference is not None and reference is not source:
            rows.append(Row(AS_STORED, "decode", "native", material.stored_distance()))
        on_progress("", len(makers) * len(runs), len(makers) * len(runs))
        with_stored(material.stored)
    return Comparison(len(material.samples), tuple(rows), tuple(verdicts), tuple(worst))


class _Truths:
    """The reference's pixels of whole plans, rendered once for all loaders."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._rendered: dict[tuple[Decode, str, int, int], NDArray[np.uint8]] = {}

    def of(self, plan: Plan, part: int) -> NDArray[np.uint8]:
        """uint8[N, S, S, 3], in the plan's order, of a part of the material."""
        key = (plan.decode, plan.view, plan.size, part)
        if key not in self._rendered:
            material = self._material
            samples = material.encoded if plan.decode == "scaled" else material.truth[part]
            self._rendered[key] = _render(samples, plan)
        return self._rendered[key]


@dataclass(slots=True)
class _Found:
    """The result of a run over one loader: whether labels came in order, and its worst row."""

    in_order: bool
    row: int = 0
    distance: float = -1.0
    pixels: NDArray[np.uint8] | None = None


def _run(loader: Loader, truth: NDArray[np.uint8], differences: Differences) -> _Found:
    """Compare all that a loader gives with `truth`, uint8[N, S, S, 3] in the plan's order."""
    found, done = _Found(True), 0
    for images, labels in loader:
        pixels = _levels(images, loader.preprocessing)
        wanted = truth[done : done + len(labels)]
        order = loader.plan.order[done : done + len(labels)]
        found.in_order &= labels.tolist() == loader.source.labels[order].tolist()
        means = differences.add(pixels, wanted)
        at = int(means.argmax())
        if means[at] > found.distance:
            found.row, found.distance, found.pixels = done + at, float(means[at]), pixels[at].copy()
        done += len(labels)
    found.in_order &= done == len(truth)
    return found


def _run_operations(make: MakeLoader, augment: Augment, differences: Differences) -> None:
    """Compare changed pixels with what the definition makes of the loader's unchanged ones."""
    with make() as loader:
        before = [_levels(images, loader.preprocessing) for images, _ in loader]
    with make(augment=augment) as loader:
        coming = zip(before, loader, loader.plan.batches(_BATCH), strict=True)
        for pixels, (images, _), rows in coming:
            assert rows.operations is not None
            wanted = [change(each, rows.operations, row) for row, each in enumerate(pixels)]
            differences.add(_levels(images, loader.preprocessing), np.stack(wanted))


def _levels(images: torch.Tensor, form: Preprocessing) -> NDArray[np.uint8]:
    """uint8[B, S, S, 3] of a batch, normalized or not."""
    pixels = images.permute(0, 2, 3, 1)
    if pixels.dtype != torch.uint8:
        std, mean = (torch.tensor(each, device=pixels.device) for each in (form.std, form.mean))
        pixels = ((pixels.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.contiguous().cpu().numpy()


def _render(samples: Sequence[Stored], plan: Plan) -> NDArray[np.uint8]:
    """uint8[N, S, S, 3]: the reference's pixels of a whole plan, in its order."""
    rendered = (
        render_batch([samples[sample] for sample in rows.samples], rows)
        for rows in plan.batches(_BATCH)
    )
    return np.concatenate(list(rendered))


def _worst(
    loader: str, found: _Found, material: Material, plan: Plan, truth: NDArray[np.uint8]
) -> Worst:
    assert found.pixels is not None
    sample = int(plan.order[found.row])
    rows: Rows = plan.rows(np.array([sample]))
    top, left, height, width = rows.boxes[0]
    bottom, right = int(np.ceil(top + height)), int(np.ceil(left + width))
    image = np.asarray(decode(material.truth[0][sample]))
    crop = image[int(top) : bottom, int(left) : right]
    if rows.flips[0]:
        crop = crop[:, ::-1]
    wanted = truth[found.row]
    return Worst(
        loader, plan.view, material.names[sample], found.distance, crop, wanted, found.pixels
    )


def _judge(
    loader: str,
    rows: Sequence[Row],
    stated: tuple[float, int] | None,
    augment: Augment,
    *,
    in_order: bool,
) -> Verdict:
    whole = [row.distance for row in rows if row.stage == "whole"]
    kept = stated is None or _keeps(whole, stated)
    scaled = [row.distance for row in rows if row.stage == "scaled"]
    kept &= _keeps(scaled, SCALED)
    changed = [row.distance for row in rows if row.stage == "operations"]
    operations = _allow(augment) if changed else None
    kept &= operations is None or _keeps(changed, operations)
    resize = max(row.distance.mean for row in rows if row.stage == "resize")
    decoded = max(row.distance.mean for row in rows if row.stage == "decode")
    if not max(resize, decoded):
        cause = "nothing"
    elif resize > _DOMINATES * decoded:
        cause = "resize"
    elif decoded > _DOMINATES * resize:
        cause = "decode"
    else:
        cause = "decode and resize"
    return Verdict(
        loader,
        stated,
        kept and in_order,
        in_order,
        cause,
        SCALED if scaled else None,
        operations,
    )


def _allow(augment: Augment) -> tuple[float, int]:
    """The mean and the maximum that operations may be off their definition.

    Behind another one, a pixel that is one level off may become anything.
    """
    size = 2
    most = draw_operations(augment, seed=0, epoch=0, samples=np.arange(1), size=size)
    count = most.codes.shape[1]
    mean, level = OPERATION
    return mean * count, level if count == 1 else 255


def _keeps(distances: Sequence[Distance], stated: tuple[float, int]) -> bool:
    return all(each.mean <= stated[0] and each.most <= stated[1] for each in distances)
