"""One preparation from conversion to prediction: counted, kept, followed, or refused."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effort import rest
from killed_conversions import converts
from lying import EXIF, lying, photo, saved, segment, tiff, with_segments
from odd_images import picture
from PIL import Image
from processes import SERVER
from rich.console import Console
from shard_jobs import contents

from pipelines.conversion.merge import merge
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.layout import Note, Preparation
from pipelines.formats.source import open_source
from pipelines.images.turbojpeg import load_turbojpeg
from pipelines.loaders import make_loader

UPRIGHT = Preparation(apply_exif=True)
BOTH = Preparation(apply_exif=True, depth="scale")
QUIET = Console(quiet=True)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with all that is prepared."""
    root = tmp_path_factory.mktemp("mixed")
    for name in "ab":
        folder = root / "src" / name
        folder.mkdir(parents=True)
        (folder / "edge.jpg").write_bytes(lying(3, width=97, height=61))
        (folder / "flipped.jpg").write_bytes(lying(2))
        (folder / "odd.jpg").write_bytes(with_segments(photo(), segment(EXIF + tiff(6)[:20])))
        (folder / "side.jpg").write_bytes(lying(6))
        (folder / "upright.jpg").write_bytes(photo())
        # Its frame header lies behind what is first read of a file.
        far = [segment(EXIF + tiff(8)), segment(bytes(60000), 0xE2), segment(bytes(60000), 0xE2)]
        (folder / "far.jpg").write_bytes(with_segments(photo(height=80), *far))
        exif = Image.Exif()
        exif[0x0112] = 6
        (folder / "side.png").write_bytes(saved(picture(40, 30), "PNG", exif=exif))
        (folder / "side.webp").write_bytes(saved(picture(40, 30), "WEBP", exif=exif))
        (folder / "side.tif").write_bytes(saved(picture(40, 30), "TIFF", exif=exif))
        gray = np.linspace(2000, 60000, 30 * 40).reshape(30, 40)
        Image.fromarray(gray.astype(np.uint16)).save(folder / "gray.png")
        Image.fromarray((gray / 65535).astype(np.float32)).save(folder / "float.tif")
    return root / "src"


@pytest.fixture(scope="module")
def both(mixed: Path) -> Path:
    """They, converted with both options."""
    out = mixed.parent / "both.beton"
    convert(ConvertConfig(src=mixed, out=out, apply_exif=True, depth="scale"))
    return out


def converted(src: Path, out: Path, **options: Any) -> Path:
    convert(ConvertConfig(src=src, out=out, **options))
    return out


def test_conversion_counts_what_it_meets(mixed: Path, tmp_path: Path) -> None:
    (report,) = convert(ConvertConfig(src=mixed, out=tmp_path / "a.beton"))
    assert report.notes[Note.LYING] == 12
    assert report.notes[Note.DEEP] == 4
    assert report.notes[Note.TURNED] == report.notes[Note.GROWN] == 0
    assert (report.first[Note.LYING], report.first[Note.DEEP]) == ("a/edge.jpg", "a/float.tif")
    (report,) = convert(ConvertConfig(src=mixed, out=tmp_path / "b.beton", apply_exif=True))
    assert report.notes[Note.TURNED] == 12
    assert report.notes[Note.LYING] == 0
    if load_turbojpeg() is not None:
        assert report.notes[Note.GROWN] == 2
        assert report.grown_from == 2 * (mixed / "a" / "edge.jpg").stat().st_size
        assert report.grown_to == 2 * 97 * 61 * 3


def test_closing_lines_say_what_helps(mixed: Path, tmp_path: Path, fastft: Command) -> None:
    def said(*options: str) -> str:
        status, out, err = fastft("convert", mixed, tmp_path / "o.beton", *options)
        assert (status, err) == (0, "")
        return " ".join(out.split())

    plain = said()
    assert "│ lying on a side │ 12 │" in plain
    assert "│ more than 8 bits │ 4 │" in plain
    assert "turned upright" not in plain
    assert (
        "12 photos (first a/edge.jpg) are rotated by EXIF; the rotation is ignored, as torchvision "
        "does: pass --apply-exif to turn them" in plain
    )
    assert (
        "4 images (first a/float.tif) have more than 8 bits per channel, clipped to 0-255, as "
        "torchvision does: pass --depth scale to map the range" in plain
    )
    turned = said("--apply-exif", "--depth", "scale")
    assert "│ turned upright │ 12 │" in turned
    assert "12 photos (first a/edge.jpg) are rotated by EXIF and turned upright" in turned
    assert "turned photos are stored as raw pixels, " in turned
    assert "--mode jpg stores them as JPEG" in turned
    assert "have more than 8 bits per channel, mapped to 0-255" in turned
    assert "pass --" not in turned
    assert "stored as raw pixels" not in said("--apply-exif", "--mode", "raw")
    shutil.copytree(mixed, tmp_path / "one")
    for file in [*(tmp_path / "one").rglob("[efs][dlai]*"), tmp_path / "one" / "b" / "gray.png"]:
        file.unlink()
    (tmp_path / "one" / "a" / "side.jpg").write_bytes(lying(6))
    status, out, _ = fastft("convert", tmp_path / "one", tmp_path / "o.beton")
    assert status == 0
    out = " ".join(out.split())
    assert "1 photo (a/side.jpg) is rotated by EXIF; the rotation is ignored" in out
    assert "1 image (a/gray.png) has more than 8 bits per channel, clipped" in out


def test_nothing_is_told_where_nothing_is_met(
    photos: Path, tmp_path: Path, fastft: Command
) -> None:
    for options in ((), ("--apply-exif", "--depth", "scale")):
        _, out, _ = fastft("convert", photos, tmp_path / "o", *options)
        for word in ("EXIF", "8 bits", "side", "upright"):
            assert word not in out


def test_a_file_says_how_it_was_prepared(both: Path, data: Path, fastft: Command) -> None:
    assert read_index(both).preparation == BOTH
    assert read_index(data / "train.beton").preparation == Preparation()
    _, out, _ = fastft("inspect", both)
    assert "turned by EXIF" in out
    assert "scale (more than 8 bits mapped to 0-255)" in out
    _, out, _ = fastft("inspect", data / "train.beton")
    assert "EXIF" not in out
    assert "depth" not in out


def test_a_depth_that_is_none_is_refused(mixed: Path, tmp_path: Path, refuses: Any) -> None:
    commands: tuple[tuple[object, ...], ...] = (
        ("convert", mixed, tmp_path / "o.beton"),
        ("train", "--data", mixed, "--out", tmp_path / "r"),
    )
    for command in commands:
        said = refuses("depth", (*command, "--depth", "deep"), 2, "--depth")
        assert said.startswith("--depth: 'deep', expected ")


def test_shards_merge_to_the_same_file(mixed: Path, both: Path, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        options = {"apply_exif": True, "depth": "scale", "shard": shard}
        converted(mixed, tmp_path / "both.beton", **options)
    merge(tmp_path / "both.beton", remove_shards=True)
    assert contents(tmp_path) == {"both.beton": contents(both.parent)["both.beton"]}
    converted(mixed, tmp_path / "c.beton", apply_exif=True, shard="1/2")
    converted(mixed, tmp_path / "c.beton", shard="2/2")
    with pytest.raises(DataError):
        merge(tmp_path / "c.beton")


def test_a_killed_conversion_is_gone_on_with(mixed: Path, both: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "both.beton", {"apply_exif": True, "depth": "scale"}
    reached = SERVER.Value("b", False)
    process = SERVER.Process(target=converts, args=(mixed, out, 20, options, reached))
    process.start()
    process.join()
    assert reached.value
    with pytest.raises(UsageError, match="other images or options"):
        converted(mixed, out, resume=True, apply_exif=True)
    (report,) = convert(ConvertConfig(src=mixed, out=out, resume=True, **options))  # type: ignore[arg-type]
    assert report.resumed > 0
    assert report.notes[Note.TURNED] == 12
    assert report.grown_to == (2 * 97 * 61 * 3 if load_turbojpeg() else report.grown_to)
    assert out.read_bytes() == both.read_bytes()


@pytest.mark.parametrize("how", [Preparation(), UPRIGHT, Preparation(depth="scale"), BOTH])
def test_folders_are_prepared_as_conversion_does(
    how: Preparation, mixed: Path, tmp_path: Path
) -> None:
    stored = read_index(converted(mixed, tmp_path / "o.beton", **asdict(how)))
    folder = open_source(mixed, **asdict(how))
    assert folder.preparation == stored.preparation == how
    assert folder.widths.tolist() == stored.widths.tolist()
    assert folder.heights.tolist() == stored.heights.tolist()
    for sample in range(len(folder)):
        assert bytes(folder.stored(sample).data) == bytes(stored.stored(sample).data)
    # What keeps decoded pixels must not take them for those of another preparation.
    same = folder.fingerprint() == open_source(mixed).fingerprint()
    assert same == (how == Preparation())


@pytest.mark.parametrize("name", ["resident", "stock", *rest("torchvision")])
def test_loaders_prepare_folders(name: str, mixed: Path, both: Path) -> None:
    def batches(data: Path, **options: Any) -> torch.Tensor:
        usual = {"view": "eval", "size": 33, "batch_size": 4, "workers": 1}
        with make_loader(name, data, **{**usual, **options}) as loader:
            return torch.cat([images for images, _ in loader])

    wanted = batches(both)
    assert torch.equal(batches(mixed, apply_exif=True, depth="scale"), wanted)
    if name == "resident":  # it starts no processes
        assert not torch.equal(batches(mixed), wanted)
    for given in ({"apply_exif": True}, {"depth": "scale"}, asdict(BOTH)):
        if given == asdict(BOTH) or name == "resident":
            assert torch.equal(batches(both, **given), wanted)


def test_a_beton_that_is_prepared_otherwise_is_refused(both: Path, data: Path) -> None:
    for path, options, said in (
        (both, {"apply_exif": False}, "--apply-exif, --depth scale, expected no --apply-exif, "),
        (both, {"depth": "clip"}, "--depth scale, expected --apply-exif, --depth clip"),
        (data / "test.beton", {"apply_exif": True}, "no --apply-exif, --depth clip, expected "),
        (data / "test.beton", {"depth": "scale"}, "--depth clip, expected no --apply-exif, "),
    ):
        for given in (path, open_source(path)):
            with pytest.raises(UsageError, match="was converted with ") as caught:
                make_loader("torchvision", given, **options)  # type: ignore[arg-type]
            assert said in str(caught.value)
            assert caught.value.where == str(path)
    for given in (both, both.parent / "src"):
        with pytest.raises(UsageError, match="depth: 'deep', expected one of clip, scale"):
            make_loader("torchvision", given, depth="deep")  # type: ignore[arg-type]
