"""The byte layout of a `.beton` file: `beton` reads it, `beton_writer` writes it, no one else.

It is FFCV's version 2 with two fields, `image` (RGBImageField) and `label` (IntField, or where
samples have several labels or a number NDArrayField, see `beton_labels`), all little-endian:

    header          version, fields, page size, samples, where the allocation table starts
    2 descriptors   type, name, 1,024 bytes of arguments that stock FFCV ignores for these types
    metadata        per sample: mode, width, height, data pointer, label
    pages           the samples' bytes; none crosses a multiple of the page size
                    behind a sample's, ours: entry points into a JPEG's data (`kernels.entries`)
    rows            of an NDArrayField: each sample's labels; pages as well
    points          ours, where there are entry points: bytes of each sample's, their CRC-32
    extra           ours: checksums, source names, and what the file says of itself (`About`)
    allocation      per sample: number, pointer, size; up to the end of the file

The `extra` block is found through the image descriptor's arguments, so stock FFCV never meets it.
Files that stock `ffcv.DatasetWriter` wrote have none and are read all the same.
"""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.formats.columns import NONE, TASKS, Columns

MODE_JPG, MODE_RAW = 0, 1
#: FFCV's page size unless a sample needs more.
PAGE_BYTES = 8 << 20
#: The header holds the page size, a power of two, in 32 bits.
MAX_PAGE_BYTES = 1 << 31

VERSION = 2
#: What our files call their two fields; stock FFCV's may have any names.
FIELD_NAMES = (b"image", b"label")
TYPE_INT, TYPE_RGB = 1, 2
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("fields", "<u2"),
        ("page_size", "<u4"),
        ("samples", "<u8"),
        ("table", "<u8"),
    ]
)
DESCRIPTOR = np.dtype([("type", "u1"), ("name", "u1", 16), ("arguments", "u1", 1024)])
# FFCV packs an image's four numbers and aligns the label behind them, or the pointer to it.
METADATA = np.dtype(
    {
        "names": ["mode", "width", "height", "pointer", "label"],
        "formats": ["u1", "<u2", "<u2", "<u8", "<i8"],
        "offsets": [0, 1, 3, 5, 16],
        "itemsize": 24,
    }
)
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
#: What the image descriptor's arguments begin with in our files.
EXTRA = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("tables_crc32", "<u4"),
        ("block_crc32", "<u4"),
        ("about_bytes", "<u4"),
        ("pointer", "<u8"),
        ("names_bytes", "<u8"),
    ]
)
MAGIC, EXTRA_VERSION = b"fastft-x", 1
METADATA_START = HEADER.itemsize + 2 * DESCRIPTOR.itemsize
#: Bytes of a JPEG for each of its entry points at most, which take 8: 3 % of it.
_POINT_SHARE = 256
#: The size and the checksum of a sample's entry points.
POINTS = np.dtype([("bytes", "<u4"), ("crc32", "<u4")])
#: An entry point; before the first one, MCUs between them.
POINT = np.dtype("<i8")


def most_points(bytes_: int) -> int:
    """How many entry points a JPEG of so many bytes may have."""
    return bytes_ // _POINT_SHARE + 2


@dataclass(frozen=True, slots=True)
class Stored:
    """One sample as a file holds it: JPEG bytes, or `height * width * 3` bytes of RGB pixels."""

    mode: int
    width: int
    height: int
    data: bytes


class Note(enum.IntFlag):
    """Notes on a converted image, beside a reason in words; they fit into a byte."""

    #: It was decoded, and is stored as pixels or as another JPEG.
    REENCODED = 1
    #: It decodes without an error, and yet its pixels may be wrong.
    DOUBTFUL = 2
    #: Its EXIF says that it lies on a side; it was turned upright, a JPEG without loss.
    TURNED = 4
    #: Its EXIF says that it lies on a side; it is stored as it lies.
    LYING = 8
    #: It had more than 8 bits per channel.
    DEEP = 16
    #: A JPEG that could not be turned without loss, and became raw pixels instead.
    GROWN = 32


Depth = Literal["clip", "scale"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """The preparation of pixels beyond decoding; a model must meet other photos prepared alike.

    Attributes:
        apply_exif: whether images were turned upright as their EXIF orientation says.
        depth: what became of more than 8 bits per channel: `clip` is Pillow's `convert("RGB")`,
            `scale` maps the range to 0-255.
    """

    apply_exif: bool = False
    depth: Depth = "clip"

    def __str__(self) -> str:
        """As options of `fastft convert`."""
        return f"{'--apply-exif' if self.apply_exif else 'no --apply-exif'}, --depth {self.depth}"

    def __post_init__(self) -> None:
        if type(self.apply_exif) is not bool or self.depth not in get_args(Depth):
            raise ValueError("a preparation out of range")


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """A `.beton`'s own description: the JSON at the end of our extra block.

    Attributes:
        classes: class names.
        shard: which part of a conversion it is, as `shards` reads it; None if it is all.
        preparation: how its pixels were prepared.
        doubtful: number of a sample -> why its pixels may be wrong, in order.
        odd: number of a sample -> what decoders say of it that costs no pixel.
        columns: of its samples; their targets are the file's label field.
        targets_crc32: of these, as they lie in the file; 0 where there are none.
        points_at: where the file's table of entry points begins; 0 where there is none.
        division: the split that was made in converting, in words; empty: the data came so.
    """

    classes: tuple[str, ...]
    shard: Mapping[str, Any] | None = None
    preparation: Preparation = Preparation()
    doubtful: Mapping[int, str] = field(default_factory=dict)
    odd: Mapping[int, str] = field(default_factory=dict)
    columns: Columns = NONE
    targets_crc32: int = 0
    points_at: int = 0
    division: str = ""

    def encode(self) -> bytes:
        """The JSON; what says nothing beside the class names is left out."""
        values: dict[str, object] = {"classes": list(self.classes)}
        if self.shard is not None:
            values["shard"] = self.shard
        if self.preparation != Preparation():
            values["preparation"] = asdict(self.preparation)
        for name in ("doubtful", "odd"):
            if remarks := getattr(self, name):
                values[name] = list(remarks.items())
        if self.columns.task != NONE.task:
            values |= {"task": self.columns.task, "targets_crc32": self.targets_crc32}
        for name, kind in _STORED_COLUMNS.items():
            if (column := getattr(self.columns, name)) is not None:
                values[name] = base64.b64encode(column.astype(kind).tobytes()).decode()
        if self.points_at:
            values["points_at"] = self.points_at
        if self.division:
            values["division"] = self.division
        return json.dumps(values).encode()

    @classmethod
    def decode(cls, text: bytes, samples: int) -> About:
        """Read the JSON of a file of so many samples.

        Raises:
            ValueError, KeyError, TypeError, RecursionError: it is not what `encode` writes.
        """
        values = json.loads(text)
        classes, remarks = values["classes"], [values.get(name, []) for name in ("doubtful", "odd")]
        if not isinstance(classes, list) or not classes:
            raise ValueError("no class names")
        if not all(isinstance(name, str) for name in classes):
            raise ValueError("a class name that is no text")
        for sample, reason in chain(*remarks):
            if type(sample) is not int or not 0 <= sample < samples or type(reason) is not str:
                raise ValueError("a remark on no sample")
        return cls(
            classes=tuple(classes),
            shard=values.get("shard"),
            preparation=Preparation(**values.get("preparation", {})),
            doubtful=dict(remarks[0]),
            odd=dict(remarks[1]),
            columns=_decode_columns(values, samples),
            targets_crc32=_number(values.get("targets_crc32", 0)),
            points_at=_number(values.get("points_at", 0)),
            division=_text(values.get("division", "")),
        )


#: Columns in the description, which are small, and what they are stored as.
_STORED_COLUMNS = {"groups": "<u8", "weights": "<f4"}


def _decode_columns(values: Mapping[str, Any], samples: int) -> Columns:
    """The columns of a description, without targets.

    Raises:
        ValueError, TypeError: they are not what `About.encode` writes.
    """
    task = values.get("task", NONE.task)
    if task not in TASKS:
        raise ValueError("no such task")
    found: dict[str, NDArray[Any] | None] = dict.fromkeys(_STORED_COLUMNS)
    for name, kind in _STORED_COLUMNS.items():
        if name in values:
            column = np.frombuffer(base64.b64decode(values[name], validate=True), kind)
            if len(column) != samples:
                raise ValueError("a column of another length")
            found[name] = column.astype(np.dtype(kind).newbyteorder("="))
    weights = found["weights"]
    if weights is not None and not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError("weights that are none")
    return Columns(task=task, groups=found["groups"], weights=weights)


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError("no whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
