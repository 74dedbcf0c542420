"""Inputs of `check`: tables, splits that it is to make, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from runs import Command


def test_tables_are_looked_at(photos: Path, fastft: Command, tmp_path: Path) -> None:
    files = sorted((photos / "train").rglob("*.jpg"))
    rows = [f"{file},{file.parent.name}" for file in files]
    (tmp_path / "t.csv").write_text("\n".join(["file,kind", *rows]) + "\n")
    out = tmp_path / "out"
    status, _, _ = fastft("check", tmp_path / "t.csv", "--label-column", "kind", "--out", out)
    assert status == 0
    found = json.loads((out / "check.json").read_text())
    assert sum(split["images"] for split in found["splits"]) == len(files)
    status, _, err = fastft("check", photos, "--label-column", "kind")
    assert (status, "--label-column: given for" in err) == (2, True)


@pytest.mark.usefixtures("undrawn")
def test_a_split_to_make_is_looked_at(photos: Path, fastft: Command, tmp_path: Path) -> None:
    src = tmp_path / "photos"
    for copy in ("", "x"):  # of 33 photos, so that some copies lie on both sides
        for file in (photos / "train").rglob("*.jpg"):
            (src / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, src / file.parent.name / f"{file.stem}{copy}.jpg")
    whole = tmp_path / "whole.beton"
    fastft("convert", src, whole)
    leaks = []
    for data in (src, whole):
        out = tmp_path / f"out-{data.stem}"
        args = ("--out", out, "--val-split", "0.3", "--strict", "--max-sheet", "1")
        assert fastft("check", data, *args)[0] == 1
        leaks.append(json.loads((out / "check.json").read_text())["groups"])
    assert leaks[0] == leaks[1]
    group = ("--group-by", "[0-9]+")  # the copies of one
    assert fastft("check", src, "--out", tmp_path / "kept", *args[2:], *group)[0] == 0


BAD = {
    "no such folder": (["check", "TMP/none"], 1, "no such file or folder"),
    "no beton": (["check", "TMP/file.beton"], 1, "TMP/file.beton"),
    "no data at all": (["check", "TMP/empty"], 1, "holds no class folders"),
    "images where classes should be": (["check", "TMP/loose"], 1, "one folder per class"),
    "no zip": (["check", "TMP/file.zip"], 1, "TMP/file.zip"),
    "out is a file": (["check", "PHOTOS", "--out", "TMP/file.beton"], 2, "is a file"),
    "out is a folder of others": (["check", "PHOTOS", "--out", "TMP/loose"], 2, "other files"),
    "threshold": (["check", "PHOTOS", "--threshold", "13"], 2, "--threshold"),
    "negative threshold": (["check", "PHOTOS", "--threshold", "-1"], 2, "--threshold"),
    "size": (["check", "PHOTOS", "--size", "1"], 2, "--size"),
    "workers": (["check", "PHOTOS", "--workers", "-1"], 2, "--workers"),
    "sheet": (["check", "PHOTOS", "--max-sheet", "0"], 2, "--max-sheet"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(
    name: str,
    photos: Path,
    tmp_path: Path,
    refuses: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("file.beton", "file.zip"):
        (tmp_path / file).write_text("nothing of the kind")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "loose" / "1.png")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    arguments, status, said = BAD[name]
    places = {"TMP": str(tmp_path), "PHOTOS": str(photos)}
    for word, place in places.items():
        arguments = [each.replace(word, place) for each in arguments]
        said = said.replace(word, place)
    refuses(name, arguments, status, said)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
