"""What is left to do to a batch on its device: a caller's own function, normalization, mixing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.augment import Augment
from pipelines.errors import UsageError
from pipelines.formats.source import Source
from pipelines.mixing import mix_batch
from pipelines.operations import Mix
from pipelines.plan import Plan
from pipelines.reference import MEAN, STD
from pipelines.transfer import Change, Normalizer

#: A caller's own function: uint8[B, 3, S, S], channels_last, on the device in, the same out.
Transform = Callable[[torch.Tensor], torch.Tensor]
#: The purpose of a batch's numbers; `plan` and `operations` have others.
_TRANSFORMS = 6


def make_normalizer(size: int, device: torch.device, dtype: torch.dtype | None) -> Normalizer:
    """A normalizer of images of S px on a device; None leaves uint8 as it is."""
    fused = None
    if device.type == "cuda" and dtype is not None:
        from pipelines.kernels.normalizing import normalize  # Triton takes a second to load

        fused = normalize
    return Normalizer(size, MEAN, STD, device=device, dtype=dtype, fused=fused)


def make_changes(
    device: torch.device, plan: Plan, shares: Iterator[NDArray[np.int64]]
) -> Iterator[Change] | None:
    """The operations of some batches for a GPU; None: there are none, or this is no GPU."""
    if device.type != "cuda" or not plan.augment.changes_pixels:
        return None
    from pipelines.gpu_changer import GpuChanger  # Triton takes a second to load

    return GpuChanger(device).over(plan.operations(samples) for samples in shares)


class _Loader(Protocol):
    """What this asks a loader for."""

    source: Source
    batch_size: int
    rank: int
    world: int
    device: torch.device
    dtype: torch.dtype | None

    @property
    def plan(self) -> Plan:
        """The plan of the current epoch."""


class Completion:
    """Completes the batches of one loader.

    Attributes:
        transform: the caller's own function, or None.
        copies: whether batches that are yielded lie elsewhere than those that were made.
    """

    def __init__(self, loader: _Loader, augment: Augment, transform: Transform | None) -> None:
        """Check what is asked for.

        Raises:
            UsageError: batches that cannot be mixed, or no function.
        """
        self._loader, self.transform = loader, transform
        self.copies = augment.mixes or transform is not None
        self._normalizer: Normalizer | None = None
        self._brings_partners = augment.mixes and loader.world > 1
        if transform is not None and not callable(transform):
            found = type(transform).__name__
            raise UsageError("transform", found, "a function of uint8 images [B, 3, S, S]")
        if augment.mixes:
            self._require_mixable()

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, number: int, mix: Mix | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Complete an epoch's batch of a number; None mixes nothing, and leaves labels as they are.

        Raises:
            UsageError: the caller's function gives something else than it is given.
        """
        if self.transform is not None:
            images = self._transformed(images, number)
        if mix is None:
            first = self._brings_partners
            return images[first:], labels[first:]
        classes = len(self._loader.source.classes)
        return mix_batch(images, labels, mix, classes=classes, wraps=not self._brings_partners)

    def _transformed(self, images: torch.Tensor, number: int) -> torch.Tensor:
        """Images behind the caller's own function, normalized."""
        assert self.transform is not None
        loader = self._loader
        parts = (loader.plan.seed, loader.plan.epoch, _TRANSFORMS, number, loader.rank)
        seed = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
        on = [loader.device] if loader.device.type == "cuda" else []
        with torch.random.fork_rng(on):  # what it draws, it draws again where a run resumes
            torch.manual_seed(seed)
            changed = self.transform(images)
        if changed.shape != images.shape or changed.dtype != torch.uint8:
            found = f"gives {changed.dtype} {list(changed.shape)}"
            raise UsageError(
                "transform", found, f"torch.uint8 {list(images.shape)}, as it was given"
            )
        if loader.dtype is None:
            return changed
        if self._normalizer is None or self._normalizer.size != images.shape[-1]:
            self._normalizer = make_normalizer(images.shape[-1], loader.device, loader.dtype)
        return self._normalizer(changed.permute(0, 2, 3, 1).contiguous())

    def _require_mixable(self) -> None:
        loader, expected, found = self._loader, "", ""
        if len(loader.source.classes) < 2:
            found, expected = "one class", "two or more, to mix them"
        elif loader.batch_size < 2:
            found, expected = "batches of 1", "batches of 2 or more, to mix them"
        elif loader.dtype is None:
            found, expected = "uint8 images (normalize=False)", "normalized ones, to mix them"
        if found:
            raise UsageError("mixup and cutmix", found, expected, "leave them out")
