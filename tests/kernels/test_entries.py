"""Entry points into a JPEG: crops that begin there are the image's, and unsound data have none."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import Samples

from pipelines import regions
from pipelines.decoder import Known
from pipelines.errors import DataError
from pipelines.formats.layout import MODE_JPG, Stored
from pipelines.kernels import libjpeg, mcus
from pipelines.kernels.entries import find_entries, fit_reading
from pipelines.kernels.mcus import LEFT
from pipelines.kernels.streaming import DONE
from pipelines.regions import RegionDecoder

RANDOM = np.random.default_rng(7)
FUNCTIONS = libjpeg.find_libjpeg()
pytestmark = pytest.mark.skipif(FUNCTIONS is None, reason="Pillow has loaded no libjpeg")
#: For Pillow's encoder. Without `optimize` tables have all codes; with it, what the image needs.
WAYS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1, "optimize": True},
    "4:2:0": {"subsampling": 2},
    "4:2:0 optimized": {"subsampling": 2, "optimize": True},
    "4:1:1": {"subsampling": "4:1:1"},
    "best": {"subsampling": 2, "quality": 100, "optimize": True},
    "worst": {"subsampling": 2, "quality": 3, "optimize": True},
    "gray": {"optimize": True},
}
NO_POINTS = np.empty(0, np.int64)
SIDES = [(1, 1), (8, 8), (17, 33), (5, 200), (200, 5), (97, 211), (130, 75)]


def photo(height: int, width: int, gray: bool = False) -> np.ndarray:
    """Slopes, edges of colour and noise."""
    y, x = np.mgrid[:height, :width]
    pixels = RANDOM.integers(0, 60, (height, width, 3)) + (x + 2 * y)[..., None] % 196
    pixels[(y // 37 + x // 29) % 2 == 0] //= 4
    pixels = pixels.astype(np.uint8)
    return pixels[..., 0].copy() if gray else pixels


def encode(pixels: np.ndarray, **way: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", **{"quality": 85, **way})
    return target.getvalue()


def turned(data: bytes) -> bytes:
    """A 4:2:2 JPEG of equal sides as one of 4:4:0: its factors of luma are exchanged."""
    at = data.index(b"\xff\xc0") + 11
    assert data[at] == 0x21
    return data[:at] + b"\x12" + data[at + 1 :]


def encode_by(way: str, sides: tuple[int, int]) -> tuple[bytes, tuple[int, int]]:
    """A JPEG of one of WAYS or of 4:4:0, and its sides, which are equal for the latter."""
    if way != "4:4:0":
        return encode(photo(*sides, gray=way == "gray"), **WAYS[way]), sides
    sides = (max(sides), max(sides))
    return turned(encode(photo(*sides), subsampling=1)), sides


def find(data: bytes, sides: tuple[int, int], most: int = 4000) -> tuple[int, np.ndarray]:
    reading = fit_reading(None, len(data), most)
    step, count = find_entries(np.frombuffer(data, np.uint8), sides, most, reading)
    return step, reading.points[:count]


def decode(data: bytes, shrink: int = 1) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, tuple(max(1, side // shrink) for side in image.size))
        return np.asarray(image.convert("RGB"))


def reader(data: bytes, sides: tuple[int, int], step: int, points: np.ndarray) -> RegionDecoder:
    """Decodes parts of one image, by these points if there are any."""
    height, width = sides
    source: Any = Samples([Stored(MODE_JPG, width, height, data)])
    decoder = RegionDecoder(source)
    decoder.known.note_sound(0)
    if step:
        decoder.known.entries[0] = (step, points)
    return decoder


def look(decoder: RegionDecoder, box: tuple[int, int, int, int], shrink: int = 1) -> np.ndarray:
    found = decoder.crop(0, decoder._source.stored(0), box, shrink)
    assert found is not None
    return found


def random_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    sides = [int(RANDOM.integers(1, side + 1)) for side in pixels.shape[:2]]
    top, left = (
        int(RANDOM.integers(side - own + 1))
        for side, own in zip(pixels.shape[:2], sides, strict=True)
    )
    return top, left, *sides


@pytest.mark.parametrize("way", [*WAYS, "4:4:0"])
@pytest.mark.parametrize("shrink", [1, 2, 8])
def test_a_crop_by_entry_points_is_that_of_the_whole(
    way: str, shrink: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortened, parts = 0, []

    def note(*given: Any) -> tuple[int, ...]:
        found = mcus.begin_part(*given)
        parts.append(found[3] * found[4])
        return found

    monkeypatch.setattr(regions, "begin_part", note)
    for sides in SIDES:
        if min(sides) < shrink:
            continue
        data, sides = encode_by(way, sides)
        pixels = decode(data, shrink)
        for most in (4000, 2 * -(-sides[0] // 8) + 1):
            step, points = find(data, sides, most)
            assert step
            assert len(points) <= most
            decoder = reader(data, sides, step, points)
            for _ in range(8):
                top, left, height, width = box = random_box(pixels)
                found = look(decoder, box, shrink)
                assert np.array_equal(found, pixels[top : top + height, left : left + width])
                assert 0 in decoder.known.entries  # they were of use
            shortened += sum(part < sides[0] * sides[1] for part in parts)
            parts.clear()
    assert shortened > 5


def test_the_last_point_is_the_end_of_the_data() -> None:
    data = encode(photo(97, 211))
    _, points = find(data, (97, 211))
    places = points.view(np.uint64) >> np.uint64(36)
    assert -(-int(places[-1]) // 8) == data.index(b"\xff\xd9")
    assert (np.diff(places.astype(np.int64)) > 0).all()


DATA = encode(photo(97, 211), subsampling=2)
SCAN = DATA.index(b"\xff\xda")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff\xd9",
        DATA[: SCAN + 400],
        DATA[:-2] + b"\0\0\xff\xd9",
        DATA[:-2] + b"\xff\xff\xd9",
        DATA[: SCAN + 500] + DATA[SCAN + 516 :],
        DATA[: SCAN + 500] + b"\xff\xd0" + DATA[SCAN + 500 :],
        DATA.replace(b"\xff\xc0", b"\xff\xc2"),
        DATA.replace(b"\xff\xc4", b"\xff\xfe"),
        encode(photo(97, 211), progressive=True),
        encode(photo(97, 211), restart_marker_rows=1),
    ],
    ids=[
        "empty",
        "no image",
        "cut",
        "bytes behind",
        "fill bytes",
        "bytes lost",
        "marker within",
        "called progressive",
        "no tables",
        "progressive",
        "restarts",
    ],
)
def test_unsound_and_uncommon_data_have_no_points(data: bytes) -> None:
    assert find(data, (97, 211))[0] == 0


def test_another_size_has_no_points() -> None:
    assert find(DATA, (97, 210))[0] == find(DATA, (96, 211))[0] == 0
    assert find(DATA, (97, 211))[0] == 2


def test_too_many_rows_have_no_points() -> None:
    assert find(DATA, (97, 211), most=7)[0] == 0
    step, points = find(DATA, (97, 211), most=8)
    assert (step, len(points)) == (14, 8)


def test_every_flipped_bit_is_sound_or_has_no_points() -> None:
    """Data with points are data that libjpeg does not warn of, and give the same pixels by them."""
    sides = (40, 56)
    data = encode(photo(*sides), subsampling=2, quality=40)
    begin, kept = data.index(b"\xff\xda") + 14, 0
    for bit in range(8 * begin, 8 * len(data), 5):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        step, points = find(bytes(flipped), sides)
        if not step:
            continue
        kept += 1
        plain = reader(bytes(flipped), sides, 0, points)
        by_points = reader(bytes(flipped), sides, step, points.copy())
        for box in ((0, 0, *sides), (9, 20, 22, 30)):
            assert np.array_equal(look(plain, box), look(by_points, box))
        assert by_points.known.entries
        assert not plain.known.remarks
    assert kept > 10


def test_points_of_other_data_write_nothing_outside() -> None:
    """Data may change behind a loader's back: the worst is an error, or pixels of that data."""
    step, points = find(DATA, (97, 211))
    for _ in range(200):
        changed = bytearray(DATA)
        for at in RANDOM.integers(SCAN, len(DATA), 20):
            changed[at] = RANDOM.integers(256)
        odd = points.copy()
        odd[RANDOM.integers(len(odd))] = RANDOM.integers(-(1 << 63), 1 << 63, dtype=np.int64)
        decoder = reader(bytes(changed), (97, 211), step, odd)
        given = fit_reading(None, len(DATA), len(odd))
        longer = {
            name: np.concatenate([getattr(given, name), np.full(64, 77, np.uint8)])
            for name in ("data", "header")
        }
        decoder._reading = given._replace(**{name: each[:-64] for name, each in longer.items()})
        with suppress(DataError):
            look(decoder, (17, 20, 63, 100))
        assert all((each[-64:] == 77).all() for each in longer.values())


# All MCUs in a row, without entry points.


@pytest.fixture
def in_a_row(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each image that is decoded, without looking for points, was read so."""
    read, straight = [], RegionDecoder._straight

    def note(decoder: RegionDecoder, *given: Any) -> int:
        result = straight(decoder, *given)
        read.append(result == DONE)
        return result

    monkeypatch.setattr(RegionDecoder, "_straight", note)
    monkeypatch.setattr(Known, "has_room", lambda *_: False)
    return read


@pytest.mark.parametrize("way", [*WAYS, "4:4:0"])
@pytest.mark.parametrize("shrink", [1, 4])
@pytest.mark.parametrize("is_known", [False, True])
def test_all_mcus_in_a_row_are_the_image(
    way: str, shrink: int, is_known: bool, in_a_row: list[bool]
) -> None:
    for sides in SIDES:
        if min(sides) < shrink:
            continue
        data, sides = encode_by(way, sides)
        pixels = decode(data, shrink)
        for box in ((0, 0, *pixels.shape[:2]), *(random_box(pixels) for _ in range(4))):
            decoder = reader(data, sides, 0, NO_POINTS)
            if not is_known:
                decoder.known._states[0] = 0
            top, left, height, width = box
            found = look(decoder, box, shrink)
            assert np.array_equal(found, pixels[top : top + height, left : left + width])
            assert decoder.known.has_been_read(0)
    assert in_a_row
    assert all(in_a_row)


def test_damage_behind_a_crop_is_read_in_a_row(in_a_row: list[bool]) -> None:
    """An image that is met for the first time is read to its end, as by libjpeg."""
    for size in (len(DATA) // 2, len(DATA) - 40):
        decoder = reader(DATA[:size] + b"\xff\xd9", (97, 211), 0, NO_POINTS)
        decoder.known._states[0] = 0
        with pytest.raises(DataError, match="expected a whole JPEG"):
            look(decoder, (0, 0, 20, 30))
    assert in_a_row == [False, False]


def test_bytes_behind_the_last_mcu_are_left_to_libjpeg(in_a_row: list[bool]) -> None:
    """It warns of them, which has to be weighed."""
    decoder = reader(DATA[:-2] + b"U" * 40 + b"\xff\xd9", (97, 211), 0, NO_POINTS)
    decoder.known._states[0] = 0
    look(decoder, (0, 0, 20, 30))
    assert in_a_row == [False]
    assert decoder.known.is_harmless(0)


def test_flipped_bits_show_the_same_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the data are, the pixels are those of libjpeg, or nobody's."""
    monkeypatch.setattr(Known, "has_room", lambda *_: False)
    sides = (40, 56)
    data = encode(photo(*sides), subsampling=2, quality=40)
    begin, read = data.index(b"\xff\xda") + 14, 0
    for bit in range(8 * begin, 8 * len(data), 7):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        shown = []
        for by_libjpeg in (False, True):
            decoder = reader(bytes(flipped), sides, 0, NO_POINTS)
            if by_libjpeg:
                monkeypatch.setattr(regions, "begin_whole", lambda *_: 0)
            decoder.known._states[0] = 0
            try:
                shown.append(look(decoder, (9, 20, 22, 30)).tolist())
            except DataError as error:
                shown.append(str(error))
            monkeypatch.undo()
            monkeypatch.setattr(Known, "has_room", lambda *_: False)
            read += decoder._reading.scan[LEFT] == 0
        assert shown[0] == shown[1]
    assert read > 10


def test_coefficients_beyond_their_bits_have_no_points() -> None:
    """Each block's DC coefficient is 2,047 more than the one before: 12 bits hold one such."""
    block = "111111110" + 11 * "1" + "1010"  # the standard codes of 11 bits and of a block's end
    for blocks, expected in ((1, True), (2, False)):
        bits = block * blocks
        bits += "1" * (-len(bits) % 8)
        scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        plain = encode(np.zeros((8, 8 * blocks), np.uint8), quality=50)
        begin = plain.index(b"\xff\xda") + 10
        data = plain[:begin] + scan + b"\xff\xd9"
        assert bool(find(data, (8, 8 * blocks))[0]) == expected
