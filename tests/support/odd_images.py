"""The odd images: what is expected of each, for the tests that go through all of them.

`tests/data/make.py` made them, and says what they show.
"""

import runpy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from spoiled import HUFFMAN, QUANTIZATION, padded, scans_kept, with_bytes_before, without

DATA = Path(__file__).parents[1] / "data"
PHOTO_PX = (97, 61)


@dataclass(frozen=True, kw_only=True)
class Odd:
    """One of them.

    Attributes:
        size: width and height, px, as the file has them.
        shows: what it was made from: the photo, its luma alone, another picture of that seed.
        kept: whether conversion stores the file byte for byte.
        orientation: EXIF's.
    """

    size: tuple[int, int] = PHOTO_PX
    shows: str | int | None = "photo"
    kept: bool = True
    orientation: int = 1


ODD: dict[str, Odd] = {
    "jpegs/1x1.jpg": Odd(size=(1, 1), shows=None),
    "jpegs/1x37.jpg": Odd(size=(1, 37), shows=None),
    "jpegs/37x1.jpg": Odd(size=(37, 1), shows=None),
    "jpegs/19x1200.jpg": Odd(size=(19, 1200), shows=2),
    "jpegs/5000x20.jpg": Odd(size=(5000, 20), shows=1),
    "jpegs/65500x48.jpg": Odd(size=(65500, 48), shows=None),  # as long as a JPEG may be
    "jpegs/48x65500.jpg": Odd(size=(48, 65500), shows=None),
    "jpegs/gray.jpg": Odd(shows="luma"),
    "jpegs/progressive.jpg": Odd(),
    "jpegs/rgb.jpg": Odd(),  # its components are no YCbCr
    "jpegs/s444.jpg": Odd(),
    "jpegs/s422.jpg": Odd(),
    "jpegs/s420.jpg": Odd(),
    "jpegs/s411.jpg": Odd(),
    "jpegs/s440.jpg": Odd(),
    "jpegs/restart.jpg": Odd(),
    "jpegs/thumbnail.jpg": Odd(),  # a whole JPEG of 40 x 24 px comes first in the file
    "jpegs/garbage_after.jpg": Odd(),
    # Changed copies of others, see CHANGED; they come between photos with tables of their own.
    "jpegs/no_huffman_tables.jpg": Odd(shows=None),  # the standard's are meant, as in a webcam's
    "jpegs/no_huffman_tables_gray.jpg": Odd(shows=None),
    "jpegs/some_huffman_tables.jpg": Odd(shows=None),
    "jpegs/stray_bytes.jpg": Odd(),
    "jpegs/stray_bytes_at_first.jpg": Odd(),
    "jpegs/stray_marker.jpg": Odd(),
    "jpegs/padded.jpg": Odd(),
    "jpegs/unknown_jfif.jpg": Odd(),
    "jpegs/incomplete1.jpg": Odd(shows=None),
    "jpegs/incomplete4.jpg": Odd(shows=None),
    "jpegs/incomplete7.jpg": Odd(shows=None),
    **{f"jpegs/exif{n}.jpg": Odd(orientation=n) for n in range(1, 9)},
    "others/cmyk.jpg": Odd(kept=False),
    "others/ycck.jpg": Odd(kept=False),
    "others/arithmetic.jpg": Odd(kept=False),
    "others/png_named.jpg": Odd(kept=False),
    "others/exif6.png": Odd(kept=False, orientation=6),
    "others/rgba.png": Odd(kept=False),
    "others/gray_alpha.png": Odd(kept=False, shows="luma"),
    "others/palette.png": Odd(kept=False),
    "others/gray16.png": Odd(kept=False, shows=None),  # which Pillow clips
    "others/bilevel.png": Odd(kept=False, shows=None),
    "others/gray.pgm": Odd(kept=False, shows="luma"),
    "others/photo.bmp": Odd(kept=False),
    "others/photo.tif": Odd(kept=False),
    "others/photo.webp": Odd(kept=False),
    "others/animated.gif": Odd(kept=False, size=(40, 30), shows=0),  # the first of three frames
    "others/photo.avif": Odd(kept=False),
}


#: name -> which odd image it is made from, and how.
CHANGED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "jpegs/no_huffman_tables.jpg": ("jpegs/s420.jpg", lambda data: without(data, HUFFMAN)),
    "jpegs/no_huffman_tables_gray.jpg": ("jpegs/gray.jpg", lambda data: without(data, HUFFMAN)),
    "jpegs/some_huffman_tables.jpg": ("jpegs/s444.jpg", lambda data: without(data, HUFFMAN, 2)),
    "jpegs/stray_bytes.jpg": ("jpegs/s422.jpg", lambda data: with_bytes_before(data, HUFFMAN)),
    "jpegs/stray_bytes_at_first.jpg": (
        "jpegs/s444.jpg",
        lambda data: with_bytes_before(data, QUANTIZATION, b"\0\0\0"),
    ),
    "jpegs/stray_marker.jpg": (
        "jpegs/s444.jpg",
        lambda data: with_bytes_before(data, HUFFMAN, b"\xff\xd0"),
    ),
    "jpegs/padded.jpg": ("jpegs/s444.jpg", lambda data: padded(data, bytes(40))),
    "jpegs/unknown_jfif.jpg": ("jpegs/s444.jpg", lambda data: data[:11] + b"\x09" + data[12:]),
    **{
        f"jpegs/incomplete{count}.jpg": (
            "jpegs/progressive.jpg",
            lambda data, count=count: scans_kept(data, count),
        )
        for count in (1, 4, 7)
    },
}


def is_here(name: str) -> bool:
    """Whether this Pillow reads it."""
    return not name.endswith(".avif") or features.check("avif")


def write_odd(folder: Path) -> None:
    """All of them, in class folders; large ones and those not every Pillow reads are made now."""
    shutil.copytree(DATA / "odd", folder)
    across = np.random.default_rng(0).integers(0, 256, (48, 1310), np.uint8).repeat(50, 1)
    Image.fromarray(across).convert("RGB").save(folder / "jpegs" / "65500x48.jpg", quality=50)
    Image.fromarray(across.T).save(folder / "jpegs" / "48x65500.jpg", quality=50)
    for name, (origin, change) in CHANGED.items():
        (folder / name).write_bytes(change((DATA / "odd" / origin).read_bytes()))
    if is_here("others/photo.avif"):
        picture(*PHOTO_PX).save(folder / "others" / "photo.avif", quality=90)


def picture(width: int, height: int, seed: int = 0) -> Any:
    """What they were made from."""
    make: Callable[..., Any] = runpy.run_path(str(DATA / "make.py"))["picture"]
    return make(width, height, seed)


def apart(name: str, pixels: NDArray[np.uint8]) -> float:
    """How far an image's pixels, uint8[H, W, 3], are from what it was made from, in levels."""
    odd = ODD[name]
    seed = odd.shows if isinstance(odd.shows, int) else 0
    image = picture(*odd.size, seed)
    wanted = np.asarray(image.convert("L").convert("RGB") if odd.shows == "luma" else image)
    return float(np.abs(pixels.astype(int) - wanted).mean())


#: name -> how the bytes of a whole image are spoiled, which one's, why conversion leaves it out,
#: whether it does so without decoding.
BROKEN: dict[str, tuple[str, Callable[[bytes], bytes], str, bool]] = {
    "truncated.jpg": (
        "jpegs/s444.jpg",
        lambda data: data[: len(data) * 9 // 10],
        "remature end",
        False,
    ),
    "truncated_progressive.jpg": (
        "jpegs/progressive.jpg",
        lambda data: data[: len(data) * 9 // 10],
        "remature end",
        False,
    ),
    "truncated.png": (
        "others/rgba.png",
        lambda data: data[: len(data) * 9 // 10],
        "truncated",
        True,
    ),
    "truncated_cmyk.jpg": (
        "others/cmyk.jpg",
        lambda data: data[: len(data) * 9 // 10],
        "remature end",
        True,
    ),
    "no_quantization.jpg": (
        "jpegs/s444.jpg",
        lambda data: without(data, QUANTIZATION),
        "was not defined",
        False,
    ),
    "stray_and_cut.jpg": (
        "jpegs/s444.jpg",
        lambda data: with_bytes_before(data, HUFFMAN)[: len(data) * 6 // 10],
        "remature end",
        False,
    ),
    "header_alone.jpg": ("jpegs/s444.jpg", lambda data: data[:700], "", False),
    "empty.jpg": ("jpegs/s444.jpg", lambda data: b"", "the file is empty", True),
    "text.jpg": (
        "jpegs/s444.jpg",
        lambda data: b"not a photo\n",
        "is a text, not an image: 'not",
        True,
    ),
}
