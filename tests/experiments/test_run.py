"""`compare` and `sweep`: what differs between runs, and what is said of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from fastft.config.train import TrainConfig
from fastft.experiments.compare import compare
from fastft.experiments.plots import conclusions
from fastft.experiments.results import (
    FINE_TUNED,
    FROZEN,
    SCRATCH,
    Comparison,
    Interval,
    Run,
    Variant,
    difference,
    mean_interval,
)
from fastft.experiments.sweep import sweep
from fastft.runs.checkpoint import load_checkpoint
from fastft.runs.metrics import EpochMetrics, read_metrics
from fastft.train.run import train
from pipelines.errors import DataError, UsageError

QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("source") / "run"
    train(TrainConfig(out=out, **options(data, weights="none")), QUIET)
    return out


def options(data: Path, **others: Any) -> dict[str, Any]:
    small = {
        "arch": "shufflenet_v2_x0_5",
        "size": 40,
        "epochs": 1,
        "batch_size": 11,
        "amp": "off",
        "loader": "resident",
        "workers": 1,
    }
    return {"data": data, **small, **others}


def variant(name: str, accuracies: list[float]) -> Variant:
    runs = tuple(
        Run(
            seed=seed,
            seconds=1.0,
            epochs=tuple(
                EpochMetrics(
                    epoch=epoch,
                    size=40,
                    train_loss=1.0,
                    train_accuracy=0.5,
                    eval_loss=1.0,
                    eval_accuracy=value if epoch else 0.99,
                    img_per_s=1.0,
                    wait_s=0.0,
                    train_s=1.0,
                    eval_s=1.0,
                )
                for epoch in range(2)
            ),
        )
        for seed, value in enumerate(accuracies)
    )
    return Variant(name=name, lr=0.1, head_lr_factor=1.0, runs=runs)


def test_intervals_are_students() -> None:
    values = [0.9, 0.8, 0.85, 0.95]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((0.875, low, high))
    assert mean_interval([0.5]) == Interval(0.5, None, None)
    assert not mean_interval([0.5]).is_positive


def test_an_accuracy_is_that_of_the_last_epoch() -> None:
    assert variant("x", [0.6, 0.7]).accuracies == [0.6, 0.7]


def test_differences_are_paired_by_seed() -> None:
    # Seeds differ far more than the variants do; pairs still tell.
    first, second = variant("a", [0.9, 0.5, 0.7]), variant("b", [0.88, 0.48, 0.68])
    gain = difference(first, second)
    assert gain.mean == pytest.approx(0.02)
    assert gain.is_positive


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([0.80, 0.81, 0.82], "fine-tuning beats scratch by 9.0 points"),
        ([0.99, 0.98, 1.00], "scratch beats fine-tuning by 9.0 points"),
        ([0.80, 0.95, 0.95], "fine-tuning and scratch cannot be told apart"),
    ],
)
def test_what_is_said_follows_from_the_interval(others: list[float], said: str) -> None:
    tuned, scratch = variant(FINE_TUNED, [0.89, 0.90, 0.91]), variant(SCRATCH, others)
    found = Comparison({}, {}, (tuned, scratch), {SCRATCH: difference(tuned, scratch)})
    (line,) = conclusions(found)
    assert line.startswith(said)
    assert "3 paired seeds" in line
    one = variant(FINE_TUNED, [0.9]), variant(SCRATCH, [0.5])
    (line,) = conclusions(Comparison({}, {}, one, {SCRATCH: difference(*one)}))
    assert line == "one seed shows nothing about scratch; take --seeds 5"


def test_compare_runs_all_three_on_the_same_plan(source: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "compared"
    found = compare(
        options(data, weights=str(source), seed=7), QUIET, out=out, seeds=2, recipe="standard"
    )
    assert [each.name for each in found.variants] == [FINE_TUNED, SCRATCH, FROZEN]
    kept = json.loads((out / "compare.json").read_text())
    assert set(kept["gains"]) == {SCRATCH, FROZEN}
    with Image.open(out / "compare.png") as image:
        assert image.width > 1000
    configs = {
        each.name: load_checkpoint(out / each.name / "seed-8" / "best.safetensors").config
        for each in found.variants
    }
    assert {name: config["weights"] for name, config in configs.items()} == {
        FINE_TUNED: str(source),
        SCRATCH: "none",
        FROZEN: str(source),
    }
    assert {name: config["freeze"] for name, config in configs.items()} == {
        FINE_TUNED: "",
        SCRATCH: "",
        FROZEN: "backbone",
    }
    assert {name: config["lr"] for name, config in configs.items()} == {
        FINE_TUNED: 0.002,
        SCRATCH: 0.01,
        FROZEN: 0.002,
    }
    # A run of a comparison is what the same settings give alone.
    train(TrainConfig(out=tmp_path / "alone", **options(data, weights=str(source), seed=8)), QUIET)
    alone, compared = (
        [row.loss for row in read_metrics(folder / "metrics.jsonl")[0]]
        for folder in (tmp_path / "alone", out / FINE_TUNED / "seed-8")
    )
    assert alone == compared
    with pytest.raises(UsageError, match="holds a run"):
        compare(options(data, weights=str(source)), QUIET, out=out, seeds=1)
    compare(options(data, weights=str(source), overwrite=True), QUIET, out=out, seeds=1)
    assert not (out / FINE_TUNED / "seed-8").exists()


def test_what_compare_refuses(source: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "compared"
    with pytest.raises(UsageError, match="--weights: none"):
        compare(options(data, weights="none"), QUIET, out=out, seeds=1)
    with pytest.raises(UsageError, match="--freeze: given, expected nothing: compare sets it"):
        compare(options(data, weights=str(source), freeze="stages:1"), QUIET, out=out, seeds=1)
    with pytest.raises(DataError, match="no such file"):
        compare(options(data, weights=str(tmp_path / "x.pt")), QUIET, out=out, seeds=1)
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="holds other files"):
        compare(
            options(data, weights=str(source), overwrite=True),
            QUIET,
            out=tmp_path / "full",
            seeds=1,
        )


def test_runs_that_ended_survive_one_that_fails(source: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "swept"
    with pytest.raises(DataError, match=r"step \d+: .*loss"):
        sweep(
            options(data, weights="none", schedule="constant", epochs=4),
            QUIET,
            out=out,
            rates=[1e-3, 1e6],
            seeds=1,
        )
    assert (out / "scratch-lr0.001" / "seed-0" / "best.safetensors").exists()
    assert not (out / "sweep.json").exists()


def test_sweep_tries_all_rates_from_both_starts(source: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "swept"
    found = sweep(
        options(data, weights=str(source), freeze="stages:1"),
        QUIET,
        out=out,
        rates=[1e-2, 1e-3, 1e-3],
        seeds=1,
    )
    for start in ("fine-tuned", "scratch"):
        assert [each.lr for each in found.points(start)] == [1e-3, 1e-2]
    kept = json.loads((out / "sweep.json").read_text())
    assert len(kept["variants"]) == 4
    assert kept["best"]["scratch"] == found.best_variant("scratch").lr
    with Image.open(out / "sweep.png") as image:
        assert image.width > 500
    with pytest.raises(UsageError, match="two rates or more"):
        sweep(options(data), QUIET, out=tmp_path / "x", rates=[1.0, 1.0], seeds=1)
