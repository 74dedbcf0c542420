"""The model: ResNet-18 with a new output layer, on weights from wherever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from fastft.checkpoint import Checkpoint, read_torch_file
from pipelines.errors import DataError

ARCH = "resnet18"
_HEAD = "fc."
_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model ready to train.

    Attributes:
        model: the network, channels_last.
        pretrained: whether its body carries weights.
        left_out: tensors of the weights that were not used: another task's output layer.
    """

    model: nn.Module
    pretrained: bool
    left_out: tuple[str, ...]


def build_model(classes: int, weights: str, *, seed: int = 0) -> BuiltModel:
    """ResNet-18 with `classes` outputs.

    The output layer is new whatever the weights are: Xavier-uniform, drawn from `seed`.

    Args:
        classes: outputs.
        weights: `imagenet`, `none`, or the path of a checkpoint or state dict.
        seed: of the weights that are drawn.

    Raises:
        DataError: the weights cannot be had, or are not ResNet-18's.
    """
    torch.manual_seed(seed)
    model = resnet18(num_classes=classes)
    left_out: tuple[str, ...] = ()
    if weights != "none":
        state = _imagenet_state() if weights == "imagenet" else _file_state(Path(weights))
        left_out = _load_body(model, state, weights)
    generator = torch.Generator().manual_seed(seed)
    nn.init.xavier_uniform_(model.fc.weight, generator=generator)
    nn.init.zeros_(model.fc.bias)
    return BuiltModel(model.to(memory_format=torch.channels_last), weights != "none", left_out)


def restore_model(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The very model of a checkpoint, for evaluation.

    Raises:
        DataError: its tensors do not fit its own description.
    """
    model: nn.Module = resnet18(num_classes=len(checkpoint.classes))
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        first = str(error).split("\n")[0]
        raise DataError(
            path, first, f"the tensors of a {checkpoint.arch}", "train again"
        ) from error
    return model.to(memory_format=torch.channels_last).eval()


def _imagenet_state() -> Mapping[str, torch.Tensor]:
    weights = ResNet18_Weights.IMAGENET1K_V1
    try:
        if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).exists():
            # Asked first, since torch announces its download before it knows that it cannot.
            urlopen(Request(weights.url, method="HEAD"), timeout=_TIMEOUT_S).close()
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network; a hash that does not match
        reason = getattr(error, "reason", error)
        raise DataError(
            "--weights imagenet", f"cannot download {Path(weights.url).name} ({reason})",
            "a network", "pass --weights PATH with that file, or --weights none",
        ) from error  # fmt: skip


def _file_state(path: Path) -> Mapping[str, torch.Tensor]:
    content = read_torch_file(path)
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise DataError(path, "holds no tensors by name", "a state dict or a fastft checkpoint")
    return state


def _load_body(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> tuple[str, ...]:
    """Load all but the output layer; returns the names of what was left out."""
    own = model.state_dict()
    body = {name: tensor for name, tensor in state.items() if not name.startswith(_HEAD)}
    for name, tensor in own.items():
        if name.startswith(_HEAD):
            continue
        if name not in body:
            raise DataError(where, f"has no {name}", f"the tensors of a {ARCH}")
        if body[name].shape != tensor.shape:
            found = f"{name} of shape {list(body[name].shape)}"
            raise DataError(where, found, f"{list(tensor.shape)} as in a {ARCH}")
    if extra := sorted(set(body) - set(own)):
        raise DataError(where, f"also has {extra[0]}", f"the tensors of a {ARCH} alone")
    model.load_state_dict(body, strict=False)
    return tuple(name for name in state if name.startswith(_HEAD))
