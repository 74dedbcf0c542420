"""The rest of a batch's way, on its device: a caller's own function, normalization, mixing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.augment import Augment
from pipelines.changing.mixing import mix_batch
from pipelines.errors import UsageError
from pipelines.formats.source import Source
from pipelines.operations import Mix
from pipelines.plan import Plan
from pipelines.preprocessing import Preprocessing
from pipelines.transfer import Change, Normalizer

#: A caller's own function: uint8[B, 3, S, S], channels_last, on the device in, the same out.
Transform = Callable[[torch.Tensor], torch.Tensor]
#: The purpose of a batch's numbers; `plan` and `operations` have others.
_TRANSFORMS = 6


def make_normalizer(
    size: int, device: torch.device, dtype: torch.dtype | None, form: Preprocessing
) -> Normalizer:
    """A normalizer of images of S px on a device; a dtype of None leaves uint8 as it is."""
    fused = None
    if device.type == "cuda" and dtype is not None:
        from pipelines.kernels.normalizing import normalize  # Triton takes a second to load

        fused = normalize
    return Normalizer(size, form.mean, form.std, device=device, dtype=dtype, fused=fused)


def make_changes(
    device: torch.device, plan: Plan, shares: Iterator[NDArray[np.int64]]
) -> Iterator[Change] | None:
    """The operations of some batches for a GPU; None: there are none, or this is no GPU."""
    if device.type != "cuda" or not plan.augment.changes_pixels:
        return None
    from pipelines.changing.on_gpu import GpuChanger  # Triton takes a second to load

    operations = (plan.operations(visits) for visits in shares)
    return GpuChanger(device).over(operations, plan.size)


class Completion:
    """Completes the batches of one loader.

    Attributes:
        transform: the caller's own function, or None.
        copies: whether batches that are yielded lie elsewhere than those that were made.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        transform: Transform | None,
        *,
        batch_size: int,
        rank: int,
        world: int,
        device: torch.device,
        dtype: torch.dtype | None,
        preprocessing: Preprocessing,
    ) -> None:
        """Check what is asked for.

        Args:
            source, augment, transform, batch_size, rank, world, device: see `make_loader`.
            dtype: of normalized images; None for uint8.
            preprocessing: see there.

        Raises:
            UsageError: batches that cannot be mixed, or no function.
        """
        self.transform, self._classes = transform, len(source.classes)
        self._rank, self._device, self._dtype = rank, device, dtype
        self._preprocessing = preprocessing
        self.copies = augment.mixes or transform is not None
        self._normalizer: Normalizer | None = None
        self._brings_partners = augment.mixes and world > 1
        if transform is not None and not callable(transform):
            found = type(transform).__name__
            raise UsageError("transform", found, "a function of uint8 images [B, 3, S, S]")
        if not augment.mixes:
            return
        expected, found = "", ""
        if self._classes < 2 and source.columns.task == "classes":
            found, expected = "one class", "two or more, to mix them"
        elif batch_size < 2:
            found, expected = "batches of 1", "batches of 2 or more, to mix them"
        elif dtype is None:
            found, expected = "uint8 images (normalize=False)", "normalized ones, to mix them"
        if found:
            raise UsageError("mixup and cutmix", found, expected, "leave them out")

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, plan: Plan, number: int, mix: Mix | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Complete a batch.

        Args:
            images, labels: as the loader made them.
            plan: of the epoch.
            number: the batch's, in it.
            mix: None mixes nothing, and leaves labels as they are.

        Raises:
            UsageError: the caller's function gives something else than it is given.
        """
        if self.transform is not None:
            images = self._transformed(images, plan, number)
        if mix is None:
            first = self._brings_partners
            return images[first:], labels[first:]
        wraps = not self._brings_partners
        return mix_batch(images, labels, mix, classes=self._classes, wraps=wraps)

    def _transformed(self, images: torch.Tensor, plan: Plan, number: int) -> torch.Tensor:
        """Images behind the caller's own function, normalized."""
        assert self.transform is not None
        parts = (plan.seed, plan.epoch, _TRANSFORMS, number, self._rank)
        seed = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
        on = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(on):  # what it draws, it draws again where a run resumes
            torch.manual_seed(seed)
            changed = self.transform(images)
        if changed.shape != images.shape or changed.dtype != torch.uint8:
            found = f"gives {changed.dtype} {list(changed.shape)}"
            expected = f"torch.uint8 {list(images.shape)}, as it was given"
            raise UsageError("transform", found, expected)
        if self._dtype is None:
            return changed
        if self._normalizer is None or self._normalizer.size != images.shape[-1]:
            here = self._device, self._dtype, self._preprocessing
            self._normalizer = make_normalizer(images.shape[-1], *here)
        return self._normalizer(changed.permute(0, 2, 3, 1).contiguous())
