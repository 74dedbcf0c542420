"""Errors in a user's input, each told in one line.

Every deliberate error of this project is a `DataError` (what was read is wrong: exit status 1)
or a `UsageError` (what was asked is wrong: exit status 2). Both say where, what was found, what
was expected and what to do about it. Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Iterator

#: How libraries say that they got no memory where they raise no MemoryError; oneDNN, last, gives no
#: reason where it could not even make room for its code.
_NO_MEMORY = re.compile(
    "can('t|not) allocate memory|not enough memory|out of memory|bad_alloc|can't start new thread|"
    "failed to map segment|could not (create|execute) a primitive$",
    re.IGNORECASE | re.MULTILINE,
)
#: How it is said that a process may open no more files, as which batches of torch's workers come.
_NO_FILES = re.compile(f"{os.strerror(errno.EMFILE)}|received 0 items of ancdata", re.IGNORECASE)


class FastftError(Exception):
    """A deliberate error: `where: found, expected ...; remedy`, always one line.

    Args:
        where: the file, folder, sample or option that the message is about.
        found: what is there.
        expected: what should have been there.
        remedy: what the reader can do; may be empty.
    """

    exit_code = 1

    def __init__(self, where: object, found: str, expected: str = "", remedy: str = "") -> None:
        if _NO_FILES.fullmatch(found):  # no fault of the file that it was found with
            found = f"{os.strerror(errno.EMFILE).lower()}, as this process may have {_most_files()}"
            expected, remedy = "", "raise the limit by ulimit -n 4096"
        self.where, self.found, self.expected, self.remedy = str(where), found, expected, remedy
        text = f"{where}: {found}"
        if expected:
            text += f", expected {expected}"
        if remedy:
            text += f"; {remedy}"
        super().__init__(one_line(text))

    def __reduce__(self) -> tuple[type[FastftError], tuple[str, str, str, str]]:
        """Survive the way back from a worker process with all four parts."""
        return type(self), (self.where, self.found, self.expected, self.remedy)


class DataError(FastftError):
    """The data are wrong: a folder, an image, a checkpoint."""


class FormatError(DataError):
    """A file is not of the format, or not of the version, that it should have."""


class UsageError(FastftError):
    """The request is wrong: an option, a combination of options, a missing library."""

    exit_code = 2


def is_no_memory(error: BaseException) -> bool:
    """Whether an error, or what it came of, is that memory ran out, whoever says so."""
    for each in _causes(error):
        if isinstance(each, MemoryError):
            return True
        if not isinstance(each, (RuntimeError, OSError, ImportError)):
            return False
        if _NO_MEMORY.search(str(each)):
            return True
    return False


def is_no_files(error: BaseException) -> bool:
    """Whether an error, or what it came of, is that this process may open no more files."""
    return any(
        (isinstance(each, OSError) and each.errno == errno.EMFILE)
        or (isinstance(each, (RuntimeError, OSError)) and bool(_NO_FILES.search(str(each))))
        for each in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of in turn, which numba's errors do not repeat; each once."""
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and not any(each is other for other in seen):
        yield each
        seen.append(each)
        each = each.__cause__ or each.__context__


def no_files(where: object) -> DataError:
    """The error to raise where this process may open no more files."""
    return DataError(where, os.strerror(errno.EMFILE))


def _most_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def one_line(text: str) -> str:
    """`text` with control characters (a newline in a file name) made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
