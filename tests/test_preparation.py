"""One preparation from conversion to prediction: counted, kept, followed, or refused."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_conversions import converts
from lying import EXIF, lying, photo, pixels_of, saved, segment, tiff, with_segments, write_lying
from odd_images import picture
from PIL import Image
from processes import SERVER
from rich.console import Console
from shard_jobs import contents

from fastft.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastft.config import PredictConfig
from fastft.inputs import open_sources
from fastft.predict import predict
from fastft.train import resume, train
from fastft.train_config import TrainConfig
from pipelines.beton import read_index
from pipelines.convert import ConvertConfig, convert
from pipelines.encode import decode
from pipelines.errors import DataError, FormatError, UsageError
from pipelines.layout import Note, Preparation
from pipelines.loaders import make_loader
from pipelines.merge import merge
from pipelines.source import open_source
from pipelines.turbojpeg import load_turbojpeg

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


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, train and val, of photos half of which lie on a side."""
    root = tmp_path_factory.mktemp("splits")
    for split in ("train", "val"):
        write_lying(root / split)
    return root


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
    expected = "--depth: 'deep', expected one of clip, scale"
    refuses("depth", ("convert", mixed, tmp_path / "o.beton", "--depth", "deep"), 2, expected)
    asked = ("train", "--data", mixed, "--out", tmp_path / "r", "--depth", "deep")
    refuses("depth", asked, 2, "--depth: 'deep', expected ")


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


@pytest.mark.parametrize("name", ["torchvision", "resident", "stock"])
def test_loaders_prepare_folders(name: str, mixed: Path, both: Path) -> None:
    def batches(data: Path, **options: Any) -> torch.Tensor:
        usual = {"view": "eval", "size": 33, "batch_size": 4, "normalize": False, "workers": 1}
        with make_loader(name, data, **{**usual, **options}) as loader:
            return torch.cat([images for images, _ in loader])

    wanted = batches(both)
    assert torch.equal(batches(mixed, apply_exif=True, depth="scale"), wanted)
    assert not torch.equal(batches(mixed), wanted)
    for given in ({"apply_exif": True}, {"depth": "scale"}, BOTH):
        given = given if isinstance(given, dict) else asdict(given)
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


def settings(data: Path, out: Path, **options: Any) -> TrainConfig:
    small = {"weights": "none", "size": 40, "epochs": 1, "batch_size": 6, "amp": "off"}
    return TrainConfig(
        data=data, out=out, **{**small, "workers": 1, "loader": "torchvision", **options}
    )


def test_training_on_folders_is_remembered(splits: Path, tmp_path: Path) -> None:
    config = settings(splits, tmp_path / "r", apply_exif=True, depth="scale", epochs=2)
    train(config, QUIET)
    for name in ("best.pt", "last.pt"):
        assert load_checkpoint(tmp_path / "r" / name).prepared == BOTH
    # It goes on as it was begun; asked for otherwise it is another run.
    resume(tmp_path / "r", {"apply_exif": True}, QUIET)
    with pytest.raises(UsageError, match=r"--depth: clip, and .* was begun with scale"):
        resume(tmp_path / "r", {"depth": "clip"}, QUIET)
    plain = settings(splits, tmp_path / "p")
    train(plain, QUIET)
    assert load_checkpoint(tmp_path / "p" / "best.pt").prepared == Preparation()
    wanted, other = (read_losses(tmp_path / name) for name in "rp")
    assert wanted[0] != other[0]
    # What a .beton says counts, and comes to the same.
    converted(splits, tmp_path / "d", apply_exif=True, depth="scale")
    train(replace(plain, data=tmp_path / "d", out=tmp_path / "b"), QUIET)
    assert load_checkpoint(tmp_path / "b" / "best.pt").prepared == BOTH
    assert read_losses(tmp_path / "b")[0] == pytest.approx(wanted[0], rel=0.2)


def read_losses(run: Path) -> list[float]:
    from fastft.metrics import read_metrics

    return [row.loss for row in read_metrics(run / "metrics.jsonl")[0]]


def test_splits_must_be_prepared_alike(splits: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "data"
    converted(splits / "train", mixed / "train.beton", apply_exif=True)
    converted(splits / "val", mixed / "val.beton")
    with pytest.raises(DataError) as caught:
        open_sources(settings(mixed, tmp_path / "r"))
    assert str(caught.value) == (
        f"{mixed}/val.beton: was converted with no --apply-exif, --depth clip, expected "
        f"--apply-exif, --depth clip, as {mixed}/train.beton is; convert both alike"
    )
    (mixed / "val.beton").unlink()
    shutil.copytree(splits / "val", mixed / "val")  # a folder follows
    for asked in (None, True):
        sources = open_sources(settings(mixed, tmp_path / "r", apply_exif=asked))
        assert [source.preparation for source in sources] == [UPRIGHT, UPRIGHT]
    with pytest.raises(UsageError, match=r"train\.beton: was converted with --apply-exif"):
        open_sources(settings(mixed, tmp_path / "r", depth="scale"))


def test_predict_prepares_as_the_model_knows(
    run: Path, trained: Checkpoint, tmp_path: Path
) -> None:
    standing, lies = tmp_path / "standing", tmp_path / "lies"
    gray = np.linspace(2000, 60000, 48 * 64).reshape(48, 64)
    for folder in (standing, lies):
        folder.mkdir()
        Image.fromarray(gray.astype(np.uint16)).save(folder / "gray.png")
    plain = photo(subsampling=0)
    (lies / "photo.jpg").write_bytes(with_segments(plain, segment(EXIF + tiff(6))))
    turned = Image.fromarray(pixels_of(plain)).transpose(Image.Transpose.ROTATE_270)
    turned.save(standing / "photo.png")
    levels = np.rint(gray.astype(np.uint16) / 257).astype(np.uint8)
    Image.fromarray(levels).save(standing / "gray.png")

    def rows(folder: Path) -> list[Any]:
        sheet = tmp_path / f"{folder.name}.png"
        found = predict(PredictConfig(run=run, images=(folder,), sheet=sheet))
        return [row.probabilities for row in found]

    wanted = rows(standing)
    sideways, sheet = rows(lies), (tmp_path / "lies.png").read_bytes()
    save_checkpoint(run / "best.pt", replace(trained, preparation=asdict(BOTH)))
    found = rows(lies)
    for at in range(2):
        np.testing.assert_allclose(found[at], wanted[at], atol=2e-2)
        assert np.abs(sideways[at] - wanted[at]).max() > 5e-2
    assert (tmp_path / "lies.png").read_bytes() != sheet


def test_evaluation_prepares_as_the_model_knows(
    run: Path, trained: Checkpoint, splits: Path, tmp_path: Path, fastft: Command
) -> None:
    checkpoint = replace(trained, classes=("a", "b"), preparation=asdict(UPRIGHT))
    model = {
        name: part[:2] if name.startswith("fc.") else part for name, part in trained.model.items()
    }
    save_checkpoint(run / "best.pt", replace(checkpoint, model=model))

    def said(data: Path) -> tuple[str, str]:
        status, out, err = fastft("evaluate", run, "--data", data, "--out", tmp_path / "e")
        assert (status, err) == (0, "")
        lines = out.splitlines()
        return next(line for line in lines if line.startswith("accuracy")), out

    turned = converted(splits / "val", tmp_path / "turned.beton", apply_exif=True)
    lies = converted(splits / "val", tmp_path / "lies.beton")
    wanted, told = said(turned)
    assert "expect" not in told
    found, told = said(splits / "val")
    assert "expect" not in told
    assert found == wanted
    _, told = said(lies)
    assert told.splitlines()[0] == (
        f"{lies} was converted with no --apply-exif, --depth clip, and the data that "
        f"{run}/best.pt learned from with --apply-exif, --depth clip: expect wrong predictions; "
        "convert it alike"
    )


def test_checkpoints_without_it_are_of_the_default(run: Path, trained: Checkpoint) -> None:
    path = run / "best.pt"
    content = torch.load(path, weights_only=True)
    assert content.pop("preparation") is None
    torch.save(content, path)
    assert load_checkpoint(path).prepared == Preparation()
    for odd in ({"apply_exif": 1}, {"depth": "deep"}, {"more": True}, {3: 4}, [1], "scale"):
        torch.save({**content, "preparation": odd}, path)
        with pytest.raises(FormatError, match="holds a wrong 'preparation'"):
            load_checkpoint(path)


def test_an_old_run_goes_on(splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its settings nor its checkpoint say anything of a preparation."""
    out = tmp_path / "r"
    train(settings(splits, out, epochs=2), QUIET)
    wanted = load_checkpoint(out / "last.pt")
    shutil.rmtree(out)
    monkeypatch.setattr("fastft.trainer.Trainer.run", _stop_after_one(out))
    with pytest.raises(Ended):
        train(settings(splits, out, epochs=2), QUIET)
    monkeypatch.undo()
    content = torch.load(out / "last.pt", weights_only=True)
    del content["preparation"], content["config"]["apply_exif"], content["config"]["depth"]
    torch.save(content, out / "last.pt")
    resume(out, {}, QUIET)
    found = load_checkpoint(out / "last.pt")
    assert found.prepared == Preparation()
    for name, part in wanted.model.items():
        assert torch.equal(found.model[name], part)


class Ended(Exception):
    """A run that ends behind its first epoch."""


def _stop_after_one(out: Path) -> Any:
    from fastft.trainer import Trainer

    real = Trainer.run

    def run(self: Any) -> Any:
        tell = self._tell

        def end(row: Any) -> None:
            tell(row)
            raise Ended

        self._tell = end
        return real(self)

    return run


def test_parity_prepares_the_reference_alike(splits: Path, tmp_path: Path, fastft: Command) -> None:
    stored = converted(splits / "val", tmp_path / "v.beton", apply_exif=True)
    for reference in (splits / "val", stored):
        status, out, err = fastft(
            "parity", "--data", stored, "--reference", reference, "--loaders", "torchvision",
            "--size", 33, "--out", tmp_path / "p",
        )  # fmt: skip
        assert status == 0, (out, err)
    assert decode(read_index(stored).stored(1)).size == (64, 96)
