import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastft.cli import convert as cli_convert
from fastft.system.signals import Stopped

Run = Callable[..., tuple[int, str, str]]


def test_the_main_job(fastft: Run, tmp_path: Path) -> None:
    photos, data, out = tmp_path / "photos", tmp_path / "data", tmp_path / "run"
    status, text, _ = fastft("synth", photos, "--classes", 2, "--per-class", 10, "--size", "80x60")
    assert status == 0
    assert "20 training and 4 test images" in text
    status, text, _ = fastft("convert", photos, data)
    assert status == 0
    assert "train.beton" in text
    assert "0 broken" in text
    status, text, _ = fastft("inspect", data / "train.beton", "--verify")
    assert status == 0
    assert "20 checksums hold" in text
    status, text, _ = fastft(
        "train",
        "--data",
        data,
        "--out",
        out,
        "--weights",
        "none",
        "--size",
        40,
        "--epochs",
        1,
        "--arch",
        "squeezenet1_1",
    )
    assert status == 0
    assert "best accuracy" in text
    image = next((photos / "test").rglob("*.jpg"))
    status, text, _ = fastft("predict", out, image)
    assert status == 0
    assert text.startswith("With prob=")
    status, text, _ = fastft("predict", out, photos / "test", "--sheet", tmp_path / "sheet.png")
    assert status == 0
    assert "of 4 agree with their folder's name" in text
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_help_teaches(fastft: Run) -> None:
    for command in (
        "synth",
        "convert",
        "merge",
        "inspect",
        "check",
        "export-data",
        "train",
        "predict",
        "parity",
    ):
        status, text, _ = fastft(command, "--help")
        assert status == 0
        assert f"$ fastft {command}" in text
        # Square brackets in a help text would be taken for markup and vanish.
        assert not re.search(r" \.\s", text)


def a_png(folder: Path) -> Path:
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(folder / "1.png")
    return folder


def bad_inputs(tmp: Path, data: Path, photos: Path) -> dict[str, tuple[list[object], int, str]]:
    """name -> arguments, exit status, what the one line must hold."""
    (tmp / "file").write_text("x")
    (tmp / "empty").mkdir()
    a_png(tmp / "hollow" / "a")
    (tmp / "hollow" / "b").mkdir()
    a_png(tmp / "differ" / "train" / "a")
    a_png(tmp / "differ" / "test" / "b")
    shutil.copytree(photos, tmp / "cut")
    victim = sorted((tmp / "cut" / "train").rglob("*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:900])
    whole = (data / "train.beton").read_bytes()
    betons = {
        "nothing": b"",
        "short": whole[: len(whole) // 2],
        "newer": b"\x03\0" + whole[2:],
        "other": b"GIF89a" + bytes(4000),
    }
    for name, content in betons.items():
        (tmp / f"{name}.beton").write_bytes(content)
        (tmp / name).mkdir()
        (tmp / name / "train.beton").write_bytes(content)
        shutil.copy(data / "test.beton", tmp / name)
    for name in ("shards/train.1-of-1", "some/train.3-of-4"):
        (tmp / name).parent.mkdir()
        (tmp / f"{name}.beton").write_bytes(betons["short"])
    torch.save({"x": torch.zeros(1)}, tmp / "x.pt")
    out = ["--out", tmp / "run"]
    train = ["train", *out, "--weights", "none", "--size", 40, "--data"]
    rows: dict[str, tuple[list[object], int, str]] = {
        "no such folder": (["convert", tmp / "no", tmp / "o"], 1, "no such folder"),
        "a file": (["convert", tmp / "file", tmp / "o"], 1, "is a file, expected a folder"),
        "no classes": (["convert", tmp / "empty", tmp / "o"], 1, "holds no class folders"),
        "empty class": (["convert", tmp / "hollow", tmp / "o"], 1, "hollow/b: holds no images"),
        "other classes": (["convert", tmp / "differ", tmp / "o"], 1, "has no class a and"),
        "truncated": (
            ["convert", tmp / "cut", tmp / "o", "--max-bad", "0"],
            1,
            f"{victim.name}: ",
        ),
        "mode": (["convert", photos, tmp / "o", "--mode", "x"], 2, "--mode: 'x', expected one of"),
        "max-bad": (["convert", photos, tmp / "o", "--max-bad", "x"], 2, "--max-bad: 'x'"),
        "quality": (["convert", photos, tmp / "o", "--quality", 0], 2, "--quality: 0, expected 1"),
        "out is a folder": (["convert", photos, tmp / "file"], 2, "is one file"),
        "shard": (["convert", photos, tmp / "o", "--shard", "5/4"], 2, "--shard: '5/4', expected"),
        "no shard": (["convert", photos, tmp / "o", "--shard", "x"], 2, "--shard: 'x', expected i"),
        "many shards": (
            ["convert", photos, tmp / "o", "--shard", "1/9"],
            2,
            "9 shards for the 6 images of",
        ),
        "merge nothing": (["merge", tmp / "no"], 1, "no: has no shards, expected no.1-of-N"),
        "merge no shards": (["merge", data], 1, "has no shards, expected train.1-of-N"),
        "merge a shard": (["merge", tmp / "x.1-of-2.beton"], 2, "is shard 1 of 2, expected what"),
        "merge a short shard": (
            ["merge", tmp / "shards"],
            1,
            "train.1-of-1.beton: cut short at",
        ),
        "merge some shards": (["merge", tmp / "some"], 1, "some: lacks train.1-of-4.beton, "),
        "train on shards": ([*train, tmp / "some"], 1, f"; run fastft merge {tmp / 'some'}"),
        "inspect nothing": (["inspect", tmp / "no.beton"], 1, "no such file"),
        "inspect a folder": (["inspect", tmp], 1, "is a folder"),
        "train on nothing": ([*train, tmp / "no"], 1, "no such folder"),
        "train on a file": ([*train, data / "train.beton"], 1, "is a file"),
        "train without splits": ([*train, tmp / "empty"], 1, "has neither train nor test nor val"),
        "train on other classes": ([*train, tmp / "differ"], 1, "has no class a and"),
        "batch": ([*train, data, "--batch-size", 34], 2, "34 for the 33 images"),
        "loader": ([*train, data, "--loader", "x"], 2, "--loader: 'x', expected one of auto"),
        "device": ([*train, data, "--device", "cuda:9"], 2, "--device: cuda:9, but"),
        "amp": ([*train, data, "--amp", "x"], 2, "--amp: 'x'"),
        "epochs": ([*train, data, "--epochs", 0], 2, "--epochs: 0, expected 1"),
        "weights": ([*train, data, "--weights", tmp / "no.pt"], 1, "no.pt: no such file"),
        "not weights": ([*train, data, "--weights", tmp / "x.pt"], 1, "x.pt: has 1 numbers"),
        "predict nothing": (["predict", tmp / "no", photos], 1, "no such file"),
        "predict batch": (
            ["predict", tmp / "x.pt", photos, "--batch-size", 0],
            2,
            "--batch-size: 0, expected 1",
        ),
        "predict without a run": (["predict", tmp / "x.pt", photos], 1, "no fastft checkpoint"),
        "synth": (["synth", tmp / "s", "--classes", 1], 2, "classes"),
        "synth size": (["synth", tmp / "s", "--size", "big"], 2, "--size: 'big'"),
        "synth over something": (["synth", tmp / "hollow"], 1, "hollow"),
        "parity on nothing": (["parity", tmp / "no"], 1, "no such file"),
        "parity with a loader": (["parity", data, "--loaders", "x"], 2, "--loaders: 'x', expected"),
        "parity with stock": (["parity", data, "--loaders", "stock"], 2, "--loaders: 'stock'"),
        "parity of no images": (["parity", data, "--images", 0], 2, "--images: 0, expected 1"),
        "parity with seeds": (["parity", data, "--seeds", 3], 2, "--seeds: given without --acc"),
        "accuracy with stock": (
            ["parity", data, "--accuracy", "--stock"],
            2,
            "--stock: given with --accuracy",
        ),
        "accuracy of one split": (
            ["parity", data / "test.beton", "--accuracy", "--out", tmp / "run"],
            1,
            "is a file",
        ),
        "accuracy of one seed": (
            ["parity", data, "--accuracy", "--seeds", 1],
            2,
            "--seeds: 1, expected 2",
        ),
        "parity with another reference": (
            ["parity", data, "--reference", tmp / "hollow" / "a"],
            1,
            "holds no class folders",
        ),
        "parity into a file": (
            ["parity", data, "--out", tmp / "file"],
            2,
            "is a file, expected a folder",
        ),
        "parity of a broken file": (["parity", tmp / "short.beton"], 1, "cut short at"),
        "ffcv on folders": (
            [*train, photos, "--loader", "ffcv"],
            2,
            "a class folder, expected a .beton file",
        ),
        "no option": (["train", "--frobnicate"], 2, "No such option"),
        "missing": (["train", "--data", data], 2, "--out: missing, expected a folder to make"),
        "no number": ([*train, data, "--epochs", "many"], 2, "Invalid value for '--epochs'"),
    }
    messages = {
        "nothing": "0 bytes long",
        "short": "cut short at",
        "newer": "format version 3, expected",
        "other": "expected a .beton file",
    }
    for name, message in messages.items():
        rows[f"inspect {name}"] = (["inspect", tmp / f"{name}.beton"], 1, message)
        rows[f"train {name}"] = ([*train, tmp / name], 1, message)
    return rows


def test_bad_input_is_one_line_and_leaves_nothing(
    refuses: Callable[..., None], tmp_path: Path, data: Path, photos: Path
) -> None:
    rows = bad_inputs(tmp_path, data, photos)
    before = sorted(tmp_path.rglob("*"))
    for name, row in rows.items():
        refuses(name, *row)
        kept = [path for path in sorted(tmp_path.rglob("*")) if path.name != "o"]
        assert kept == before, name


def test_parity_reports_and_fails(
    fastft: Run, tmp_path: Path, data: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["parity", "--loaders", "torchvision", "--size", 48, "--out", tmp_path / "parity"]
    status, text, _ = fastft(*command, data, "--images", 8)
    assert status == 0
    assert "torchvision: passed (0); every pixel is the reference's" in text
    found = json.loads((tmp_path / "parity" / "pixels.json").read_text())
    assert found["passed"]
    assert found["images"] == 8
    assert {row["stage"] for row in found["rows"]} == {"whole", "resize", "decode"}
    assert all(row["distance"]["most"] == 0 for row in found["rows"])
    assert (tmp_path / "parity" / "pixels.png").stat().st_size > 10_000
    # A file whose photos have been encoded again is held against the photos.
    monkeypatch.setattr("fastft.parity.run.draw_worst", lambda *_: None)
    worse = tmp_path / "worse"
    for file in sorted((photos / "train").glob("*/*.jpg"))[::4]:
        (worse / file.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.save(worse / file.parent.name / file.name, quality=80)
    status, text, _ = fastft(*command, worse, "--reference", photos / "train")
    assert status == 1
    assert "torchvision: FAILED (0); its distance comes from what it decodes" in text
    assert re.search(r"as stored: the samples are \d\.\d+ levels from the reference", text)


def test_a_library_that_is_missing_is_named(
    fastft: Run, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("dali_loader", "dali_graph"):
        monkeypatch.delitem(sys.modules, f"pipelines.loaders.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    status, _, err = fastft(
        "train", "--data", data, "--out", tmp_path / "run", "--weights", "none", "--loader", "dali"
    )
    assert (status, err.count("\n")) == (2, 1)
    assert 'pip install "fastft[dali]"' in err
    assert not (tmp_path / "run").exists()


def test_a_bug_keeps_its_traceback(fastft: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli_convert, "run_convert", bug)
    with pytest.raises(ZeroDivisionError):
        fastft("convert", "a", "b")


def test_a_full_disk_is_one_line(fastft: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "run/metrics.jsonl")

    monkeypatch.setattr(cli_convert, "run_convert", full)
    status, _, err = fastft("convert", "a", "b")
    assert (status, err) == (1, "run/metrics.jsonl: No space left on device\n")


def test_ctrl_c_is_one_line(fastft: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_convert, "run_convert", interrupted)
    status, _, err = fastft("convert", "a", "b")
    assert (status, err) == (130, "fastft: interrupted\n")


class Stops:
    """Told to end while a class is made, as in an import."""

    def __set_name__(self, owner: type, name: str) -> None:
        raise Stopped(signal.SIGTERM)


def stops_in_a_class() -> None:
    type("Owner", (), {"stops": Stops()})


def stops_in_a_library() -> None:
    try:
        raise Stopped(signal.SIGINT)
    except Stopped as stopped:
        raise ImportError("the library's own words") from stopped


@pytest.mark.parametrize(
    ("run", "ended"),
    [(stops_in_a_class, (143, "", "")), (stops_in_a_library, (130, "", "fastft: interrupted\n"))],
)
def test_what_others_make_of_a_signal_stays_one(
    run: Callable[[], None],
    ended: tuple[int, str, str],
    fastft: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastft.cli.commands.run", run)
    assert fastft("train") == ended
