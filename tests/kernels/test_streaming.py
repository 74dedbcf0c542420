"""The kernel that decodes what a crop shows: pixels of whole images, and what libjpeg says."""

import ctypes
import io
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from pipelines.kernels import cpu, libjpeg, streaming
from pipelines.preprocessing import MEAN, STD
from pipelines.transfer import normalizing_factors

RANDOM = np.random.default_rng(5)
FUNCTIONS = libjpeg.find_libjpeg()
pytestmark = pytest.mark.skipif(FUNCTIONS is None, reason="Pillow has loaded no libjpeg")
STATE = libjpeg.make_state()
#: For Pillow's encoder.
WAYS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "4:1:1": {"subsampling": "4:1:1"},
    "progressive": {"subsampling": 2, "progressive": True},
    "progressive 4:2:2": {"subsampling": 1, "progressive": True},
    "restarts by blocks": {"subsampling": 2, "restart_marker_blocks": 1},
    "restarts by rows": {"subsampling": 1, "restart_marker_rows": 1},
    "gray": {},
}
#: Height and width: about a block's sides, tiny, thin, flat.
SIDES = [(1, 1), (5, 3), (8, 8), (16, 17), (33, 47), (90, 5), (7, 130), (300, 40), (97, 211)]


class Crop(NamedTuple):
    """A row: geometry int32[2, 4] as `cpu.START` says, flip, order of passes, shrinking, filter."""

    geometry: np.ndarray
    flip: bool
    down_first: bool
    shrink: int = 1
    cubic: bool = False


def encode(pixels: np.ndarray, **way: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=60, **way)
    return target.getvalue()


def turned(data: bytes) -> bytes:
    """A 4:2:2 JPEG of equal sides as one of 4:4:0: its factors of luma are exchanged."""
    at = data.index(b"\xff\xc0") + 11
    assert data[at] == 0x21
    return data[:at] + b"\x12" + data[at + 1 :]


def photo(height: int, width: int, gray: bool = False) -> np.ndarray:
    """Edges of colour on noise."""
    pixels = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    pixels[(np.arange(height)[:, None] // 7 + np.arange(width) // 5) % 2 == 0] //= 3
    return pixels[..., 0].copy() if gray else pixels


def random_crop(height: int, width: int, size: int) -> Crop:
    """Any box, resized to any size of which the output can be cut."""
    geometry = np.empty((2, 4), np.int32)
    for axis, side in enumerate((height, width)):
        length = int(RANDOM.integers(1, side + 1))
        resized = size if RANDOM.random() < 0.6 else size + int(RANDOM.integers(0, 2 * side + 1))
        start, offset = RANDOM.integers(0, side - length + 1), RANDOM.integers(resized - size + 1)
        geometry[axis] = start, length, resized, offset
    flip, down_first, cubic = (RANDOM.random(3) < 0.5).tolist()
    return Crop(geometry, flip, down_first, cubic=cubic)


def render(
    data: bytes, sides: tuple[int, int], crop: Crop, size: int, *, whole: bool = False
) -> tuple[int, np.ndarray]:
    rows, how = crop.geometry[None], {"shrinks": crop.shrink, "cubic": crop.cubic}
    scratch = cpu.fit_scratch(None, rows, size, streamed=True, **how)
    out = np.zeros((size, size * 3), np.uint8)
    result = streaming.render_jpeg(
        FUNCTIONS,
        STATE,
        np.frombuffer(data, np.uint8),
        sides,
        crop.geometry,
        crop.shrink,
        crop.flip,
        crop.down_first,
        whole,
        *normalizing_factors(size, MEAN, STD),
        scratch,
        out,
    )
    return result, out


def wanted(data: bytes, crop: Crop, size: int) -> np.ndarray:
    """The same of the image that Pillow decodes."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, tuple(max(1, side // crop.shrink) for side in image.size))
        pixels = np.asarray(image.convert("RGB"))
    height, width, _ = pixels.shape
    frames = cpu.Frames(
        np.concatenate([pixels.reshape(-1), np.zeros(cpu.READ_PAST, np.uint8)]),
        np.zeros((1, 3), np.int64),
        np.array([[width * 3, 0]]),
        np.array([[height, width]]),
    )
    shrinks = np.array([crop.shrink], np.int32)
    scratch = cpu.fit_scratch(None, crop.geometry[None], size, shrinks=shrinks, cubic=crop.cubic)
    out = np.zeros((1, size, size * 3), np.uint8)
    cpu.render_rows(
        frames,
        False,
        crop.geometry[None],
        shrinks,
        np.array([crop.flip]),
        np.array([crop.down_first]),
        *normalizing_factors(size, MEAN, STD),
        scratch,
        out,
    )
    return out[0]


@pytest.mark.parametrize("way", [*WAYS, "4:4:0"])
def test_any_crop_is_that_of_the_whole(way: str) -> None:
    for sides, size in product(SIDES, (1, 9, 24)):
        if way == "4:4:0":
            sides = (max(sides),) * 2
            data = turned(encode(photo(*sides), subsampling=1))
        else:
            data = encode(photo(*sides, gray=way == "gray"), **WAYS[way])
        for _ in range(6):
            crop = random_crop(*sides, size)
            result, found = render(data, sides, crop, size, whole=bool(RANDOM.random() < 0.5))
            assert result == streaming.DONE
            assert np.array_equal(found, wanted(data, crop, size)), (sides, size, crop)


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("way", WAYS)
def test_any_crop_of_a_shrunk_image_is_that_of_the_whole(way: str, shrink: int) -> None:
    for sides, size in product([(16, 17), (33, 130), (300, 40), (197, 211)], (1, 9)):
        data = encode(photo(*sides, gray=way == "gray"), **WAYS[way])
        for _ in range(6):
            crop = random_crop(*sides, size)._replace(shrink=shrink)
            result, found = render(data, sides, crop, size, whole=bool(RANDOM.random() < 0.5))
            assert result == streaming.DONE
            assert np.array_equal(found, wanted(data, crop, size)), (sides, size, crop)


CORNER = Crop(np.array([[0, 8, 8, 0], [0, 8, 8, 0]], np.int32), False, False)
SQUARE = (64, 64)


def test_damage_behind_a_crop_is_heard_on_request() -> None:
    data = encode(photo(*SQUARE))
    cut = data[: len(data) // 2]
    right = wanted(data, CORNER, 8)
    for whole, expected in ((False, streaming.DONE), (True, streaming.WARNED)):
        result, found = render(cut, SQUARE, CORNER, 8, whole=whole)
        assert result == expected
        assert np.array_equal(found, right)


def test_damage_within_a_crop_is_heard() -> None:
    data = encode(photo(*SQUARE))
    crop = CORNER._replace(geometry=CORNER.geometry + np.array([56, 0, 0, 0], np.int32))
    assert render(data[: len(data) // 2], SQUARE, crop, 8)[0] == streaming.WARNED
    assert render(data, SQUARE, crop, 8)[0] == streaming.DONE  # nothing is left of it


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Empty input file"),
        (b"no JPEG", "Not a JPEG file"),
        (b"\xff\xd8\xff\xd9", "no image"),
        (encode(photo(*SQUARE)).replace(b"\xff\xdb", b"\xff\xee"), "Quantization table"),
    ],
)
def test_what_libjpeg_gives_up_is_told_in_its_words(data: bytes, words: str) -> None:
    assert render(data, SQUARE, CORNER, 8)[0] == streaming.GAVE_UP
    assert words in libjpeg.words_of(STATE)


def test_no_table_of_another_image_is_used() -> None:
    """Without tables of its own an image has the standard ones, or is given up."""
    own = encode(photo(*SQUARE), optimize=True)
    standard = encode(photo(*SQUARE))
    begin, end = standard.index(b"\xff\xc4"), standard.index(b"\xff\xda")
    bare = standard[:begin] + standard[end:]
    assert render(own, SQUARE, CORNER, 8)[0] == streaming.DONE
    result, found = render(bare, SQUARE, CORNER, 8)
    assert result == streaming.DONE
    assert np.array_equal(found, wanted(standard, CORNER, 8))


def test_another_size_than_planned_is_refused() -> None:
    data = encode(photo(*SQUARE))
    for sides in ((64, 65), (63, 64)):
        result, out = render(data, sides, CORNER, 8)
        assert result == streaming.OTHER_SIZE
        assert not out.any()


@pytest.mark.parametrize("name", ["jpeg_crop_scanline", "jpeg_core_output_dimensions"])
def test_another_libjpeg_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot crop, and one of another interface."""

    real = ctypes.CDLL

    class Library:
        def __init__(self, path: str) -> None:
            self.real = real(path)

        def __getattr__(self, asked: str) -> Any:
            if asked == name == "jpeg_core_output_dimensions":
                return self.real.jpeg_std_error
            return getattr(self.real, "no such" if asked == name else asked)

    find_libjpeg = libjpeg.find_libjpeg.__wrapped__
    assert find_libjpeg() is not None
    monkeypatch.setattr(libjpeg.ctypes, "CDLL", Library)
    assert find_libjpeg() is None


def test_memory_grows_with_the_crops_width_alone() -> None:
    def bytes_of(height: int, width: int) -> int:
        geometry = np.array([[[0, height, 224, 0], [0, width, 224, 0]]], np.int32)
        scratch = cpu.fit_scratch(None, geometry, 224, streamed=True)
        return sum(each.nbytes for each in scratch[:-1] if each.dtype == np.uint8)

    small, tall, large = bytes_of(300, 300), bytes_of(6000, 300), bytes_of(6000, 8000)
    assert tall < 20 * small
    assert large < 3 * 8100 * 2 * 55 + 1_000_000  # as many lines as two pixels' taps
