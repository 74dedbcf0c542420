"""Inputs of `check`: tables, and splits that it is to make."""

import json
import shutil
from pathlib import Path

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


def test_a_split_to_make_is_looked_at(photos: Path, fastft: Command, tmp_path: Path) -> None:
    src = tmp_path / "photos"
    for copy in ("", "x", "y", "z"):  # of 33 photos, so that some copies lie on both sides
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
