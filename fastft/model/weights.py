"""Weights from wherever: torchvision's ImageNet ones, timm's, a run, a checkpoint, a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import torch

from fastft.model.form import Form
from fastft.model.timm_models import is_timm
from fastft.model.timm_weights import fetch_weights
from fastft.runs.checkpoint import Checkpoint, read_file
from fastft.runs.folder import find_best
from fastft.runs.sound import find_odd_tensor
from fastft.runs.torch_file import as_state
from pipelines.errors import DataError, is_no_memory
from pipelines.vision import models

#: What is built where nothing says otherwise.
DEFAULT_ARCH = "resnet18"
_TIMEOUT_S = 20
#: Where other tools keep the state dict in what they save.
_KEYS = ("state_dict", "model_state_dict", "model")
#: Where timm keeps an average of the weights beside them, which it takes, too.
_AVERAGES = ("state_dict_ema", "model_ema")


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, and what is known of the model that they are of.

    Attributes:
        where: what an error calls them.
        state: its state dict.
        arch: its name in torchvision, or in timm, if the file says so.
        classes: its class names by output row, if the file says so.
        form: of the images that it was trained on, if the file says so.
    """

    where: str
    state: Mapping[str, torch.Tensor]
    arch: str | None = None
    classes: tuple[str, ...] = ()
    form: Form | None = None


def load_weights(asked: str, arch: str) -> Weights | None:
    """Reads the weights that `--weights` names; None for `none`.

    Args:
        asked: `imagenet`, `none`, or the path of a run folder, a checkpoint or a state dict.
        arch: whose ImageNet weights to take.

    Raises:
        DataError: they cannot be had, or are no tensors by name.
    """
    if asked == "none":
        return None
    if asked == "imagenet" and is_timm(arch):
        found = _read_weights(fetch_weights(arch), arch)
        return Weights(f"timm's weights of {arch}", found.state, arch)
    if asked == "imagenet":
        return Weights(f"torchvision's ImageNet weights of {arch}", _imagenet_state(arch), arch)
    return _read_weights(find_best(Path(asked)), arch)


def _read_weights(path: Path, arch: str) -> Weights:
    """The weights in a file.

    Raises:
        DataError: it cannot be read, or holds no tensors by name.
    """
    content = read_file(path)
    if isinstance(content, Checkpoint):
        form = Form(size=content.size, view=content.view, preprocessing=content.preprocessed)
        return Weights(str(path), content.evaluated, content.arch, content.classes, form)
    keys = (*_AVERAGES, *_KEYS) if is_timm(arch) else _KEYS
    held = {key: content[key] for key in keys if isinstance(content.get(key), dict)}
    what, found = next(iter(held.items()), ("weights", content))
    try:
        state = as_state(found, what)
        odd = find_odd_tensor(state) if state else "nothing"
    except TypeError as error:
        odd = str(error)
    if odd:
        told = f"holds no tensors by name: {odd}"
        raise DataError(path, told, "a state dict or a fastft checkpoint")
    # DistributedDataParallel puts this before each name.
    return Weights(str(path), {name.removeprefix("module."): t for name, t in state.items()})


def find_arch(arch: str, weights: str) -> str:
    """The model that `--arch` and `--weights` name together.

    Raises:
        DataError: `auto`, and weights that cannot be read.
    """
    if arch != "auto":
        return arch
    source = None if weights == "imagenet" else load_weights(weights, DEFAULT_ARCH)
    return (source.arch if source is not None else None) or DEFAULT_ARCH


def _imagenet_state(arch: str) -> Mapping[str, torch.Tensor]:
    # The first ones that were published, as the tutorial takes them; V2's come of longer training
    # and larger images, and fine-tune no better as fixed features.
    known = list(models.get_model_weights(arch))
    if not known:
        raise DataError(
            f"--weights imagenet of {arch}",
            "torchvision has none",
            "",
            "pass --weights none or PATH",
        )
    weights = known[0]
    name = Path(weights.url).name
    try:
        if not (Path(torch.hub.get_dir()) / "checkpoints" / name).exists():
            # Asked first, since torch announces its download before it knows that it cannot.
            urlopen(Request(weights.url, method="HEAD"), timeout=_TIMEOUT_S).close()
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network; a hash that does not match
        if is_no_memory(error):
            raise
        reason = getattr(error, "reason", error)
        raise DataError(
            "--weights imagenet",
            f"cannot download {name} ({reason})",
            "a network",
            "pass --weights PATH with that file, or --weights none",
        ) from error
