import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fastft.config.train import TrainConfig
from fastft.experiments.lr_find import find_lr
from fastft.experiments.results import suggest
from fastft.train.run import train
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError

QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("shallow")


def curve(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Flat, then falling from 1e-3 to 1e-1, then running away, with noise."""
    lrs = np.geomspace(1e-6, 10, 100)
    at = np.log10(lrs)
    losses = 2 - 1.5 * np.clip((at + 3) / 2, 0, 1) + 20 * np.clip(at + 0.7, 0, None) ** 2
    return lrs, losses + noise * np.random.default_rng(seed).standard_normal(100)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_the_suggested_rate_is_below_divergence(noise: float, seed: int) -> None:
    lrs, losses = curve(noise, seed)
    end = int(np.argmax((losses > 4 * 0.5) & (lrs > 0.2))) + 1  # the search ends there
    found = suggest(lrs[:end], losses[:end], "run")
    assert 0.02 < found.lowest < 0.5
    assert found.ran_away == lrs[end - 1]
    assert found.suggestion == pytest.approx((found.lowest * found.ran_away) ** 0.5)
    assert f"--lr {found.suggestion:.2g}" in str(found)


def test_without_running_away_the_lowest_is_suggested() -> None:
    lrs = np.geomspace(1e-6, 1e-2, 60)
    found = suggest(lrs, 2 - np.linspace(0, 1, 60), "run")
    assert found.ran_away is None
    assert found.suggestion == found.lowest == lrs[-1]
    assert "never ran away" in str(found)
    # A loss of NaN has run away, too.
    broken = np.append(2 - np.linspace(0, 1, 59), np.nan)
    assert suggest(lrs, broken, "run").ran_away == lrs[-1]


def test_a_loss_that_never_falls_is_said() -> None:
    lrs = np.geomspace(1e-6, 10, 50)
    with pytest.raises(DataError, match="run: the loss fell at none of the rates"):
        suggest(lrs, np.linspace(1, 2, 50), "run")
    with pytest.raises(DataError, match="the loss fell at none"):
        suggest(lrs, np.full(50, np.nan), "run")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Photos that any network tells apart, so that the loss falls: red ones and blue ones."""
    for split, count in (("train", 6), ("test", 1)):
        for name in ("red", "blue"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for at in range(count):
                Image.new("RGB", (48 + at, 44), name).save(folder / f"{at}.jpg")
    convert(ConvertConfig(src=tmp_path / "photos", out=tmp_path / "data"))
    return tmp_path / "data"


def test_a_search_leaves_a_picture_and_no_run(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastft.experiments.lr_find._STEPS", 40)
    out = tmp_path / "run"
    config = TrainConfig(
        data=colours,
        out=out,
        weights="none",
        arch="shufflenet_v2_x0_5",
        size=40,
        batch_size=11,
        epochs=1,
        amp="off",
        loader="resident",
    )
    found = find_lr(config, QUIET)
    assert sorted(path.name for path in out.iterdir()) == ["lr_find.json", "lr_find.png"]
    kept = json.loads((out / "lr_find.json").read_text())
    assert kept["suggestion"] == found.suggestion
    assert kept["config"]["batch_size"] == 11
    assert len(found.lrs) == len(found.losses) == len(found.averaged)
    assert found.lrs == tuple(sorted(found.lrs))
    with Image.open(out / "lr_find.png") as image:
        assert image.width > 600
    # The run that follows goes there, too, and keeps them.
    train(config, QUIET)
    assert {"lr_find.json", "lr_find.png", "last.safetensors"} <= {
        path.name for path in out.iterdir()
    }
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        find_lr(TrainConfig(data=colours, out=tmp_path / "file", weights="none"), QUIET)
