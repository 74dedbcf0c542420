"""DALI's operators between a feed and a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from nvidia.dali import Pipeline, fn, types

from pipelines.preprocessing import Preprocessing

#: DALI's names for filters.
_FILTERS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


def images_decoded(next_inputs: Callable[[], Any]) -> tuple[Any, ...]:
    """Take pixels, as `dali_pixels` makes them: images, their regions' begins and ends, flips."""
    given = fn.external_source(
        source=next_inputs,
        num_outputs=4,
        batch=True,
        no_copy=True,
        dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.INT32],
        ndim=[3, 1, 1, 0],
        layout=["HWC", "", "", ""],
    )
    return tuple(given)


def images_to_decode(
    next_inputs: Callable[[], Any], *, by_region: bool, **options: Any
) -> tuple[Any, ...]:
    """Take encoded bytes, as `dali_feed` makes them, and decode them; gives the same.

    Args:
        next_inputs: gives a batch's.
        by_region: whether the decoder leaves out what is around a region.
        options: of DALI's decoder.
    """
    encoded, start, shape, roi_start, roi_end, flip = fn.external_source(
        source=next_inputs,
        num_outputs=6,
        batch=True,
        no_copy=True,
        dtype=[types.UINT8, types.INT32, types.INT32, types.FLOAT, types.FLOAT, types.INT32],
        ndim=[1, 1, 1, 1, 1, 0],
    )
    options |= {"output_type": types.RGB}
    if by_region:
        image = fn.decoders.image_slice(encoded, start, shape, axes=[0, 1], **options)
    else:
        image = fn.decoders.image(encoded, **options)
        image = fn.slice(image, start, shape, axes=[0, 1])
    return image, roi_start, roi_end, flip


def build(
    take: Callable[[], tuple[Any, ...]],
    *,
    size: int,
    preprocessing: Preprocessing,
    normalized: torch.dtype | None,
    resize_options: Mapping[str, Any],
    **pipeline: Any,
) -> Any:
    """A pipeline that resizes what it takes, and mirrors it.

    Args:
        take: one of the above.
        size: output side, px.
        preprocessing: the form of the model's images.
        normalized: the type of normalized images, float16 or what float32 is cast to; None for
            uint8 that nobody has normalized.
        resize_options: of DALI's `resize`.
        pipeline: of DALI's `Pipeline`.
    """
    pipe = Pipeline(**pipeline)
    with pipe:
        image, roi_start, roi_end, flip = take()
        image = fn.resize(
            image,
            size=[size, size],
            roi_start=roi_start,
            roi_end=roi_end,
            interp_type=_FILTERS[preprocessing.filter],
            **resize_options,
        )
        if normalized is None:
            image = fn.flip(image, horizontal=flip)
        else:
            # In DALI's threads, or in one GPU kernel.
            half = normalized == torch.float16
            image = fn.crop_mirror_normalize(
                image,
                mirror=flip,
                output_layout="HWC",
                dtype=types.FLOAT16 if half else types.FLOAT,
                mean=[255 * mean for mean in preprocessing.mean],
                std=[255 * std for std in preprocessing.std],
            )
        pipe.set_outputs(image)
    pipe.build()
    return pipe
