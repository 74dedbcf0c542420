import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.conversion.report import allowed_bad
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats import beton_writer
from pipelines.formats.beton import read_index
from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_JPG, MODE_RAW


def run(src: Path, out: Path, **options: Any) -> Any:
    return convert(ConvertConfig(src=src, out=out, **options))


@pytest.fixture
def spoiled(photos: Path, tmp_path: Path) -> Path:
    """The training photos, the third of the first class cut short."""
    copy = tmp_path / "spoiled"
    shutil.copytree(photos / "train", copy)
    victim = sorted(next(iter(sorted(copy.iterdir()))).iterdir())[2]
    victim.write_bytes(victim.read_bytes()[:-300])
    return copy


def test_jpegs_are_stored_byte_for_byte(odd: Path, odd_beton: Path) -> None:
    index = read_index(odd_beton)
    assert len(index) == len(list(odd.rglob("*.*")))
    for sample in range(len(index)):
        stored, file = index.stored(sample), odd / index.name(sample)
        if index.classes[index.labels[sample]] == "jpegs":
            assert stored.mode == MODE_JPG
            assert bytes(stored.data) == file.read_bytes()
        else:
            assert stored.mode == MODE_RAW
            with Image.open(file) as image:
                assert bytes(stored.data) == image.convert("RGB").tobytes(), file


def test_real_photos_convert_with_nothing_lost(hymenoptera: Path, tmp_path: Path) -> None:
    reports = run(hymenoptera, tmp_path)
    assert [report.out.name for report in reports] == ["train.beton", "val.beton"]
    files = 0
    for report in reports:
        index = read_index(report.out)
        assert report.quarantined == []
        for sample in range(len(index)):
            file = hymenoptera / report.split / index.name(sample)
            stored = index.stored(sample)
            files += 1
            if file.suffix == ".gif":
                with Image.open(file) as image:
                    assert bytes(stored.data) == image.convert("RGB").tobytes()
            else:
                assert bytes(stored.data) == file.read_bytes(), file
    assert files == len([f for f in hymenoptera.rglob("*") if f.is_file()])


def test_stock_ffcv_reads_folders_and_shards(
    data: Path, photos: Path, tmp_path: Path, read_by_stock_ffcv: Callable[..., Any]
) -> None:
    run(photos / "train", tmp_path / "a.beton", shard="2/4")
    paths = data / "train.beton", tmp_path / "a.2-of-4.beton"
    index, shard = map(read_index, paths)
    found = read_by_stock_ffcv(*((path, True) for path in paths), side=32)
    assert found[1][1].tolist() == shard.labels.tolist()
    assert len(found[1][0]) == len(shard) < 33
    images, labels = found[0]
    assert labels.tolist() == index.labels.tolist()
    # Another decoder and another filter: alike, not equal. Each photo is nearest to itself.
    decoded = [decode(index.stored(sample)) for sample in range(len(index))]
    ours = np.stack([ImageOps.fit(image, (32, 32), Image.Resampling.BOX) for image in decoded])
    theirs = images.astype(int)
    apart = np.abs(theirs[:, None] - ours[None]).mean((2, 3, 4))
    assert apart.argmin(1).tolist() == list(range(len(index)))


def test_output_does_not_depend_on_workers(odd: Path, tmp_path: Path) -> None:
    outputs = set()
    for workers in (1, 2, 5):
        run(odd, tmp_path / f"{workers}.beton", workers=workers)
        outputs.add((tmp_path / f"{workers}.beton").read_bytes())
    assert len(outputs) == 1


def test_splits_appear_together_with_one_class_list(photos: Path, tmp_path: Path) -> None:
    reports = run(photos, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["test.beton", "train.beton"]
    classes = [read_index(report.out).classes for report in reports]
    assert classes[0] == classes[1]
    assert len(classes[0]) == 3


@pytest.mark.parametrize("name", ["x", "x.beton"])
def test_a_class_folder_becomes_one_file(photos: Path, tmp_path: Path, name: str) -> None:
    run(photos / "train", tmp_path / name)
    assert os.listdir(tmp_path) == ["x.beton"]


def test_a_broken_image_is_left_out_and_named(spoiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    (report,) = run(spoiled, out, max_bad="1")
    assert (report.images, len(report.quarantined)) == (32, 1)
    listed = json.loads((tmp_path / "out.quarantine.json").read_text())
    assert listed[0]["name"] == report.quarantined[0].name
    assert listed[0]["reason"]
    names = [read_index(out).name(i) for i in range(32)]
    assert listed[0]["name"] not in names
    run(spoiled, out, verify=False)
    assert not (tmp_path / "out.quarantine.json").exists()


def test_too_many_broken_images_leave_no_output(spoiled: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at most 0 broken") as caught:
        run(spoiled, tmp_path / "new" / "out.beton", max_bad="0")
    assert str(spoiled) in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_an_earlier_output_survives_a_failure(spoiled: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    run(photos / "test", out)
    before = out.read_bytes()
    with pytest.raises(DataError):
        run(spoiled, out, max_bad="0")
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"no image at all", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + bytes(40)]
)
def test_each_kind_of_rubbish_is_quarantined(photos: Path, tmp_path: Path, content: bytes) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photos / "test", copy)
    (sorted(copy.iterdir())[0] / "bad.jpg").write_bytes(content)
    (report,) = run(copy, tmp_path / "out", max_bad="1")
    assert report.quarantined[0].name.endswith("bad.jpg")
    assert report.quarantined[0].reason


def test_an_unreadable_file_is_quarantined(photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photos / "test", copy)
    (sorted(copy.iterdir())[0] / "gone.jpg").symlink_to("nowhere")
    (report,) = run(copy, tmp_path / "out", max_bad="1")
    assert report.quarantined[0].reason == "No such file or directory"


def test_a_class_losing_all_images_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "src" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "src" / name / "1.png")
    (tmp_path / "src" / "b" / "1.png").write_bytes(b"x")
    with pytest.raises(DataError, match="every image is broken"):
        run(tmp_path / "src", tmp_path / "out", max_bad="50%")


def test_a_full_disk_leaves_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(beton_writer.os, "pwrite", full)
    with pytest.raises(DataError, match="no space left on device while writing"):
        run(photos, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bug_in_a_worker_reaches_the_caller(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pipelines.formats.encode.Encoder.encode", broken)
    with pytest.raises(ZeroDivisionError):
        run(photos, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_no_beton_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis.beton"
    out.write_text("years of work")
    with pytest.raises(UsageError, match="exists and is no whole"):
        run(photos / "test", out)
    assert out.read_text() == "years of work"
    with pytest.raises(UsageError, match="is one file"):
        run(photos, out)


def test_modes(odd: Path, tmp_path: Path) -> None:
    shares = {}
    for mode in ("raw", "jpg", "proportion"):
        run(odd, tmp_path / f"{mode}.beton", mode=mode, quality=90)
        index = read_index(tmp_path / f"{mode}.beton")
        shares[mode] = (index.modes == MODE_JPG).mean()
        if mode == "raw":
            for sample in range(len(index)):
                with Image.open(odd / index.name(sample)) as image:
                    assert bytes(index.stored(sample).data) == image.convert("RGB").tobytes()
    assert shares["raw"] == 0
    assert shares["jpg"] == 1
    assert 0.1 < shares["proportion"] < 0.5


def test_max_side_shrinks_and_keeps_small_jpegs(odd: Path, tmp_path: Path) -> None:
    run(odd, tmp_path / "o.beton", max_side=50)
    index = read_index(tmp_path / "o.beton")
    assert np.maximum(index.widths, index.heights).max() == 50
    for sample in range(len(index)):
        with Image.open(odd / index.name(sample)) as image:
            if max(image.size) <= 50 and image.format == "JPEG":
                assert bytes(index.stored(sample).data) == (odd / index.name(sample)).read_bytes()
        decode(index.stored(sample))


@pytest.mark.parametrize("way", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("sides", [(1200, 900), (1001, 667)], ids=str)
def test_large_photos_shrink_as_from_all_pixels(
    sides: tuple[int, int], way: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    """Decoded at a part of their size: within a stated distance, and at no other place."""
    (tmp_path / "a").mkdir()
    with Image.open(min((photos / "train").rglob("*.jpg"))) as image:
        image.resize(sides).save(tmp_path / "a" / "1.jpg", quality=92, **way)
    run(tmp_path, tmp_path / "o.beton", max_side=150, mode="raw")
    stored = read_index(tmp_path / "o.beton").stored(0)
    found = np.asarray(decode(stored)).astype(int)
    with Image.open(tmp_path / "a" / "1.jpg") as image:
        whole = np.asarray(image.resize((150, found.shape[0]), Image.Resampling.BILINEAR))
        assert found.shape[0] == round(150 * image.height / image.width)
    distance = np.abs(found - whole)
    assert 0 < distance.mean() < 1  # 0: it was decoded whole
    assert distance.max() <= 16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_photos_are_turned_and_shrink(orientation: int, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(min((photos / "train").rglob("*.jpg"))) as image:
        image.resize((960, 640)).save(tmp_path / "a" / "1.jpg", quality=92, exif=exif)
    run(tmp_path, tmp_path / "o.beton", max_side=120, mode="raw", apply_exif=True)
    found = np.asarray(decode(read_index(tmp_path / "o.beton").stored(0))).astype(int)
    with Image.open(tmp_path / "a" / "1.jpg") as image:
        upright = ImageOps.exif_transpose(image)
        size = (120, 80) if upright.width > upright.height else (80, 120)
        distance = np.abs(found - np.asarray(upright.resize(size, Image.Resampling.BILINEAR)))
    assert distance.mean() < 1


def test_progress_reaches_the_end(photos: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    convert(
        ConvertConfig(src=photos, out=tmp_path),
        lambda split, done, total, _: seen.append((split, done, total)),
    )
    assert ("train", 33, 33) in seen
    assert seen[-1] == ("test", 6, 6)


def test_allowed_bad() -> None:
    assert [allowed_bad(text, 150) for text in ("0", "7", "0%", "1%", "100%")] == [0, 7, 0, 2, 150]
    for text in ("-1", "x", "101%", "", "nan%"):
        with pytest.raises(UsageError):
            allowed_bad(text, 10)


def test_decode_refuses_what_is_not_as_stored(odd: Path) -> None:
    from pipelines.formats.layout import Stored

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    with pytest.raises(DataError, match="8 x 8 px, expected 9 x 8"):
        decode(Stored(MODE_JPG, 9, 8, buffer.getvalue()))
