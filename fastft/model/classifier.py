"""The model: any of torchvision's classifiers with a new output layer, on weights from wherever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastft.model.weights import DEFAULT_ARCH, Weights, load_weights
from fastft.runs.checkpoint import Checkpoint
from pipelines.errors import DataError, UsageError, is_no_memory
from pipelines.vision import interpolate_embeddings, models

#: Output rows of a torchvision model as it comes.
_IMAGENET_CLASSES = 1000
#: Children whose own children are a body's parts.
_OPENED = ("features", "encoder", "layers", "classifier", "heads")
#: A vision transformer's, whose number goes with the size of its images.
_POSITIONS = "encoder.pos_embedding"
#: From so many weights on a network is not made for a file that holds few.
_LARGE = 10_000_000
#: Names in a message, before the rest is only counted.
_NAMED = 4


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model ready to train.

    Attributes:
        model: the network, channels_last.
        arch: its name in torchvision.
        head: its output layer.
        pretrained: whether its body carries weights.
        left_out: tensors of the weights that were not used, with their shapes: another task's
            output layer.
        reused: classes whose output row begins as the source model's, with that row's number.
    """

    model: nn.Module
    arch: str
    head: nn.Module
    pretrained: bool
    left_out: tuple[str, ...]
    reused: Mapping[str, int]


def build_model(
    classes: Sequence[str] | int,
    weights: str,
    *,
    seed: int = 0,
    arch: str = "auto",
    size: int = 224,
    reuse_head: Sequence[str] = (),
) -> BuiltModel:
    """A classifier with a new output layer.

    On weights the new layer is Xavier-uniform, as the tutorial has it; without, all of the model is
    as torchvision draws it. Both from torch's generator, seeded with `seed`.

    Args:
        classes: class names, or their number.
        weights: `imagenet`, `none`, or the path of a run, a checkpoint or a state dict.
        seed: of what is drawn.
        arch: a classification model of torchvision's; `auto` takes the weights' own, else resnet18.
        size: side of its images, px.
        reuse_head: `class=row`, see `TrainConfig`.

    Raises:
        DataError: the weights cannot be had, or are another model's.
        UsageError: no such model, a size that it cannot take, or a row that is not there.
    """
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    if arch != "auto":
        _check_arch(arch)
    source = load_weights(weights, DEFAULT_ARCH if arch == "auto" else arch)
    if arch == "auto":
        arch = (source.arch if source is not None else None) or DEFAULT_ARCH
        if source is not None:
            require_arch(source.state, arch, source.where)
    torch.manual_seed(seed)
    model = _make_network(arch, size)
    head_name, old = _find_head(model)
    left_out = _load_body(model, source, head_name, arch) if source is not None else ()
    head = _new_head(old, len(names))
    if source is not None:
        nn.init.xavier_uniform_(head.weight)
    _put(model, head_name, head)
    reused = _reuse_rows(head, head_name, reuse_head, source, names)
    _check_size(model, arch, size)
    model = model.to(memory_format=torch.channels_last)
    return BuiltModel(model, arch, head, source is not None, left_out, reused)


def restore_model(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The very model of a checkpoint, for evaluation: the averaged weights, if it has them.

    Raises:
        DataError: its tensors do not fit its own description.
    """
    expected = f"the tensors of a {checkpoint.arch}"
    state = checkpoint.evaluated
    try:
        require_arch(state, checkpoint.arch, path)
        model = _make_network(checkpoint.arch, checkpoint.size)
        name, old = _find_head(model)
        head, shape = state.get(f"{name}.weight"), (len(checkpoint.classes), *old.weight.shape[1:])
        if head is None or head.shape != shape:
            found = f"no {name}.weight"
            if head is not None:
                found = f"{name}.weight of shape {list(head.shape)} instead of {list(shape)}"
            raise DataError(path, found, expected, "train again")
        _put(model, name, _new_head(old, len(checkpoint.classes)))
        load_state(model, state)
    except (RuntimeError, UsageError) as error:
        if is_no_memory(error):
            raise
        first = " ".join(str(error).split("\n")[:2])
        raise DataError(path, first, expected, "train again") from error
    return model.to(memory_format=torch.channels_last).eval()


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], *, strict: bool = True) -> None:
    """Load tensors; the versions of the modules that they are of are the model's own.

    Raises:
        RuntimeError: they do not fit.
    """
    whole = model.state_dict()
    whole.clear()  # which leaves what it says of versions; MNASNet refuses to do without
    whole.update(state)
    model.load_state_dict(whole, strict=strict)


def list_archs() -> list[str]:
    """The names of torchvision's classification models."""
    return [str(name) for name in models.list_models(module=models)]


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


def freeze(built: BuiltModel, asked: str) -> tuple[nn.Module, ...]:
    """Stop what `--freeze` names from learning; gives the modules that stay in eval mode.

    Raises:
        UsageError: neither `backbone` nor `stages:N`, or more stages than there are.
    """
    if not asked:
        return ()
    model, head = built.model, built.head
    parts = stages(model, head)
    if asked == "backbone":
        frozen = [module for _, modules in parts for module in modules]
        parameters = [p for p in model.parameters() if all(p is not q for q in head.parameters())]
    else:
        kind, _, number = asked.partition(":")
        if kind != "stages" or not number.isdecimal():
            raise UsageError("--freeze", repr(asked), "backbone or stages:N")
        if not 1 <= int(number) <= len(parts):
            names = ", ".join(name for name, _ in parts)
            raise UsageError(
                "--freeze", asked, f"stages:1 to stages:{len(parts)} of a {built.arch} ({names})"
            )
        frozen = [module for _, modules in parts[: int(number)] for module in modules]
        parameters = [p for module in frozen for p in module.parameters()]
        # What belongs to no module, a transformer's positions, is at its input.
        parameters += [
            p for name, p in model.named_parameters() if name.rpartition(".")[0] in ("", *_OPENED)
        ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    return tuple(frozen)


def set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode, but for what is frozen: its batch norm keeps its statistics."""
    model.train()
    for module in frozen:
        module.eval()


def _check_arch(arch: str) -> None:
    if arch not in list_archs():
        raise UsageError(
            "--arch",
            repr(arch),
            "a classification model of torchvision's, such as resnet18, "
            "squeezenet1_1, mobilenet_v3_small, efficientnet_b0 or vit_b_16",
        )


def require_arch(state: Mapping[str, torch.Tensor], arch: str, where: Path | str) -> None:
    """Refuse a file that says it is of a large network and is not, before that takes memory.

    Raises:
        DataError: there is no such network, or the file holds less than a quarter of its numbers,
            as much as an output layer never is.
    """
    if arch not in list_archs():
        raise DataError(where, f"is of a {arch!r}", "a classification model of torchvision's")
    known, found = list(models.get_model_weights(arch)), sum(t.numel() for t in state.values())
    numbers = known[0].meta["num_params"] if known else 0
    if numbers > _LARGE and 4 * found < numbers:
        raise DataError(where, f"has {found:,} numbers", f"the {numbers:,} of a {arch}")


def _make_network(arch: str, size: int) -> nn.Module:
    options: dict[str, Any] = {}
    if arch.startswith("vit_"):
        options = {"image_size": size}
    elif arch in ("inception_v3", "googlenet"):  # their second outputs serve nobody today
        options = {"aux_logits": False, "init_weights": True}
    try:
        model: nn.Module = models.get_model(arch, weights=None, **options)
    except (ValueError, AssertionError, RuntimeError) as error:
        if is_no_memory(error):
            raise
        raise UsageError("--size", f"{size} px with --arch {arch} ({error})", "224") from error
    return model


def _find_head(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The output layer and its name: the last layer with a row for each of ImageNet's classes."""
    found: tuple[str, nn.Linear | nn.Conv2d] | None = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == _IMAGENET_CLASSES:
            found = name, module
        elif isinstance(module, nn.Conv2d) and module.out_channels == _IMAGENET_CLASSES:
            found = name, module
    assert found is not None, "a torchvision classifier without an output layer"
    return found


def _new_head(old: nn.Linear | nn.Conv2d, classes: int) -> nn.Linear | nn.Conv2d:
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, classes, bias=old.bias is not None)
    return nn.Conv2d(old.in_channels, classes, kernel_size=1, bias=old.bias is not None)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _load_body(model: nn.Module, source: Weights, head_name: str, arch: str) -> tuple[str, ...]:
    """Load all but the output layer; returns what was left out.

    Raises:
        DataError: a tensor of the body is missing, has another shape, or has no place.
    """
    if source.arch is not None and source.arch != arch:
        raise DataError(
            source.where, f"is of a {source.arch}", f"a {arch}", f"pass --arch {source.arch}"
        )
    state = dict(source.state)
    if arch.startswith("vit_") and _POSITIONS in state:
        model_: Any = model
        try:
            state = dict(interpolate_embeddings(model_.image_size, model_.patch_size, state))
        except (ValueError, RuntimeError) as error:
            if is_no_memory(error):
                raise
            found = f"has {_POSITIONS} of shape {list(state[_POSITIONS].shape)}"
            raise DataError(source.where, found, f"the tensors of a {arch}", "") from error
    own = model.state_dict()
    head = {name for name in own if name.startswith(f"{head_name}.")}
    wrong = [f"no {name}" for name in own if name not in head and name not in state]
    wrong += [
        f"{name} of shape {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in own.items()
        if name not in head and name in state and state[name].shape != tensor.shape
    ]
    extra = [name for name in state if name not in own and not _is_second_output(name)]
    wrong += [f"an additional {name:.200}" for name in extra]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise DataError(
            source.where,
            f"has {'; '.join(wrong[:_NAMED])}{more}",
            f"the tensors of a {arch}",
            "pass its --arch",
        )
    body = {name: tensor for name, tensor in state.items() if name in own and name not in head}
    load_state(model, body, strict=False)
    return tuple(f"{name} {list(state[name].shape)}" for name in state if name not in body)


def _is_second_output(name: str) -> bool:
    """Whether a tensor is of GoogLeNet's or Inception's auxiliary outputs."""
    return name.lower().startswith(("auxlogits.", "aux1.", "aux2."))


def _reuse_rows(
    head: nn.Linear | nn.Conv2d,
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


def _check_size(model: nn.Module, arch: str, size: int) -> None:
    """Try one image, so that a size that does not suit is refused before anything is opened."""
    model.eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        if is_no_memory(error):
            raise
        raise UsageError(
            "--size",
            f"{size} px, which a {arch} cannot take ({str(error).splitlines()[0]})",
            "a larger one",
            "see torchvision's notes on it",
        ) from error


def _units(model: nn.Module, head: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The body's children from the input on, its `features`, `encoder` and the like opened."""
    for name, module in model.named_children():
        if name in _OPENED:
            for below, child in _units(module, head):
                # An encoder's layers are known by their own names.
                yield (below if "." in below or "_" in below else f"{name}.{below}"), child
        elif module is not head and any(True for _ in module.parameters()):
            yield name, module
