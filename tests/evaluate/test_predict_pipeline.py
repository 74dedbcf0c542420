"""Image files through a model: the same answers however threads and batches share the work."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from runs import Command
from torch import nn

from fastft.config.commands import PredictConfig
from fastft.evaluate import opening, pipeline
from fastft.evaluate.listing import find_images
from fastft.evaluate.pipeline import Answer, Setting, answer
from fastft.evaluate.predict import Summary, predict, run_predict
from fastft.evaluate.predictions import Prediction
from fastft.model.classifier import restore_model
from fastft.runs.checkpoint import Checkpoint
from pipelines.loaders.image_files import FileRenderer

SETTING = Setting(device=torch.device("cpu"), amp_dtype=None, batch_size=2, workers=2)


@pytest.fixture
def paths(photos: Path) -> list[str]:
    return [*map(str, sorted((photos / "test").rglob("*.jpg")))]


@pytest.fixture
def model(trained: Checkpoint) -> nn.Module:
    return restore_model(trained, Path())


def rows_of(answers: Sequence[Answer]) -> NDArray[Any]:
    return np.concatenate([each.rows for each in answers])


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_answers_do_not_depend_on_who_works(
    workers: int, batch_size: int, paths: list[str], trained: Checkpoint, model: nn.Module
) -> None:
    wanted = rows_of([*answer(paths, trained, model, SETTING)])
    setting = replace(SETTING, workers=workers, batch_size=batch_size)
    found = [*answer(paths, trained, model, setting)]
    assert [number for each in found for number in each.numbers] == [*range(6)]
    assert {len(each.numbers) for each in found} <= {batch_size, 6 % batch_size or 6}
    np.testing.assert_allclose(rows_of(found), wanted, atol=1e-5)


@pytest.mark.parametrize("crops", [1, 5])
def test_a_gpus_way_gives_the_same(
    crops: int, paths: list[str], trained: Checkpoint, model: nn.Module, tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("text")
    some = [str(text), *paths, str(text)]
    setting = replace(SETTING, crops=crops, flip=True)
    wanted = [*answer(some, trained, model, setting)]
    files = FileRenderer(
        some, view="eval", size=trained.size, batch=1, workers=2, dtype=None, crops=crops
    )
    cuts = (files.cut([number]) for number in range(len(some)))
    asked = pipeline._Asked(trained, model, replace(setting, batch_size=3))
    found = [*pipeline._answer_on_gpu(cuts, asked)]
    files.close()
    assert [each.numbers for each in found] == [(1, 2, 3), (4, 5, 6), ()]
    assert [[*each.broken] for each in found] == [[0], [], [7]]
    np.testing.assert_allclose(rows_of(found), rows_of(wanted), atol=1e-5)


def test_torchs_threads_are_given_back(
    paths: list[str], trained: Checkpoint, model: nn.Module
) -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(4)
    forward = model.forward

    def spy(images: torch.Tensor) -> Any:
        seen.append(torch.get_num_threads())
        return forward(images)

    model.forward = spy  # type: ignore[method-assign]
    try:
        [*answer(paths, trained, model, replace(SETTING, workers=64))]
        assert torch.get_num_threads() == 4
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
    finally:
        torch.set_num_threads(before)
    *ours, after = seen
    assert len(ours) == 3
    assert max(ours) <= max(1, (os.cpu_count() or 1) // 3)
    assert after == 4


def test_leaving_early_ends_the_threads(
    paths: list[str], trained: Checkpoint, model: nn.Module
) -> None:
    before = set(threading.enumerate())
    answers = answer(paths, trained, model, replace(SETTING, batch_size=1))
    next(answers)
    assert set(threading.enumerate()) - before
    answers.close()
    assert not set(threading.enumerate()) - before


class Whole(nn.Module):
    """Says how bright the upper left quarter of a whole image is, and keeps what it was given."""

    takes_whole_images = True

    def __init__(self) -> None:
        super().__init__()
        self.given: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.given.append(images)
        _, height, width, _ = images.shape
        bright = images[:, : height // 2, : width // 2].float().mean((1, 2, 3)) / 255
        return torch.stack([bright, -bright, 0 * bright], 1)


def test_whole_images_go_to_who_takes_them(
    paths: list[str],
    run: Path,
    trained: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    model = Whole()
    monkeypatch.setattr(
        "fastft.evaluate.predict.open_model", lambda path, _: (trained, path, model)
    )
    text = tmp_path / "text.jpg"
    text.write_text("text")
    images = (*map(Path, paths), text)
    broken: list[Any] = []
    config = PredictConfig(run=run, images=images, batch_size=4, flip=True)
    found: list[Any] = predict(config, on_broken=broken.append)
    assert [str(each.path) for each in found] == paths
    assert [each.where for each in broken] == [str(text)]
    assert {each.dtype for each in model.given} == {torch.uint8}
    for at, path in enumerate(paths):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        plain, mirrored = model.given[2 * at : 2 * at + 2]
        np.testing.assert_array_equal(plain[0], pixels)
        np.testing.assert_array_equal(mirrored[0], pixels[:, ::-1])
        wanted = (Whole()(plain).softmax(1) + Whole()(mirrored).softmax(1)) / 2
        np.testing.assert_allclose(found[at].probabilities, wanted[0], atol=1e-6)


def test_exported_files_are_opened_as_such(
    tmp_path: Path, run: Path, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Whole()
    monkeypatch.setattr("fastft.evaluate.opening.open_exported", lambda *_: (trained, model))
    for name in ("a.onnx", "a.pt2"):
        (tmp_path / name).touch()
        opened = opening.open_model(tmp_path / name, torch.device("cpu"))
        assert opened == (trained, tmp_path / name, model)
    checkpoint, path, network = opening.open_model(run, torch.device("cpu"))
    assert path == run / "best.safetensors"
    assert checkpoint.classes == trained.classes
    assert not network.training


@pytest.mark.parametrize(
    ("asked", "trained_with", "wanted"),
    [
        (None, "bf16", torch.bfloat16),
        (None, "off", None),
        ("off", "bf16", None),
        ("bf16", "off", torch.bfloat16),
    ],
)
def test_precision_is_asked_for_or_the_runs(
    asked: str | None,
    trained_with: str,
    wanted: Any,
    run: Path,
    photos: Path,
    trained: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Setting] = []

    def spy(paths: Any, checkpoint: Any, model: Any, setting: Setting) -> Any:
        seen.append(setting)
        yield Answer((0,), np.full((1, 3), 1 / 3, np.float32), {})

    told = replace(trained, config={"amp": trained_with})
    monkeypatch.setattr("fastft.evaluate.predict.answer", spy)
    monkeypatch.setattr("fastft.evaluate.predict.open_model", lambda *_: (told, run, Whole()))
    run_predict(PredictConfig(run=run, images=(photos,), amp=asked))
    assert seen[0].amp_dtype == wanted
    assert seen[0].batch_size == 16


def test_a_summary_of_many_is_small() -> None:
    summary, classes = Summary(), ("x", "y")
    for number in range(10_000):
        row = np.array([0.75, 0.25], np.float32)
        folder = ("x", "y", "z")[number % 3]
        truth = folder if folder in classes else None
        summary.add(Prediction(Path(f"{folder}/{number}"), "x", 0.75, truth, classes, row))
    assert (summary.count, summary.known, summary.right) == (10_000, 6_667, 3_334)
    assert [each.path.name for each in summary.first] == [*map(str, range(40))]
    numbers = [int(each.path.name) for each in summary.sample]
    assert 32 <= len(numbers) <= 64
    assert len({*np.diff([*numbers])}) == 1
    assert numbers[-1] > 9_000


def test_listing_looks_up_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("b", "a", "a/b", "a.b"):
        (tmp_path / folder).mkdir()
        for number in range(50):
            (tmp_path / folder / f"{number}.jpg").touch()
    looked: list[Any] = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *args, **how: looked.append(args) or real(*args, **how))
    found = find_images([tmp_path])
    assert found == [*map(str, sorted(tmp_path.rglob("*.jpg")))]
    assert not [each for each in looked if str(each[0]).endswith(".jpg")]


def test_options_reach_the_threads(
    fastft: Command, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Setting] = []
    real = answer

    def spy(paths: Any, checkpoint: Any, model: Any, setting: Setting) -> Any:
        seen.append(setting)
        return real(paths, checkpoint, model, setting)

    monkeypatch.setattr("fastft.evaluate.predict.answer", spy)
    options = ("--workers", 3, "--batch-size", 5, "--amp", "off")
    assert fastft("predict", run, photos / "test", *options)[0] == 0
    assert (seen[0].workers, seen[0].batch_size, seen[0].amp_dtype) == (3, 5, None)
    for option in (("--workers", -1), ("--amp", "half")):
        status, _, err = fastft("predict", run, photos / "test", *option)
        assert (status, err.count("\n")) == (2, 1)
