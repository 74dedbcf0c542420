"""Samples of WebDataset: members of a tar that share a key, one of them the image, one the label.

Source: webdataset, `tariterators.py` (`base_plus_ext`, `group_by_keys`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.errors import DataError, FormatError
from pipelines.formats.columns import ColumnNames
from pipelines.formats.folder import IMAGE_SUFFIXES, MACOS_FOLDER, suffix
from pipelines.formats.packed.rows import to_value
from pipelines.formats.packed.shard_files import ShardFile
from pipelines.formats.packed.tar_members import Member
from pipelines.formats.tables.table import Value

#: Members that hold a label, of the first kind that a sample has.
_LABELS = ("cls", "class", "label", "json", "txt")
#: Keys of a `.json` that may hold the label, the first that is there.
_KEYS = ("label", "labels", "cls", "class", "class_id", "class_name", "category", "target")
#: A label member is at most so long: a list of some thousand names, or a `.json` of much else.
_MOST_BYTES = 1 << 18
#: A longer text is a caption.
_MOST_LETTERS = 200
_REDO = "make the tar anew"


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a tar.

    Attributes:
        key: its key.
        parts: suffix without its first dot, in lower case, and member; in order.
    """

    key: str
    parts: list[tuple[str, Member]]


def group(members: Iterable[Member], ignored: Counter[str]) -> Iterator[Sample]:
    """Members as samples, in order; counts those that have no key or no suffix."""
    sample = Sample("", [])
    for member in members:
        folder, slash, file = member.name.rpartition("/")
        stem, dot, part = file.partition(".")
        if not stem or member.name.startswith(f"{MACOS_FOLDER}/"):
            ignored["dot files"] += 1
            continue
        if not dot:
            ignored["no suffix"] += 1
            continue
        key = f"{folder}{slash}{stem}"
        if key != sample.key:
            if sample.parts:
                yield sample
            sample = Sample(key, [])
        sample.parts.append((part.lower(), member))
    if sample.parts:
        yield sample


def holds_labels(members: Iterable[Member], names: ColumnNames) -> bool:
    """Whether any sample has an image and a label."""
    labels = {*_LABELS, *(word.lower() for word in split_words(names.label))}
    return any(
        any(part in labels for part, _ in sample.parts)
        and any(_is_image(part) for part, _ in sample.parts)
        for sample in group(members, Counter())
    )


def split_words(label: str) -> list[str]:
    """The suffixes or keys that hold labels, as they are named: several have commas between."""
    return [word.strip().removeprefix(".") for word in label.split(",") if word.strip(" .")]


class SampleReader:
    """Tells of each sample of a tar which member is its image, and reads its labels."""

    def __init__(self, file: ShardFile, names: ColumnNames) -> None:
        """Begin with a tar.

        Args:
            file: the tar.
            names: which members and keys are meant; see `webdataset.open_tars`.
        """
        self._file, self._names = file, names
        self._words = split_words(names.label)
        self._seen: set[str] = set()

    def image(self, sample: Sample, ignored: Counter[str]) -> tuple[str, Member] | None:
        """A sample's image: its suffix and its member; None if it has none, which is counted.

        Raises:
            FormatError: the key or one of its parts is there twice.
            DataError: there are several images.
        """
        where = self._where(sample)
        parts = dict(sample.parts)
        if sample.key in self._seen:
            remedy = f"{_REDO}, with what belongs together one after the other (tar --sort=name)"
            raise FormatError(where, "comes again behind other samples", "each key once", remedy)
        self._seen.add(sample.key)
        if len(parts) < len(sample.parts):
            again = next(iter(Counter(part for part, _ in sample.parts).most_common(1)))[0]
            raise FormatError(where, f"has two .{again}", "each part once", _REDO)
        wanted = self._names.image.lower().removeprefix(".")
        found = [part for part in parts if part == wanted or (not wanted and _is_image(part))]
        # `image.jpg` beside `mask.png` is not told apart, but `jpg` is meant beside `mask.png`.
        plain = [part for part in found if "." not in part] or found
        if len(plain) > 1:
            what = f"has the images .{plain[0]} and .{plain[1]}"
            remedy = f"name one for all samples: --image-column {plain[0]}"
            raise DataError(where, what, "one image of each sample", remedy)
        used = {*plain, *_LABELS, *self._words}
        for part in parts.keys() - used:
            ignored[suffix(f"key.{part}") or "no suffix"] += 1
        if not plain:
            ignored["samples without an image"] += 1
            return None
        return plain[0], parts[plain[0]]

    def values(self, sample: Sample) -> tuple[list[Value], Value, Value]:
        """A sample's labels, its weight and its group; the latter empty where none is named.

        Raises:
            DataError: it has no label, or one that is no text, number or list.
        """
        parts = dict(sample.parts)
        document: Any = None
        if "json" in parts:
            document = self._parse(sample, parts["json"])

        def look(word: str) -> Value | None:
            if word.lower() in parts and word.lower() != "json":
                return self._text(sample, parts[word.lower()])
            return self._key(sample, document, word)

        def need(word: str) -> Value:
            value = look(word)
            if value is None:
                raise DataError(self._where(sample), f"has no {word!r}", "it for each image")
            return value

        labels = [need(word) for word in self._words] or [self._label(sample, parts, document)]
        names = self._names
        return (
            labels,
            need(names.weight) if names.weight else "",
            need(names.group) if names.group else "",
        )

    def _label(self, sample: Sample, parts: dict[str, Member], document: Any) -> Value:
        for part in _LABELS:
            value: Value | None = None
            if part != "json" and part in parts:
                value = self._text(sample, parts[part])
            elif part == "json" and isinstance(document, dict):
                values = (self._key(sample, document, key) for key in _KEYS)
                value = next((each for each in values if each is not None), None)
            elif part == "json" and document is not None:
                value = self._require_value(sample, document, "its .json")
            if value is not None:
                return value
        expected = f"a .cls, .txt or .json (with {_KEYS[0]!r}) beside the image"
        remedy = "name what holds it by --label-column"
        raise DataError(self._where(sample), "has no label", expected, remedy)

    def _key(self, sample: Sample, document: Any, key: str) -> Value | None:
        if not isinstance(document, dict) or document.get(key) is None:
            return None
        return self._require_value(sample, document[key], repr(key))

    def _require_value(self, sample: Sample, value: object, what: str) -> Value:
        text = to_value(value)
        if text is None:
            found = f"{what} holds {'an object' if isinstance(value, dict) else 'no label'}"
            expected = "text, a number or a list of them"
            raise DataError(self._where(sample), found, expected, "name another --label-column")
        return text

    def _text(self, sample: Sample, member: Member) -> str:
        try:
            text = self._read(sample, member).decode().strip()
        except UnicodeDecodeError as error:
            where = f"{self._file.path}: {member.name}"
            raise DataError(where, "is no UTF-8", "a number or a name", _REDO) from error
        if len(text) > _MOST_LETTERS or "\n" in text:
            found = f"a text of {len(text):,} letters, as captions are"
            remedy = "name what holds the label by --label-column"
            raise DataError(f"{self._file.path}: {member.name}", found, "a number or name", remedy)
        return text

    def _parse(self, sample: Sample, member: Member) -> Any:
        try:
            return json.loads(self._read(sample, member))
        except (ValueError, RecursionError) as error:
            where = f"{self._file.path}: {member.name}"
            raise DataError(where, f"is no JSON ({error})"[:200], "JSON", _REDO) from error

    def _read(self, sample: Sample, member: Member) -> bytes:
        where = f"{self._file.path}: {member.name}"
        if member.unreadable:
            raise DataError(where, member.unreadable, "a plain file", _REDO)
        if member.size > _MOST_BYTES:
            found, expected = f"{member.size:,} bytes long", f"a label of at most {_MOST_BYTES:,}"
            raise DataError(where, found, expected, "name another --label-column")
        return self._file.read(member.at, member.size)

    def _where(self, sample: Sample) -> str:
        return f"{self._file.path}: {sample.key}"


def _is_image(part: str) -> bool:
    return suffix(f"key.{part}") in IMAGE_SUFFIXES


def describe_missing(names: ColumnNames) -> str:
    """The expected places of labels, in words, for data in which no sample has one."""
    return " or ".join(split_words(names.label)) or f".{', .'.join(_LABELS)} beside images"
