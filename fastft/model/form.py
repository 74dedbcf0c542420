"""The form of a model's images: their side, how evaluation cuts them, filter, mean, deviation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastft.config.train import SIZE_PX, EvalView
from pipelines.preprocessing import IMAGENET, Filter, Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The form that a network wants its images in; the defaults are torchvision's.

    Attributes:
        size: side of the images, px.
        view: how evaluation cuts them, a view of `pipelines.plan`.
        preprocessing: their filter, and how they are normalized.
    """

    size: int = SIZE_PX
    view: EvalView = "eval"
    preprocessing: Preprocessing = IMAGENET


#: Of torchvision's models.
USUAL = Form()


def change(form: Preprocessing, filter: Filter | None, crop_share: float | None) -> Preprocessing:
    """The same form with what was asked for; None leaves a value.

    Raises:
        UsageError: a value out of range.
    """
    return replace(
        form,
        filter=form.filter if filter is None else filter,
        crop_share=form.crop_share if crop_share is None else crop_share,
    )


def describe(form: Preprocessing, view: EvalView) -> str:
    """The form in words."""
    mean, std = (", ".join(f"{each:.4g}" for each in values) for values in (form.mean, form.std))
    shown = (
        f"{form.crop_share:.1%} of the shorter side"
        if view == "eval"
        else (f"{form.crop_share:.1%} of both sides, squashed")
    )
    return f"{form.filter}; evaluation shows {shown}; mean {mean}, deviation {std}"
