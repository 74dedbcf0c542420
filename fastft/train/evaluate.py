"""Evaluation: every sample of a loader once, in eval mode.

Training asks for mean loss and score, `fastft evaluate` for every output as well. What the outputs
mean, `model.tasks` knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastft.model.tasks import OF_CLASSES, Goal, Judgement
from fastft.train.distributed import ALONE, World
from pipelines.errors import DataError

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
#: Outputs of a batch, its labels, and its outputs of the images alone.
_Classified = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The model's outputs for each sample, in the order in which the samples came.

    Attributes:
        logits: float32[N, C], of classes such that softmax gives the probabilities.
        labels: int64[N]; of other tasks float32[N, C].
        plain: float32[N, C], of the images alone, where `logits` are an average over several views.
    """

    logits: NDArray[np.float32]
    labels: NDArray[Any]
    plain: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result over `samples` samples.

    Attributes:
        loss: its mean.
        score: the task's, see `runs.measures`: of classes the share of right answers.
        samples: how many.
        outputs: all of them, if kept.
        others: further measures by their keys.
        thresholds: the best of each label.
    """

    loss: float
    score: float
    samples: int
    outputs: Outputs | None = field(default=None, compare=False, repr=False)
    others: Mapping[str, float] = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Batches,
    *,
    device: torch.device,
    amp_dtype: torch.dtype | None,
    flip: bool = False,
    vflip: bool = False,
    crops: Sequence[Batches] = (),
    keep: bool = False,
    world: World = ALONE,
    goal: Goal = OF_CLASSES,
) -> Evaluation:
    """Run `model` over `batches` of images and labels on `device`.

    Args:
        model: the classifier; it is put into eval mode.
        batches: images [B, 3, S, S] and labels int64[B] or float32[B, C], on `device`.
        device: where the model is.
        amp_dtype: what autocast computes in; None for float32.
        flip: average the probabilities of each image and its mirror image.
        vflip: average those of the image upside down, too; with `flip` all four.
        crops: the same samples in the same batches, but other crops of them: passes that follow
            `batches` one after another, and are averaged in. Outputs lie on the device until then.
        keep: give all outputs back, too. They lie on the device until the end, as they do where a
            score takes all of them.
        world: who else evaluates: of each batch this process has its share alone, every sample is
            one process's, and the result is of all.
        goal: the model's task.

    Raises:
        DataError: there is no sample.
        ValueError: passes of different lengths.
    """
    model.eval()
    # Sums stay on the device: one synchronization at the end, none per batch.
    loss = torch.zeros((), device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    samples = 0
    kept: list[_Classified] = []
    passes = [
        _classify_all(model, each, amp_dtype, flip, vflip, goal) for each in (batches, *crops)
    ]
    for logits, labels, plain in _average_passes(passes, goal):
        loss += goal.sum_losses(logits, labels)
        if not goal.needs_outputs:
            right += goal.count_right(logits, labels)
        samples += len(labels)
        if keep or goal.needs_outputs:
            kept.append((logits, labels, plain))
    total_loss, total_right, total = world.sum([loss.item(), right.item(), samples])
    if not total:
        raise DataError("evaluation", "no samples", "at least one", "see fastft inspect")
    outputs = _join(kept, flip or vflip or len(crops) > 0) if keep else None
    found = Judgement(total_right / total)
    if goal.needs_outputs:
        found = goal.judge(*_gather(kept, world))
    return Evaluation(
        total_loss / total, found.score, int(total), outputs, found.others, found.thresholds
    )


def classify(
    model: nn.Module,
    images: torch.Tensor,
    amp_dtype: torch.dtype | None,
    *,
    flip: bool,
    vflip: bool = False,
    goal: Goal = OF_CLASSES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs for some images, wherever they lie.

    Args:
        model: the classifier, in eval mode.
        images: [B, 3, S, S].
        amp_dtype: what autocast computes in; None for float32.
        flip: average the probabilities, or numbers, of each image and its mirror image.
        vflip: average those of the image upside down, too; with `flip` all four.
        goal: the model's task.

    Returns:
        float32[B, C], as `Goal.read` takes them; float32[B, C] of the images alone, the same unless
        `flip` or `vflip`.
    """
    outputs = [_run(model, images, amp_dtype)]
    if flip:
        outputs.append(_run(model, images.flip(3), amp_dtype))
    if vflip:
        outputs.append(_run(model, images.flip(2), amp_dtype))
    if flip and vflip:
        outputs.append(_run(model, images.flip(2, 3), amp_dtype))
    return average(outputs, goal), outputs[0]


def average(outputs: Sequence[torch.Tensor], goal: Goal = OF_CLASSES) -> torch.Tensor:
    """Outputs for the mean of the probabilities, or numbers, that several outputs stand for.

    Args:
        outputs: float32[B, C] each.
        goal: the model's task.

    Returns:
        float32[B, C] that stand for that mean; of a single one itself.
    """
    if len(outputs) == 1:
        return outputs[0]
    # Two by two, as logsumexp rounds differently: mirror images alone give the bits of before.
    return goal.end(reduce(goal.add, map(goal.begin, outputs)), len(outputs))


def _classify_all(
    model: nn.Module,
    batches: Batches,
    amp_dtype: torch.dtype | None,
    flip: bool,
    vflip: bool,
    goal: Goal,
) -> Iterator[_Classified]:
    for images, labels in batches:
        if not len(labels):  # a last batch with fewer samples than processes
            continue
        logits, plain = classify(model, images, amp_dtype, flip=flip, vflip=vflip, goal=goal)
        yield logits, labels, plain


def _average_passes(passes: Sequence[Iterator[_Classified]], goal: Goal) -> Iterator[_Classified]:
    """Average each batch's outputs over all passes, the first of which is of the images alone.

    Of a single pass no more than a batch is held, of several the sum of their outputs.
    """
    first, *others = passes
    if not others:
        yield from first
        return
    sums = [(goal.begin(logits), labels, plain) for logits, labels, plain in first]
    for each in others:
        sums = [  # as `average` does
            (goal.add(total, goal.begin(logits)), labels, plain)
            for (total, labels, plain), (logits, *_) in zip(sums, each, strict=True)
        ]
    for total, labels, plain in sums:
        yield goal.end(total, len(passes)), labels, plain


def _run(model: nn.Module, images: torch.Tensor, amp_dtype: torch.dtype | None) -> torch.Tensor:
    with torch.autocast(images.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        logits: torch.Tensor = model(images)
    return logits.float()


def _gather(
    kept: list[_Classified], world: World
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The outputs and labels of all processes' samples, each of them once."""
    pairs = [torch.cat((logits, labels.to(logits.dtype)), 1) for logits, labels, _ in kept]
    columns = len(pairs[0][0]) if pairs else 0
    mine = torch.cat(pairs) if pairs else torch.empty(0, 0, device=world.device)
    rows = world.join(mine, int(max(world.gather([columns]))[0])).cpu().numpy()
    outputs, labels = np.split(rows, 2, axis=1)
    return outputs, labels


def _join(kept: list[_Classified], is_average: bool) -> Outputs:
    """Move the outputs of all batches off the device, each kind at once."""
    logits, labels, plain = zip(*kept, strict=True)
    return Outputs(_fetch(logits), _fetch(labels), _fetch(plain) if is_average else None)


def _fetch(parts: tuple[torch.Tensor, ...]) -> Any:
    return torch.cat(parts).cpu().numpy()
