"""Data without splits, trained on: the same sides for every loader, in evaluation and folds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from runs import ARCH, Command
from tiny import make_tiny

from fastft.config.train import TrainConfig
from fastft.experiments.compare import compare
from fastft.runs.folder import CONFIG
from fastft.train.inputs import open_inputs, open_sources, resolve_inputs
from fastft.train.run import train
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.division import Division

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "photos.beton"
    convert(ConvertConfig(src=photos / "train", out=out))
    return out


def config_of(data: Path, out: Path = Path("run"), **options: Any) -> TrainConfig:
    small = {
        "arch": ARCH,
        "weights": "none",
        "size": 40,
        "epochs": 1,
        "batch_size": 11,
        "amp": "off",
        "workers": 1,
        "val_split": 0.3,
    }
    return TrainConfig(data=data, out=out, **{**small, **options})


@pytest.mark.parametrize("loader", ["torchvision", "ffcv", "dali", "resident"])
def test_every_loader_reads_its_side(loader: str, whole: Path, photos: Path) -> None:
    pytest.importorskip({"ffcv": "ffcv", "dali": "nvidia.dali"}.get(loader, "torch"))
    config = config_of(whole, loader=loader)
    sources = open_sources(config)
    reference = open_sources(config_of(photos / "train", loader="torchvision"))
    with (
        open_inputs(resolve_inputs(config, sources), sources) as inputs,
        open_inputs(config_of(photos / "train", loader="torchvision"), reference) as others,
    ):
        # First: Python 3.11.2 forks into a hang where a thread of DALI's enters it meanwhile.
        wanted_batches = [list(other) for other in (others.train, others.evaluation)]
        for side, batches in zip((inputs.train, inputs.evaluation), wanted_batches, strict=True):
            levels = 0.6 if loader == "dali" else 0.02  # of a deviation, which are 58 levels
            count = 0
            for (images, labels), (wanted, answers) in zip(side, batches, strict=True):
                assert labels.tolist() == answers.tolist()
                assert float((images - wanted).abs().max()) < levels
                count += len(labels)
            assert count == len(side.source)
        assert len(inputs.train.source) + len(inputs.evaluation.source) == 33


def test_an_undivided_folder_is_asked_for_a_share(
    photos: Path, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat").symlink_to(photos / "train")
    (tmp_path / "half" / "train").mkdir(parents=True)
    for each in (photos / "train").iterdir():
        (tmp_path / "half" / "train" / each.name).symlink_to(each)
    for data in (tmp_path / "flat", whole, tmp_path / "half"):
        with pytest.raises(DataError, match=r"pass --val-split 0\.2 to set a fifth of each class"):
            open_sources(config_of(data, val_split=0.0))
        assert len(open_sources(config_of(data))) == 2


def test_data_with_splits_are_not_divided(data: Path) -> None:
    with pytest.raises(UsageError, match=r"--val-split 0.3: with .* has test.beton"):
        open_sources(config_of(data))


@pytest.mark.usefixtures("undrawn")
def test_evaluation_takes_what_was_set_apart(
    whole: Path, data: Path, tmp_path: Path, fastft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny(monkeypatch)
    run = tmp_path / "run"
    train(config_of(whole, run, loader="torchvision"), QUIET)
    apart, rest = ([*source.names()] for source in reversed(open_sources(config_of(whole))))
    for options, wanted in (
        ((), apart),
        (("--split", "train"), rest),
        (("--val-split", "0"), [*apart, *rest]),
        (("--folds", "3", "--fold", "1"), None),
    ):
        code, out, _ = fastft("evaluate", run, "--data", whole, *options)
        assert code == 0
        rows = (run / "evaluation" / "predictions.csv").read_text().splitlines()[1:]
        names = sorted(row.split(",")[0] for row in rows)
        if wanted is not None:
            assert names == sorted(wanted)
        assert ("divided by" in out) == (options != ("--val-split", "0"))
    code, out, _ = fastft("evaluate", run, "--data", data)
    assert (code, "divided by" in out) == (0, False)
    code, _, err = fastft("evaluate", run, "--data", whole, "--split", "test")
    assert (code, "--split: 'test', expected one of train, val" in err) == (2, True)


def test_folds_are_compared_with_an_interval(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny(monkeypatch)
    train(config_of(whole, tmp_path / "source", loader="torchvision"), QUIET)
    options = {
        name: getattr(config_of(whole, loader="resident", val_split=0.0), name)
        for name in ("data", "arch", "size", "epochs", "batch_size", "amp", "workers", "loader")
    }
    options |= {"weights": str(tmp_path / "source"), "folds": 3}
    found = compare(options, QUIET, out=tmp_path / "out", seeds=1)
    for variant in found.variants:
        assert [run.fold for run in variant.runs] == [0, 1, 2]
        assert variant.accuracy.low is not None
        folders = sorted(path.name for path in (tmp_path / "out" / variant.name).iterdir())
        assert folders == [f"fold-{fold}-seed-0" for fold in range(3)]
        assert (
            (tmp_path / "out" / variant.name / folders[1] / CONFIG).read_text().count('"fold": 1')
        )
    sides = [open_sources(config_of(whole, val_split=0.0, folds=3, fold=n))[1] for n in range(3)]
    assert sum(map(len, sides)) == 33
    assert np.unique(np.concatenate([[*side.names()] for side in sides])).size == 33


def test_a_fold_is_not_continued_as_another(
    whole: Path, tmp_path: Path, fastft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny(monkeypatch)
    run = tmp_path / "run"
    train(config_of(whole, run, loader="torchvision", val_split=0.0, folds=3, fold=2), QUIET)
    code, _, err = fastft("train", "--resume", run, "--fold", "1")
    assert code == 2
    assert "--fold" in err


def test_a_division_is_part_of_a_config() -> None:
    config = config_of(Path("x"), split_seed=4, group_by="a")
    assert config.division == Division(val_split=0.3, seed=4, group_by="a")
    for options, words in (
        ({"val_split": 2.0}, "--val-split"),
        ({"folds": 3}, "--folds"),
        ({"val_split": 0.0, "group_by": "a"}, "--group-by"),
    ):
        with pytest.raises(UsageError, match=words):
            config_of(Path("x"), **options)
