"""The byte layout of a `.beton` file: `beton` reads it, `beton_writer` writes it, no one else.

It is FFCV's version 2 with two fields, `image` (RGBImageField) and `label` (IntField), all
little-endian:

    header          version, fields, page size, samples, where the allocation table starts
    2 descriptors   type, name, 1,024 bytes of arguments that stock FFCV ignores for these types
    metadata        per sample: mode, width, height, data pointer, label
    pages           the samples' bytes; none crosses a multiple of the page size
    extra           ours: checksums, source names, class names; of a shard, which part it is
    allocation      per sample: number, pointer, size; up to the end of the file

The `extra` block is found through the image descriptor's arguments, so stock FFCV never meets it.
Files that stock `ffcv.DatasetWriter` wrote have none and are read all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MODE_JPG, MODE_RAW = 0, 1
#: FFCV's page size unless a sample needs more.
PAGE_BYTES = 8 << 20
#: The header holds the page size, a power of two, in 32 bits.
MAX_PAGE_BYTES = 1 << 31
#: Width and height are 16-bit numbers.
MAX_SIDE_PX = 65535
#: An image of more pixels is left out unless `convert --max-pixels` admits it: where Pillow refuses
#: to decode, fearing a decompression bomb.
MAX_PIXELS = 2 * 89_478_485
#: No image has more, whatever is asked for: 800 MB, decoded. Phones make photos of 200 megapixels.
MOST_PIXELS = 1 << 28
#: A larger image file is not read: that many pixels as uncompressed 16-bit RGBA.
MAX_FILE_BYTES = MAX_PIXELS * 8

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
# FFCV packs an image's four numbers and aligns the label behind them.
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
    [("magic", "S8"), ("version", "<u4"), ("tables_crc32", "<u4"), ("block_crc32", "<u4"),
     ("classes_bytes", "<u4"), ("pointer", "<u8"), ("names_bytes", "<u8")]
)  # fmt: skip
MAGIC, EXTRA_VERSION = b"fastft-x", 1
METADATA_START = HEADER.itemsize + 2 * DESCRIPTOR.itemsize


@dataclass(frozen=True, slots=True)
class Stored:
    """One sample as a file holds it: JPEG bytes, or `height * width * 3` bytes of RGB pixels."""

    mode: int
    width: int
    height: int
    data: bytes


def encode_classes(classes: tuple[str, ...], shard: Mapping[str, object] | None = None) -> bytes:
    """Class names as the extra block ends with them, and what a shard says of itself."""
    values: dict[str, object] = {"classes": list(classes)}
    if shard is not None:
        values["shard"] = shard
    return json.dumps(values).encode()
