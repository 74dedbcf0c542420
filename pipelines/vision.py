"""torchvision, imported without torch's compiler.

torchvision 0.29 asks torch's compiler one question, whether it could compile an operation that
detection models use. To be able to ask, it imports the compiler, which takes 3.0 of the 3.3 s of
CPU time that it takes to import (torch 2.14, EPYC): half of a command's start. Here the question
stands in for the compiler, and imports it if it is ever asked. `torchvision.transforms.v2` needs
more of it, and is imported by those alone who use it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from pipelines.errors import UsageError, one_line

_COMPILER = "torch._dynamo"
_ASKED = f"{_COMPILER}.utils"


class _StandIn(ModuleType):
    """A module of the compiler's, which is imported for whatever else is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _step_aside()
        return getattr(importlib.import_module(self.__name__), name)


def _is_compile_supported(device_type: str) -> Any:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)


def _step_aside() -> None:
    for name in (_ASKED, _COMPILER):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Stand in for torch's compiler, unless it or torchvision is there already."""
    if _COMPILER in sys.modules or "torchvision" in sys.modules:
        yield
        return
    compiler, utils = _StandIn(_COMPILER), _StandIn(_ASKED)
    compiler.__path__ = []
    vars(utils)["is_compile_supported"] = _is_compile_supported
    sys.modules.update({_COMPILER: compiler, _ASKED: utils})
    try:
        yield
    finally:
        _step_aside()


def _remedy() -> str:
    """The line that installs a torchvision for this torch, as pip's index has one build of each."""
    both = "pip install --force-reinstall torch torchvision"
    if torch.version.cuda is None:
        return f"{both} --index-url URL, with PyTorch's index for the CPU: both come from one index"
    return both


try:
    with _without_compiler():
        import torchvision
        from torchvision import models
        from torchvision.models.vision_transformer import interpolate_embeddings
        from torchvision.ops import StochasticDepth
        from torchvision.transforms import functional
except (ImportError, RuntimeError, OSError) as error:  # one for another torch lacks its operations
    raise UsageError(
        "torchvision",
        f"cannot be imported ({one_line(str(error).strip().partition(chr(10))[0])})",
        f"the one that was built for torch {torch.__version__}",
        _remedy(),
    ) from error

# The stand-in is not to stay as torch's attribute.
if isinstance(vars(torch).get("_dynamo"), _StandIn):
    del torch._dynamo

__all__ = [
    "StochasticDepth",
    "functional",
    "interpolate_embeddings",
    "models",
    "torchvision",
]
