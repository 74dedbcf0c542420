"""Parts of a source's samples: the same pixels as of whole images, the same damage named."""

import threading
from pathlib import Path

import numpy as np
import pytest

from pipelines import regions
from pipelines.decoder import Known
from pipelines.errors import DataError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_JPG, Stored
from pipelines.formats.source import Source, open_source
from pipelines.kernels.libjpeg import find_libjpeg
from pipelines.kernels.mcus import LEFT
from pipelines.regions import RegionDecoder

pytestmark = pytest.mark.skipif(find_libjpeg() is None, reason="Pillow has loaded no libjpeg")
HOSTILE = Path(__file__).parents[1] / "data" / "hostile"
RANDOM = np.random.default_rng(3)


def whole(source: Source, sample: int) -> np.ndarray:
    return np.asarray(decode(source.stored(sample)))


def part_of(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """A box within an image."""
    (top, height), (left, width) = (
        (int(RANDOM.integers(side - length + 1)), length)
        for side in pixels.shape[:2]
        for length in [int(RANDOM.integers(1, side + 1))]
    )
    return top, left, height, width


@pytest.mark.parametrize("known", [False, True], ids=["met first", "met again"])
def test_parts_of_odd_images_are_those_of_the_whole(known: bool, odd_beton: Path) -> None:
    source = read_index(odd_beton)
    decoder, cut = RegionDecoder(source), 0
    for sample in range(len(source)):
        pixels, stored = whole(source, sample), source.stored(sample)
        if known:
            decoder.known.note_sound(sample)
        box = top, left, height, width = part_of(pixels)
        found = decoder.crop(sample, stored, box)
        if found is not None:
            cut += 1
            assert np.array_equal(found, pixels[top : top + height, left : left + width])
    assert cut > 20
    assert not decoder.known.remarks or "decoded by Pillow" in decoder.known.remarks[0]


@pytest.fixture
def damaged(photos: Path, tmp_path: Path) -> Source:
    """A class folder of one photo that ends in the middle."""
    content = min((photos / "train").rglob("*.jpg")).read_bytes()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(content[: len(content) * 2 // 3])
    return open_source(tmp_path)


def test_damage_is_named_wherever_a_crop_lies(damaged: Source) -> None:
    for box in ((0, 0, 8, 8), (40, 0, 8, 8)):
        with pytest.raises(DataError, match=r"a/1\.jpg: .*a whole JPEG"):
            RegionDecoder(damaged).crop(0, damaged.stored(0), box)


def test_data_are_read_to_their_end_once(damaged: Source) -> None:
    known = Known(damaged)
    known.note_sound(0)  # as far as anybody knows
    found = RegionDecoder(damaged, known).crop(0, damaged.stored(0), (0, 0, 8, 8))
    assert found is not None


def test_another_size_than_stored_is_refused(data: Path) -> None:
    source = read_index(data / "test.beton")
    source.widths[0] -= 1
    with pytest.raises(DataError, match="of another size than stored"):
        RegionDecoder(source).crop(0, source.stored(0), (0, 0, 8, 8))


def test_too_many_scans_are_left_to_who_refuses_them() -> None:
    source = read_index(HOSTILE / "beton.progressive-of-600-scans.beton")
    regions, stored = RegionDecoder(source), source.stored(0)
    box = (0, 0, stored.height, stored.width)
    assert regions.crop(0, stored, box) is None
    with pytest.raises(DataError, match="more than 500 scans"):
        regions.decoder.to_rgb(0, np.empty(stored.height * stored.width * 3, np.uint8))


def test_without_libjpeg_images_are_decoded_whole(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.kernels.libjpeg.find_libjpeg", lambda: None)
    source = read_index(data / "test.beton")
    assert RegionDecoder(source).crop(0, source.stored(0), (0, 0, 8, 8)) is None


def test_entry_points_are_found_once_and_used(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, looked = read_index(data / "test.beton"), []
    real = regions.find_entries
    monkeypatch.setattr(regions, "find_entries", lambda *given: looked.append(1) or real(*given))
    decoder, stored = RegionDecoder(source), source.stored(0)
    pixels = whole(source, 0)
    for number in range(5):
        top, left, height, width = box = part_of(pixels)
        found = decoder.crop(0, stored, box)
        assert np.array_equal(found, pixels[top : top + height, left : left + width]), number
    assert looked == [1]
    assert list(decoder.known.entries) == [0]
    assert decoder.known.has_been_read(0)


def test_wrong_entry_points_are_given_up(data: Path) -> None:
    """Nothing says how they could be: then the sample is decoded as if it had none."""
    source = read_index(data / "test.beton")
    decoder, stored, pixels = RegionDecoder(source), source.stored(0), whole(source, 0)
    decoder.crop(0, stored, (0, 0, 9, 9))
    step, points = decoder.known.entries[0]
    for odd in (points[:-1], np.full_like(points, 8 * len(stored.data) + 1) << 36):
        decoder.known.entries[0] = (step, odd)
        found = decoder.crop(0, stored, (20, 30, 30, 30))
        assert np.array_equal(found, pixels[20:50, 30:60])


def test_without_room_there_are_no_entry_points(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_index(data / "test.beton")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(1 << 40))
    decoder, stored, pixels = RegionDecoder(source), source.stored(0), whole(source, 0)
    for _ in range(2):
        found = decoder.crop(0, stored, (20, 30, 30, 30))
        assert np.array_equal(found, pixels[20:50, 30:60])
    assert not decoder.known.entries


# Whole images.


@pytest.mark.parametrize("shrink", [1, 2, 8])
def test_whole_odd_images_are_the_references(shrink: int, odd_beton: Path) -> None:
    regions.load_whole()
    source = read_index(odd_beton)
    decoder, straight = RegionDecoder(source), 0
    for sample in range(len(source)):
        stored = source.stored(sample)
        is_large = min(stored.height, stored.width) >= shrink
        by = shrink if stored.mode == MODE_JPG and is_large else 1
        pixels = np.asarray(decode(stored, shrink=by))
        guarded = np.full(pixels.size + 64, 113, np.uint8)
        decoder.to_rgb(sample, guarded, by)
        assert np.array_equal(guarded[:-64].reshape(pixels.shape), pixels)
        assert (guarded[-64:] == 113).all()
        straight += decoder._reading.scan[LEFT] == 0
    assert straight > 20
    assert not decoder.known.entries  # nobody would begin there again


def test_damage_in_whole_images_is_named(damaged: Source) -> None:
    regions.load_whole()
    room = np.empty(damaged.widths[0] * damaged.heights[0] * 3, np.uint8)
    with pytest.raises(DataError, match=r"a/1\.jpg: .*a whole JPEG"):
        RegionDecoder(damaged).to_rgb(0, room)


def test_whole_images_need_no_kernel(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until one is compiled, libjpeg-turbo decodes them as before."""
    monkeypatch.setattr(regions, "_whole_is_loaded", threading.Event())
    source = read_index(data / "test.beton")
    decoder, pixels = RegionDecoder(source), whole(source, 0)
    room = np.empty(pixels.size, np.uint8)
    monkeypatch.setattr(decoder, "run", None)
    decoder.to_rgb(0, room)
    assert np.array_equal(room.reshape(pixels.shape), pixels)


def test_whole_images_are_read_once(odd_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw ones, and those that the reference decoder decodes, as well."""
    regions.load_whole()
    source, read = read_index(odd_beton), []
    real = type(source).stored

    def note(index: Index, sample: int) -> Stored:
        read.append(sample)
        return real(index, sample)

    monkeypatch.setattr(type(source), "stored", note)
    decoder = RegionDecoder(source)
    for sample in range(len(source)):
        height, width = int(source.heights[sample]), int(source.widths[sample])
        decoder.to_rgb(sample, np.empty(height * width * 3, np.uint8))
    assert read == list(range(len(source)))
