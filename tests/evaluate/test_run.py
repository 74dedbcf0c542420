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
from effort import rest
from PIL import Image
from rich.console import Console
from runs import ARCH, Command, batches_of

from fastft.config.commands import EvaluateConfig
from fastft.evaluate.class_report import FILES
from fastft.evaluate.result import SampleRow
from fastft.evaluate.run import run_evaluate
from fastft.evaluate.scores import Findings, wilson_interval
from fastft.model.classifier import restore_model
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastft.train.evaluate import evaluate
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index
from pipelines.loaders import Loader, make_loader
from pipelines.loaders.resident_loader import ResidentLoader

CPU = torch.device("cpu")
QUIET = Console(quiet=True)


def judged(run: Path, data: Path, **options: Any) -> tuple[Findings, dict[str, Any]]:
    """What is found, and the JSON."""
    config = EvaluateConfig(run=run, data=data, **{"n": 6, **options})
    findings = run_evaluate(config, QUIET)
    out = config.out or run / "evaluation"
    return findings, json.loads((out / "evaluation.json").read_text())


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("form", ["splits", "beton", "folder", *rest("class folders")])
def test_the_report_is_complete(
    form: str,
    run: Path,
    trained: Checkpoint,
    data: Path,
    photos: Path,
    request: pytest.FixtureRequest,
) -> None:
    if form != "splits":  # whose pictures are drawn
        request.getfixturevalue("undrawn")
    where = {
        "splits": data,
        "beton": data / "test.beton",
        "folder": photos,
        "class folders": photos / "test",
    }
    findings, content = judged(run, where[form])
    batches = batches_of(data)
    wanted = evaluate(restore_model(trained, run), batches, device=CPU, amp_dtype=None, keep=True)
    assert wanted.outputs is not None
    scores = torch.from_numpy(wanted.outputs.logits).log_softmax(1)
    labels = torch.from_numpy(wanted.outputs.labels)
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == sorted(FILES)

    assert content["accuracy"] == findings.accuracy == wanted.score
    assert content["interval"] == list(wilson_interval(content["right"], 6))
    assert content["loss"] == pytest.approx(wanted.loss, rel=1e-6)
    assert content["plain_accuracy"] is None
    assert content["samples"] == 6
    assert np.array(content["confusion"]).sum(1).tolist() == [2, 2, 2]
    assert content["macro_f1"] == pytest.approx(np.mean([row["f1"] for row in content["classes"]]))
    assert [row["name"] for row in content["classes"]] == list(trained.classes)
    assert sum(row["count"] for row in content["confused"]) == 6 - content["right"]
    assert content["checkpoint"] == {
        "path": str(run / "best.safetensors"),
        "arch": ARCH,
        "size": 40,
        "view": "eval",
        "epoch": 3,
        "accuracy": 0.5,
    }
    assert (content["loader"], content["batch_size"], content["dtype"]) == (
        "torchvision",
        4,
        "float32",
    )

    rows = table(run / "evaluation")
    found = sorted(path.relative_to(photos / "test").as_posix() for path in photos.glob("test/*/*"))
    assert [row["name"] for row in rows] == found
    assert [row["truth"] for row in rows] == [trained.classes[label] for label in labels]
    best = scores.max(1)
    assert [row["predicted"] for row in rows] == [trained.classes[i] for i in best.indices]
    numbers = {
        "probability": best.values.exp(),
        "truth_probability": scores.gather(1, labels[:, None])[:, 0].exp(),
        "loss": -scores.gather(1, labels[:, None])[:, 0],
    }
    for name, values in numbers.items():
        assert [float(row[name]) for row in rows] == pytest.approx(values.tolist(), abs=1e-5)

    losses = [row["loss"] for row in content["top_losses"]]
    assert losses == sorted(map(float, (row["loss"] for row in rows)), reverse=True)
    assert content["top_losses"][0]["name"] == rows[int(numbers["loss"].argmax())]["name"]
    for name in FILES[2:] if form == "splits" else ():
        with Image.open(run / "evaluation" / name) as image:
            assert min(image.size) > 200


@pytest.mark.usefixtures("undrawn")
def test_the_pictures_of_top_losses_are_the_samples(
    run: Path, data: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Image.Image, SampleRow]] = []

    def draw(each: list[tuple[Image.Image, SampleRow]]) -> bytes:
        shown.extend(each)
        return b""

    monkeypatch.setattr("fastft.evaluate.class_report.draw_top_losses", draw)
    judged(run, data, n=4)
    assert len(shown) == 4
    for image, row in shown:
        with Image.open(photos / "test" / row.name) as photo:
            short = min(photo.size)
            central = photo.crop(
                (
                    (photo.width - short) // 2,
                    (photo.height - short) // 2,
                    (photo.width + short) // 2,
                    (photo.height + short) // 2,
                )
            ).resize((224, 224))
        apart = np.abs(np.asarray(image, float) - np.asarray(central, float)).mean()
        others = np.abs(np.asarray(image, float) - np.asarray(central, float)[::-1]).mean()
        assert apart < others


@pytest.mark.usefixtures("undrawn")
def test_flip_tells_the_plain_accuracy(run: Path, data: Path) -> None:
    _, plain = judged(run, data)
    _, content = judged(run, data, flip=True)
    assert content["plain_accuracy"] == plain["accuracy"]
    assert content["loss"] != plain["loss"]


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_asked_for_is_as_trained(
    run: Path, trained: Checkpoint, data: Path, photos: Path
) -> None:
    def setting(config: dict[str, Any], where: Path, **options: Any) -> tuple[Any, ...]:
        save_checkpoint(run / "best.safetensors", replace(trained, config=config))
        _, content = judged(run, where, **options)
        return content["loader"], content["batch_size"], content["dtype"], content["device"]

    asked = {"loader": "torchvision", "batch_size": 3, "amp": "bf16", "device": "cpu", "workers": 1}
    assert setting(asked, data) == ("torchvision", 3, "bfloat16", "cpu")
    mine = {"batch_size": 2, "amp": "off", "loader": "torchvision"}
    assert setting(asked, data, **mine) == ("torchvision", 2, "float32", "cpu")
    # What is not here, or cannot read these data, is replaced; so is nonsense.
    odd = {"loader": "ffcv", "batch_size": 1000, "amp": "x", "device": "cuda:77", "workers": -1}
    assert setting(odd, photos / "test")[:2] == ("resident", 6)
    assert setting({}, data, amp="off")[1:3] == (6, "float32")
    with pytest.raises(UsageError, match="--device: cuda:77"):
        judged(run, data, device="cuda:77")


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_is_replaced_and_nothing_else(run: Path, data: Path) -> None:
    judged(run, data)
    (run / "evaluation" / "notes.txt").write_text("mine")
    assert judged(run, data, split="train")[1]["samples"] == 33
    assert len(table(run / "evaluation")) == 33
    assert (run / "evaluation" / "notes.txt").read_text() == "mine"
    for content in ("[]", "{}", "no JSON", '{"format": "other"}'):
        (run / "evaluation" / "evaluation.json").write_text(content)
        with pytest.raises(UsageError, match="holds other files"):
            judged(run, data)
        assert (run / "evaluation" / "evaluation.json").read_text() == content


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoints_evaluation_lies_here(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run_evaluate(EvaluateConfig(run=run / "best.safetensors", data=data), QUIET)
    assert sorted(os.listdir("evaluation")) == sorted(FILES)
    assert not (run / "evaluation").exists()


def relabelled(trained: Checkpoint, run: Path, *classes: str) -> Path:
    save_checkpoint(run / "best.safetensors", replace(trained, classes=classes))
    return run


def test_other_classes_are_named(
    run: Path, trained: Checkpoint, data: Path, photos: Path, tmp_path: Path
) -> None:
    a, b, c = trained.classes
    for where in (data, photos / "test"):
        with pytest.raises(DataError, match=f"has no class dog and the additional class {c}, exp"):
            judged(relabelled(trained, run, a, b, "dog"), where)
        with pytest.raises(DataError, match="has the same classes in another order"):
            judged(relabelled(trained, run, b, a, c), where)
    relabelled(trained, run, a, b, c)
    lacking = tmp_path / "lacking"
    shutil.copytree(photos / "test", lacking)
    shutil.rmtree(lacking / b)
    with pytest.raises(DataError, match=f"lacking: has no class {b}, expected the 3 classes"):
        judged(run, lacking)
    (lacking / b).mkdir()
    with pytest.raises(DataError, match=f"{b}: holds no images"):
        judged(run, lacking)
    many = [f"x{number}" for number in range(9)]
    with pytest.raises(DataError, match="no class x0, x1, x2, x3, x4 and 4 more and the add"):
        judged(relabelled(trained, run, *many), data)
    assert not (run / "evaluation").exists()


def test_a_class_without_images_is_refused(
    run: Path, trained: Checkpoint, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = read_index(data / "test.beton")
    labels = np.where(index.labels == 1, 0, index.labels)
    monkeypatch.setattr("fastft.evaluate.run.open_source", lambda _: replace(index, labels=labels))
    with pytest.raises(DataError, match=f"has no image of class {trained.classes[1]}, expected"):
        judged(run, data)


@pytest.mark.parametrize("least", [-3e38, 3e38], ids=["nan", "inf"])
def test_outputs_that_are_no_numbers(
    least: float, run: Path, trained: Checkpoint, data: Path
) -> None:
    # Numbers all of them, whose sums are not.
    large = torch.full_like(trained.model["fc.weight"], 3e38)
    large[:, ::2] = least
    scale = {"bn.weight": 100 * trained.model["bn.weight"]}
    weights = {**trained.model, **scale, "fc.weight": large}
    save_checkpoint(run / "best.safetensors", replace(trained, model=weights))
    with pytest.raises(
        DataError, match=r"best\.safetensors: its outputs for 6 of 6 images, first \w+/0000"
    ):
        judged(run, data)
    assert not (run / "evaluation").exists()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('pwned', 'w')",)


def test_hostile_input_is_one_line_and_leaves_nothing(
    fastft: Command,
    run: Path,
    trained: Checkpoint,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    best = load_checkpoint(run / "best.safetensors")
    content = {name: getattr(best, name) for name in Checkpoint.__slots__}
    content |= {"format": "fastft-checkpoint", "version": 1, "classes": list(best.classes)}
    torch.save({**content, "config": Evil()}, tmp_path / "evil.pt")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.beton").touch()
    (tmp_path / "cut.beton").write_bytes((data / "test.beton").read_bytes()[:-5000])
    save_checkpoint(tmp_path / "view.pt", replace(trained, view="sideways"))
    save_checkpoint(
        tmp_path / "head.pt", replace(trained, model={"fc.bias": torch.zeros(3)}, arch="resnet18")
    )
    rows: list[tuple[list[object], int, str]] = [
        ([tmp_path / "evil.pt", "--data", data], 1, "not readable as a checkpoint"),
        ([tmp_path / "other.pt", "--data", data], 1, "no fastft checkpoint"),
        ([tmp_path / "text.pt", "--data", data], 1, "not readable as a checkpoint"),
        ([tmp_path / "no.pt", "--data", data], 1, "no such file"),
        (
            [tmp_path / "empty", "--data", data],
            1,
            "best.safetensors: no such file",
        ),
        ([tmp_path / "view.pt", "--data", data], 1, "view.pt: holds a wrong 'view': 'sideways'"),
        ([tmp_path / "head.pt", "--data", data], 1, "head.pt: has 3 numbers, expected the"),
        ([run, "--data", tmp_path / "empty.beton"], 1, "0 bytes long"),
        ([run, "--data", tmp_path / "cut.beton"], 1, "cut.beton: "),
        ([run, "--data", tmp_path / "empty"], 1, "holds no class folders"),
        ([run, "--data", data, "--out", data], 2, "holds other files"),
        ([run, "--data", data, "--out", tmp_path / "text.pt"], 2, "is a file"),
        ([run, "--data", data, "--loader", "stock"], 2, "--loader: 'stock', expected one of auto"),
        ([run, "--data", data, "--amp", "fp8"], 2, "--amp: 'fp8'"),
        ([run, "--data", data, "--n", 0], 2, "--n: 0, expected 1"),
        ([run, "--data", data, "--batch-size", 0], 2, "--batch-size: 0"),
        ([run], 2, "Missing option '--data'"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for arguments, wanted, message in rows:
        status, out, err = fastft("evaluate", *arguments)
        assert (status, err.count("\n")) == (wanted, 1), (arguments, out, err)
        assert message in err
        assert sorted(tmp_path.rglob("*")) == before, arguments


@pytest.mark.usefixtures("undrawn")
def test_the_command_prints_what_it_found(fastft: Command, run: Path, data: Path) -> None:
    status, text, err = fastft("evaluate", run, "--data", data, "--flip")
    content = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert (status, err) == (0, "")
    assert f"accuracy {content['accuracy']:.4f} (95% interval" in text
    assert f"accuracy of the images alone {content['plain_accuracy']:.4f}" in text
    assert "best.safetensors (epoch 3) on" in text
    assert "precision" in text
    assert str(run / "evaluation" / "confusion.png") in text
    _, text, _ = fastft("evaluate", "--help")
    assert "$ fastft evaluate run --data data" in text


@pytest.mark.parametrize("crops", [1, 5])
def test_resident_is_told_of_the_passes(
    crops: int, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    def note(*arguments: Any, **options: Any) -> Loader:
        loader = make_loader(*arguments, **options)
        assert isinstance(loader, ResidentLoader)
        kept.append(loader._keeps)
        return loader

    monkeypatch.setattr("fastft.evaluate.run.make_loader", note)
    found, _ = judged(run, data, loader="resident", crops=crops, out=tmp_path / "out")
    assert kept == ["never" if crops == 1 else "at once"]
    monkeypatch.undo()
    other, _ = judged(run, data, loader="torchvision", crops=crops, out=tmp_path / "other")
    assert np.array_equal(found.samples.losses, other.samples.losses)
