"""timm's classifiers: names, the form of their images, networks, output layers, layers in order.

timm is the extra `fastft[timm]`; it is imported where a model of its own is asked for, which takes
seconds. No tensors are read by it: `weights` and `timm_weights` do that, here they get their names.
"""

from __future__ import annotations

import difflib
import functools
import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastft.config.train import EvalView
from fastft.model.form import Form
from fastft.model.torchvision_models import Head
from pipelines.errors import UsageError, is_no_memory, one_line
from pipelines.preprocessing import CROP_SHARE, FILTERS, Filter, Preprocessing

#: The beginning of a name in `--arch`.
PREFIX = "timm:"
_SHOWN = 4
#: Likeness from which on a name may be meant: that of difflib.
_LIKE = 0.6
#: How evaluation cuts an image: timm's `crop_mode`, and the view that is the same.
_VIEWS: Mapping[str, EvalView] = {"center": "eval", "squash": "eval-square"}
#: Where layers lie that stand between the body and the output layer. Files of features alone lack
#: them: a model that was not trained to tell classes may end in another norm.
_NECKS = ("fc_norm.", "head.", "attn_pool.")

State = Mapping[str, torch.Tensor]


def is_timm(arch: str) -> bool:
    """Whether a name is of a model of timm's."""
    return arch.startswith(PREFIX)


@functools.cache
def load_timm() -> Any:
    """The library.

    Raises:
        UsageError: it is not installed.
    """
    import pipelines.vision  # noqa: F401  # so that timm gets torchvision without the compiler

    try:
        import timm
        import timm.data
        import timm.models
    except ImportError as error:
        raise UsageError(
            f"--arch {PREFIX}NAME",
            f"timm cannot be imported ({error})",
            "it beside fastft",
            'pip install "fastft[timm]"',
        ) from error
    return timm


def require_name(arch: str) -> str:
    """The name that timm knows, such as `vit_tiny_patch16_224` or with a tag behind a point.

    Raises:
        UsageError: timm is not installed or has no such model, with the names that are near it.
    """
    timm, name = load_timm(), arch.removeprefix(PREFIX)
    own, _, tag = name.partition(".")
    known = timm.list_models()
    if own not in known:
        current = timm.models.get_deprecated_models().get(own)
        near = [current] if current else _find_near(own, known)
        expected = "a classifier of timm's" + (f", such as {', '.join(near)}" if near else "")
        remedy = "python -c 'import timm; print(timm.list_models())' lists them"
        raise UsageError("--arch", f"{arch!r:.200}", expected, remedy)
    tags = list(timm.list_models(f"{own}.*", include_tags=True))
    if tag and name not in tags:
        near = difflib.get_close_matches(name, tags, _SHOWN) or tags[:_SHOWN]
        raise UsageError("--arch", f"{arch!r:.200}", f"one of {', '.join(near)}", "or no tag")
    return name


def _find_near(own: str, known: Collection[str]) -> list[str]:
    """The names most like one that is mistyped, or of which no more than a part is there."""
    matcher = difflib.SequenceMatcher(b=own)  # which remembers its second text

    def likeness(name: str) -> float:
        ratios = [float(own != "" and own in name)]
        for part in (name, name[: len(own) + 1]):
            matcher.set_seq1(part)
            ratios.append(matcher.ratio())
        return max(ratios)

    likely = {name: ratio for name in known if (ratio := likeness(name)) > _LIKE}
    return heapq.nlargest(_SHOWN, likely, key=likely.__getitem__)


def same_network(one: str, other: str) -> bool:
    """Whether two names are of one network, whatever weights their tags are of."""
    return one.partition(".")[0] == other.partition(".")[0]


def read_config(arch: str) -> dict[str, Any]:
    """Timm's own description of a model: `pretrained_cfg`.

    Raises:
        UsageError: as `require_name`.
    """
    config = load_timm().models.get_pretrained_cfg(require_name(arch))
    return {} if config is None else dict(config.to_dict())


def read_form(arch: str, *, filter: Filter | None = None, crop_share: float | None = None) -> Form:
    """The form that a model's images have in timm's own validation at the size of its training.

    Args:
        arch: the model.
        filter, crop_share: are taken instead of the model's own.

    Raises:
        UsageError: as `require_name`; or a form that no loader gives.
    """
    told = load_timm().data.resolve_data_config(pretrained_cfg=read_config(arch) or {"tag": ""})
    channels, height, width = told["input_size"]
    if (channels, height) != (3, width):
        raise UsageError("--arch", f"{arch}, of {channels} x {height} x {width}", "square RGB", "")
    if filter is None and told["interpolation"] not in FILTERS:
        found = f"{arch}, whose images are resized by {told['interpolation']!r}"
        raise UsageError("--arch", found, f"one of {', '.join(FILTERS)}", "pass --filter bicubic")
    share = told["crop_pct"] if crop_share is None else crop_share
    if crop_share is None and share > 1:
        found = f"{arch}, which evaluates on {share:g} of an image's shorter side"
        raise UsageError("--arch", found, "1 at most", f"pass --crop-share 1 or {CROP_SHARE:g}")
    return Form(
        size=height,
        view=_VIEWS.get(told["crop_mode"], "eval"),
        preprocessing=Preprocessing(
            filter=filter or told["interpolation"],
            crop_share=float(share),
            mean=tuple(map(float, told["mean"])),  # type: ignore[arg-type]
            std=tuple(map(float, told["std"])),  # type: ignore[arg-type]
        ),
    )


def make_network(
    arch: str, classes: int, size: int, drop_path: float | None = None
) -> tuple[nn.Module, str, Head]:
    """A network as timm draws it, its output layer's name, and that layer.

    Raises:
        UsageError: as `require_name`; a size or a rate that it does not take, or several outputs.
    """
    model, _ = _create(arch, classes, size, drop_path)
    if drop_path and not any(map(drops_paths, model.modules())):
        raise _no_paths(arch, drop_path)
    return model, *find_head(model, arch, classes)


@dataclass(frozen=True, slots=True)
class Draft:
    """A network without memory for its numbers.

    Attributes:
        model: has their names and shapes.
        converts: functions that timm would put the tensors of a file through, and the network.
    """

    model: nn.Module
    converts: tuple[Callable[[dict[str, Any], nn.Module], dict[str, Any]], ...]


@functools.lru_cache(maxsize=4)
def draft(arch: str, classes: int, size: int) -> Draft:
    """The draft of a network.

    Raises:
        As `make_network`.
    """
    with torch.device("meta"):
        model, heard = _create(arch, classes, size)
    return Draft(model, tuple(heard))


def find_head(model: nn.Module, arch: str, classes: int) -> tuple[str, Head]:
    """The output layer and its name.

    Raises:
        UsageError: there are several, one of which a teacher trains, or none.
    """
    model_: Any = model
    told = model_.get_classifier()
    layers = [
        module
        for module in (told.modules() if isinstance(told, nn.Module) else ())
        if (isinstance(module, nn.Linear) and module.out_features == classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == classes)
    ]
    is_many = isinstance(told, (tuple, list, nn.ModuleList))
    if is_many or len({layer.weight.shape for layer in layers}) < len(layers) or not layers:
        what = "several output layers" if is_many or layers else "no output layer that is known"
        raise UsageError("--arch", f"{arch}, which has {what}", "a network with one", "")
    head = layers[-1]
    return next(name for name, module in model.named_modules() if module is head), head


def convert_names(arch: str, classes: int, size: int, model: nn.Module, state: State) -> State:
    """Tensors under the names of timm's network, positions resampled to the size of its images.

    timm knows the names that models' authors gave them, and does the work.

    Raises:
        ValueError: it cannot, and why.
    """
    for convert in draft(arch, classes, size).converts:
        try:
            state = dict(convert(dict(state), model))
        except Exception as error:  # whatever a function of names makes of other names
            if is_no_memory(error):
                raise
            told = one_line(f"{type(error).__name__}: {error}")[:200]
            raise ValueError(f"holds names or shapes that timm cannot use ({told})") from error
    return state


def is_of_neck(name: str) -> bool:
    """Whether a tensor may begin anew, since files of features alone do not have it."""
    return name.startswith(_NECKS)


def number_layers(model: nn.Module, arch: str, option: str, *, coarse: bool) -> dict[str, int]:
    """The layer of each parameter, from the input on, as timm counts them.

    Args:
        model: of timm's.
        arch: its name.
        option: what asks, for the message.
        coarse: whether a stage is one.

    Raises:
        UsageError: timm does not count this network's.
    """
    model_: Any = model
    try:
        matcher = model_.group_matcher(coarse=coarse)
    except (AttributeError, AssertionError) as error:
        found = f"given with {arch}, whose layers timm does not count"
        raise UsageError(option, found, "another network", "leave it out") from error
    return dict(load_timm().models.group_parameters(model, matcher, reverse=True))


def names_without_decay(model: nn.Module) -> Collection[str]:
    """Names of parameters that weight decay should spare, as the network says."""
    told: Callable[[], Collection[str]] = getattr(model, "no_weight_decay", tuple)
    return tuple(told())


def drops_paths(module: nn.Module) -> bool:
    """Whether a module drops paths in training."""
    rate = getattr(module, "drop_prob", 0.0)
    return isinstance(rate, float) and rate > 0


def _create(
    arch: str, classes: int, size: int, drop_path: float | None = None
) -> tuple[nn.Module, list[Any]]:
    """A network as timm makes it for weights, and the functions that it would put them through."""
    # Some of timm's networks have another epsilon where their weights have been trained with it.
    options: dict[str, Any] = {"num_classes": classes, "pretrained": True}
    if drop_path is not None:
        options["drop_path_rate"] = drop_path
    # Others take images of any size. Source: timm, `resolve_model_input_args`.
    if read_config(arch).get("fixed_input_size"):
        options["img_size"] = size
    try:
        with _hearing_converts() as heard:
            model: nn.Module = load_timm().create_model(arch.removeprefix(PREFIX), **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if is_no_memory(error):
            raise
        if drop_path is not None and "drop_path_rate" in str(error):
            if not drop_path:
                return _create(arch, classes, size)
            raise _no_paths(arch, drop_path) from error
        told = one_line(str(error) or type(error).__name__)[:200]
        raise UsageError("--size", f"{size} px with --arch {arch} ({told})", "its own") from error
    return model, heard


def _no_paths(arch: str, drop_path: float) -> UsageError:
    found = f"{drop_path:g}, and {arch} has no paths to drop"
    return UsageError("--drop-path", found, "a network that has some", "leave it out")


@contextmanager
def _hearing_converts() -> Iterator[list[Any]]:
    """Let timm build networks without loading anything; gives the functions of names it would use.

    They are no part of what timm offers by name, and each family has its own.
    """
    from timm.models import _builder

    heard: list[Any] = []

    def hear(model: nn.Module, *_: Any, filter_fn: Any = None, **__: Any) -> None:
        if filter_fn is not None:
            heard.append(filter_fn)

    usual = _builder.load_pretrained
    _builder.load_pretrained = hear
    try:
        yield heard
    finally:
        _builder.load_pretrained = usual
