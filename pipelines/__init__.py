"""The input path: folders and `.beton` files in, batches of pixels out.

What most callers want::

    from pipelines import convert, make_loader, read_index

Names are loaded on first use, so that importing this package costs nothing and loads no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.augment import Augment
    from pipelines.conversion.run import ConvertConfig, convert
    from pipelines.errors import DataError, FormatError, UsageError
    from pipelines.formats.beton import Index, read_index
    from pipelines.formats.source import Source, open_source
    from pipelines.loaders import Loader, make_loader
    from pipelines.plan import Plan, make_plan
    from pipelines.preprocessing import Preprocessing

_HOME = {
    "Augment": "augment",
    "ConvertConfig": "conversion.run",
    "DataError": "errors",
    "FormatError": "errors",
    "Index": "formats.beton",
    "Loader": "loaders",
    "Plan": "plan",
    "Preprocessing": "preprocessing",
    "Source": "formats.source",
    "UsageError": "errors",
    "convert": "conversion.run",
    "make_loader": "loaders",
    "make_plan": "plan",
    "open_source": "formats.source",
    "read_index": "formats.beton",
}

__all__ = [
    "Augment",
    "ConvertConfig",
    "DataError",
    "FormatError",
    "Index",
    "Loader",
    "Plan",
    "Preprocessing",
    "Source",
    "UsageError",
    "convert",
    "make_loader",
    "make_plan",
    "open_source",
    "read_index",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipelines.{_HOME[name]}"), name)


class _Moved(ModuleType):
    """A module's former name, for scripts that import from there."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("pipelines.formats.encode"), name)


sys.modules["pipelines.encode"] = _Moved("pipelines.encode")
