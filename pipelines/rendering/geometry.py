"""Boxes of the plan's rows as the kernels take them."""

from __future__ import annotations

import numpy as np
import PIL
from numpy.typing import NDArray

from pipelines.kernels import cpu
from pipelines.plan import Plan, Rows

#: The one that is installed, which the reference is.
_PILLOW = tuple(int(part) for part in PIL.__version__.split(".")[:2])


def make_geometry(rows: Rows, plan: Plan) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Each row's box as the kernels take it, checked against its image.

    Returns:
        int32[B, 2, 4], see `cpu.START`; bool[B], whether the vertical pass comes first.

    Raises:
        ValueError: a box reaches out of its image, which no plan's does.
    """
    sides = np.stack((plan.heights[rows.samples], plan.widths[rows.samples]), axis=1).astype(
        np.int64
    )
    geometry = np.empty((len(rows), 2, 4), np.int32)
    geometry[..., cpu.START], geometry[..., cpu.LENGTH] = rows.crops[:, :2], rows.crops[:, 2:]
    geometry[..., cpu.RESIZED], geometry[..., cpu.OFFSET] = rows.resized, rows.corners
    start, length, resized, offset = np.moveaxis(geometry.astype(np.int64), -1, 0)
    inside = (start >= 0) & (length > 0) & (start + length <= sides)
    inside &= (offset >= 0) & (offset + plan.size <= resized)
    if not inside.all():
        raise ValueError(f"row {np.argmin(inside.all(1))}'s crop reaches out of its image")
    shrinks = rows.shrinks[:, None]
    covered = -(-(start + length) // shrinks) - start // shrinks
    return geometry, goes_down_first(covered, resized, _PILLOW)


def goes_down_first(
    length: NDArray[np.int64], resized: NDArray[np.int64], pillow: tuple[int, ...]
) -> NDArray[np.bool_]:
    """The rows that Pillow resizes down before across; the other order rounds otherwise.

    Args:
        length, resized: int64[B, 2] height and width before and after, px; before, those of the
            image that is given to Pillow, of which its crop may be a part.
        pillow: its version, two numbers at least.

    Source: pull requests 9524 (Pillow 12.2) and 9549 (13.0) of python-pillow/Pillow.
    """
    down, across = (length - resized).T
    first = np.zeros(len(length), np.bool_)
    if pillow >= (13, 0):
        first = down > np.maximum(0, 2 * across)
    elif pillow >= (12, 2):
        first = (length[:, 0] > 100 * length[:, 1]) & (down > 0)
    return first
