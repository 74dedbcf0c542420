"""Who decodes for DALI on a CPU; samples that it refuses are the reference's, or named; edges."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rendered import check_pixels, make
from spoiled import HUFFMAN, padded, with_bytes_before

from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, is_no_memory
from pipelines.formats.source import open_source
from pipelines.preprocessing import Preprocessing
from pipelines.reference import render_batch

pytest.importorskip("nvidia.dali", reason="nvidia-dali is not installed")
from pipelines.decoder import Known
from pipelines.loaders.dali_feed import Feed
from pipelines.loaders.dali_loader import DaliLoader
from pipelines.loaders.dali_pixels import PixelMaker, has_room

REFUSED = (3, 4, 17)


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    """20 photos, three of which DALI's parser refuses."""
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(20):
        file = folder / f"{number:02d}.jpg"
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        small.resize((96, 72)).save(file, quality=90)
        if number in REFUSED:
            # A marker that stands alone: odd, and no bytes that could be cut out.
            file.write_bytes(with_bytes_before(file.read_bytes(), HUFFMAN, b"\xff\xd0"))
    convert(ConvertConfig(src=folder.parent, out=tmp_path / "set.beton", max_bad="0"))
    return tmp_path / "set.beton"


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """DALI decodes, as on a GPU."""
    monkeypatch.setattr("pipelines.loaders.dali_loader.DaliLoader.region", True)


@pytest.fixture
def unforeseen(decoding: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells that DALI will refuse them."""
    monkeypatch.setattr("pipelines.loaders.dali_feed.FeedMaker._find_remark", lambda *_: "")


@pytest.mark.usefixtures("unforeseen")
@pytest.mark.parametrize("view", ["train", "eval"])
def test_refused_photos_come_with_the_references_pixels(beton: Path, view: str) -> None:
    check_pixels("dali", beton, view, batch_size=4)


@pytest.mark.usefixtures("unforeseen")
def test_refused_photos_are_counted_and_told_of_once(beton: Path) -> None:
    with make("dali", beton, batch_size=4, view="eval", normalize=False) as loader:
        assert loader.remarks == ()
        first = [images.clone() for images, _ in loader]
        (remark,) = loader.remarks
        assert remark.startswith("3 images are decoded by Pillow")
        assert "a/03.jpg" in remark
        pipe = loader._pipe
        again = [images.clone() for images, _ in loader]
        assert loader.remarks == (remark,)
        assert loader._pipe is pipe, "the second epoch failed, too"
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


@pytest.mark.usefixtures("decoding")
def test_foreseen_refusals_need_no_failure(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        pytest.fail("DALI was asked")

    monkeypatch.setattr("pipelines.loaders.dali_loader.DaliLoader._settle", fail)
    check_pixels("dali", beton, "eval", batch_size=4)


@pytest.mark.usefixtures("unforeseen")
def test_errors_of_no_single_photo_are_told(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.loaders.dali_loader.DaliLoader._try", lambda *_: None)
    with make("dali", beton, batch_size=4, view="eval") as loader, pytest.raises(DataError) as met:
        list(loader)
    text = str(met.value)
    assert "\n" not in text
    assert "set.beton: a/00.jpg to a/" in text
    assert "DALI failed: nvImageCodec failure" in text


@pytest.mark.usefixtures("unforeseen")
def test_a_refusal_loses_no_other_error(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One photo is refused, and one of the next batch cannot be read: all before it come."""
    from pipelines.formats.beton import Index

    read = Index.stored

    def stored(index: Index, sample: int) -> Any:
        if sample == 9:
            raise DataError("sample 9", "cannot be read")
        return read(index, sample)

    monkeypatch.setattr(Index, "stored", stored)
    with make("dali", beton, batch_size=4, view="eval") as loader:
        batches = iter(loader)
        next(batches)
        next(batches)
        with pytest.raises(DataError, match="sample 9"):
            next(batches)


@pytest.mark.usefixtures("decoding")
def test_padding_in_a_class_folder_makes_no_noise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """libjpeg within DALI would write a line without a name for each such image and epoch."""
    (tmp_path / "photos" / "a").mkdir(parents=True)
    target = tmp_path / "photos" / "a" / "0.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(target)
    target.write_bytes(padded(target.read_bytes(), bytes(64)))
    check_pixels("dali", tmp_path / "photos", "eval")
    assert "extraneous" not in capfd.readouterr().err


def test_an_error_raised_from_itself_has_an_end() -> None:
    error = RuntimeError("of no memory")
    error.__cause__ = error
    assert not is_no_memory(error)
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_no_memory(first)
    second.__cause__ = MemoryError()
    assert is_no_memory(first)


@pytest.mark.parametrize("size", [9, 64])
def test_only_outermost_pixels_are_more_than_a_level_off(size: int, data: Path) -> None:
    """There DALI repeats a crop's last pixel, where Pillow leaves taps out."""
    source = open_source(data / "train.beton")
    with make("dali", source, view="train", size=size, normalize=False) as loader:
        for (images, _), rows in zip(loader, loader.plan.batches(8), strict=True):
            wanted = render_batch([source.stored(int(each)) for each in rows.samples], rows)
            apart = np.abs(images.permute(0, 2, 3, 1).numpy().astype(int) - wanted)
            assert apart[:, 1:-1, 1:-1].max() <= 1
            assert apart.max() <= loader.stated[1]


@pytest.fixture
def pixels_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others decode for DALI from the second epoch on, however few images there are."""
    monkeypatch.setattr(DaliLoader, "pixels_after", 1)
    monkeypatch.setattr(PixelMaker, "is_ready", lambda maker: maker._loaded.result() is None)


@pytest.fixture
def first_epoch(pixels_at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And from the first."""
    monkeypatch.setattr(DaliLoader, "pixels_after", 0)


@pytest.mark.usefixtures("first_epoch")
@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
@pytest.mark.parametrize("view", ["train", "eval", "recordio"])
def test_odd_images_come_right_when_decoded_for_it(
    view: str, filter_: str, odd_beton: Path
) -> None:
    form = Preprocessing(filter=filter_)
    with make("dali", odd_beton, view=view, preprocessing=form) as loader:
        next(iter(loader))
        assert loader._maker.decodes
        mean, most = loader.stated
    check_pixels("dali", odd_beton, view, (mean, most), size=32, preprocessing=form)


@pytest.mark.usefixtures("pixels_at_once")
def test_later_epochs_are_decoded_for_it(beton: Path) -> None:
    """Batches are those of the epoch before, and remarks on what DALI refused stay."""
    with make("dali", beton, batch_size=6, view="eval", normalize=False) as loader:
        decoded, epochs = [], []
        for _ in range(3):
            epochs.append([images.clone() for images, _ in loader])
            decoded.append(loader._maker.decodes)
        assert decoded == [False, True, True]
        for later in epochs[1:]:
            assert all((a == b).all() for a, b in zip(later, epochs[0], strict=True))
        (remark,) = loader.remarks
        assert remark.startswith("3 images are decoded by Pillow")


@pytest.mark.usefixtures("first_epoch")
def test_broken_photos_are_named_when_decoded_for_it(beton: Path, tmp_path: Path) -> None:
    source = open_source(beton)
    spoiled = bytearray(beton.read_bytes())
    begin, size = int(source.pointers[7]), int(source.sizes[7])
    spoiled[begin + size // 2 : begin + size // 2 + 40] = bytes(40)
    (tmp_path / "spoiled.beton").write_bytes(spoiled)
    with make("dali", tmp_path / "spoiled.beton", batch_size=4, view="eval") as loader:
        batches = iter(loader)
        next(batches)
        with pytest.raises(DataError, match=r"a/07.jpg"):
            next(batches)


def test_a_single_epoch_loads_nothing(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To close would wait for it."""
    monkeypatch.setattr(DaliLoader, "pixels_after", 1)
    with make("dali", beton, view="eval") as loader:
        list(loader)
        assert loader._coming is None


@pytest.mark.usefixtures("pixels_at_once")
def test_no_room_for_threads_leaves_dali_decoding(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("pipelines.loaders.dali_pixels.make_threads", refuse)
    with make("dali", beton, view="eval") as loader:
        assert len(list(loader)) == len(list(loader)) == 3
        assert not loader._maker.decodes


def test_dali_decodes_what_would_take_much_memory(data: Path) -> None:
    source = open_source(data / "train.beton")
    assert has_room(source, 64)
    large = replace(source, heights=source.heights * 40, widths=source.widths * 40)
    assert not has_room(large, 64)
    assert has_room(large, 1)


def test_memory_of_pixels_is_used_again(data: Path) -> None:
    source = open_source(data / "train.beton")
    rows = make("dali", source, view="train").plan.rows(np.arange(8))
    maker = PixelMaker(source, Known(source), 8, 1)
    try:
        first, second = maker.make(rows), maker.make(rows)
        assert first.buffer is not second.buffer
        taken = first.buffer
        maker.take_back(first)
        assert maker.make(rows).buffer is taken
        maker.take_back(Feed(rows, (), np.empty(maker._usual_bytes + 1, np.uint8)))
        assert not maker._free
    finally:
        maker.close()


def test_nothing_writes_to_a_feed_that_failed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part fails while another is being decoded: the error waits for that."""
    source = open_source(data / "train.beton")
    rows = make("dali", source, view="train").plan.rows(np.arange(16))
    begun, written = threading.Event(), []

    def decode(maker: PixelMaker, samples: list[int], *_: Any) -> None:
        if samples == rows.samples[:8].tolist():
            assert begun.wait(60)
            raise DataError("sample 0", "is broken")
        begun.set()
        written.append(samples)

    monkeypatch.setattr(PixelMaker, "_decode", decode)
    maker = PixelMaker(source, Known(source), 16, 2)
    try:
        with pytest.raises(DataError, match="sample 0"):
            maker.make(rows)
        assert written == [rows.samples[8:].tolist()]
    finally:
        maker.close()
