import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loader_kinds import require_library
from PIL import Image
from rich.console import Console
from torch.nn import functional

from fastft.config.train import TrainConfig
from fastft.model.classifier import build_model, restore_model
from fastft.runs.checkpoint import load_checkpoint
from fastft.runs.metrics import read_metrics
from fastft.train.evaluate import Evaluation, evaluate
from fastft.train.run import train
from fastft.train.step import TrainStep
from pipelines.errors import DataError, UsageError
from pipelines.loaders import make_loader

QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("shallow")
#: A fifth of the default's work; what it is makes no difference to the loop, nor does the loader,
#: of which the resident one starts no processes.
ARCH = "shufflenet_v2_x0_5"


def run(data: Path, out: Path, **options: Any) -> Any:
    small = {
        "weights": "none",
        "arch": ARCH,
        "size": 40,
        "epochs": 1,
        "batch_size": 16,
        "amp": "off",
        "loader": "resident",
    }
    return train(TrainConfig(data=data, out=out, **{**small, **options}), QUIET)


@pytest.fixture(scope="module")
def finished(
    data: Path, tmp_path_factory: pytest.TempPathFactory, draw_curves: Callable[[Path, Path], None]
) -> Path:
    """A run of two epochs, with its curves."""
    out = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastft.runs.curves.draw_curves", draw_curves)
        run(data, out, loader="torchvision", workers=1, epochs=2)
    return out


def losses(out: Path) -> list[float]:
    return [row.loss for row in read_metrics(out / "metrics.jsonl")[0]]


def test_a_run_folder_is_complete(finished: Path) -> None:
    names = sorted(file.name for file in finished.iterdir())
    assert names == [
        "best.safetensors",
        "config.json",
        "curves.png",
        "last.safetensors",
        "metrics.jsonl",
        "summary.json",
    ]
    config = json.loads((finished / "config.json").read_text())
    assert config["config"]["epochs"] == 2
    assert config["environment"]["torch"] == torch.__version__.split("+")[0]
    steps, epochs = read_metrics(finished / "metrics.jsonl")
    assert [row.step for row in steps] == list(range(6))
    assert [row.epoch for row in epochs] == [0, 1]
    assert all(0 <= row.wait_s <= row.step_s for row in steps)
    assert sum(row.loss * n for row, n in zip(steps[:3], (16, 16, 1), strict=True)) / 33 == (
        pytest.approx(epochs[0].train_loss)
    )
    last = load_checkpoint(finished / "last.safetensors")
    assert (last.epoch, last.size, len(last.classes)) == (2, 40, 3)
    best = load_checkpoint(finished / "best.safetensors")
    assert best.accuracy == max(row.eval_accuracy for row in epochs)
    with Image.open(finished / "curves.png") as image:
        assert image.width > 800


def test_the_loop_is_plain_pytorch(finished: Path, data: Path) -> None:
    """The same three steps, written out."""
    model = build_model(3, "none", seed=0, arch=ARCH, size=40).model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.001)
    wanted = []
    with make_loader(
        "torchvision", data / "train.beton", size=40, batch_size=16, workers=1
    ) as loader:
        for images, labels in loader:
            optimizer.param_groups[0]["lr"] = 0.01  # warm-up: the first of six steps is the peak
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = (
                0.01 * [1, 1, 0.5 * (1 + np.cos(np.pi / 5))][len(wanted)]
            )
            optimizer.step()
            wanted.append(loss.item())
    assert losses(finished)[:3] == pytest.approx(wanted, rel=1e-5)


def test_a_run_repeats_exactly(finished: Path, data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "again", loader="torchvision", workers=1, epochs=2)
    assert losses(tmp_path / "again") == losses(finished)
    run(data, tmp_path / "other", seed=1)
    assert losses(tmp_path / "other")[0] != losses(finished)[0]


def test_dali_trains_as_torchvision_does(finished: Path, data: Path, tmp_path: Path) -> None:
    require_library("dali")
    run(data, tmp_path / "run", loader="dali", workers=1)
    # The same crops in the same order; a sixth of a level apart in the mean.
    assert losses(tmp_path / "run")[:2] == pytest.approx(losses(finished)[:2], rel=0.05)


def test_ffcv_trains_as_torchvision_does(finished: Path, data: Path, tmp_path: Path) -> None:
    require_library("ffcv")
    run(data, tmp_path / "run", loader="ffcv", workers=1)
    # The same bytes, normalized by the same factors: at most the last bit apart, which a step of
    # 16 images at this rate makes more of.
    mine, theirs = losses(tmp_path / "run"), losses(finished)
    assert mine[0] == pytest.approx(theirs[0], rel=1e-6)
    assert mine[:2] == pytest.approx(theirs[:2], rel=0.05)


def test_mixed_precision_runs(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", amp="bf16")
    assert np.isfinite(result.last.train_loss)


def test_stock_and_class_folders_train(photos: Path, tmp_path: Path) -> None:
    result = run(photos, tmp_path / "run", loader="auto", stock=True, workers=1)
    assert result.last.train_s > 0
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").config["loader"] == "torchvision"


def test_evaluation_is_counted_by_hand(finished: Path, data: Path) -> None:
    checkpoint = load_checkpoint(finished / "last.safetensors")
    model = restore_model(checkpoint, finished / "last.safetensors")
    with make_loader(
        "torchvision", data / "test.beton", view="eval", size=40, batch_size=4, workers=1
    ) as loader:
        batches = list(loader)
    result = evaluate(model, batches, device=torch.device("cpu"), amp_dtype=None)
    logits = model(torch.cat([images for images, _ in batches]))
    labels = torch.cat([labels for _, labels in batches])
    assert result.samples == 6
    assert result.score == (logits.argmax(1) == labels).sum().item() / 6
    assert result.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert result.score == pytest.approx(checkpoint.accuracy)


def test_a_failed_start_leaves_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for options in (
        {"batch_size": 34},
        {"weights": str(tmp_path / "none.pt")},
        {"device": "cuda:77"},
    ):
        with pytest.raises((DataError, UsageError)):
            run(data, out, **options)
        assert not out.exists()


def test_a_broken_sample_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)
    victim = sorted((copy / "train").rglob("*.jpg"))[5]
    victim.write_bytes(victim.read_bytes()[:-400])
    with pytest.raises(DataError, match=victim.name):
        run(copy, tmp_path / "run", loader="torchvision", workers=1)
    assert not (tmp_path / "run").exists()


def test_a_loss_of_nan_ends_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"step \d+: .*loss (nan|inf).*a number; lower --lr"):
        run(data, tmp_path / "run", lr=1e5, epochs=5, schedule="constant")


def test_the_last_good_checkpoint_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainStep.__call__
    calls = 0

    def fails_in_the_third_epoch(self: TrainStep, *batch: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        loss, right = real(self, *batch)
        return (loss * float("nan") if calls == 8 else loss), right

    monkeypatch.setattr(TrainStep, "__call__", fails_in_the_third_epoch)
    out = tmp_path / "run"
    with pytest.raises(DataError) as caught:
        run(data, out, epochs=4)
    kept_in = f"{out / 'last.safetensors'} is that of epoch 2"
    assert str(caught.value) == f"step 7: loss nan, expected a number; lower --lr; {kept_in}"
    kept = load_checkpoint(out / "last.safetensors")
    assert kept.epoch == 2
    assert all(torch.isfinite(tensor).all() for tensor in kept.model.values())
    assert [row.epoch for row in read_metrics(out / "metrics.jsonl")[1]] == [0, 1]
    assert (out / "curves.png").exists()


def test_broken_weights_of_an_epochs_end_are_dropped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainStep.__call__
    calls = 0

    def breaks_the_weights(self: TrainStep, *batch: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        result = real(self, *batch)
        if calls == 6:
            with torch.no_grad():
                next(self._model.parameters()).fill_(float("nan"))
        return result

    monkeypatch.setattr(TrainStep, "__call__", breaks_the_weights)
    with pytest.raises(DataError, match="step 5: evaluation loss nan after it"):
        run(data, tmp_path / "run", epochs=2)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").epoch == 1


@pytest.fixture(scope="module")
def averaged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that averages its weights."""
    out = tmp_path_factory.mktemp("averaged") / "run"
    run(data, out, ema=0.9, epochs=2)
    return out


def test_what_is_evaluated_is_the_average(averaged: Path, data: Path) -> None:
    path = averaged / "last.safetensors"
    checkpoint = load_checkpoint(path)
    assert checkpoint.ema is not None
    assert not torch.equal(checkpoint.ema["fc.weight"], checkpoint.model["fc.weight"])
    model = restore_model(checkpoint, path)
    assert torch.equal(model.fc.weight, checkpoint.ema["fc.weight"])  # type: ignore[union-attr,arg-type]
    with make_loader("torchvision", data / "test.beton", view="eval", size=40, workers=1) as loader:
        found = evaluate(model, loader, device=torch.device("cpu"), amp_dtype=None)
    assert found.loss == pytest.approx(read_metrics(averaged / "metrics.jsonl")[1][1].eval_loss)


def test_the_four_steps_of_transfer(averaged: Path, data: Path, tmp_path: Path) -> None:
    """A source model, saved; a target model with its body; trained, frozen at first."""
    console = Console(record=True, width=300, quiet=False, file=io.StringIO())
    result = train(
        TrainConfig(
            data=data,
            out=tmp_path / "target",
            weights=str(averaged),
            size=40,
            epochs=2,
            batch_size=16,
            amp="off",
            loader="resident",
            freeze="backbone",
            unfreeze_epoch=1,
            label_smoothing=0.1,
            class_weight="balanced",
            optimizer="adamw",
        ),
        console,
    )
    text = console.export_text()
    assert "not taken from" in text
    assert "fc.weight [3, 8]" in text
    assert "frozen until epoch 1: backbone; 27 of" in text
    source = load_checkpoint(averaged / "best.safetensors")  # holds the average alone
    assert len(result.epochs) == 2
    first = load_checkpoint(tmp_path / "target" / "last.safetensors")
    assert source.ema is None
    assert not torch.equal(first.model["conv.weight"], source.model["conv.weight"])


def test_a_frozen_backbone_stays_the_sources(finished: Path, data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", weights=str(finished), freeze="backbone")
    source = load_checkpoint(finished / "best.safetensors").model
    trained = load_checkpoint(tmp_path / "run" / "last.safetensors").model
    changed = {name for name in source if not torch.equal(source[name], trained[name])}
    assert changed == {"fc.weight", "fc.bias"}  # batch norm's statistics are not among them


def test_images_grow(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", size=64, start_size=40, epochs=3)
    steps, epochs = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row.size for row in epochs] == [40, 48, 64]
    assert len(steps) == 9
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").size == 64


def test_patience_ends_a_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.9])

    def scripted(*_: object, **__: object) -> Evaluation:
        return Evaluation(1.0, next(accuracies), 6)

    monkeypatch.setattr("fastft.train.loop.evaluate", scripted)
    result = run(data, tmp_path / "run", epochs=5, patience=2)
    assert [row.eval_accuracy for row in result.epochs] == [0.5, 0.7, 0.6, 0.7]
    assert load_checkpoint(tmp_path / "run" / "best.safetensors").epoch == 2
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").epoch == 4


def test_tensorboard_gets_every_row(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(data, tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    steps, epochs = read_metrics(tmp_path / "run" / "metrics.jsonl")
    found = [event.value for event in events.Scalars("step/loss")]
    assert found == pytest.approx([row.loss for row in steps], rel=1e-6)
    assert events.Scalars("accuracy/eval")[0].value == pytest.approx(epochs[0].eval_accuracy)
    (settings,) = events.Tensors("settings/text_summary")
    assert b'"epochs": 1' in settings.tensor_proto.string_val[0]


def test_tensorboard_that_is_missing_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r'pip install "fastft\[tensorboard\]"'):
        run(data, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_a_run_says_where_its_time_went(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run")
    assert "waiting for input" in str(result.bottleneck)
    assert re.search(r"(input|model)-bound", str(result.bottleneck))
    # What was tried came after everything was saved.
    path = tmp_path / "run" / "last.safetensors"
    model = restore_model(load_checkpoint(path), path)
    with make_loader("torchvision", data / "test.beton", view="eval", size=40, workers=1) as loader:
        found = evaluate(model, loader, device=torch.device("cpu"), amp_dtype=None)
    assert found.loss == pytest.approx(result.last.eval_loss, rel=1e-5)


def test_an_earlier_run_is_kept(finished: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a run"):
        run(data, finished)
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        run(data, tmp_path, overwrite=True)
    assert (tmp_path / "x").read_text() == "mine"


def test_small_sets_become_one_batch(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", batch_size=None)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["batch_size"] == 33
    assert (config["lr"], config["head_lr_factor"]) == (0.01, 1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("loader", ["torchvision", "dali"])
@pytest.mark.parametrize("amp", ["auto", "fp16", "off"])
def test_gpu_run(loader: str, amp: str, data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", loader=loader, amp=amp, device="cuda", epochs=2)
    assert np.isfinite(result.last.train_loss)
