"""How the processes of a run come to the same loader and the same place for pixels."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stopped
from stopped import QUIET, run_until

from fastft.config.train import LOADER_CHOICES, TrainConfig
from fastft.train import inputs
from fastft.train.distributed import World
from fastft.train.inputs import open_inputs, open_sources, resolve_inputs
from fastft.train.run import resume, train
from pipelines.errors import UsageError
from pipelines.loaders.resident_loader import ResidentLoader
from pipelines.resident.keeping import MANY


@dataclass(frozen=True)
class Told(World):
    """A world whose other processes tell these numbers, whatever this one does."""

    others: list[float] = field(default_factory=list)

    def gather(self, values: Any) -> list[list[float]]:
        return [list(values), *([other] for other in self.others)]


def config_of(data: Path, **options: Any) -> TrainConfig:
    return TrainConfig(data=data, out=Path("run"), batch_size=9, device="cpu", **options)


@pytest.mark.parametrize(
    ("mine", "others", "taken"),
    [
        ("resident", ["resident", "resident"], "resident"),
        ("resident", ["resident", "dali"], "dali"),
        ("ffcv", ["resident", "torchvision"], "ffcv"),
    ],
)
def test_all_take_resident_or_none_does(
    mine: str, others: list[str], taken: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def fastest(*arguments: object, **options: Any) -> str:
        asked.update(options)
        return mine

    monkeypatch.setattr(inputs, "fastest_loader", fastest)
    config = config_of(data, size=64)
    world = Told(size=3, others=[LOADER_CHOICES.index(other) for other in others])
    assert resolve_inputs(config, open_sources(config), world).loader == taken
    assert asked == {"batch": 3, "size": 64, "decode": "exact"}


def test_the_place_of_pixels_is_agreed_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = []
    real = inputs.make_loader

    def make(*arguments: Any, **given: Any) -> Any:
        options.append(given)
        return real(*arguments, **given)

    monkeypatch.setattr(inputs, "make_loader", make)
    for loader, world, agrees in (
        ("resident", Told(size=2, others=[4.0]), True),
        ("resident", World(), False),
        ("torchvision", Told(size=2, others=[4.0]), False),
    ):
        options.clear()
        config = config_of(data, loader=loader, workers=1, size=64)
        with open_inputs(config, open_sources(config), world):
            assert ["store_least" in given for given in options] == [agrees] * 2
        for given in options if agrees else ():
            assert (given["store_least"](3.0), given["store_least"](5.0)) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loader": "dali"}, "with --loader dali, expected --loader ffcv or torchvision"),
        ({"stock": True}, "with --stock, expected"),
        ({"loader": "resident"}, "expected --store-side"),
        ({"store": "yuv420"}, "expected --store-side"),
    ],
)
def test_scaled_decoding_wants_a_loader_that_knows_it(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"--decode scaled.*{words}"):
        config_of(Path("data"), decode="scaled", **options)


def test_auto_takes_a_loader_that_decodes_scaled(data: Path) -> None:
    for options, expected in (({}, ("ffcv", "torchvision")), ({"store_side": 50}, ("resident",))):
        config = config_of(data, decode="scaled", size=64, **options)
        sources = open_sources(config)
        config = resolve_inputs(config, sources)
        assert config.loader in expected
        with open_inputs(config, sources) as opened:
            assert {opened.train.decode, opened.evaluation.decode} == {"scaled"}


@pytest.mark.parametrize(
    ("epochs", "kept"), [(1, "never"), (MANY - 1, "never"), (MANY, "at once"), (None, "again")]
)
def test_resident_is_told_how_long_it_is_needed(epochs: int | None, kept: str, data: Path) -> None:
    config = config_of(data, loader="resident", size=64)
    sources = open_sources(config)
    with open_inputs(resolve_inputs(config, sources), sources, epochs=epochs) as opened:
        for loader in (opened.train, opened.evaluation):
            assert isinstance(loader, ResidentLoader)
            assert loader._keeps == kept


def test_only_the_epochs_that_are_left_are_announced(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To loaders that keep pixels for them."""
    told: list[int | None] = []

    def note(*arguments: Any, **options: Any) -> Any:
        told.append(inspect.signature(open_inputs).bind(*arguments, **options).arguments["epochs"])
        return open_inputs(*arguments, **options)

    run_until(stopped.config_of(data, tmp_path / "begun"), 5, monkeypatch)
    monkeypatch.setattr("fastft.train.run.open_inputs", note)
    epochs = train(stopped.config_of(data, tmp_path / "run"), QUIET).epochs
    resume(tmp_path / "begun", {}, QUIET)
    assert told == [len(epochs), len(epochs) - 1]  # one was over when it was stopped
