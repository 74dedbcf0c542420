"""torchvision's classifiers: names, networks, output layers, parts from the input on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pipelines.errors import UsageError, is_no_memory
from pipelines.vision import interpolate_embeddings, models

Head = nn.Linear | nn.Conv2d
#: Output rows of a model as it comes.
_IMAGENET_CLASSES = 1000
#: Children whose own children are a body's parts.
OPENED = ("features", "encoder", "layers", "classifier", "heads")
#: A vision transformer's, whose number goes with the size of its images.
_POSITIONS = "encoder.pos_embedding"
#: Parameters that decay would pull to the origin of nothing. Source: torchvision's reference
#: training, "transformer-embedding-decay".
NO_DECAY = ("*class_token", "*pos_embedding", "*relative_position_bias_table")


def list_archs() -> list[str]:
    """The names of torchvision's classification models."""
    return [str(name) for name in models.list_models(module=models)]


def require_name(arch: str) -> None:
    """Refuse what is no model's name.

    Raises:
        UsageError: with some that are.
    """
    if arch not in list_archs():
        raise UsageError(
            "--arch",
            repr(arch),
            "a classification model of torchvision's, such as resnet18, "
            "squeezenet1_1, mobilenet_v3_small, efficientnet_b0 or vit_b_16",
            "write timm:NAME for one of timm's",
        )


def count_numbers(arch: str) -> int:
    """How many numbers a network has; 0 where torchvision does not say."""
    known = list(models.get_model_weights(arch))
    return int(known[0].meta["num_params"]) if known else 0


def make_network(arch: str, size: int, drop_path: float | None = None) -> nn.Module:
    """A network as torchvision draws it, of ImageNet's classes.

    Raises:
        UsageError: a size or a rate that it does not take.
    """
    options: dict[str, Any] = {}
    if arch.startswith("vit_"):
        options = {"image_size": size}
    elif arch in ("inception_v3", "googlenet"):  # their second outputs serve nobody today
        options = {"aux_logits": False, "init_weights": True}
    if drop_path is not None:
        options["stochastic_depth_prob"] = drop_path
    try:
        model: nn.Module = models.get_model(arch, weights=None, **options)
    except TypeError as error:
        if "stochastic_depth_prob" not in str(error):
            raise
        if not drop_path:
            return make_network(arch, size)
        found = f"{drop_path:g}, and a {arch} has no paths to drop"
        raise UsageError("--drop-path", found, "a network that has some", "leave it out") from error
    except (ValueError, AssertionError, RuntimeError) as error:
        if is_no_memory(error):
            raise
        raise UsageError("--size", f"{size} px with --arch {arch} ({error})", "224") from error
    return model


def find_head(model: nn.Module) -> tuple[str, Head]:
    """The output layer and its name: the last layer with a row for each of ImageNet's classes."""
    found: tuple[str, Head] | None = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == _IMAGENET_CLASSES:
            found = name, module
        elif isinstance(module, nn.Conv2d) and module.out_channels == _IMAGENET_CLASSES:
            found = name, module
    assert found is not None, "a torchvision classifier without an output layer"
    return found


def replace_head(model: nn.Module, name: str, old: Head, classes: int) -> Head:
    """Put a new output layer, as torch draws it, into the old one's place."""
    head: Head
    if isinstance(old, nn.Linear):
        head = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    else:
        head = nn.Conv2d(old.in_channels, classes, kernel_size=1, bias=old.bias is not None)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, head)
    return head


def fit_positions(
    model: nn.Module, arch: str, state: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """A state dict whose positions are those of the model's images.

    Raises:
        ValueError, RuntimeError: they are none.
    """
    if not arch.startswith("vit_") or _POSITIONS not in state:
        return state
    model_: Any = model
    try:
        return dict(interpolate_embeddings(model_.image_size, model_.patch_size, dict(state)))
    except (ValueError, RuntimeError) as error:
        if is_no_memory(error):
            raise
        found = f"has {_POSITIONS} of shape {list(state[_POSITIONS].shape)}"
        raise ValueError(found) from error


def is_second_output(name: str) -> bool:
    """Whether a tensor is of GoogLeNet's or Inception's auxiliary outputs."""
    return name.lower().startswith(("auxlogits.", "aux1.", "aux2."))


def stages(model: nn.Module, head: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """The body's parts from the input on, as `--freeze stages:N` counts them, by name.

    A part is a child of the network (`layer1` of a ResNet) or of its `features` or `encoder`; what
    comes before the first of them (a ResNet's `conv1` and `bn1`) belongs to it.
    """
    units = list(_units(model, head))
    has_blocks = any(list(module.children()) for _, module in units)
    parts: list[tuple[str, list[nn.Module]]] = []
    stem: list[nn.Module] = []
    for name, module in units:
        # A VGG has nothing but layers: there each one with a weight matrix is a part.
        is_part = bool(list(module.children())) or name.startswith("classifier")
        is_part |= not has_blocks and isinstance(module, nn.Conv2d)
        if is_part:
            parts.append((name, [*stem, module]))
            stem = []
        elif parts:  # a norm behind the last block
            parts[-1][1].append(module)
        else:
            stem.append(module)
    return parts


def _units(model: nn.Module, head: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The body's children from the input on, its `features`, `encoder` and the like opened."""
    for name, module in model.named_children():
        if name in OPENED:
            for below, child in _units(module, head):
                # An encoder's layers are known by their own names.
                yield (below if "." in below or "_" in below else f"{name}.{below}"), child
        elif module is not head and any(True for _ in module.parameters()):
            yield name, module
