"""What the parts of a file by `torch.save` may be: plain values, and whole tensors by name.

`torch.load` runs nothing that a file says. What it gives may be anything all the same: containers
within themselves or a thousand deep, tensors of more elements than are stored, dictionaries whose
methods are numbers. All that is kept from whoever goes through a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

#: Of settings and state; an epoch adds a hundred.
_MOST_LETTERS = 1 << 26
#: An optimizer's containers are 4 deep, a run's state 3.
_MOST_DEPTH = 32
#: Tied weights are there twice; beyond that a storage stands for more than the file holds.
_MOST_SHARED = 4
#: Letters of a name in a message.
_MOST_NAMED = 80
_DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8,
     torch.int8, torch.int16, torch.int32, torch.int64}
)  # fmt: skip


def find_odd(value: object, *, tensors: bool = False) -> str:
    """What is odd about values that should be plain, and where; '' if nothing is.

    Plain are dictionaries by name, lists, tuples, texts, numbers, booleans and None as we write
    them, so that they can be gone through, compared and shown. No list is in two places: a few of
    them within each other would be more than fits any memory.

    Args:
        value: what was read.
        tensors: whether tensors may be among them, and a dictionary's names be numbers: an
            optimizer's.
    """
    return _Search(tensors).find(value, ())


def find_odd_tensor(state: dict[Any, Any]) -> str:
    """What is odd about a state dict, which should be tensors by name; '' if nothing is."""
    search = _Search(tensors=True)
    for name, tensor in dict.items(state):
        if type(name) is not str:
            return f"a name that is a {type(name).__name__}"
        if not isinstance(tensor, torch.Tensor):
            return f"a {type(tensor).__name__} for {name[:_MOST_NAMED]!r}"
        if odd := search.find(tensor, (name,)):
            return odd
    return ""


def as_state(found: dict[Any, Any]) -> dict[Any, torch.Tensor]:
    """A state dict with nothing about it but its tensors.

    `torch.load` also lets a file set what attributes it likes of an ordered dictionary.
    """
    return dict(dict.items(found))


class _Search:
    """Goes through values as far as they are plain, and counts what they come to."""

    def __init__(self, tensors: bool) -> None:
        self._tensors = tensors
        self._letters = self._shown_bytes = self._stored_bytes = 0
        self._seen, self._storages = set[int](), set[int]()

    def find(self, value: Any, way: tuple[object, ...]) -> str:
        """What is odd about a value and all that is in it."""
        kind = type(value)
        if kind in (dict, list, tuple):
            return self._find_within(value, way)
        odd = ""
        if kind is str:
            odd = self._count(value)
        elif kind is int:
            odd = "a number of many digits" if abs(value) >= 1 << 63 else ""
        elif self._tensors and isinstance(value, torch.Tensor):
            odd = self._find_in_tensor(value)
        elif kind not in (float, bool, type(None)):
            odd = f"a {kind.__name__}"
        return _placed(odd, way)

    def _find_within(self, value: Any, way: tuple[object, ...]) -> str:
        if value and not _is_short(value):
            if id(value) in self._seen:
                return _placed("a list that is in two places", way)
            self._seen.add(id(value))
        if len(way) >= _MOST_DEPTH:
            return _placed("lists too deep within each other", way)
        pairs: Iterable[tuple[Any, Any]] = enumerate(value)
        if type(value) is dict:
            for name in value:
                if type(name) is not str and not (self._tensors and type(name) is int):
                    return _placed(f"a name that is a {type(name).__name__}", way)
                if type(name) is str and (odd := self._count(name)):
                    return _placed(odd, way)
            pairs = value.items()
        return next(filter(None, (self.find(each, (*way, name)) for name, each in pairs)), "")

    def _count(self, text: str) -> str:
        self._letters += len(text)
        return "more text than any run's" if self._letters > _MOST_LETTERS else ""

    def _find_in_tensor(self, tensor: torch.Tensor) -> str:
        """What is odd about a tensor; of those that are not, the numbers are looked at, too."""
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return f"a {type(tensor).__name__}"
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not is_plain or tensor.is_nested or tensor.dtype not in _DTYPES:
            return f"a tensor of kind {tensor.dtype}, {tensor.layout} on {tensor.device}"
        size, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
        self._shown_bytes += size
        if storage.data_ptr() not in self._storages:
            self._storages.add(storage.data_ptr())
            self._stored_bytes += storage.nbytes()
        if size > storage.nbytes() or self._shown_bytes > _MOST_SHARED * self._stored_bytes:
            return "a tensor larger than what is stored of it"
        if tensor.is_floating_point() and tensor.numel():
            least, most = tensor.detach().aminmax()  # NaN if there is one
            if not (math.isfinite(least) and math.isfinite(most)):
                return "NaN or infinity"
        return ""


def _is_short(value: Any) -> bool:
    """Whether it is a few numbers, such as the groups of torch's optimizers share."""
    few = type(value) is tuple and len(value) <= 8
    return few and all(type(each) in (int, float) for each in value)


def _placed(odd: str, way: tuple[object, ...]) -> str:
    """What is odd, with the way to it."""
    if not odd or not way:
        return odd
    place = ".".join(str(each)[:_MOST_NAMED] for each in way)
    shown = place if len(place) <= _MOST_NAMED else f"{place[:_MOST_NAMED]}..."
    return f"{odd} at {shown!r}"
