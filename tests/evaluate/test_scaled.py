"""A model that has seen JPEGs decoded at a part of their size is shown them so later on."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from runs import SIZE

from fastft.config.commands import EvaluateConfig, PredictConfig
from fastft.datasets.synth import SynthConfig, write_synth
from fastft.evaluate import run as evaluation
from fastft.evaluate.predict import predict
from fastft.runs.checkpoint import Checkpoint, save_checkpoint
from pipelines.conversion.run import ConvertConfig, convert


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of three classes, of four times the pixels that a model is shown on each side."""
    out = tmp_path_factory.mktemp("large") / "photos"
    sides = (SIZE * 9, SIZE * 7)
    write_synth(SynthConfig(out=out, classes=3, per_class=1, test_per_class=2, size=sides))
    return out


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("loader", "crops"), [(None, 1), ("torchvision", 5)])
def test_predictions_follow_the_checkpoint(
    loader: str | None,
    crops: int,
    run: Path,
    trained: Checkpoint,
    large: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "test.beton"
    convert(ConvertConfig(src=large / "test", out=data))
    found = {}
    for decode in ("exact", "scaled"):
        learned = {"decode": decode, "loader": "resident"}
        save_checkpoint(run / "best.safetensors", replace(trained, config=learned))
        photos = (large / "test",)
        # Alike, also on a CPU that has instructions for bfloat16.
        rows = predict(PredictConfig(run=run, images=photos, crops=crops, amp="off"))
        asked: Any = {"loader": loader, "crops": crops, "amp": "off"}
        config = EvaluateConfig(run=run, data=data, n=1, **asked)
        evaluation.run_evaluate(config, Console(quiet=True))
        with open(run / "evaluation" / "predictions.csv", newline="") as file:
            judged = [float(row["probability"]) for row in csv.DictReader(file)]
        found[decode] = np.array([row.probability for row in rows])
        assert found[decode] == pytest.approx(judged, abs=1e-5)
    apart = np.abs(found["exact"] - found["scaled"])
    assert 0 < apart.max() < 0.2


def test_runs_of_before_have_seen_exact_pixels(trained: Checkpoint) -> None:
    for config in ({}, {"decode": "half"}, {"decode": None}):
        assert replace(trained, config=config).decode == "exact"
