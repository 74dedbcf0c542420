"""A table is the same listing in every format, and of the same files the same as class folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import (
    WRITERS,
    Listings,
    failure,
    read,
    read_text,
    write_csv,
    write_json_lines,
    write_parquet,
)

from pipelines.errors import DataError
from pipelines.formats.columns import ColumnNames, hash_words
from pipelines.formats.folder import read_folder
from pipelines.formats.tables import manifest


def describe(listings: Listings) -> Any:
    """All that listings say, to be compared."""
    return {
        split: {
            "classes": each.classes,
            "names": each.names,
            "labels": (each.labels.dtype.name, each.labels.tolist()),
            "task": each.columns.task,
            **{
                name: None if column is None else (column.dtype.name, column.tolist())
                for name in ("targets", "groups", "weights")
                for column in [getattr(each.columns, name)]
            },
        }
        for split, each in listings.items()
    }


ROWS: list[dict[str, Any]] = [
    {
        "Image Path": f"photos/{i}.jpg",
        "class": ("hot dog", "Käse", "x")[i % 3],
        "split": ("train", "VALID", "Testing", "training", "dev")[i // 3],
        "sample_weight": (1, 0.5)[i % 2],
        "patient-id": f"p{i // 2}",
        "note": i,
    }
    for i in range(15)
]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_the_same_listing(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    listings = read(write(tmp_path / f"x{suffix}", ROWS))
    assert list(listings) == ["train", "val", "test"]
    rows = {"train": [0, 1, 2, 9, 10, 11], "val": [3, 4, 5, 12, 13, 14], "test": [6, 7, 8]}
    assert describe(listings) == {
        split: {
            "classes": ("Käse", "hot dog", "x"),
            "names": tuple(f"photos/{i}.jpg" for i in numbers),
            "labels": ("int64", [(1, 0, 2)[i % 3] for i in numbers]),
            "task": "classes",
            "targets": None,
            "groups": ("uint64", hash_words([f"p{i // 2}" for i in numbers]).tolist()),
            "weights": ("float32", [(1, 0.5)[i % 2] for i in numbers]),
        }
        for split, numbers in rows.items()
    }
    assert all(each.ignored == {} and each.passed_over == () for each in listings.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "images"
    for i in range(7):
        file = root / f"{'ab'[i % 2]}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"photo %d" % i)
    return root


@pytest.mark.parametrize("is_absolute", [False, True])
def test_the_files_of_a_folder_are_its_samples(folder: Path, is_absolute: bool) -> None:
    theirs = read_folder(folder)
    start = f"{folder}/" if is_absolute else "images/"
    rows = [
        {"file_name": start + name, "label": theirs.classes[label]}
        for name, label in zip(theirs.names, theirs.labels, strict=True)
    ]
    listing = read(write_csv(folder.parent / "x.csv", rows))[""]
    assert listing.classes == theirs.classes
    assert listing.labels.tolist() == theirs.labels.tolist()
    assert len(listing) == len(theirs) == 7
    for i in range(7):
        assert listing.names[i] == start + theirs.names[i]
        assert listing.read(i) == theirs.read(i)
        assert listing.size_bytes(i) == theirs.size_bytes(i) == 7
    assert listing.where("b") == f"{folder.parent / 'x.csv'}: b"


def test_paths_are_relative_to_a_root(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("path,label\n./a//0.jpg,a\nb\\1.jpg,b\n../images/x/../a/2.jpg,a\n")
    listing = read(path, root=folder)[""]
    assert listing.names == ("a/0.jpg", "b/1.jpg", "../images/a/2.jpg")
    assert [listing.read(i) for i in range(3)] == [b"photo 0", b"photo 1", b"photo 2"]
    assert "--image-root: " in failure(path, root=folder / "a" / "0.jpg")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a//b", "a/b"),
        ("a/./b", "a/b"),
        ("./b", "b"),
        ("a/c/../b", "a/b"),
        ("../b", "../b"),
        ("a/b/", "a/b"),
        ("a/b/.", "a/b"),
        ("a/c/..", "a"),
        (".", "."),
        ("..", ".."),
        ("//a/b", "/a/b"),
        ("/a//b", "/a/b"),
        ("a\\b", "a/b"),
        (".a/.b", ".a/.b"),
        ("a b/ c ", "a b/ c "),
        ("c:/a.jpg", "c:/a.jpg"),
    ],
)
def test_a_path_is_normalized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    monkeypatch.setattr(manifest, "_PATHS", 2)  # each among others that are as they should be
    rows = [{"path": each, "label": "x"} for each in ("1", "2", path, "3", "4")]
    listing = read(write_csv(tmp_path / "x.csv", rows))[""]
    assert listing.names == ("1", "2", name, "3", "4")


def test_what_cannot_be_read_is_an_error_later(folder: Path) -> None:
    path = folder.parent / "x.csv"
    os.mkfifo(folder / "pipe.jpg")
    path.write_text(f"path,label\ngone.jpg,a\nimages,a\nimages/pipe.jpg,b\n{'x' * 300},b\n")
    listing = read(path)[""]
    assert [listing.size_bytes(i) for i in (0, 3)] == [0, 0]
    for i, said in enumerate(("No such file", "is no plain", "is no plain", "File name too long")):
        with pytest.raises(DataError, match=said):
            listing.read(i)


@pytest.mark.parametrize(
    ("labels", "classes", "order", "found"),
    [
        ("b a b", (), ("a", "b"), [1, 0, 1]),
        ("2 0 1 10 9 8 7 6 5 4 3", (), tuple(map(str, range(11))), [2, 0, 1, *range(10, 2, -1)]),
        ("1.0 0.0 1", (), ("0", "1"), [1, 0, 1]),
        ("1 0 1", ("cold", "hot"), ("cold", "hot"), [1, 0, 1]),
        ("2 1 10", (), ("1", "10", "2"), [2, 0, 1]),
        ("02 01 03.0", (), ("01", "02", "3"), [1, 0, 2]),
        ("1 x 1", (), ("1", "x"), [0, 1, 0]),
    ],
)
def test_labels_by_name_or_number(
    tmp_path: Path, labels: str, classes: tuple[str, ...], order: tuple[str, ...], found: list[int]
) -> None:
    rows = [{"path": f"{i}", "label": label} for i, label in enumerate(labels.split())]
    listing = read(write_csv(tmp_path / "x.csv", rows), classes=classes)[""]
    assert listing.classes == order
    assert listing.labels.tolist() == found


def test_columns_are_named_in_any_case(tmp_path: Path) -> None:
    text = "path,Path2,y,Kind,fold\n1,a,b,c,0\n2,d,e,f,1\n"
    listing = read_text(tmp_path, text, ColumnNames(image="PATH2", label="Kind"))[""]
    assert (listing.names, listing.classes) == (("a", "d"), ("c", "f"))
    listing = read_text(tmp_path, text, ColumnNames(group="fold"))[""]
    assert (listing.names, listing.classes) == (("1", "2"), ("b", "e"))
    assert listing.columns.groups is not None
    text = "path,label,set,weight,group\na,b,c,d,\n"
    listing = read_text(tmp_path, text, ColumnNames(split="-", weight="-", group="-"))[""]
    assert listing.columns.is_empty


SEVERAL = [
    ({"x.jpg": "a;b", "y.jpg": "", "z.jpg": "b; a ;b"}, "ab"),
    ({"x.jpg": "a|b", "y.jpg": "", "z.jpg": "b|a"}, "ab"),
    ({"x.jpg": "a,b", "y.jpg": "", "z.jpg": "b,a"}, "ab"),
    ({"x.jpg": "a b", "y.jpg": " ", "z.jpg": "b  a"}, "ab"),
    ({"x.jpg": "a c;b,c", "y.jpg": "", "z.jpg": "b,c;a c"}, ("a c", "b,c")),
    ({"x.jpg": '["a", "b"]', "y.jpg": "[]", "z.jpg": ' ["b","a"]'}, "ab"),
    ({"x.jpg": "0;1", "y.jpg": "", "z.jpg": "1 ;0"}, "01"),
    ({"x.jpg": "[1, 0]", "y.jpg": "", "z.jpg": "0,1"}, "01"),
]


@pytest.mark.parametrize(("cells", "classes"), SEVERAL, ids=lambda value: str(value)[10:30])
def test_several_labels_in_a_text(
    tmp_path: Path, cells: dict[str, str], classes: tuple[str, ...]
) -> None:
    rows = [{"path": name, "tags": cell} for name, cell in cells.items()]
    listing = read(write_csv(tmp_path / "x.csv", rows), ColumnNames(task="labels"))[""]
    assert describe({"": listing})[""]["targets"] == ("float32", [[1, 1], [0, 0], [1, 1]])
    assert listing.classes == tuple(classes)
    assert listing.columns.task == "labels"
    assert listing.labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_several_labels_as_lists(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    lists = [["b", "a"], [], ["c"], ["b"], ["a", "b", "c"]]
    rows = [
        {"path": f"{i}", "tags": json.dumps(each) if kind == "csv" else each, "split": split}
        for i, (each, split) in enumerate(zip(lists, ["train"] * 3 + ["val"] * 2, strict=True))
    ]
    listings = read(write(tmp_path / f"x{suffix}", rows))
    assert [each.classes for each in listings.values()] == [("a", "b", "c")] * 2
    targets = [each["targets"][1] for each in describe(listings).values()]
    assert targets == [[[1, 1, 0], [0, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 1, 1]]]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("classes", [(), ("x", "y", "z")])
def test_lists_of_0_and_1_say_which(tmp_path: Path, kind: str, classes: tuple[str, ...]) -> None:
    suffix, write = WRITERS[kind]
    flags = [[1, 0, 1], [0, 0, 0], [0, 1, 1]]
    rows = [{"path": f"{i}", "labels": each} for i, each in enumerate(flags)]
    path = write(tmp_path / f"x{suffix}", rows)
    listing = read(path, classes=classes)[""]
    assert listing.classes == (classes or ("0", "1", "2"))
    assert describe({"": listing})[""]["targets"] == ("float32", flags)
    assert "lists of 3 in 'labels', expected 2, as --classes" in failure(path, classes=("x", "y"))


FLAGS = "file,cat,Dog,eel,age,weight\n1,1,0,true,7,1\n2,0,0,False,8,2\n3,1.0,1,0,9,1\n"


def test_columns_of_0_and_1_are_labels(tmp_path: Path) -> None:
    listing = read_text(tmp_path, FLAGS, ColumnNames(label="eel,cat"))[""]
    assert (listing.classes, listing.columns.task) == (("eel", "cat"), "labels")
    assert describe({"": listing})[""]["targets"] == ("float32", [[1, 1], [0, 0], [0, 1]])
    listing = read_text(tmp_path, FLAGS, ColumnNames(task="labels"))[""]
    assert listing.classes == ("cat", "Dog", "eel")
    assert describe({"": listing})[""]["targets"][1] == [[1, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert describe({"": listing})[""]["weights"] == ("float32", [1, 2, 1])
    listing = read_text(tmp_path, "path,cat\n1,0\n2,1\n", ColumnNames(task="labels"))[""]
    assert (listing.classes, listing.columns.targets.tolist()) == (("cat",), [[0], [1]])  # type: ignore[union-attr]


def test_a_split_may_lack_classes_of_train(tmp_path: Path) -> None:
    text = "path,label,split\n1,b,train\n2,a,train\n3,b,val\n"
    listings = read_text(tmp_path, text)
    assert listings["val"].classes == listings["train"].classes == ("a", "b")
    assert listings["val"].labels.tolist() == [1]


def test_one_of_several_columns_is_a_class(tmp_path: Path) -> None:
    names = ColumnNames(label="b, a", task="classes")
    listing = read_text(tmp_path, "path,a,b\n1,1,0\n2,0,1\n3,1,0\n", names)[""]
    assert (listing.classes, listing.labels.tolist()) == (("b", "a"), [1, 0, 1])
    assert listing.columns.is_empty
    path = tmp_path / "x.csv"
    path.write_text("path,a,b\n1,1,0\n2,1,1\n")
    assert "line 3: 2 of 2 columns are 1, expected one, with" in failure(path, names)
    path.write_text("path,a,b\n1,1,0\n2,1,0\n")
    assert "has no class b, expected the same classes" in failure(path, names)


@pytest.mark.parametrize("kind", ["csv", "csv, quoted", "jsonl", "parquet"])
def test_numbers_are_targets(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    rows = [{"path": f"{i}", "age": i / 4 - 1} for i in range(9)]
    path = write(tmp_path / f"x{suffix}", rows)
    listing = read(path, ColumnNames(label="age", task="number"))[""]
    assert listing.columns.task == "number"
    assert (listing.classes, listing.labels.tolist()) == (("age",), [0] * 9)
    assert describe({"": listing})[""]["targets"] == ("float32", [[i / 4 - 1] for i in range(9)])


def test_the_same_table_of_all_formats_is_exact(tmp_path: Path) -> None:
    """Numbers that no short text says are the same float32 in each."""
    values = np.random.default_rng(3).normal(size=200).tolist()
    rows = [{"path": f"{i}", "y": value} for i, value in enumerate(values)]
    paths = [
        write_csv(tmp_path / "x.csv", rows),
        write_json_lines(tmp_path / "x.jsonl", rows),
        write_parquet(tmp_path / "x.parquet", rows),
    ]
    found = [describe(read(path, ColumnNames(task="number"))) for path in paths]
    assert found[0] == found[1] == found[2]
    assert found[0][""]["targets"][1] == np.float32(values)[:, None].tolist()
