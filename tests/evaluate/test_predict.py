import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from runs import Command, batches_of

from fastft.cli.tables import print_predictions
from fastft.config.commands import EvaluateConfig, PredictConfig
from fastft.evaluate.listing import list_images
from fastft.evaluate.predict import Summary, predict
from fastft.evaluate.predictions import Prediction
from fastft.evaluate.run import run_evaluate
from fastft.model.classifier import restore_model
from fastft.runs.checkpoint import Checkpoint, save_checkpoint
from pipelines.errors import DataError


@pytest.fixture
def broken(photos: Path, tmp_path: Path) -> Path:
    """The test photos, of which the second is cut short and the last is text."""
    shutil.copytree(photos / "test", tmp_path / "photos")
    first, *_, last = sorted((tmp_path / "photos").rglob("*.jpg"))[1:]
    first.write_bytes(first.read_bytes()[:700])
    last.write_text("text")
    return tmp_path / "photos"


def predicted(run: Path, *images: Path, **options: Any) -> list[Any]:
    return predict(PredictConfig(run=run, images=images, **options))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("view", "flip"), [("eval", False), ("eval-square", True)])
def test_prediction_equals_evaluation(
    view: str, flip: bool, run: Path, trained: Checkpoint, data: Path, photos: Path
) -> None:
    save_checkpoint(run / "best.safetensors", replace(trained, view=view))
    found = predicted(run, photos / "test", batch_size=4, flip=flip)
    run_evaluate(EvaluateConfig(run=run, data=data, flip=flip, n=1), Console(quiet=True))
    with open(run / "evaluation" / "predictions.csv", newline="") as file:
        wanted = list(csv.DictReader(file))
    assert [str(row.path.relative_to(photos / "test")) for row in found] == [
        row["name"] for row in wanted
    ]
    assert [row.label for row in found] == [row["predicted"] for row in wanted]
    assert [row.truth for row in found] == [row["truth"] for row in wanted]
    probabilities = [float(row["probability"]) for row in wanted]
    assert [row.probability for row in found] == pytest.approx(probabilities, abs=1e-5)


def test_all_probabilities_are_the_models_own(
    run: Path, trained: Checkpoint, data: Path, photos: Path
) -> None:
    images = torch.cat([images for images, _ in batches_of(data, batch_size=6)])
    model = restore_model(trained, run)
    with torch.inference_mode():
        plain = model(images).softmax(1)
        mean = (plain + model(images.flip(3)).softmax(1)) / 2
    assert (plain - mean).abs().max() > 0.01
    for flip, wanted in ((False, plain), (True, mean)):
        found = np.stack([row.probabilities for row in predicted(run, photos / "test", flip=flip)])
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_files_hold_everything(
    run: Path, trained: Checkpoint, photos: Path, tmp_path: Path
) -> None:
    alone = shutil.copy(next((photos / "test").rglob("*.jpg")), tmp_path)
    out = {name: tmp_path / "new" / f"p.{name}" for name in ("csv", "json", "sheet")}
    found = predicted(run, photos / "test", Path(alone), **out)
    assert sorted(os.listdir(tmp_path / "new")) == ["p.csv", "p.json", "p.sheet"]
    with open(out["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    items = json.loads(out["json"].read_text())
    assert len(found) == len(rows) == len(items) == 7
    for each, row, item in zip(found, rows, items, strict=True):
        assert row["path"] == item["path"] == str(each.path)
        assert row["label"] == item["label"] == each.label
        assert float(row["probability"]) == item["probability"] == each.probability
        assert row["truth"] == (each.truth or "")
        assert item["truth"] == each.truth
        assert list(item["probabilities"]) == list(trained.classes)
        assert list(item["probabilities"].values()) == each.probabilities.tolist()
        assert max(item["probabilities"], key=item["probabilities"].__getitem__) == each.label
        assert sum(item["probabilities"].values()) == pytest.approx(1)
    assert items[-1]["truth"] is None
    with Image.open(out["sheet"]) as image:
        assert image.width > 500


def test_the_best_classes_come_in_order(run: Path, photos: Path) -> None:
    for row in predicted(run, photos / "test"):
        best = row.best(2)
        assert best[0] == (row.label, row.probability)
        assert best[1][1] == sorted(row.probabilities)[-2]
        assert len(row.best(9)) == 3


def test_which_images_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = (
        "b/2.jpg",
        "b/10.PNG",
        "a/1.jpg",
        "a/deep/3.jpeg",
        "a/notes.txt",
        "a/.4.jpg",
        ".hidden/5.jpg",
        "odd[1]*.jpg",
        "7.jpg",
    )
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "linked").symlink_to(tmp_path / "b")

    def meant(*images: str) -> list[str]:
        return [str(path) for path in list_images([Path(image) for image in images])]

    assert meant("a") == ["a/1.jpg", "a/deep/3.jpeg"]
    assert meant("linked") == ["linked/10.PNG", "linked/2.jpg"]
    assert meant("a/notes.txt", "7.jpg") == ["a/notes.txt", "7.jpg"]
    assert meant("*/*.jpg") == ["a/1.jpg", "b/2.jpg", "linked/2.jpg"]
    assert meant("b/**") == meant("b/*") == meant("b") == ["b/10.PNG", "b/2.jpg"]
    assert meant("[ab]/deep") == ["a/deep/3.jpeg"]
    assert meant("odd[1]*.jpg") == ["odd[1]*.jpg"]
    for image, found in (
        ("c/*.jpg", "matches no images"),
        ("a/*.txt", "matches no images"),
        ("nothing.jpg", "no such file"),
    ):
        with pytest.raises(DataError, match=found):
            meant("a", image)


def test_one_broken_image_costs_no_other(
    fastft: Command, run: Path, broken: Path, tmp_path: Path
) -> None:
    for batch_size in (1, 4):
        status, out, err = fastft(
            "predict", run, broken, "--csv", tmp_path / "p.csv", "--batch-size", batch_size
        )
        assert status == 1
        assert err == "2 of 6 images: left out, since they cannot be read\n"
        left_out = [line for line in out.splitlines() if line.startswith("left out: ")]
        files = sorted(broken.rglob("*.jpg"))
        assert [line.split(": ")[1] for line in left_out] == [str(files[1]), str(files[-1])]
        with open(tmp_path / "p.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["path"] for row in rows] == [str(files[at]) for at in (0, 2, 3, 4)]
        (tmp_path / "p.csv").unlink()
    with pytest.raises(DataError, match=files[1].name):
        predicted(run, broken)


def test_nothing_but_broken_images(
    fastft: Command, run: Path, broken: Path, tmp_path: Path
) -> None:
    files = sorted(broken.rglob("*.jpg"))
    status, out, err = fastft("predict", run, files[1], "--csv", tmp_path / "p.csv")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert str(files[1]) in err
    status, out, err = fastft("predict", run, files[1], files[-1], "--csv", tmp_path / "p.csv")
    assert (status, out.count("left out"), err.count("\n")) == (1, 2, 1)
    assert not (tmp_path / "p.csv").exists()


def test_standard_output_is_for_a_program(fastft: Command, run: Path, broken: Path) -> None:
    whole = sorted(broken.rglob("*.jpg"))[0]
    status, out, err = fastft("predict", run, whole, "--csv", "-")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "path,label,probability,truth"
    assert len(out.splitlines()) == 2
    status, out, err = fastft("predict", run, broken, "--json", "-")
    assert status == 1
    assert len(json.loads(out)) == 4
    assert err.count("left out: ") == 2
    status, out, err = fastft("predict", run, broken, "--json", "-", "--csv", "-")
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_what_is_printed(
    fastft: Command, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # or the table would break long paths
    image = next((photos / "test").rglob("*.jpg"))
    only = predicted(run, image)[0]
    status, out, err = fastft("predict", run, image)
    assert (status, out, err) == (0, f"With prob={only.probability:.3f}, {only.label}\n", "")
    _, out, _ = fastft("predict", run, image, "--top", 9)
    assert out.splitlines() == [f"With prob={p:.3f}, {name}" for name, p in only.best(3)]
    _, out, _ = fastft("predict", run, photos / "test", "--top", 2)
    assert "of 6 agree with their folder's name" in out
    (line,) = (line for line in out.splitlines() if str(image) in line)
    assert all(f"{name} {probability:.3f}" in line for name, probability in only.best(2))
    _, out, _ = fastft("predict", "--help")
    assert "$ fastft predict run photo.jpg" in out


def test_names_that_are_hard_to_print(
    fastft: Command,
    run: Path,
    photos: Path,
    trained: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    odd = ("$a$ [red]", "line\nbreak", "\udcff猫")
    save_checkpoint(run / "best.safetensors", replace(trained, classes=odd))
    image = next((photos / "test").rglob("*.jpg"))
    for name in ("a\nb.jpg", "[red]$x$.jpg", os.fsdecode(b"\xff.jpg"), "猫.jpg"):
        (tmp_path / "odd").mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / "odd" / name)
    outputs = [tmp_path / name for name in ("p.csv", "p.json", "p.png")]
    status, out, err = fastft(
        "predict",
        run,
        tmp_path / "odd",
        "--top",
        3,
        "--csv",
        outputs[0],
        "--json",
        outputs[1],
        "--sheet",
        outputs[2],
    )
    assert (status, err) == (0, "")
    assert "[red]$x$.jpg" in out
    assert r"\udcff.jpg" in out
    assert len(json.loads(outputs[1].read_text())) == 4


def test_a_long_list_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    row = Prediction(
        Path("a/1.jpg"), "x", 0.75, "y", ("x", "y"), np.array([0.75, 0.25], np.float32)
    )
    summary = Summary()
    for _ in range(50):
        summary.add(row)
    print_predictions(summary, Console(width=100))
    out = capsys.readouterr().out
    assert out.count("a/1.jpg") == 40
    assert "and 10 more" in out
    assert "0 of 50 agree" in out


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('pwned', 'w')",)


def test_hostile_input_is_one_line_and_leaves_nothing(
    fastft: Command,
    run: Path,
    trained: Checkpoint,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "fastft-checkpoint", "version": 1, "evil": Evil()}, tmp_path / "evil.pt")
    weights = torch.full_like(trained.model["fc.weight"], 3e38)
    scale = {"bn.weight": 100 * trained.model["bn.weight"]}
    large = {**trained.model, **scale, "fc.weight": weights}  # its outputs overflow
    save_checkpoint(tmp_path / "large.pt", replace(trained, model=large))
    (tmp_path / "empty").mkdir()
    rows: list[tuple[list[object], int, str]] = [
        ([tmp_path / "evil.pt", photos], 1, "not readable as a checkpoint"),
        ([tmp_path / "no.pt", photos], 1, "no such file"),
        ([tmp_path / "large.pt", photos], 1, "large.pt: its output for"),
        ([tmp_path / "empty", photos], 1, "best.safetensors: no such file"),
        ([run, tmp_path / "empty"], 1, "holds no images"),
        ([run, "*.jpg"], 1, "*.jpg: matches no images"),
        ([run, photos, "--csv", tmp_path / "empty"], 2, "--csv: "),
        ([run, photos, "--top", 0], 2, "--top: 0, expected 1"),
        ([run, photos, "--device", "cuda:77"], 2, "--device: cuda:77"),
        ([run], 2, "Missing argument"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for arguments, wanted, message in rows:
        status, out, err = fastft("predict", *arguments)
        assert (status, err.count("\n")) == (wanted, 1), (arguments, out, err)
        assert message in err
        assert sorted(tmp_path.rglob("*")) == before, arguments


def test_progress_is_told_of_many_images(run: Path, broken: Path) -> None:
    told: list[tuple[int, int]] = []
    for batch_size in (2, 64):
        config = PredictConfig(run=run, images=(broken,), batch_size=batch_size)
        predict(config, on_progress=lambda *at: told.append(at), on_broken=lambda _: None)
    assert told == [(2, 6), (4, 6), (6, 6)]
