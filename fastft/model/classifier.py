"""The model: a classifier of torchvision's or timm's with a new output layer, on weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fastft.model import timm_models, torchvision_models
from fastft.model.built import BuiltModel
from fastft.model.fitting import find_misfit
from fastft.model.form import USUAL, Form, change
from fastft.model.loading import load_body, load_state
from fastft.model.torchvision_models import Head
from fastft.model.weights import DEFAULT_ARCH, Weights, load_weights
from fastft.runs.checkpoint import Checkpoint
from pipelines.errors import DataError, UsageError, is_no_memory
from pipelines.preprocessing import Filter

#: From so many weights on a network is not made for a file that holds few.
_LARGE = 10_000_000
_IMAGENET_CLASSES = 1000


def build_model(
    classes: Sequence[str] | int,
    weights: str,
    *,
    seed: int = 0,
    arch: str = "auto",
    size: int = 224,
    reuse_head: Sequence[str] = (),
    drop_path: float | None = None,
    filter: Filter | None = None,
    crop_share: float | None = None,
) -> BuiltModel:
    """A classifier with a new output layer.

    On weights the new layer is Xavier-uniform, as the tutorial has it; without, all of the model is
    as its library draws it. Both from torch's generator, seeded with `seed`.

    Args:
        classes: class names, or their number.
        weights: `imagenet`, `none`, or the path of a run, a checkpoint or a state dict.
        seed: of what is drawn.
        arch: a classification model of torchvision's, or `timm:` and one of timm's; `auto` takes
            the weights' own, else resnet18.
        size: side of its images, px; 0: the model's own.
        reuse_head: `class=row`, see `TrainConfig`.
        drop_path: how often the deepest path is dropped; None: as the model has it.
        filter, crop_share: are taken instead of the form's own.

    Raises:
        DataError: the weights cannot be had, or are another model's.
        UsageError: no such model, a size or a form that it cannot take, or a row that is not there.
    """
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    if arch != "auto":
        _require_name(arch)
    source = load_weights(weights, DEFAULT_ARCH if arch == "auto" else arch)
    if arch == "auto":
        arch = (source.arch if source is not None else None) or DEFAULT_ARCH
        if source is not None:
            require_arch(source.state, arch, source.where)
    form = _find_form(arch, source, filter, crop_share)
    form = replace(form, size=size or form.size)
    torch.manual_seed(seed)
    if timm_models.is_timm(arch):
        model, head_name, head = timm_models.make_network(arch, len(names), form.size, drop_path)
    else:
        model = torchvision_models.make_network(arch, form.size, drop_path)
        head_name, old = torchvision_models.find_head(model)
        head = torchvision_models.replace_head(model, head_name, old, len(names))
    left_out: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    if source is not None:
        left_out, begun = load_body(model, source, head_name, arch, len(names), form.size)
        nn.init.xavier_uniform_(head.weight)
    reused = _reuse_rows(head, head_name, reuse_head, source, names)
    check_size(model, arch, form.size)
    model = model.to(memory_format=torch.channels_last)
    return BuiltModel(model, arch, head, source is not None, left_out, reused, form, begun)


def restore_model(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The very model of a checkpoint, for evaluation: the averaged weights, if it has them.

    Raises:
        DataError: its tensors do not fit its own description.
        UsageError: it is timm's, which is not installed.
    """
    arch, classes = checkpoint.arch, len(checkpoint.classes)
    expected = f"the tensors of a {arch}"
    state = checkpoint.evaluated
    if timm_models.is_timm(arch):
        timm_models.load_timm()
    try:
        require_arch(state, arch, path)
        if timm_models.is_timm(arch):
            draft = timm_models.draft(arch, classes, checkpoint.size).model
            if odd := find_misfit(state, draft.state_dict()):
                raise DataError(path, odd, expected, "train again")
            model, *_ = timm_models.make_network(arch, classes, checkpoint.size)
        else:
            model = torchvision_models.make_network(arch, checkpoint.size)
            name, old = torchvision_models.find_head(model)
            head, shape = state.get(f"{name}.weight"), (classes, *old.weight.shape[1:])
            if head is None or head.shape != shape:
                found = f"no {name}.weight"
                if head is not None:
                    found = f"{name}.weight of shape {list(head.shape)} instead of {list(shape)}"
                raise DataError(path, found, expected, "train again")
            torchvision_models.replace_head(model, name, old, classes)
        load_state(model, state)
    except (RuntimeError, UsageError) as error:
        if is_no_memory(error):
            raise
        first = " ".join(str(error).split("\n")[:2])
        raise DataError(path, first, expected, "train again") from error
    return model.to(memory_format=torch.channels_last).eval()


def require_arch(state: Mapping[str, torch.Tensor], arch: str, where: Path | str) -> None:
    """Refuse a file that says it is of a large network and is not, before that takes memory.

    Raises:
        DataError: there is no such network, or the file holds less than a quarter of its numbers,
            as much as an output layer never is.
        UsageError: it is timm's, which is not installed.
    """
    if timm_models.is_timm(arch):
        timm_models.load_timm()
    try:
        _require_name(arch)
    except UsageError as error:
        library = "timm's" if timm_models.is_timm(arch) else "torchvision's"
        expected = f"a classification model of {library}"
        raise DataError(where, f"is of a {arch!r}", expected) from error
    found = sum(tensor.numel() for tensor in state.values())
    numbers = _count_numbers(arch)
    if numbers > _LARGE and 4 * found < numbers:
        raise DataError(where, f"has {found:,} numbers", f"the {numbers:,} of a {arch}")


def _require_name(arch: str) -> None:
    if timm_models.is_timm(arch):
        timm_models.require_name(arch)
    else:
        torchvision_models.require_name(arch)


def _count_numbers(arch: str) -> int:
    """Numbers of a network, of about a thousand classes; 0 where that is not known."""
    if not timm_models.is_timm(arch):
        return torchvision_models.count_numbers(arch)
    size = timm_models.read_form(arch, filter="bicubic", crop_share=1.0).size
    draft = timm_models.draft(arch, _IMAGENET_CLASSES, size).model
    return sum(parameter.numel() for parameter in draft.parameters())


def _find_form(
    arch: str, source: Weights | None, filter: Filter | None, crop_share: float | None
) -> Form:
    """The form of the images: as the weights were trained on, else as the network has it."""
    if timm_models.is_timm(arch):
        if source is None or source.form is None:
            return timm_models.read_form(arch, filter=filter, crop_share=crop_share)
        form = source.form
    else:  # whose size and view are what was asked for
        form = USUAL
        if source is not None and source.form is not None:
            form = Form(preprocessing=source.form.preprocessing)
    return replace(form, preprocessing=change(form.preprocessing, filter, crop_share))


def _reuse_rows(
    head: Head,
    head_name: str,
    asked: Sequence[str],
    source: Weights | None,
    names: Sequence[str],
) -> dict[str, int]:
    """Start classes from the source model's own output rows."""
    reused: dict[str, int] = {}
    for part in asked:
        name, _, row = part.rpartition("=")
        if name not in names:
            raise UsageError(
                "--reuse-head",
                f"{part!r}, whose class is not there",
                f"of {', '.join(names)}",
                "write class=row",
            )
        assert source is not None, "TrainConfig refuses this"
        weight = source.state.get(f"{head_name}.weight")
        bias = source.state.get(f"{head_name}.bias")
        is_whole = weight is not None and weight.shape[1:] == head.weight.shape[1:]
        if weight is None or not is_whole or (bias is not None and bias.shape != weight.shape[:1]):
            raise DataError(source.where, f"has no {head_name}.weight", "a model with its head")
        if row in source.classes[: len(weight)]:
            index = source.classes.index(row)
        elif row.isdecimal() and int(row) < len(weight):
            index = int(row)
        else:
            known = f", or one of {', '.join(source.classes)}" if source.classes else ""
            raise UsageError(
                "--reuse-head",
                f"{part!r}, a row that {source.where} does not have",
                f"0 to {len(weight) - 1}{known}",
                "",
            )
        with torch.no_grad():
            head.weight[names.index(name)] = weight[index]
            if head.bias is not None and bias is not None:
                head.bias[names.index(name)] = bias[index]
        reused[name] = index
    return reused


def check_size(model: nn.Module, arch: str, size: int, option: str = "--size") -> None:
    """Try one image, so that a size that does not suit is refused before anything is opened.

    Raises:
        UsageError: it does not suit.
    """
    model.eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        if is_no_memory(error):
            raise
        raise UsageError(
            option,
            f"{size} px, which a {arch} cannot take ({str(error).splitlines()[0]})",
            "a larger one",
            "see its library's notes on it",
        ) from error
