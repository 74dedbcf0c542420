"""A program of torch.export, executed operator by operator out of its JSON.

What it calls is looked up in a list of torch's pure operators; arguments are numbers, names and
tensors. No Python is made of a file: no expression is evaluated, no code compiled.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fastft.model.program_archive import DTYPES, Archive

#: Operators of ATen that programs may call: what torchvision's and timm's classifiers are made of.
#: All of them compute their result from their arguments alone, and check shapes and bounds.
OPERATORS = frozenset(
    """
    _adaptive_avg_pool2d _softmax _to_copy _upsample_bicubic2d_aa _upsample_bilinear2d_aa abs
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add add_ addcmul addmm alias all
    amax amin any arange argmax avg_pool2d baddbmm batch_norm bitwise_not bmm broadcast_to cat
    ceil celu chunk clamp clamp_ clamp_max clamp_min clone concat constant_pad_nd contiguous
    conv1d conv2d conv3d convolution cos cumsum detach detach_ div div_ dropout dropout_ einsum
    elu elu_ embedding eq erf exp expand expand_as fill_ flatten flip floor floor_divide full
    full_like gather ge gelu gelu_ glu group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_
    hardtanh hardtanh_ index index_select instance_norm item layer_norm le leaky_relu leaky_relu_
    lift_fresh_copy linalg_vector_norm linear log log_softmax logical_and logical_not lt
    masked_fill masked_fill_ matmul max max_pool2d maximum mean min minimum mish mish_ mm movedim
    mul mul_ narrow ne neg new_full new_ones new_zeros ones ones_like pad permute pixel_shuffle
    pixel_unshuffle pow prelu reciprocal relu relu6 relu6_ relu_ remainder repeat
    repeat_interleave reshape reshape_as rms_norm roll round rsqrt rsub
    scaled_dot_product_attention select selu sigmoid sigmoid_ sign silu silu_ sin slice softmax
    softplus split split_with_sizes sqrt square squeeze stack std sub sub_ sum swapaxes sym_numel
    sym_size t tanh tanh_ tensor_split tile to transpose true_divide type_as unbind unflatten
    unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var var_mean view
    view_as where zero_ zeros zeros_like
    """.split()
)
#: Operators on whole numbers: sides of images and what is computed of them.
_ON_NUMBERS: Mapping[str, Callable[..., Any]] = {
    "_operator.add": operator.add,
    "_operator.floordiv": operator.floordiv,
    "_operator.ge": operator.ge,
    "_operator.le": operator.le,
    "_operator.mod": operator.mod,
    "_operator.mul": operator.mul,
    "_operator.neg": operator.neg,
    "_operator.sub": operator.sub,
    "torch.sym_max": max,
    "torch.sym_min": min,
}
#: Assertions of the tracer, which compute nothing.
_PASSED_OVER = frozenset(
    f"torch.ops.aten.{name}.default"
    for name in (
        "_assert_scalar",
        "_assert_tensor_metadata",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    )
)
_ATEN = "torch.ops.aten."
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7
#: What JSON has no numbers for.
_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


@dataclass(frozen=True, slots=True)
class _Value:
    """What another step gives."""

    name: str


class _Device:
    """The device that the program runs on, whichever it was traced on."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One call.

    Attributes:
        call: an operator.
        positional, named: its arguments.
        outputs: names of what it gives; of several, each of them.
        is_many: whether it gives several.
        ended: values that no later step needs.
    """

    call: Callable[..., Any]
    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    outputs: tuple[str, ...]
    is_many: bool
    ended: tuple[str, ...] = ()


class Program(nn.Module):
    """A program as a module; what it takes and gives are tensors, one and several."""

    def __init__(self, archive: Archive) -> None:
        """Look up all that is called, before anything is.

        Raises:
            ValueError, TypeError, KeyError, AttributeError, RecursionError: it calls what programs
                may not, or makes no sense.
        """
        super().__init__()
        module = archive.program["graph_module"]
        signature = module["signature"]
        self._tensors: dict[str, str] = {}
        self._input = ""
        for spec in signature["input_specs"]:
            self._add_input(spec, archive.tensors)
        if not self._input:
            raise ValueError("no input")
        self._outputs = tuple(
            _name_of(spec["user_output"]["arg"]) for spec in signature["output_specs"]
        )
        known = {self._input, *self._tensors}
        self._steps = _read_steps(module["graph"]["nodes"], known, self._outputs)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All outputs."""
        device = images.device
        values: dict[str, Any] = {name: getattr(self, at) for name, at in self._tensors.items()}
        values[self._input] = images
        for step in self._steps:
            found = step.call(
                *_fill(step.positional, values, device),
                **{name: _fill(each, values, device) for name, each in step.named.items()},
            )
            values.update(zip(step.outputs, found if step.is_many else (found,), strict=True))
            for name in step.ended:
                del values[name]
        return tuple(values[name] for name in self._outputs)

    def _add_input(self, spec: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        ((kind, found),) = dict.items(dict(spec))
        if kind == "user_input":
            if self._input:
                raise ValueError("several inputs")
            self._input = _name_of(found["arg"])
            return
        if kind not in ("parameter", "buffer", "tensor_constant"):
            raise ValueError(f"an input of the kind {kind!r:.80}")
        key = "tensor_constant_name" if kind == "tensor_constant" else f"{kind}_name"
        at = f"tensor_{len(self._tensors)}"
        self.register_buffer(at, tensors[found[key]])
        self._tensors[_text(found["arg"]["name"])] = at


def _read_steps(
    nodes: Sequence[Mapping[str, Any]], known: set[str], kept: tuple[str, ...]
) -> tuple[_Step, ...]:
    """The steps of a graph, each of what is known by then."""
    steps: list[_Step] = []
    last_use: dict[str, int] = {}
    defined = set(known)
    for node in nodes:
        target = _text(node["target"])
        if target in _PASSED_OVER:
            continue
        call, is_positional = _find_call(target)
        positional, named = [], {}
        for each in node["inputs"]:
            value = _read_argument(each["arg"])
            for name in _names_in(value):
                if name not in defined:
                    raise ValueError(f"{name!r:.80}, which nothing gives")
                last_use[name] = len(steps)
            if is_positional:
                positional.append(value)
            else:
                named[_text(each["name"])] = value
        outputs, is_many = _read_outputs(node["outputs"])
        for name in outputs:
            if name in defined:
                raise ValueError(f"{name!r:.80} twice")
            defined.add(name)
            last_use[name] = len(steps)
        steps.append(_Step(call, tuple(positional), named, outputs, is_many))
    if missing := [name for name in kept if name not in defined]:
        raise ValueError(f"no output {missing[0]!r:.80}")
    ended: list[list[str]] = [[] for _ in steps]
    for name, at in last_use.items():
        if name not in kept and name not in known:
            ended[at].append(name)
    return tuple(replace(s, ended=tuple(names)) for s, names in zip(steps, ended, strict=True))


def _find_call(target: str) -> tuple[Callable[..., Any], bool]:
    """An operator by its name, and whether its arguments go by their places.

    Raises:
        ValueError: there is none, or none that a program may call.
    """
    if target in _ON_NUMBERS:
        plain = _ON_NUMBERS[target]

        def on_numbers(*numbers: object) -> object:
            if not all(isinstance(each, int | float) for each in numbers):
                raise TypeError("an operator of numbers on something else")
            return plain(*numbers)

        return on_numbers, True
    name, _, overload = target.removeprefix(_ATEN).partition(".")
    if target.startswith(_ATEN) and name in OPERATORS:
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None and overload in packet.overloads() and "out" not in overload:
            return getattr(packet, overload), False
    raise ValueError(f"a call of {target!r:.80}, which is not among those that are executed")


def _read_argument(argument: Mapping[str, Any]) -> Any:
    """An argument: numbers, `_Value`s in place of names, lists of them."""
    ((kind, value),) = dict.items(dict(argument))
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_bool", "as_string", "as_float"):
        return _plain(value, kind == "as_float")
    if kind in ("as_ints", "as_bools", "as_floats"):
        return [_plain(each, kind == "as_floats") for each in value]
    if kind in ("as_tensor", "as_tensors"):
        if kind == "as_tensor":
            return _Value(_text(value["name"]))
        return [_Value(_text(each["name"])) for each in value]
    if kind == "as_optional_tensor":
        return _read_argument(value)
    if kind in ("as_optional_tensors", "as_sym_ints"):
        return [_read_argument(each) for each in value]
    if kind in ("as_sym_int", "as_sym_bool"):
        return _read_argument(value)
    if kind == "as_name":
        return _Value(_text(value))
    if kind == "as_scalar_type":
        return DTYPES[value]
    if kind == "as_memory_format":
        return _MEMORY_FORMATS[value]
    if kind == "as_layout" and value == _STRIDED:
        return torch.strided
    if kind == "as_device":
        return _Device
    raise ValueError(f"an argument of the kind {kind!r:.80}")


def _plain(value: Any, is_float: bool) -> Any:
    if is_float:
        return _FLOATS[value] if isinstance(value, str) else float(value)
    if type(value) not in (int, bool, str):
        raise TypeError(f"a {type(value).__name__} for a number")
    return value


def _read_outputs(outputs: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], bool]:
    """The names of what a call gives, and whether it gives several."""
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        return tuple(_text(each["name"]) for each in outputs[0]["as_tensors"]), True
    return tuple(_name_of(each) for each in outputs), len(outputs) != 1


def _name_of(argument: Mapping[str, Any]) -> str:
    """The name of a tensor or a number."""
    value = _read_argument(argument)
    if not isinstance(value, _Value):
        raise TypeError("a constant in place of a name")
    return value.name


def _names_in(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for each in value for name in _names_in(each)]
    return [value.name] if isinstance(value, _Value) else []


def _fill(value: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    """An argument with what the steps before have given."""
    if isinstance(value, _Value):
        return values[value.name]
    if isinstance(value, list | tuple):
        return type(value)(_fill(each, values, device) for each in value)
    return device if value is _Device else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} for a name")
    return value
