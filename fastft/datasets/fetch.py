"""Downloads a data set once, checks its hash, and unpacks it whole or not at all.

Knows the known data sets, where things land and what is there; HTTP is `download`'s.
An archive whose members lie in one folder becomes that folder in `out`; any other becomes a folder
named after it. What is no archive stays as the file it is. An unpacked folder bears a marker,
written last, by which it is known again; its archive is deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fastft.datasets.download import check_url, download, file_name, origin, show_url
from fastft.datasets.part import Digests, Part, Report, hash_file
from fastft.datasets.unpack import MARKER, Archive, open_archive
from pipelines.atomic import temporary_prefix, unguessable
from pipelines.errors import DataError, FormatError, UsageError

_DIGITS = {"sha1": 40, "sha256": 64}
_SUFFIX = re.compile(r"(\.zip|\.tar|\.t?[gbx]z2?|\.tar\.(gz|bz2|xz))$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A data set that is fetched by name."""

    url: str
    sha1: str
    folder: str


#: Source: d2l.ai, "Fine-Tuning": 1,400 photos of hot dogs and 1,400 of other things, 1,000 of each
#: for training.
KNOWN = {
    "hotdog": KnownSet(
        url="http://d2l-data.s3-accelerate.amazonaws.com/hotdog.zip",
        sha1="fba480ffa8aa7e0febbb511d181409f899b9baa5",
        folder="hotdog",
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchConfig:
    """Settings of `fastft fetch`.

    Attributes:
        source: the name of a known data set, or an http or https address.
        out: the folder to put it in; made if there is none.
        sha1, sha256: what the file's hash must be, in hex digits; one of them, for an address.
        keep: leave the archive beside what was unpacked from it.
        timeout_s: longest silence of the server.
        retries: further attempts if the connection is lost; each continues where the last ended.
        backoff_s: pause before the first of them; each next is twice as long.
    """

    source: str
    out: Path = Path(".")
    sha1: str = ""
    sha256: str = ""
    keep: bool = False
    timeout_s: float = 30.0
    retries: int = 3
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be fetched.

        Raises:
            UsageError: an option is out of range, or contradicts another.
        """
        for option, digits in _DIGITS.items():
            given = getattr(self, option)
            if given and not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", given):
                raise UsageError(f"--{option}", repr(given), f"{digits} hex digits")
            if given and self.source in KNOWN:
                raise UsageError(f"--{option}", f"given with {self.source}", "only an address")
        if self.sha1 and self.sha256:
            raise UsageError("--sha1", "given with --sha256", "one of them")
        if self.source not in KNOWN:
            if not re.match(r"\w+:", self.source):
                names = ", ".join(KNOWN)
                raise UsageError(self.source, "no known data set", f"{names} or http://...")
            check_url(self.source)
        if self.timeout_s <= 0 or self.backoff_s < 0 or self.retries < 0:
            raise UsageError("fetch", "a time or number below zero")
        if self.out.exists() and not self.out.is_dir():
            raise UsageError("DIR", f"{self.out} is a file", "a folder", "name another")

    @property
    def url(self) -> str:
        """The address to ask."""
        known = KNOWN.get(self.source)
        return known.url if known else check_url(self.source)

    @property
    def expected(self) -> dict[str, str]:
        """The one hash to hold, by its name; empty if none is known."""
        known = KNOWN.get(self.source)
        given = {"sha1": known.sha1 if known else self.sha1, "sha256": self.sha256}
        return {name: digits.lower() for name, digits in given.items() if digits}


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchResult:
    """The place of a data set.

    Attributes:
        path: the folder with what was unpacked, or the file.
        files: how many there are.
        digests: of the file that was downloaded.
        received_bytes: what came over the network this time.
        was_there: nothing had to be done.
        archive: the archive, where it was kept.
    """

    path: Path
    files: int
    digests: Digests
    received_bytes: int = 0
    was_there: bool = False
    archive: Path | None = None


@dataclass(frozen=True, slots=True)
class _Marker:
    """The mark of an unpacked folder."""

    url: str
    origin: str
    sha1: str
    sha256: str
    files: int

    @classmethod
    def read(cls, path: Path) -> _Marker | None:
        """The marker, or None where there is none, or none of ours."""
        try:
            marker = cls(**json.loads(path.read_text()))
            return marker if marker.files > 0 else None
        except (OSError, ValueError, TypeError, RecursionError):
            return None


def fetch(config: FetchConfig, on_progress: Report | None = None) -> FetchResult:
    """Download, check and unpack what is not there already.

    Args:
        config: what to fetch.
        on_progress: called with "checking", "downloading" or "unpacking", bytes done, and bytes in
            all or None.

    Raises:
        DataError: it cannot be had, is not what the hash says, is no archive to be trusted, or
            something else bears its name.
    """
    report = on_progress or (lambda stage, done, total: None)
    try:
        with _folder(config.out):
            return _find_unpacked(config) or _fetch(config, report)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(
            error.filename or config.out, reason, "", "see to it, then run it again"
        ) from error


def _fetch(config: FetchConfig, report: Report) -> FetchResult:
    url, known = config.url, KNOWN.get(config.source)
    target = config.out / file_name(url)
    if known:  # rather before the download than after it
        _require_free(config.out / known.folder)
    if os.path.lexists(target):
        return _use_present(config, target, report)
    with Part(target, origin(url), report) as part:
        if not config.expected or not _holds(config.expected, part.digests):
            download(
                url,
                part,
                timeout_s=config.timeout_s,
                retries=config.retries,
                backoff_s=config.backoff_s,
                report=report,
            )
        if not part.size:
            raise DataError(show_url(url), "an empty file", "a data set")
        digests = part.digests
        if not _holds(config.expected, digests):
            part.discard()
            remedy = "it is deleted; run it again or check the hash"
            raise _wrong_hash(show_url(url), config, digests, remedy)
        try:
            with open_archive(part.path, target) as archive:
                path, files = target, 1
                if archive:
                    path, files = _unpack(archive, config, digests, report), archive.files
        except FormatError:
            part.discard()
            raise
        if archive and not config.keep:
            part.discard()
        else:
            part.publish()
    kept = target if archive and config.keep else None
    return FetchResult(
        path=path, files=files, digests=digests, received_bytes=part.received, archive=kept
    )


def _use_present(config: FetchConfig, target: Path, report: Report) -> FetchResult:
    """Take the file that bears the right name, if its hash is right; it is never deleted."""
    if not target.is_file():
        raise DataError(target, "not a file", "nothing of that name", "name another folder")
    if not config.expected:
        found = "there already, and no hash to know it by"
        raise DataError(target, found, "", "give its hash or remove it")
    digests = hash_file(target, report)
    if not _holds(config.expected, digests):
        raise _wrong_hash(target, config, digests, "remove it or name another folder")
    with open_archive(target, target) as archive:
        if not archive:
            return FetchResult(path=target, files=1, digests=digests, was_there=True)
        path = _unpack(archive, config, digests, report)
        return FetchResult(path=path, files=archive.files, digests=digests, archive=target)


def _unpack(archive: Archive, config: FetchConfig, digests: Digests, report: Report) -> Path:
    """The folder, which appears whole or not at all."""
    name = archive.top or _SUFFIX.sub("", archive.label.name)
    target = config.out / name
    if config.keep and target == archive.label:
        raise UsageError("--keep", f"archive and folder would be {target}", "", "leave it out")
    _require_free(target)
    url, files = config.url, archive.files
    marker = _Marker(show_url(url), origin(url), digests.sha1, digests.sha256, files)
    prefix = unguessable(temporary_prefix(target))
    staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=config.out))
    try:
        # A folder of its own inside: mkdtemp's is readable by its owner alone, the result is not.
        root = staging / "data"
        archive.write(root, report)
        root = root / archive.top if archive.top else root
        (root / MARKER).write_text(json.dumps(asdict(marker), indent=2) + "\n")
        root.rename(target)  # which replaces nothing but an empty folder
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


# --- what is there already ---------------------------------------------------------------------


def _find_unpacked(config: FetchConfig) -> FetchResult | None:
    """A folder that was unpacked from the same file, whatever it is called by now."""
    for path in sorted(path for path in config.out.iterdir() if path.is_dir()):
        marker = _Marker.read(path / MARKER)
        if marker is None:
            continue
        if not _holds(config.expected or {"origin": origin(config.url)}, marker):
            continue
        files = sum(len(names) for _, _, names in os.walk(path)) - 1
        if files < marker.files:
            expected = f"the {marker.files:,} that were unpacked"
            raise DataError(path, f"{files:,} files", expected, "remove it to fetch it again")
        digests = Digests(sha1=marker.sha1, sha256=marker.sha256)
        return FetchResult(path=path, files=files, digests=digests, was_there=True)
    return None


def _require_free(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir() or any(target.iterdir()):
        found = "there already, not from this file"
        raise DataError(target, found, "nothing", "remove it or name another folder")


def _holds(expected: dict[str, str], found: Digests | _Marker) -> bool:
    return all(getattr(found, name) == digits for name, digits in expected.items())


def _wrong_hash(where: object, config: FetchConfig, found: Digests, remedy: str) -> DataError:
    [(name, digits)] = config.expected.items()
    label = name.upper().replace("SHA", "SHA-")
    return DataError(where, f"{label} {getattr(found, name)}", digits, remedy)


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Make the folder, and remove it again if nothing comes into it."""
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new and not any(out.iterdir()):
            out.rmdir()
