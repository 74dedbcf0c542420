"""Options of augmentation: on the command line, in TOML, in a run's own config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.config.augment import as_settings, describe, read_augment
from fastft.config.bench import BenchConfig
from fastft.config.checks import plain
from fastft.config.commands import ParityConfig, ShowConfig
from fastft.config.recipes import make_config
from fastft.config.train import TrainConfig
from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError

PATHS: dict[str, Any] = {"data": Path("d"), "out": Path("o")}
ASKED = Augment(
    policy="rand-n1-m5",
    scale=(0.35, 1.0),
    ratio=(0.9, 1.1),
    hflip=0.25,
    vflip=0.1,
    color_jitter=(0.4, 0.3, 0.2, 0.1),
    grayscale=0.05,
    erase=0.25,
    mixup=0.2,
    cutmix=1.0,
    mix_prob=0.9,
    mix_switch=0.3,
)
TOML = """
augment = "rand-n1-m5"
scale = [0.35, 1]
ratio = [0.9, 1.1]
hflip = 0.25
vflip = 0.1
color-jitter = [0.4, 0.3, 0.2, 0.1]
grayscale = 0.05
erase = 0.25
mixup = 0.2
cutmix = 1
mix-prob = 0.9
mix_switch = 0.3
"""


def test_defaults_ask_for_nothing_more() -> None:
    assert TrainConfig(**PATHS).augmentation == USUAL
    assert describe(USUAL) == ""


def test_toml_says_what_options_say(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(TOML)
    config = make_config(PATHS, file=file)
    assert config.augmentation == ASKED
    assert plain(config) == plain(make_config({**PATHS, **as_settings(ASKED)}))


def test_one_number_is_a_jitter(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("color_jitter = 0.4\n")
    assert make_config(PATHS, file=file).augmentation.jitter == (0.4, 0.4, 0.4, 0.0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("scale = 0.5", "expected a list of 2 numbers"),
        ("scale = [0.1, 0.5, 1]", "expected a list of 2 numbers"),
        ('scale = ["a", "b"]', "expected a number"),
        ("augment = 3", "expected a string"),
        ("erase = [1]", "expected a number"),
    ],
)
def test_other_types_in_toml_are_refused(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(line + "\n")
    with pytest.raises(UsageError, match=said):
        make_config(PATHS, file=file)


def test_a_runs_config_asks_for_the_same(tmp_path: Path) -> None:
    config = make_config({**PATHS, **as_settings(ASKED)})
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": plain(config)}))
    assert make_config({"out": Path("other")}, file=file).augmentation == ASKED


def test_json_of_other_commands_is_read_back() -> None:
    config = BenchConfig(data=Path("d"), augment=ASKED)
    assert read_augment(json.loads(json.dumps(plain(config)))["augment"]) == ASKED


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scale", "1,0.5"), "--scale: 1 to 0.5, expected 0.0001 to 1, the lower number first"),
        (("--scale", "0.5"), "--scale: 0.5, expected 0.0001 to 1"),
        (("--ratio", "-1,2"), "--ratio: -1 to 2, expected 0.01 to 100"),
        (("--scale", "a,1"), "augmentation: 'a,1', expected numbers with commas between them"),
        (("--augment", "auto"), "--augment: 'auto', expected one of none, trivial, rand"),
        (("--augment", "rand-n9"), "--augment: 'rand-n9', expected at most n8 and m30"),
        (("--hflip", "2"), "--hflip: 2, expected a probability, 0 to 1"),
        (("--erase", "nan"), "--erase: nan, expected a probability"),
        (("--color-jitter", "0.4,0.4"), "--color-jitter: 2 numbers, expected 1, 3 or 4"),
        (("--color-jitter", "0.4,0.4,0.4,0.6"), "--color-jitter: 0.6, expected a hue of 0 to 0.5"),
        (("--mixup", "-0.1"), "--mixup: -0.1, expected an alpha"),
        (("--mixup", "1", "--batch-size", "1"), "--mixup and --cutmix: --batch-size 1, expected"),
        (("--scale", "0.5,1", "--view", "recordio"), "--scale and --ratio: --view recordio"),
    ],
)
def test_bad_options_are_one_line(
    options: tuple[str, ...], said: str, fastft: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, out, err = fastft("train", "--data", tmp_path, "--out", tmp_path / "run", *options)
    assert (status, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", [ShowConfig, ParityConfig])
def test_single_images_cannot_be_mixed(kind: type[Any]) -> None:
    with pytest.raises(UsageError, match="--mixup and --cutmix"):
        kind(data=Path("d"), augment=Augment(mixup=0.2))


def test_options_of_crops_need_crops(
    fastft: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, _, err = fastft("show", tmp_path, "--erase", "0.5")
    assert status == 2
    assert err.startswith("--erase: given without --augmented")


def test_evaluation_views_draw_nothing() -> None:
    with pytest.raises(UsageError, match="--augment, --vflip: --view eval"):
        BenchConfig(data=Path("d"), view="eval", augment=Augment(policy="trivial", vflip=0.5))


def test_settings_are_told_in_words() -> None:
    assert describe(Augment(policy="trivial", scale=(0.35, 1), erase=0.25)) == (
        "trivial, scale 0.35-1, erase 0.25"
    )
