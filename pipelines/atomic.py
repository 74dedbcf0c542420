"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TypeVar

Opened = TypeVar("Opened", bound="AtomicFile")


class AtomicFile:
    """A temporary file beside `path` that takes its place when published.

    Use as a context manager; leaving the block unpublished removes the file. Until then it is
    private to its owner and bears a name that nobody can guess.

    Attributes:
        path: the final place.
        descriptor: the open file, for reading and writing.
    """

    def __init__(self, path: Path, temporary: Path | None = None) -> None:
        """Create the temporary file, and the folder if there is none.

        Args:
            path: the final place.
            temporary: the temporary file, one that nobody can guess; what an earlier process has
                left there is kept. None takes a new one.

        Raises:
            OSError: as the system says.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        if temporary is None:
            self.descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=temporary_prefix(path))
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor, name = os.open(temporary, flags, 0o600), str(temporary)
        self._temporary: str | None = name

    def publish(self) -> None:
        """Force the content to disk and rename the file into place.

        Raises:
            OSError: as the system says; then `path` is as it was.
        """
        assert self._temporary is not None
        os.fsync(self.descriptor)
        os.fchmod(self.descriptor, 0o666 & ~_umask())
        os.replace(self._temporary, self.path)
        self._temporary = None
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, must survive a power cut
        finally:
            os.close(folder)

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)
        if self._temporary is not None:
            os.unlink(self._temporary)


def temporary_prefix(path: Path) -> str:
    """What the names of temporary files of `path` begin with."""
    return f".{path.name[:40]}."


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OSError: as the system says.
    """
    with AtomicFile(path) as file:
        content = text.encode()
        while content:
            content = content[os.write(file.descriptor, content) :]
        file.publish()


def _umask() -> int:
    """What permissions this process denies to new files; the system tells only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
