"""A table in a store whose images lie beside it: rows as samples that are read where they lie."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.conversion.inputs import Listing
from pipelines.errors import DataError, FastftError
from pipelines.formats.columns import Columns
from pipelines.images.limits import MAX_FILE_BYTES
from pipelines.remote.address import join, show
from pipelines.remote.faults import Missing, StoreError
from pipelines.remote.store import Store

#: The size of a file that no listing of the store has told.
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class RemoteRows:
    """The samples of one split of a table in a store; see `conversion.inputs.Listing`.

    Attributes:
        address: of the folder that paths in the table are relative to.
        classes: class names; a label is an index into them.
        names: each sample's path in the table.
        labels: int64[N].
        columns: what the table says of each beside it.
        ignored, passed_over: of the table.
    """

    address: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    columns: Columns
    ignored: dict[str, int]
    passed_over: tuple[str, ...]
    _sizes: NDArray[np.int64] = field(repr=False)
    _store: Store = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        return show(join(self.address, name))

    def size_bytes(self, sample: int) -> int:
        """A sample's size as the store listed it; 0 where it did not."""
        return max(int(self._sizes[sample]), 0)

    def read(self, sample: int) -> bytes:
        """A sample's bytes; safe to call from several threads.

        Raises:
            DataError: it is not there, or larger than images are.
            FastftError: the store does not hand it out, which says nothing of the image.
        """
        address, size = join(self.address, self.names[sample]), int(self._sizes[sample])
        try:
            if size == _UNKNOWN:
                size = self._store.stat(address).size or 0
            if size > MAX_FILE_BYTES:
                found = f"is {size:,} bytes long, more than {MAX_FILE_BYTES:,}"
                raise DataError(show(address), found)
            return self._store.read(address, 0, size)
        except Missing:
            raise
        except StoreError as error:
            # A DataError would leave the image out as a broken one.
            raise FastftError(error.where, error.found, error.expected, error.remedy) from error


def read_rows(listings: dict[str, Listing], address: str, store: Store) -> dict[str, Listing]:
    """The listings of a table that was fetched, with images read from where it lay.

    Args:
        listings: split -> listing of the copy here.
        address: of the folder that the table lies in.
        store: it.

    Raises:
        DataError: a path leads out of that folder.
        StoreError: it cannot be listed.
    """
    for listing in listings.values():
        for name in listing.names:
            if name.startswith(("/", "../")) or name == "..":
                found, expected = "is no path below the table's folder", "a relative one"
                raise DataError(show(join(address, name)), found, expected)
    sizes = {}
    if not store.scheme.is_web:  # a web server lists nothing
        start = len(address.rstrip("/")) + 1
        sizes = {each.address[start:]: each.size for each in store.find(address)}
    return {
        split: RemoteRows(
            address,
            listing.classes,
            listing.names,
            listing.labels,
            listing.columns,
            listing.ignored,
            listing.passed_over,
            np.array([sizes.get(name) or _UNKNOWN for name in listing.names], np.int64),
            store,
        )
        for split, listing in listings.items()
    }
