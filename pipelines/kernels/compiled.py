"""Compilation of the kernels: once per machine, kept on disk, anew when any of them changes."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

# numba's annotations hide what a decorated function takes. Kernels allocate nothing: without code
# that counts references to arrays they are compiled in an eighth less time.
_njit: Any = partial(njit, _nrt=False)
#: For what compiled code alone calls, which needs no way in from Python: a fifth of the time.
inner: Any = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
#: The same where a division by zero gives infinity or NaN: Python's check of it keeps a loop from
#: becoming vectors.
unchecked: Any = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
_NumbasCache: Any = FunctionCache


def entry(function: Any) -> Any:
    """Compile what Python calls, and keep it on disk if numba finds a folder to write to."""
    compiled: Any = _njit(nogil=True)(function)
    try:
        compiled._cache = _Cache(function)
    except RuntimeError:  # no such folder
        return compiled
    return compiled


class _Cache(_NumbasCache):  # type: ignore[misc]
    """numba's cache, which by itself notices changes of the function's own file alone."""

    def _index_key(self, *arguments: Any) -> tuple[Any, ...]:
        key: tuple[Any, ...] = super()._index_key(*arguments)
        return *key, _digest()


def _digest() -> str:
    folder = Path(__file__).parent
    paths = [path for path in sorted(folder.glob("*.py")) if path.stem != "gpu"]
    parts = [path.read_bytes() for path in (*paths, folder.parent / "codes.py")]
    return hashlib.sha256(b"".join(parts)).hexdigest()
