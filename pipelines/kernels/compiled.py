"""Compilation of the kernels: once per machine, kept on disk, anew when any of them changes."""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

# numba's annotations hide what a decorated function takes. Kernels allocate nothing: without code
# that counts references to arrays they are compiled in an eighth less time.
_njit: Any = partial(njit, _nrt=False)
#: For what compiled code alone calls, which needs no way in from Python: a fifth of the time.
inner: Any = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
#: The same where a division by zero gives infinity or NaN: Python's check of it keeps a loop from
#: becoming vectors.
unchecked: Any = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
_NumbasCache: Any = FunctionCache
_NumbasFiles: Any = IndexDataCacheFile
_logger = logging.getLogger(__name__)


def entry(function: Any) -> Any:
    """Compile what Python calls, and keep it on disk if numba finds a folder to write to."""
    compiled: Any = _njit(nogil=True)(function)
    try:
        compiled._cache = _Cache(function)
    except RuntimeError:  # no such folder
        return compiled
    return compiled


class _Files(_NumbasFiles):  # type: ignore[misc]
    """A file for each key, named by it.

    numba numbers them, and an index says whose is which. Of two processes that compile for other
    types at a time, as on the first run of a machine, both may take one number: the index then
    gives one of them the other's machine code, which reads its arrays as what they are not.
    """

    def __init__(self, folder: str, name: str, stamp: Any) -> None:
        super().__init__(folder, name, stamp)
        self._folder, self._name = Path(folder), name

    def load(self, key: tuple[Any, ...]) -> Any:
        """The data that were saved by that key; None where none were."""
        try:
            kept, data = self._load_data(self._file_name(key))
        except Exception:  # there is none, or a machine that stopped has left half of it
            return None
        return data if kept == key else None

    def save(self, key: tuple[Any, ...], data: Any) -> None:
        """Save it, and remove what was compiled of other sources."""
        name = self._file_name(key)
        with suppress(OSError):  # a full disk: it is compiled again the next time
            self._save_data(name, (key, data))
            of_these = name.rpartition("-")[0]
            for path in self._folder.glob(f"{self._name}.*.nbc"):
                if not path.name.startswith(f"{of_these}-"):
                    path.unlink(missing_ok=True)

    def _file_name(self, key: tuple[Any, ...]) -> str:
        sources = _hash((self._version, self._source_stamp, key[-1]))
        return f"{self._name}.{sources}-{_hash(key)}.nbc"


class _Cache(_NumbasCache):  # type: ignore[misc]
    """numba's cache, which by itself notices changes of the function's own file alone."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file: Any = _Files(self._cache_path, self._impl.filename_base, stamp)

    def _load_overload(self, *arguments: Any) -> Any:
        found = super()._load_overload(*arguments)
        if found is None:  # which takes seconds
            _logger.info("compiling %s", self._py_func.__name__)
        return found

    def _index_key(self, *arguments: Any) -> tuple[Any, ...]:
        key: tuple[Any, ...] = super()._index_key(*arguments)
        return *key, _digest()


def _hash(values: tuple[Any, ...]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


@cache
def _digest() -> str:
    folder = Path(__file__).parent
    paths = [path for path in sorted(folder.glob("*.py")) if path.stem != "gpu"]
    parts = [path.read_bytes() for path in (*paths, folder.parent / "codes.py")]
    return hashlib.sha256(b"".join(parts)).hexdigest()
