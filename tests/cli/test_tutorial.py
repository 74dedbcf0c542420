"""The tutorial from its download to its last prediction, and what goes wrong on the way."""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from records import pack, write_rec
from runs import make_checkpoint
from sites import Site, serve

from fastft.runs.checkpoint import save_checkpoint
from pipelines.formats.beton import read_index

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("shallow")
SMALL = ["--size", 40, "--batch-size", 11, "--epochs", 1, "--amp", "off", "--loader", "resident"]
#: The default takes thrice as long; `test_d2l` holds it against the tutorial's own code.
LIGHT = ["--arch", "shufflenet_v2_x0_5"]


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


@pytest.fixture
def archive(photos: Path, tmp_path: Path) -> Path:
    """The synthetic photos as the tutorial's archive has its own: below one folder."""
    path = tmp_path / "hotdog.zip"
    with zipfile.ZipFile(path, "w") as target:
        for file in sorted(photos.rglob("*.jpg")):
            target.write(file, f"hotdog/{file.relative_to(photos)}")
    return path


@pytest.mark.usefixtures("undrawn")
def test_from_download_to_prediction(
    fastft: Run,
    site: Site,
    archive: Path,
    data: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    site.body = archive.read_bytes()
    sha1 = hashlib.sha1(site.body).hexdigest()
    status, text, err = fastft("fetch", f"{site.base}/x.zip", "sets", "--sha1", sha1)
    assert (status, err) == (0, "")
    assert "sets/hotdog: 39 files" in text
    # The folder and the zip itself give the same file.
    for source, out in (("sets/hotdog", "a"), ("hotdog.zip", "b")):
        assert fastft("convert", source, out)[0] == 0
    assert Path("a/train.beton").read_bytes() == Path("b/train.beton").read_bytes()

    status, text, _ = fastft("show", "a")
    assert (status, text) == (0, "sheet.png\n")
    assert Path("sheet.png").stat().st_size > 10_000
    # Source model, saved; target model from it, trained.
    source = ["train", "--data", "a", "--out", "source", "--weights", "none", *SMALL, *LIGHT]
    assert fastft(*source)[0] == 0
    status, text, err = fastft(
        "train",
        "--data",
        "a",
        "--out",
        "run",
        "--weights",
        "source",
        "--recipe",
        "d2l",
        *SMALL,
        *LIGHT,
    )
    assert (status, err) == (0, "")
    assert "not taken from source: fc.weight [3, 8], fc.bias [3]" in text
    assert re.search(r"images/s, \d+% of step time waiting for input\n(input|model)-bound", text)
    settings = json.loads(Path("run/config.json").read_text())["config"]
    assert (settings["recipe"], settings["loss"], settings["lr"]) == ("d2l", "sum", 5e-5)
    # A run's own settings repeat it.
    status, _, _ = fastft("train", "--config", "run/config.json", "--out", "again")
    assert status == 0
    rows = [
        [
            json.loads(line)["loss"]
            for line in Path(run, "metrics.jsonl").read_text().splitlines()
            if '"step"' in line[:20]
        ]
        for run in ("run", "again")
    ]
    assert rows[0] == rows[1] != []

    status, text, _ = fastft("evaluate", "run", "--data", "a")
    assert status == 0
    assert Path("run/evaluation/confusion.png").exists()
    status, text, _ = fastft("predict", "run", next((photos / "test").rglob("*.jpg")))
    assert status == 0
    assert re.fullmatch(r"With prob=0\.\d{3}, \w+\n", text)


def test_the_older_data_set(fastft: Run, photos: Path, tmp_path: Path) -> None:
    """RecordIO with few positives, scale jitter, and a loss that weighs them."""
    files = sorted((photos / "train").rglob("*.jpg"))
    records = [pack(file.read_bytes(), float(at % 6 == 0), at) for at, file in enumerate(files)]
    (tmp_path / "rec").mkdir()
    for name in ("hotdog_train.rec", "hotdog_val.rec"):
        write_rec(tmp_path / "rec" / name, records, keys=range(len(records)))
    data = tmp_path / "data"
    command = ["convert", tmp_path / "rec", data, "--classes", "not-hotdog,hotdog"]
    assert fastft(*command)[0] == 0
    index = read_index(data / "train.beton")
    assert index.classes == ("not-hotdog", "hotdog")
    assert index.labels.sum() == 6
    train = ["train", "--data", data, "--weights", "none", "--recipe", "recordio", *SMALL]
    train += LIGHT
    status, _, err = fastft(*train, "--out", tmp_path / "run", "--lr", 0.01)
    assert (status, err) == (0, "")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (settings["view"], settings["class_weight"]) == ("recordio", "hotdog=1.2,*=0.2")


def test_settings_may_come_from_a_file(fastft: Run, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(
        f'data = "{data}"\nweights = "none"\nsize = 40\nepochs = 1\nbatch-size = 11\n'
        'amp = "off"\nloader = "resident"\noptimizer = "adamw"\narch = "shufflenet_v2_x0_5"\n'
    )
    status, text, err = fastft("train", "--config", file, "--out", tmp_path / "run", "--lr", 1e-4)
    assert (status, err) == (0, "")
    assert "adamw, lr 0.0001" in text


def test_help_names_every_command_and_option(fastft: Run) -> None:
    for command in ("fetch", "show", "evaluate", "compare", "sweep"):
        status, text, _ = fastft(command, "--help")
        assert status == 0
        assert f"$ fastft {command}" in text
        assert not re.search(r" \.\s", text)  # what square brackets would leave of a text
    # What trains many times takes what training takes; of a rate it has an option of its own.
    for command in ("train", "compare", "sweep"):
        _, text, _ = fastft(command, "--help")
        assert all(option in text for option in ("--recipe", "--freeze", "--arch", "--loader"))
        assert len(re.findall(r"│ [* ]  ?--lr |│ --lr ", text)) == 1


def bad_inputs(tmp: Path, site: Site, data: Path) -> dict[str, tuple[list[object], int, str]]:
    """name -> arguments, exit status, what the one line must hold."""
    (tmp / "text.pt").write_text("no checkpoint")
    torch.save({"x": torch.zeros(1)}, tmp / "x.pt")
    save_checkpoint(tmp / "run.pt", make_checkpoint(data, ("bar", "cross", "moon")))
    torch.save(torch.nn.Linear(2, 2), tmp / "pickled.pt")
    with zipfile.ZipFile(tmp / "escape.zip", "w") as target:
        target.writestr("../outside.jpg", b"x")
    site.body = (tmp / "escape.zip").read_bytes()
    write_rec(tmp / "cut.rec", [pack(b"image", 0, 0), pack(b"image", 1, 1)])
    (tmp / "cut.rec").write_bytes((tmp / "cut.rec").read_bytes()[:-6])
    (tmp / "bad.toml").write_text("learning_rate = 1\n")
    url, out = f"{site.base}/x.zip", ["--out", tmp / "run"]
    train = ["train", *out, *SMALL, "--data", data, "--weights"]
    return {
        "fetch nothing known": (["fetch", "cats"], 2, "cats"),
        "fetch no http": (["fetch", "file:///etc/passwd", tmp / "got"], 2, "file:"),
        "fetch a wrong hash": (["fetch", url, tmp / "got", "--sha1", "0" * 40], 1, "SHA-1"),
        "fetch no hash": (["fetch", url, tmp / "got", "--sha1", "abc"], 2, "40 hex digits"),
        "fetch what escapes": (["fetch", url, tmp / "got"], 1, "../outside.jpg"),
        "convert what escapes": (["convert", tmp / "escape.zip", tmp / "o"], 1, "outside.jpg"),
        "convert a cut record": (["convert", tmp / "cut.rec", tmp / "o"], 1, "cut.rec"),
        "convert classes of folders": (
            ["convert", data, tmp / "o", "--classes", "a,b"],
            2,
            "--classes",
        ),
        "show nothing": (["show", tmp / "no"], 1, "no such"),
        "show no class": (["show", data, "--classes", "moon"], 2, "--classes: 'moon'"),
        "show crops of nothing": (["show", data, "--view", "eval"], 2, "--augmented"),
        "train on text": ([*train, tmp / "text.pt"], 1, "not readable as a checkpoint"),
        "train on a pickle": ([*train, tmp / "pickled.pt"], 1, "not readable as a checkpoint"),
        "train on no weights": ([*train, tmp / "x.pt"], 1, "x.pt: has 1 numbers, expected"),
        "train by no recipe": ([*train, "none", "--recipe", "x"], 2, "--recipe: 'x'"),
        "train by no file": ([*train, "none", "--config", tmp / "no.toml"], 1, "no such file"),
        "train by a bad file": (
            [*train, "none", "--config", tmp / "bad.toml"],
            2,
            "a setting 'learning_rate'",
        ),
        "train no data": (["train", *out], 2, "--data: missing"),
        "train no arch": ([*train, "none", "--arch", "resnet9"], 2, "--arch: 'resnet9'"),
        "train a row that is not there": (
            [*train, tmp / "run.pt", "--reuse-head", "ring=3"],
            2,
            "a row that",
        ),
        "train a class that is not there": (
            [*train, tmp / "run.pt", "--reuse-head", "moon=1"],
            2,
            "whose class is not there",
        ),
        "weigh a class that is not there": (
            [*train, "none", "--class-weight", "hotdog=6"],
            2,
            "--class-weight: 'hotdog'",
        ),
        "freeze too much": ([*train, tmp / "run.pt", "--freeze", "stages:9"], 2, "stages:1 to"),
        "run away": ([*train, "none", "--lr", 1e6, "--schedule", "constant"], 1, "step "),
        "compare nothing": (["compare", *out, "--data", data, "--weights", "none"], 2, "--weights"),
        "compare no seeds": (["compare", *out, "--data", data, "--seeds", 0], 2, "--seeds: 0"),
        "sweep nothing": (["sweep", *out, "--data", data, "--lr", "fast"], 2, "--lr: 'fast'"),
        "sweep one": (["sweep", *out, "--data", data, "--lr", "1"], 2, "two rates or more"),
        "evaluate text": (["evaluate", tmp / "text.pt", "--data", data], 1, "not readable"),
        "evaluate other classes": (
            ["evaluate", tmp / "run.pt", "--data", data, *out],
            1,
            "moon",
        ),
        "predict by a pickle": (["predict", tmp / "pickled.pt", data], 1, "not readable"),
        "predict no pattern": (["predict", tmp / "run.pt", tmp / "*.jpg"], 1, "*.jpg"),
    }


def test_bad_input_is_one_line_and_leaves_nothing(
    refuses: Callable[..., None],
    site: Site,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = bad_inputs(tmp_path, site, data)
    before = sorted(tmp_path.rglob("*"))
    for name, row in rows.items():
        refuses(name, *row)
        shutil.rmtree(tmp_path / "got", ignore_errors=True)  # an empty folder that was asked for
        assert sorted(tmp_path.rglob("*")) == before, name


def test_a_download_that_is_cut_off_continues(
    fastft: Run, site: Site, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []
    monkeypatch.setattr("fastft.datasets.download.time.sleep", paused.append)
    site.body = archive.read_bytes()
    half = len(site.body) // 2
    site.statuses = [404]
    status, _, err = fastft("fetch", f"{site.base}/x.zip", tmp_path / "got")
    assert (status, err.count("\n")) == (1, 1)
    assert "404" in err
    site.cuts = [half]
    status, text, err = fastft("fetch", f"{site.base}/x.zip", tmp_path / "got")
    assert (status, err) == (0, "")
    assert site.asked[-1] == f"bytes={half}-"
    assert paused == [1.0]
    assert "--sha256" in text
