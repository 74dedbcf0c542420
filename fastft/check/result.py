"""All that `fastft check` found: written as its JSON, and read back from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

FORMAT: Final = "fastft-check"
Kind = Literal["broken", "doubtful", "tiny", "huge", "long", "turned", "gray", "deep", "constant"]
#: Kind of images -> its description, in the order of the report.
KINDS: dict[Kind, str] = {
    "broken": "cannot be read; fastft convert leaves them out",
    "doubtful": "decode, and yet their pixels may be wrong",
    "tiny": "are enlarged more than 4 times by training, or have a side below 32 px",
    "huge": "have more than 50 megapixels, or more than 10 times the median",
    "long": "are more than 4 times as long as wide",
    "turned": "lie on a side or in a mirror, as their EXIF says; see convert --apply-exif",
    "gray": "have no colour, where most others have",
    "deep": "have more than 8 bits per channel; see convert --depth",
    "constant": "are of one colour throughout",
}


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One split: its file or folder, its images, and how many of them are broken.

    Attributes:
        name: empty if there are no splits.
        copied: images of it that are copies of one in a split before it.
    """

    name: str
    path: str
    images: int
    classes: int
    broken: int
    copied: int


@dataclass(frozen=True, slots=True)
class Finding:
    """An image that is out of the ordinary."""

    kind: Kind
    split: str
    label: str
    name: str
    said: str


@dataclass(frozen=True, slots=True)
class Member:
    """An image of a group of copies."""

    split: str
    label: str
    name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two members of a group, and why they are copies.

    Attributes:
        first, second: their places in the group.
        exact: their bytes are the same.
        mirrored: one is the other's mirror image.
        bits: of 64, in which their hashes differ.
        difference: 1 - the correlation of their thumbnails.
    """

    first: int
    second: int
    exact: bool
    mirrored: bool
    bits: int
    difference: float


@dataclass(frozen=True, slots=True)
class Group:
    """Copies of one photo.

    Attributes:
        leak: they lie in several splits.
        conflict: they are of several classes.
        members: in the order of splits and names.
        pairs: one fewer than members, by which all belong together.
    """

    leak: bool
    conflict: bool
    members: tuple[Member, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class.

    Attributes:
        images: by split, in the order of splits.
        few: whether there are too few to learn from, see README.
        missing: splits that have none.
        unlike: what sets its files apart from those of all others, whatever they show; may be
            empty.
    """

    name: str
    images: tuple[int, ...]
    few: bool
    missing: tuple[str, ...]
    unlike: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The content of a `check.json`.

    Attributes:
        config, environment, seconds: how it was made.
        data: what was looked at.
        verified: whether all data of JPEGs were decoded.
        images: how many.
        splits, classes, odd, groups: what was found; all of it.
        counts: kind of odd images -> how many.
        imbalance: images of the largest class over those of the smallest, in the first split.
        leaked: images that are copies of one in a split before theirs.
        conflicts: groups of copies that are of several classes.
        remarks: on the data as a whole.
        verdict: sentences, the gravest first.
        format, version: what tells it from other JSON.
    """

    format: Literal["fastft-check"] = FORMAT
    version: Literal[1] = 1
    config: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    data: str
    verified: bool
    images: int
    splits: tuple[SplitRow, ...]
    classes: tuple[ClassRow, ...]
    odd: tuple[Finding, ...]
    counts: dict[str, int]
    groups: tuple[Group, ...]
    imbalance: float | None
    leaked: int
    conflicts: int
    remarks: tuple[str, ...]
    verdict: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ValueError: a pair is of no member of its group, or a class not of these splits.
        """
        for group in self.groups:
            ends = {end for pair in group.pairs for end in (pair.first, pair.second)}
            if not ends <= set(range(len(group.members))):
                raise ValueError("a group whose pairs are of its members")
        if any(len(row.images) != len(self.splits) for row in self.classes):
            raise ValueError("classes with a number of images for each split")
