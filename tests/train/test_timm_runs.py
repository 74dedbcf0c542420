"""Trainings of timm's networks: their form in every loader and file, their draws, their resume."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mortal import differences
from rich.console import Console
from stopped import QUIET, config_of, run_until
from torch.nn import functional
from torchvision.datasets import ImageFolder

from fastft.config.commands import EvaluateConfig
from fastft.config.train import TrainConfig
from fastft.evaluate.run import run_evaluate
from fastft.experiments.compare import compare
from fastft.experiments.lr_find import find_lr
from fastft.model.classifier import build_model, restore_model
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastft.runs.folder import BEST, LAST
from fastft.runs.preprocessing import pack_preprocessing
from fastft.train.run import build, resolve_form, resume, train
from pipelines.errors import UsageError
from pipelines.preprocessing import Preprocessing

timm = pytest.importorskip("timm", reason="timm is not installed")
VIT, SIZE = "timm:test_vit", 48
#: As the network was trained, but for the filter and what is shown.
FORM = Preprocessing(crop_share=0.8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ASKED: dict[str, Any] = {
    "arch": VIT,
    "size": SIZE,
    "filter": "bilinear",
    "crop_share": 0.8,
    "drop_path": 0.3,
    "layer_decay": 0.75,
    "clip_grad": 0.5,
    "optimizer": "adamw",
}


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that drops paths, left alone, and what it has said."""
    out, text = tmp_path_factory.mktemp("straight") / "run", io.StringIO()
    train(config_of(data, out, **ASKED), Console(file=text, width=1000))
    return out, text.getvalue()


def test_a_transformer_that_drops_paths_resumes_to_the_bit(
    straight: tuple[Path, str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(config_of(data, tmp_path / "run", **ASKED), 4, monkeypatch)
    resume(tmp_path / "run", {}, QUIET)
    assert differences(straight[0], tmp_path / "run") == []


def test_a_run_says_its_images_form(straight: tuple[Path, str]) -> None:
    assert (
        "images for timm:test_vit: bilinear; evaluation shows 80.0% of the shorter side; mean 0.5, "
        "0.5, 0.5, deviation 0.5, 0.5, 0.5\n"
        "layer decay 0.75: rates 0.000133 to 0.001; no weight decay on 54 biases, norms and the "
        "like; gradients are clipped to a norm of 0.5\n"
    ) in straight[1]
    for name in (BEST, LAST):
        assert load_checkpoint(straight[0] / name).preprocessed == FORM


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"filter": "bicubic"}, "--filter"),
        ({"layer_decay": 1.0}, "--layer-decay"),
        ({"drop_path": None}, "--drop-path"),
        ({"arch": "timm:test_vit2"}, "--arch"),
    ],
)
def test_a_run_is_not_resumed_as_another(
    given: dict[str, Any], option: str, straight: tuple[Path, str]
) -> None:
    with pytest.raises(UsageError, match=option):
        resume(straight[0], given, QUIET)


def test_weights_of_a_run_bring_its_arch_form_and_size(
    straight: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    """The other variants of a comparison have them, too."""
    options = {
        "data": data,
        "weights": str(straight[0]),
        "epochs": 1,
        "batch_size": 11,
        "amp": "off",
        "loader": "resident",
    }
    compare(options, QUIET, out=tmp_path / "out", seeds=1)
    paths = list((tmp_path / "out").rglob(BEST))
    assert len(paths) == 3
    for path in paths:
        found = load_checkpoint(path)
        assert (found.arch, found.size, found.view, found.preprocessed) == (VIT, SIZE, "eval", FORM)
        assert (found.config["size"], found.config["eval_view"]) == (SIZE, "eval")


def test_rates_are_tried_on_the_models_own_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastft.experiments.lr_find._STEPS", 3)
    shown: list[Any] = []
    monkeypatch.setattr(
        "fastft.experiments.lr_find.Trainer",
        lambda config, inputs, built, console: shown.append(inputs) or stop(),
    )

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        find_lr(config_of(data, tmp_path / "out", **ASKED), QUIET)
    assert shown[0].train.preprocessing == shown[0].evaluation.preprocessing == FORM


@pytest.mark.usefixtures("undrawn")
def test_evaluation_is_timms(photos: Path, tmp_path: Path) -> None:
    """Bicubic, of a share and on means of its own: as timm's own transforms and network do it."""
    built = build_model(("circle", "cross", "ring"), "none", arch=VIT, size=SIZE, seed=4)
    dataset = ImageFolder(
        str(photos / "test"),
        timm.data.create_transform(
            **{**timm.data.resolve_model_data_config(built.model), "input_size": (3, SIZE, SIZE)},
            is_training=False,
        ),
    )
    with torch.no_grad():  # a network that does not say the same of every image
        built.head.weight.mul_(30)  # type: ignore[operator,union-attr]
    checkpoint = Checkpoint(
        model=built.model.state_dict(),
        arch=VIT,
        classes=tuple(dataset.classes),
        size=SIZE,
        view="eval",
        epoch=1,
        accuracy=0.5,
        optimizer={},
        scaler={},
        config={"loader": "torchvision", "batch_size": 4, "amp": "off", "workers": 1},
        preprocessing=pack_preprocessing(built.form.preprocessing),
    )
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, checkpoint)
    images, labels = (list(each) for each in zip(*dataset, strict=True))
    with torch.inference_mode():
        logits = restore_model(checkpoint, path)(torch.stack(images))
    wanted = functional.cross_entropy(logits, torch.tensor(labels)).item()
    found = run_evaluate(EvaluateConfig(run=path, data=photos, out=tmp_path / "out", n=1), QUIET)
    assert found.loss == pytest.approx(wanted, rel=1e-5)
    plain = replace(checkpoint, preprocessing=None)
    save_checkpoint(path, plain)
    other = run_evaluate(EvaluateConfig(run=path, data=photos, out=tmp_path / "out", n=1), QUIET)
    assert other.loss != pytest.approx(wanted, rel=1e-3)


def test_what_is_not_asked_is_the_models(tmp_path: Path) -> None:
    """torchvision's have one size and view, timm's their own; what was asked for counts."""
    for arch, options, wanted in (
        ("squeezenet1_1", {}, (224, "eval")),
        (VIT, {}, (160, "eval")),
        (VIT, {"size": 64, "eval_view": "eval-square"}, (64, "eval-square")),
    ):
        config = TrainConfig(data=tmp_path, out=tmp_path, arch=arch, weights="none", **options)
        filled = resolve_form(config, build(config, ("x", "y")))
        assert (filled.size, filled.judged_view) == wanted


def test_images_grow_only_where_a_network_lets_them(tmp_path: Path) -> None:
    config = TrainConfig(
        data=tmp_path,
        out=tmp_path,
        arch="timm:vit_tiny_patch16_224",
        weights="none",
        size=64,
        start_size=48,
    )
    with pytest.raises(UsageError, match="--start-size: 48 px, which a timm:vit_tiny_patch16_224"):
        build(config, ("x", "y"))
    assert build(replace(config, arch="timm:test_convnext"), ("x", "y")).form.size == 64


@pytest.mark.usefixtures("shallow")
def test_torchvisions_checkpoints_say_nothing_new(data: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "run", io.StringIO()
    train(config_of(data, out, epochs=1), Console(file=text, width=1000))
    assert load_checkpoint(out / LAST).preprocessing is None
    assert "images for" not in text.getvalue()
    assert "decay" not in text.getvalue()
    config = json.loads((out / "config.json").read_text())["config"]
    assert (config["eval_view"], config["filter"], config["layer_decay"]) == ("eval", None, 1.0)
