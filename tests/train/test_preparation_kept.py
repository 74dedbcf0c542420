"""What a model learned from is prepared alike later: checkpoint, predict, evaluate, parity."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lying import EXIF, photo, pixels_of, segment, tiff, with_segments, write_lying
from old_checkpoints import age, content_of, save_old
from PIL import Image
from rich.console import Console
from runs import make_checkpoint
from tiny import make_tiny

from fastft.config.commands import PredictConfig
from fastft.config.train import TrainConfig
from fastft.evaluate.predict import predict
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastft.train.inputs import open_sources
from fastft.train.run import resume, train
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, FormatError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.encode import decode
from pipelines.formats.layout import Preparation

UPRIGHT = Preparation(apply_exif=True)
BOTH = Preparation(apply_exif=True, depth="scale")
QUIET = Console(quiet=True)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, train and val, of photos half of which lie on a side."""
    root = tmp_path_factory.mktemp("splits")
    for split in ("train", "val"):
        write_lying(root / split)
    return root


@pytest.fixture
def small() -> Iterator[None]:
    """Trainings take a network of three layers."""
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        yield


def converted(src: Path, out: Path, **options: Any) -> Path:
    convert(ConvertConfig(src=src, out=out, **options))
    return out


def settings(data: Path, out: Path, **options: Any) -> TrainConfig:
    small = {
        "weights": "none",
        "arch": "shufflenet_v2_x0_5",
        "size": 40,
        "epochs": 1,
        "batch_size": 6,
        "amp": "off",
    }
    return TrainConfig(
        data=data, out=out, **{**small, "workers": 1, "loader": "torchvision", **options}
    )


@pytest.mark.usefixtures("small")
def test_training_on_folders_is_remembered(splits: Path, tmp_path: Path) -> None:
    config = settings(splits, tmp_path / "r", apply_exif=True, depth="scale")
    train(config, QUIET)
    for name in ("best.safetensors", "last.safetensors"):
        assert load_checkpoint(tmp_path / "r" / name).prepared == BOTH
    # It goes on as it was begun; asked for otherwise it is another run.
    resume(tmp_path / "r", {"apply_exif": True}, QUIET)
    with pytest.raises(UsageError, match=r"--depth: clip, and .* was begun with scale"):
        resume(tmp_path / "r", {"depth": "clip"}, QUIET)
    plain = settings(splits, tmp_path / "p")
    train(plain, QUIET)
    assert load_checkpoint(tmp_path / "p" / "best.safetensors").prepared == Preparation()
    wanted, other = (read_losses(tmp_path / name) for name in "rp")
    assert wanted[0] != other[0]
    # What a .beton says counts, and comes to the same.
    converted(splits, tmp_path / "d", apply_exif=True, depth="scale")
    train(replace(plain, data=tmp_path / "d", out=tmp_path / "b"), QUIET)
    assert load_checkpoint(tmp_path / "b" / "best.safetensors").prepared == BOTH
    assert read_losses(tmp_path / "b")[0] == pytest.approx(wanted[0], rel=0.2)


def read_losses(run: Path) -> list[float]:
    from fastft.runs.metrics import read_metrics

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


def test_predict_prepares_as_the_model_knows(run: Path, data: Path, tmp_path: Path) -> None:
    # One that makes little of what the encoding of a JPEG leaves.
    trained = make_checkpoint(data, ("a", "b", "c"), "resnet18")
    save_checkpoint(run / "best.safetensors", trained)
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
        sheet = tmp_path / "lies.png" if folder == lies else None
        found = predict(PredictConfig(run=run, images=(folder,), sheet=sheet))
        return [row.probabilities for row in found]

    wanted = rows(standing)
    sideways, sheet = rows(lies), (tmp_path / "lies.png").read_bytes()
    save_checkpoint(run / "best.safetensors", replace(trained, preparation=asdict(BOTH)))
    found = rows(lies)
    for at in range(2):
        np.testing.assert_allclose(found[at], wanted[at], atol=2e-2)
        assert np.abs(sideways[at] - wanted[at]).max() > 5e-2
    assert (tmp_path / "lies.png").read_bytes() != sheet


@pytest.mark.usefixtures("undrawn")
def test_evaluation_prepares_as_the_model_knows(
    run: Path, trained: Checkpoint, splits: Path, tmp_path: Path, fastft: Command
) -> None:
    checkpoint = replace(trained, classes=("a", "b"), preparation=asdict(UPRIGHT))
    model = {
        name: part[:2] if name.startswith("fc.") else part for name, part in trained.model.items()
    }
    save_checkpoint(run / "best.safetensors", replace(checkpoint, model=model))

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
        f"{run}/best.safetensors learned from with --apply-exif, --depth clip: expect wrong "
        "predictions; convert it alike"
    )


def test_checkpoints_without_it_are_of_the_default(run: Path, trained: Checkpoint) -> None:
    assert trained.preparation is None
    assert load_checkpoint(run / "best.safetensors").prepared == Preparation()
    content = content_of(trained)
    del content["preparation"]
    path = save_old(run / "best.pt", content)
    assert load_checkpoint(path).prepared == Preparation()
    for odd in ({"apply_exif": 1}, {"depth": "deep"}, {"more": True}, {3: 4}, [1], "scale"):
        save_old(path, {**content, "preparation": odd})
        with pytest.raises(FormatError, match=r"holds .*[pP]reparation"):
            load_checkpoint(path)


@pytest.mark.usefixtures("small")
def test_an_old_run_goes_on(splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its settings nor its checkpoint say anything of a preparation."""
    out = tmp_path / "r"
    train(settings(splits, out, epochs=2, loader="resident"), QUIET)
    wanted = load_checkpoint(out / "last.safetensors")
    shutil.rmtree(out)
    monkeypatch.setattr("fastft.train.loop.Trainer.run", _stop_after_one(out))
    with pytest.raises(Ended):
        train(settings(splits, out, epochs=2, loader="resident"), QUIET)
    monkeypatch.undo()
    age(out)
    content = torch.load(out / "last.pt", weights_only=True)
    del content["preparation"], content["config"]["apply_exif"], content["config"]["depth"]
    torch.save(content, out / "last.pt")
    resume(out, {}, QUIET)
    found = load_checkpoint(out / "last.safetensors")
    assert found.prepared == Preparation()
    for name, part in wanted.model.items():
        assert torch.equal(found.model[name], part)


class Ended(Exception):
    """A run that ends behind its first epoch."""


def _stop_after_one(out: Path) -> Any:
    from fastft.train.loop import Trainer
    from fastft.train.result import tell_epoch

    real = Trainer.run

    def end(*told: Any) -> None:
        tell_epoch(*told)
        raise Ended

    def run(self: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fastft.train.loop.tell_epoch", end)
            return real(self, **options)

    return run


def test_parity_prepares_the_reference_alike(
    splits: Path, tmp_path: Path, fastft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastft.parity.run.draw_worst", lambda *_: None)
    stored = converted(splits / "val", tmp_path / "v.beton", apply_exif=True)
    status, out, err = fastft(
        "parity",
        stored,
        "--reference",
        splits / "val",
        "--loaders",
        "torchvision",
        "--size",
        33,
        "--out",
        tmp_path / "p",
    )
    assert status == 0, (out, err)
    assert decode(read_index(stored).stored(1)).size == (64, 96)
