"""Weights and checkpoints that no network takes: what reads them says so in one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from effort import choose, rest
from old_checkpoints import content_of, save_old
from torch import nn
from torchvision import models

from fastft.config.commands import EvaluateConfig
from fastft.evaluate.run import _settle
from fastft.model.classifier import build_model, restore_model
from fastft.model.optim import WeightAverage
from fastft.runs.checkpoint import Checkpoint, save_checkpoint
from fastft.runs.folder import BEST, OLD
from pipelines.errors import DataError, UsageError
from pipelines.formats.source import open_source
from pipelines.workers import cpu_count

Command = Callable[..., tuple[int, str, str]]


def saved(state: dict[str, Any], path: Path) -> str:
    torch.save(state, path)
    return str(path)


def test_mnasnet_takes_its_own_weights(tmp_path: Path) -> None:
    """Its modules ask for the version that weights are of."""
    network = models.get_model("mnasnet0_5")
    path = saved(network.state_dict(), tmp_path / "w.pt")
    built = build_model(2, path, arch="mnasnet0_5", size=40)
    whole = built.model.state_dict()
    assert torch.equal(whole["layers.0.weight"], network.state_dict()["layers.0.weight"])
    average = WeightAverage(built.model, 0.5)
    average.restore(dict(whole), 3)
    found = Checkpoint(
        model=dict(whole),
        arch="mnasnet0_5",
        classes=("x", "y"),
        size=40,
        view="eval",
        epoch=1,
        accuracy=0.5,
        optimizer={},
        scaler={},
        config={},
    )
    again = restore_model(found, tmp_path / "c.safetensors")
    assert isinstance(again, nn.Module)
    assert all(map(torch.equal, again.state_dict().values(), whole.values()))


@pytest.mark.usefixtures("shallow_transformers")
@pytest.mark.parametrize("shape", [(1, 5, 768), (7,), *rest(((2, 197, 768),), ((1, 197, 768, 1),))])
def test_positions_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = saved({"encoder.pos_embedding": torch.zeros(shape)}, tmp_path / "w.pt")
    if shape == (1, 5, 768):  # four, which is a square, and goes with a smaller image
        said = "has no class_token"
    else:
        said = r"has encoder.pos_embedding of shape \[.*\], expected the tensors of a vit_b_32"
    with pytest.raises(DataError, match=said):
        build_model(2, path, arch="vit_b_32", size=64)


@pytest.mark.parametrize("bias", [torch.zeros(3), torch.tensor(0.5), torch.zeros(1000, 2)])
def test_half_a_layer_gives_no_row(bias: torch.Tensor, tmp_path: Path) -> None:
    state = models.get_model("squeezenet1_1").state_dict()
    path = saved({**state, "classifier.1.bias": bias}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"has no classifier\.1\.weight, expected a model with"):
        build_model(["x"], path, arch="squeezenet1_1", size=40, reuse_head=["x=934"])


def test_a_class_without_a_row_is_not_reused(tmp_path: Path) -> None:
    network = build_model(2, "none", arch="squeezenet1_1", size=40).model
    found = Checkpoint(
        model=network.state_dict(),
        arch="squeezenet1_1",
        classes=("x", "y", "z"),
        size=40,
        view="eval",
        epoch=1,
        accuracy=0.5,
        optimizer={},
        scaler={},
        config={},
    )
    save_checkpoint(tmp_path / "c.safetensors", found)
    with pytest.raises(UsageError, match=r"a row that .* does not have"):
        build_model(["z"], str(tmp_path / "c.safetensors"), size=40, reuse_head=["z=z"])


def commands(checkpoint: Path, data: Path, photos: Path, out: Path) -> list[list[object]]:
    small = ["--data", data, "--size", 40, "--epochs", 1, "--out", out]
    return [
        ["evaluate", checkpoint, "--data", data, "--out", out],
        ["predict", checkpoint, photos / "test", "--csv", out],
        ["train", *small, "--weights", checkpoint],
        ["train", *small, "--weights", checkpoint, "--arch", "shufflenet_v2_x0_5"],
        ["compare", *small, "--weights", checkpoint],
        ["sweep", *small, "--weights", checkpoint, "--lr", "0.1,0.2"],
    ]


@pytest.mark.parametrize(
    ("name", "part", "value", "said"),
    [
        (BEST, "ema", {"fc.weight": torch.full((3, 1024), float("nan"))}, "NaN or infinity"),
        (OLD[BEST], "model", {"a": torch.zeros(1).expand(3, 1024)}, "larger than what is stored"),
        (OLD[BEST], "optimizer", {"state": {0: {"x": [object]}}}, "not readable as a checkpoint"),
        (OLD[BEST], "scaler", {"scale": [[[]]], 3: float}, "not readable as a checkpoint"),
        (BEST, "config", {"lr": 1 << 70}, "a number of many digits"),
        (BEST, "view", "train", "wrong 'view': 'train'"),
        (OLD[BEST], "view", "train", "wrong 'view': 'train'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_command_refuses_an_odd_checkpoint(
    name: str,
    part: str,
    value: Any,
    said: str,
    trained: Checkpoint,
    data: Path,
    photos: Path,
    tmp_path: Path,
    fastft: Command,
    tried: Callable[..., None],
) -> None:
    path, out = tmp_path / name, tmp_path / "out"
    if name == BEST:
        save_checkpoint(path, replace(trained, **{part: value}))
    else:
        save_old(path, {**content_of(trained), part: value})
    # In an ordinary run every command refuses one of them, and one command every one.
    asked = commands(path, data, photos, out)[: None if part == "ema" else choose(1, None)]
    for arguments in asked:
        status, _, err = fastft(*arguments)
        assert (status, err.count("\n")) == (1, 1), (arguments, err)
        assert err.startswith(f"{path}: "), (arguments, err)
        assert said in err, (arguments, err)
        assert not out.exists()
    tried("odd states of checkpoints refused", len(asked))


def test_a_million_workers_become_as_many_as_exist(data: Path, trained: Checkpoint) -> None:
    config = EvaluateConfig(run=Path("run"), data=data)
    source = open_source(data / "test.beton")
    for workers in (1 << 40, -1, True, "x"):
        odd = replace(trained, config={"workers": workers, "loader": "torchvision"})
        setting = _settle(config, odd, source)
        assert 0 <= setting.workers <= cpu_count()
    assert _settle(config, replace(trained, config={"workers": 1}), source).workers == 1
