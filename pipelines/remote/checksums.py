"""Checksums of a file that a store tells, and whether a file here has them.

An ETag of S3 is the MD5 of what was put at once, unless a key of the key service encrypts it; of
what was put in parts it is the MD5 of the parts' MD5s, so that it says something to who knows the
parts' size.

Source: the Amazon S3 user guide, "Checking object integrity"; Google Cloud Storage's JSON API,
`md5Hash` and `crc32c` of objects; RFC 1864 (Content-MD5).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from pipelines.errors import DataError
from pipelines.formats.crc import crc32

Kind = Literal["md5", "sha256", "crc32", "crc32c", "parts"]
#: Kind of checksum -> hex digits; of `parts` the ETag, `:` and the bytes of a part.
Checksums = Mapping[Kind, str]
#: Bytes hashed at once.
_BLOCK_BYTES = 1 << 20
_MD5 = re.compile("[0-9a-f]{32}")
_OF_PARTS = re.compile("([0-9a-f]{32})-([0-9]{1,5})")
#: S3 encrypts so without the ETag's being another than the MD5.
_PLAIN = (None, "", "AES256")


class _Hash(Protocol):
    def update(self, block: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(slots=True)
class _Crc32:
    value: int = 0

    def update(self, block: bytes) -> None:
        self.value = crc32(block, self.value)

    def hexdigest(self) -> str:
        return f"{self.value:08x}"


class _Crc32c:
    """CRC-32C by the library that Google's own clients take."""

    def __init__(self) -> None:
        self._sum = import_module("google_crc32c").Checksum()

    def update(self, block: bytes) -> None:
        self._sum.update(block)

    def hexdigest(self) -> str:
        return str(self._sum.digest().hex())


class _OfParts:
    """The ETag of what was put in parts of so many bytes."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes, self._left, self._parts = part_bytes, part_bytes, 0
        self._part, self._all = _md5(), _md5()

    def update(self, block: bytes) -> None:
        while block:
            taken, block = block[: self._left], block[self._left :]
            self._part.update(taken)
            self._left -= len(taken)
            if not self._left:
                self._end_part()

    def hexdigest(self) -> str:
        if self._left < self._part_bytes:
            self._end_part()
        return f"{self._all.hexdigest()}-{self._parts}"

    def _end_part(self) -> None:
        self._all.update(self._part.digest())
        self._part, self._left = _md5(), self._part_bytes
        self._parts += 1


def checksums_of(info: Mapping[str, Any]) -> dict[Kind, str]:
    """The checksums that a listing or a header tells; those of S3 are `checksums_of_head`'s.

    Args:
        info: as fsspec's file systems give it: of gcsfs, huggingface_hub, or HTTP.
    """
    found: dict[Kind, str | None] = {
        "md5": _of_base64(info.get("md5Hash") or info.get("Content-MD5"), 16),
        "crc32c": _of_base64(info.get("crc32c"), 4),
    }
    large = info.get("lfs")
    sha256 = large.get("sha256") if isinstance(large, Mapping) else getattr(large, "sha256", None)
    found["sha256"] = sha256 if isinstance(sha256, str) else None
    for name, _, value in (
        part.strip().partition("=") for part in _text(info, "Digest").split(",")
    ):
        if name.lower() == "sha-256":  # RFC 3230
            found["sha256"] = _of_base64(value, 32)
    return {kind: value for kind, value in found.items() if value}


def checksums_of_head(head: Mapping[str, Any], part_bytes: int | None = None) -> dict[Kind, str]:
    """The checksums that S3's HeadObject tells.

    Args:
        head: its answer, asked with ChecksumMode.
        part_bytes: the size of its first part, where it was put in parts and that is known.
    """
    found: dict[Kind, str | None] = {}
    if head.get("ChecksumType") in (None, "FULL_OBJECT"):
        found["sha256"] = _of_base64(head.get("ChecksumSHA256"), 32)
        found["crc32"] = _of_base64(head.get("ChecksumCRC32"), 4)
        found["crc32c"] = _of_base64(head.get("ChecksumCRC32C"), 4)
    etag = _text(head, "ETag").strip('"')
    is_plain = head.get("ServerSideEncryption") in _PLAIN and not head.get("SSECustomerAlgorithm")
    if is_plain and _MD5.fullmatch(etag):
        found["md5"] = etag
    elif is_plain and part_bytes and _OF_PARTS.fullmatch(etag):
        found["parts"] = f"{etag}:{part_bytes}"
    return {kind: value for kind, value in found.items() if value}


def is_in_parts(head: Mapping[str, Any]) -> bool:
    """Whether an object of S3 was put in parts."""
    return _OF_PARTS.fullmatch(_text(head, "ETag").strip('"')) is not None


def read_sha256(text: bytes) -> str | None:
    """The SHA-256 in a file such as `sha256sum` writes of one file; None if there is none."""
    found = re.match(rb"\\?([0-9a-fA-F]{64})(\s|$)", text)
    return found[1].decode().lower() if found else None


def check_file(
    path: Path, told: Checksums, where: str, on_bytes: Callable[[int], None] = lambda _: None
) -> tuple[Kind, ...]:
    """The kinds of checksum by which a file was found to be what a store told; () if none can be.

    Args:
        path: the file.
        told: the checksums it should have.
        where: the address of it.
        on_bytes: called with the bytes hashed so far.

    Raises:
        DataError: it has another.
        OSError: as the system says.
    """
    hashes = {kind: made for kind, value in told.items() if (made := _make(kind, value))}
    if not hashes:
        return ()
    done = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            for each in hashes.values():
                each.update(block)
            done += len(block)
            on_bytes(done)
    for kind, each in hashes.items():
        found, wanted = each.hexdigest(), told[kind].partition(":")[0]
        if found != wanted:
            name = {"parts": "ETag", "md5": "MD5"}.get(kind, kind.upper())
            raise DataError(where, f"{name} {found} of what came", wanted, "fetch it again")
    return tuple(hashes)


def _make(kind: Kind, value: str) -> _Hash | None:
    """A new hash of this kind; None where this machine cannot compute it."""
    if kind in ("md5", "sha256"):
        return hashlib.new(kind, usedforsecurity=False)
    if kind == "crc32":
        return _Crc32()
    if kind == "parts":
        return _OfParts(int(value.partition(":")[2]))
    try:
        return _Crc32c()
    except ImportError:
        return None


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _text(info: Mapping[str, Any], key: str) -> str:
    value = info.get(key)
    return value if isinstance(value, str) else ""


def _of_base64(text: object, size: int) -> str | None:
    """Base64 of so many bytes as hex digits; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data.hex() if len(data) == size else None
