import json
from pathlib import Path
from typing import Any

import pytest

from fastft.config.checks import plain
from fastft.config.recipes import RECIPES, make_config, read_settings
from fastft.config.train import TrainConfig
from pipelines.errors import DataError, FormatError, UsageError

PATHS: dict[str, Any] = {"data": Path("d"), "out": Path("o")}


def write(folder: Path, text: str, name: str = "r.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_command_line_beats_file_beats_recipe_beats_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'lr = 0.5\nepochs = 7\nrecipe = "d2l"\nclass-weight = "balanced"\n')
    config = make_config({**PATHS, "lr": 0.25}, file=file)
    assert (config.lr, config.epochs, config.class_weight) == (0.25, 7, "balanced")
    assert (config.recipe, config.loss, config.amp) == ("d2l", "sum", "off")
    assert config.label_smoothing == TrainConfig(**PATHS).label_smoothing
    # A recipe that is named on the command line replaces the file's.
    assert make_config(PATHS, recipe="standard", file=file).loss == "mean"


def test_from_scratch_has_its_own_settings(tmp_path: Path) -> None:
    file = write(tmp_path, 'weights = "none"\n')
    for config in (
        make_config({**PATHS, "weights": "none"}, recipe="d2l"),
        make_config(PATHS, recipe="d2l", file=file),
    ):
        assert (config.lr, config.head_lr_factor) == (5e-4, 1.0)
    assert make_config({**PATHS, "weights": "none", "lr": 1.0}, recipe="d2l").lr == 1.0
    assert make_config({**PATHS, "weights": "x"}, recipe="d2l", file=file).lr == 5e-5


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_config(name: str) -> None:
    for weights in ("imagenet", "none"):
        assert make_config({**PATHS, "weights": weights}, recipe=name).recipe == name


def test_a_runs_own_config_repeats_it(tmp_path: Path) -> None:
    config = make_config(
        {
            **PATHS,
            "lr": 0.5,
            "reuse_head": ("a=1", "b=2"),
            "store_file": Path("x.store"),
            "overwrite": True,
        },
        recipe="recordio",
    )
    file = write(tmp_path, json.dumps({"config": plain(config)}), "config.json")
    again = make_config({"out": Path("other")}, file=file)
    assert plain(again) == plain(config) | {"out": "other", "overwrite": False}


def test_a_file_may_hold_every_kind_of_value(tmp_path: Path) -> None:
    text = (
        'data = "x"\nstock = true\nlr = 1\nbatch_size = 32\nview = "train"\n'
        'reuse_head = ["a=1"]\nstore-file = "p.store"\nloader = "torchvision"'
    )
    found = read_settings(write(tmp_path, text))
    assert found == {
        "data": Path("x"),
        "stock": True,
        "lr": 1.0,
        "batch_size": 32,
        "view": "train",
        "reuse_head": ("a=1",),
        "store_file": Path("p.store"),
        "loader": "torchvision",
    }
    assert isinstance(found["lr"], float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 'fast'", "lr: 'fast', expected a number"),
        ("epochs = 1.5", "epochs: 1.5, expected a whole number"),
        ("epochs = true", "epochs: True, expected a whole number"),
        ("stock = 1", "stock: 1, expected true or false"),
        ("reuse_head = 'a=1'", "reuse_head: 'a=1', expected a list of strings"),
        ("reuse_head = [1]", "reuse_head: 1, expected a string"),
        ("learning_rate = 1", "a setting 'learning_rate', expected one of amp, "),
        ("out = 'x'", "a setting 'out'"),
    ],
)
def test_wrong_settings_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_config(PATHS, file=write(tmp_path, text))
    assert message in str(caught.value)
    assert "r.toml" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_settings(tmp_path / "x.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not text"):
        read_settings(tmp_path / "binary.toml")
    with pytest.raises(FormatError, match="does not parse"):
        read_settings(write(tmp_path, "lr = = 1"))
    for text in ("[]", "{}", '{"config": 1}', "nonsense"):
        with pytest.raises(FormatError, match=r"a run's config\.json"):
            read_settings(write(tmp_path, text, "c.json"))


def test_what_is_missing_or_unknown() -> None:
    with pytest.raises(UsageError, match="--data: missing"):
        make_config({"out": Path("o")})
    with pytest.raises(UsageError, match="--recipe: 'x', expected one of standard, "):
        make_config(PATHS, recipe="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "none", "freeze": "backbone"}, "--freeze: backbone with --weights none"),
        ({"weights": "none", "reuse_head": ("a=1",)}, "--reuse-head: given with --weights none"),
        ({"unfreeze_epoch": 1}, "--unfreeze-epoch: given without --freeze"),
        ({"freeze": "backbone", "unfreeze_epoch": 5}, "--unfreeze-epoch: 5 of 5 epochs"),
        ({"size": 224, "start_size": 300}, "--start-size: 300, expected 33 to 224"),
        ({"stock": True, "view": "recordio"}, "--stock: --view recordio"),
        ({"stock": True, "loader": "dali"}, "--stock: --loader dali"),
        ({"ema": 1.0}, "--ema: 1.0"),
        ({"label_smoothing": -0.1}, "--label-smoothing: -0.1"),
        ({"optimizer": "lion"}, "--optimizer: 'lion', expected one of sgd, adamw"),
        ({"lr": float("nan")}, "--lr: nan"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_config({**PATHS, **options})
    assert message in str(caught.value)


def test_images_grow_over_two_thirds_of_the_epochs() -> None:
    config = TrainConfig(**PATHS, size=224, start_size=128, epochs=6)
    sizes = [config.epoch_size(epoch) for epoch in range(6)]
    assert sizes == [128, 160, 176, 192, 224, 224]
    assert TrainConfig(**PATHS, size=224, start_size=128, epochs=1).epoch_size(0) == 224
    assert {TrainConfig(**PATHS, size=224, epochs=9).epoch_size(epoch) for epoch in range(9)} == {
        224
    }
    odd = TrainConfig(**PATHS, size=65, start_size=33, epochs=30)
    grown = [odd.epoch_size(epoch) for epoch in range(30)]
    assert grown == sorted(grown)
    assert (grown[0], grown[-1]) == (33, 65)
