"""Data on an address, copied once beside what is made of them; see `pipelines.remote`."""

from __future__ import annotations

from pathlib import Path

from fastft.cli.fetch import byte_progress
from fastft.system.progress import make_console
from pipelines.errors import DataError


def find_here(data: Path, beside: Path) -> Path:
    """The path of data on this machine; `.beton` files on an address are copied, with progress.

    Args:
        data: a path, or an address as `Path` has made of it.
        beside: the folder in which the copies are kept, in `fastft-data`.

    Raises:
        As `pipelines.remote.cache.localize`.
    """
    from pipelines.remote.address import remote_address

    if remote_address(data) is None:
        return data
    from pipelines.remote.cache import localize

    with byte_progress(make_console()) as update:
        try:
            return localize(data, beside, update)
        except OSError as error:
            found = (error.strerror or type(error).__name__).lower()
            raise DataError(beside, found, "a folder to copy data to") from error
