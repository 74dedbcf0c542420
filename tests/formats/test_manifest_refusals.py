"""Tables that are refused, and the messages: one line with place, found and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import choose
from hypothesis import given, settings
from hypothesis import strategies as some
from tables import WRITERS, failure, read, read_text, write_json_lines

from pipelines.errors import FastftError, UsageError
from pipelines.formats.columns import UNNAMED, ColumnNames
from pipelines.formats.tables.manifest import Manifest

NUMBER = ColumnNames(task="number")
LABELS = ColumnNames(task="labels")
BAD: dict[str, tuple[str, ColumnNames, tuple[str, ...], str]] = {
    "no rows": ("path,label\n", UNNAMED, (), "has no rows, expected one for each image; fetch"),
    "no path": ("path,label\na,b\n,b\n", UNNAMED, (), "line 3: no 'path', expected the path of"),
    "no label": ("path,label\na,b\nc, \n", UNNAMED, (), "line 3: no 'label', expected one for e"),
    "no split": ("path,label,split\na,b,\n", UNNAMED, (), "line 2: no 'split', expected one for"),
    "no group": ("path,label,group\na,b,\n", UNNAMED, (), "line 2: no 'group', expected one for"),
    "a URL": (
        "path,label\na,b\ns3://x/y.jpg,b\n",
        UNNAMED,
        (),
        "line 3: 'path' is 's3://x/y.jpg', expected the path of a file; download the images fir",
    ),
    "twice": (
        "path,label\na,b\nc,d\n./a,b\n",
        UNNAMED,
        (),
        "line 4: 'a' again, as in line 2, expected each image once; remove one of the rows",
    ),
    "a leak": (
        "path,label,split\na,b,test\na,b,train\n",
        UNNAMED,
        (),
        "line 3: 'a' again, as in line 2, there in test and here in train, expected each image",
    ),
    "unknown split": (
        "path,label,set\na,b,train\nc,d,holdout\n",
        UNNAMED,
        (),
        "line 3: 'set' is 'holdout', expected train, val or test; rename it, or take no column",
    ),
    "no train": (
        "path,label,split\na,b,val\n",
        UNNAMED,
        (),
        "has val but no train rows, expected train beside test or val; take all as one: --split-",
    ),
    "class of test alone": (
        "path,label,split\na,b,train\nc,b,test\nc2,d,test\n",
        UNNAMED,
        (),
        "split test: has the additional class d, expected the same classes in every split",
    ),
    "alike": ("path,label\na,b\nc,B\n", UNNAMED, (), "has the classes 'B' and 'b', one name on"),
    "a gap": (
        "path,label\na,0\nb,2\n",
        UNNAMED,
        (),
        "label 1 has no rows, expected each of 0 to 2 to have some; add rows, or renumber them",
    ),
    "negative": ("path,label\na,0\nb,-1\n", UNNAMED, (), "line 3: 'label' is '-1', expected a cl"),
    "a fraction": (
        "path,label\na,0\nb,0.5\n",
        UNNAMED,
        (),
        "line 3: 'label' is '0.5', expected a class number (0, 1, ...) or names; see --task num",
    ),
    "NaN": ("path,label\na,0\nb,nan\n", UNNAMED, (), "line 3: 'label' is 'nan', expected a class"),
    "endless": ("path,label\na,0\nb,1e999\n", UNNAMED, (), "line 3: 'label' is '1e999', expected"),
    "beyond classes": (
        "path,label\na,0\nb,2\n",
        UNNAMED,
        ("x", "y"),
        "line 3: 'label' is '2', expected 0 to 1, for 2 classes; name every class by --classes",
    ),
    "class without rows": ("path,label\na,0\n", UNNAMED, ("x", "y"), "has no class y, expected th"),
    "names for names": (
        "path,label\na,b\n",
        UNNAMED,
        ("x", "y"),
        "--classes: given for {path}, whose labels are names, expected labels that are numbers;",
    ),
    "names for a number": ("path,y\na,1\n", NUMBER, ("x",), "--classes: given for {path}, expect"),
    "no number": (
        "path,y\na,1\nb,ten\n",
        NUMBER,
        (),
        "line 3: 'y' is 'ten', expected a finite number",
    ),
    "decimal comma": (
        "path;y\na;1,5\n",
        NUMBER,
        (),
        "line 2: 'y' is '1,5', expected a finite number; write it with a point",
    ),
    "infinity": ("path,y\na,inf\n", NUMBER, (), "line 2: 'y' is 'inf', expected a finite number"),
    "beyond float32": ("path,y\na,1e39\n", NUMBER, (), "'y' is '1e39', expected a finite number"),
    "underscores": ("path,y\na,1_0\n", NUMBER, (), "'y' is '1_0', expected a finite number"),
    "weight 0": ("path,y,weight\na,b,1\nc,d,0\n", UNNAMED, (), "line 3: 'weight' is '0', expected"),
    "tiny weight": (
        "path,y,weight\na,b,1e-99\n",
        UNNAMED,
        (),
        "'1e-99', expected a number above 0",
    ),
    "a list of Python": (
        "path,tags\na,\"['b', 'c']\"\n",
        LABELS,
        (),
        "expected a list of labels in JSON; write a list as JSON, or its labels with ; between",
    ),
    "no labels at all": (
        "path,tags\na,\n",
        LABELS,
        (),
        "no labels in 'tags', expected at least on",
    ),
    "label of test alone": (
        "path,tags,split\na,b,train\nc,b;d,test\n",
        LABELS,
        (),
        "split test: has the additional label d, expected those of the training split",
    ),
    "label numbers with a gap": ("path,tags\na,0;2\n", LABELS, (), "label 1 has no rows, expected"),
    "flags": ("path,tags\na,0 1 0 0\n", LABELS, (), "expected the numbers of its labels; write as"),
    "no flags": (
        "path,a,b\na,2,x\n",
        LABELS,
        (),
        "no column by a usual name for labels, and none that holds only 0 and 1, expected labels",
    ),
    "no flag": (
        "path,a,b\na,1,0\nb,1,7\n",
        ColumnNames(label="a,b"),
        (),
        "line 3: 'b' is '7', expected 0 or 1, as of several --label-column",
    ),
    "names for flags": (
        "path,a,b\na,1,0\n",
        ColumnNames(label="a,b"),
        ("x",),
        "expected labels that are class numbers; it has columns, whose names are classes",
    ),
    "two numbers": (
        "path,a,b\na,1,0\n",
        ColumnNames(label="a,b", task="number"),
        (),
        "--label-column: 2 columns, expected one with --task number",
    ),
    "a column twice": (
        "path,a,b\na,1,0\n",
        ColumnNames(label="a,A"),
        (),
        "--label-column: 'a,A', expected each column once; its columns are path, a, b",
    ),
    "two images": (
        "path,file_name,label\na,b,c\n",
        UNNAMED,
        (),
        "'path' and 'file_name' may be the paths of images, expected one column for them; name "
        "it by --image-column; its columns are path, file_name, label",
    ),
    "two labels": ("path,class,y\na,b,c\n", UNNAMED, (), "name it by --label-column; its columns"),
    "two splits": ("path,y,Set,split\na,b,c,d\n", UNNAMED, (), "name it by --split-column; its"),
    "two weights": ("path,y,Weight,weight\na,b,1,1\n", UNNAMED, (), "name it by --weight-column;"),
    "two groups": ("path,y,subject,patient\na,b,1,1\n", UNNAMED, (), "name it by --group-column;"),
    "no image column": (
        "a,label\nb,c\n",
        UNNAMED,
        (),
        "no column by a usual name for the paths of images, expected path, file, filename, file_"
        "name, filepath or the like; name it by --image-column; its columns are a, label",
    ),
    "no label column": ("path,z\nb,c\n", UNNAMED, (), "name it by --label-column; its columns ar"),
    "a wrong name": (
        "path,label\nb,c\n",
        ColumnNames(split="x"),
        (),
        "--split-column: 'x', expected the name of a column of {path}; its columns are path, la",
    ),
    "one for two": (
        "path,label\nb,c\n",
        ColumnNames(group="path"),
        (),
        "--group-column: 'path', which is used twice, expected a column for each; its columns are",
    ),
    "a label for two": (
        "path,label\nb,c\n",
        ColumnNames(label="path"),
        (),
        "--label-column: 'path', which is used twice, expected a column for each; its columns are",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_table_is_refused(tmp_path: Path, kind: str) -> None:
    text, names, classes, said = BAD[kind]
    path = tmp_path / "x.csv"
    path.write_text(text)
    assert said.replace("{path}", str(path)) in failure(path, names, classes=classes)


@pytest.mark.parametrize("kind", ["two images", "a wrong name", "names for names"])
def test_what_was_asked_wrongly_is_usage(tmp_path: Path, kind: str) -> None:
    text, names, classes, _ = BAD[kind]
    with pytest.raises(UsageError):
        read_text(tmp_path, text, names, classes=classes)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"path": None, "label": "a"}, "no 'path'"),
        ({"path": "a\0b", "label": "a"}, r"'path' is 'a\x00b', expected the path of a file"),
        ({"path": "a", "label": None}, "no 'label'"),
        ({"path": "a", "label": "b", "split": None}, "no 'split'"),
    ],
)
def test_nothing_is_no_value(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    rows = [{**row, "path": "x"}, row]
    rows[0].update({name: "train" for name, value in row.items() if value is None})
    for kind in ("jsonl", "parquet"):
        suffix, write = WRITERS[kind]
        place = "line 2" if kind == "jsonl" else "row 2"
        assert f"{place}: {said}" in failure(write(tmp_path / f"x{suffix}", rows))


@pytest.mark.parametrize("name", ["path", "label", "tags", "group"])
def test_what_is_no_unicode_is_refused(tmp_path: Path, name: str) -> None:
    row = {"path": "a", "label": "b", "group": "c", "tags": ["d"]}
    bad = "\ud800"
    odd = {**row, name: [bad] if name == "tags" else bad}
    names = ColumnNames(label="tags" if name == "tags" else "label")
    found = failure(write_json_lines(tmp_path / "x.jsonl", [{**row, "path": "x"}, odd]), names)
    assert f"line 2: '{name}' is " in found


def test_a_list_is_no_class(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "x.jsonl", [{"path": "a", "label": ["b"]}])
    said = "line 1: a list as 'label', expected one value"
    assert said in failure(path, ColumnNames(task="classes"))


CELL = some.sampled_from(
    [
        "a",
        "b.jpg",
        "0",
        "1",
        "2",
        "0.5",
        "nan",
        "1e400",
        "-1",
        "",
        " ",
        "train",
        "val",
        "x;y",
        "[1]",
    ]
) | some.text(max_size=3)
HEADER = some.sampled_from(["path", "label", "split", "weight", "group", "tags", "a", "b"])


@settings(max_examples=choose(60, 400), deadline=None)
@given(
    header=some.lists(HEADER, min_size=1, max_size=5, unique=True),
    rows=some.lists(some.lists(CELL, min_size=5, max_size=5), max_size=6),
    task=some.sampled_from(["", "classes", "labels", "number"]),
    label=some.sampled_from(["", "tags", "a,b", "-"]),
    classes=some.sampled_from([(), ("x", "y")]),
)
def test_only_errors_of_ours_come(
    tmp_path_factory: pytest.TempPathFactory,
    header: list[str],
    rows: list[list[str]],
    task: Any,
    label: str,
    classes: tuple[str, ...],
) -> None:
    path = tmp_path_factory.mktemp("odd") / "x.jsonl"
    write_json_lines(path, [dict(zip(header, row, strict=False)) for row in rows])
    try:
        listings = read(path, ColumnNames(task=task, label=label), classes=classes)
    except FastftError as error:
        one_line = str(error)
    else:
        one_line = ""
        names = [name for each in listings.values() for name in each.names]
        assert len(names) == len(rows) == len(set(names))
        for listing in listings.values():
            check(listing)
    assert "\n" not in one_line


def check(listing: Manifest) -> None:
    columns = listing.columns
    assert len(listing) == len(listing.labels) > 0
    assert set(listing.labels.tolist()) <= set(range(len(listing.classes)))
    if columns.targets is not None:
        assert columns.targets.shape == (len(listing), len(listing.classes))
        assert np.isfinite(columns.targets).all()
    if columns.weights is not None:
        assert (columns.weights > 0).all()
        assert np.isfinite(columns.weights).all()
