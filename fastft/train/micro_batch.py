"""Finds by trying how many images a GPU has room for at once.

What a step needs depends on the model, the images' size, the precision, and on what the libraries
choose to do; no formula knows it. So a share of a batch that may be too large is rehearsed, and
halved until it fits; `TrainStep` then takes it in pieces.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fastft.model.loss import Loss
from pipelines.errors import UsageError

#: What training holds beside the model, in times the parameters' bytes: AdamW's two moments, and
#: the buckets through which DDP's gradients go.
_RESERVE = 3


def find_micro_batch(
    model: nn.Module,
    loss: Loss,
    *,
    share: int,
    size: int,
    classes: int,
    device: torch.device,
    amp_dtype: torch.dtype | None,
) -> int:
    """The largest piece of a share that fits in GPU memory: its half, its quarter, and so on.

    Of several processes each may find another: all should take the least, a 0 being `share`.

    Args:
        model: on `device`, channels_last, not yet wrapped. Parameters that are frozen cost less:
            it should be as it will be when most of it learns.
        loss: what is minimized.
        share: the most images that this process gets of a global batch.
        size: side of the images, px; the largest that will come.
        classes: how many outputs the model has.
        device: where it will train; with everything else there that is going to stay.
        amp_dtype: what autocast computes in; None for float32.

    Returns:
        Images per piece; 0, if the whole share fits, and on a CPU, which is not asked.

    Raises:
        UsageError: there is no room for a single image.
    """
    if device.type != "cuda":
        return 0

    def rehearse_(images: int, pieces: int) -> None:
        rehearse(
            model,
            loss,
            images=images,
            pieces=pieces,
            size=size,
            classes=classes,
            device=device,
            amp_dtype=amp_dtype,
        )

    try:
        found = halve_until_it_fits(share, rehearse_)
    finally:
        torch.cuda.empty_cache()  # others on this GPU need what is no longer used
    if found is None:
        free, total = torch.cuda.mem_get_info(device)
        raise UsageError(
            f"{device} memory",
            f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free",
            f"room to train on one image of {size} px",
            "lower --size or take a smaller --arch",
        )
    return 0 if found == share else found


def halve_until_it_fits(share: int, rehearse: Callable[[int, int], None]) -> int | None:
    """Try a share, then halves of it; None if not even one image goes through.

    Args:
        share: images to begin with.
        rehearse: runs so many images, so many times; raises torch.OutOfMemoryError if it cannot.
    """
    images = share
    while images:
        try:
            # A second piece meets the gradients that the first one has left.
            rehearse(images, 1 if images == share else 2)
        except torch.OutOfMemoryError:
            pass  # the error holds what was allocated: it has to be gone before the next try
        else:
            return images
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use
        # Rounded up, so that two pieces are enough for a share that is odd.
        images = (images + 1) // 2 if images > 1 else 0
    return None


def rehearse(
    model: nn.Module,
    loss: Loss,
    *,
    images: int,
    pieces: int,
    size: int,
    classes: int,
    device: torch.device,
    amp_dtype: torch.dtype | None,
) -> None:
    """Run forward and backward passes of noise in training mode, and leave no trace of them.

    Raises:
        torch.OutOfMemoryError: there is no room for it.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        try:
            model.train()
            kept_free = torch.empty(
                _RESERVE * _parameter_bytes(model), dtype=torch.uint8, device=device
            )
            noise = torch.randn(images, 3, size, size, device=device)
            noise = noise.to(memory_format=torch.channels_last)
            labels = loss.make_labels(images, classes, device)
            for _ in range(pieces):
                with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
                    value = loss(model(noise), labels, images)
                value.backward()  # type: ignore[no-untyped-call]
            del kept_free
        finally:
            model.zero_grad(set_to_none=True)
            for module, training in modes.items():
                module.training = training
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def _parameter_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
