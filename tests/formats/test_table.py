"""Tables of every format give the same text, and what is none is refused in one line."""

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tables import WRITERS, write_csv, write_json_lines, write_parquet

from pipelines.errors import DataError, FastftError, FormatError, UsageError
from pipelines.formats.tables import delimited, json_lines, parquet, text
from pipelines.formats.tables.opening import TABLE_SUFFIXES, open_table
from pipelines.formats.tables.table import require_room

ROWS: list[dict[str, Any]] = [
    {"path": f"a/{i}.jpg", "label": ("hot dog", "Käse", "x")[i % 3], "n": i, "split": "train"}
    for i in range(11)
]


def read(path: Path, image: str, *coded: str) -> tuple[list[str], list[list[Any]]]:
    with open_table(path) as table:
        texts, columns = table.read(image, coded)
    assert all(len(set(column.values)) == len(column.values) for column in columns)
    return texts, [[column.values[code] for code in column.codes] for column in columns]


def failure(path: Path, *coded: str) -> str:
    """The message that refuses a table: one line."""
    with pytest.raises(FastftError) as caught:
        read(path, "path", *coded)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_says_the_same(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    texts, columns = read(write(tmp_path / f"x{suffix}", ROWS), "path", "label", "n", "split")
    assert texts == [row["path"] for row in ROWS]
    assert columns == [[str(row[name]) for row in ROWS] for name in ("label", "n", "split")]


@pytest.mark.parametrize("kind", WRITERS)
def test_pieces_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for module in (delimited, json_lines, parquet):
        monkeypatch.setattr(module, "_ROWS", 2)
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 30)
    monkeypatch.setattr(text, "_BLOCK_BYTES", 70)
    suffix, write = WRITERS[kind]
    texts, columns = read(write(tmp_path / f"x{suffix}", ROWS), "path", "n")
    assert texts == [row["path"] for row in ROWS]
    assert columns == [[str(row["n"]) for row in ROWS]]


@pytest.mark.parametrize("kind", WRITERS)
def test_only_columns_that_are_asked_for(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    texts, columns = read(write(tmp_path / f"x{suffix}", ROWS), "label")
    assert texts == [row["label"] for row in ROWS]
    assert columns == []


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_values_become_text(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    rows = [
        {"path": "1", "x": 3.0, "y": True, "z": ["a", "b"], "m": 2**60, "e": None},
        {"path": None, "x": 0.5, "y": None, "z": [], "m": -1, "e": None},
    ]
    texts, columns = read(write(tmp_path / f"x{suffix}", rows), "path", *"xyzme")
    assert texts == ["1", ""]
    assert columns[:2] == [["3", "0.5"], ["True", ""]]
    assert columns[2:] == [[("a", "b"), ()], [str(2**60), "-1"], ["", ""]]


def test_quoted_cells_hold_anything(tmp_path: Path) -> None:
    rows = [{"path": 'a,"b"\r\nc.jpg', "label": "1;2\n3\t4"}, {"path": " ", "label": "é"}]
    texts, (labels,) = read(write_csv(tmp_path / "x.csv", rows), "path", "label")
    assert texts == ['a,"b"\r\nc.jpg', " "]
    assert labels == ["1;2\n3\t4", "é"]


def test_a_row_is_placed_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'\n"path",label\n\n"a\nb",1\r\n\nc,2\nd,3')
    with open_table(path) as table:
        assert [table.place(row) for row in range(3)] == ["line 4", "line 7", "line 8"]
        assert table.place(3) == "row 4"
    path = path.with_suffix(".jsonl")
    path.write_bytes(b'\n{"path":1}\n \n{"path":2}')
    with open_table(path) as table:
        assert [table.place(row) for row in range(2)] == ["line 2", "line 4"]


@pytest.mark.parametrize("block", range(3, 9))
@pytest.mark.parametrize(
    ("content", "is_bare"),
    [(b"\r\n\r\n\xc3\xa9\r\n\r\n", False), (b"a\rb\n", True), (b"\r\r\n", True), (b"\n\r", True)],
)
def test_bare_returns_are_found_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, content: bytes, is_bare: bool
) -> None:
    monkeypatch.setattr(text, "_BLOCK_BYTES", block)
    (tmp_path / "x.csv").write_bytes(content)
    with (tmp_path / "x.csv").open("rb") as file:
        found = text.check_text(tmp_path / "x.csv", file)
    assert found.has_bare_returns is is_bare


CELLS = some.text(some.sampled_from("ab é\t;.|'"), max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    rows=some.lists(some.lists(CELLS, min_size=3, max_size=3), max_size=9),
    ends=some.sampled_from(["\n", "\r\n", "\n\n", "\r\n\n\r\n"]),
    separator=some.sampled_from([",", ";", "\t"]),
    block=some.integers(1, 40),
    is_ended=some.booleans(),
)
def test_splitting_says_what_csv_says(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    ends: str,
    separator: str,
    block: int,
    is_ended: bool,
) -> None:
    path = tmp_path_factory.mktemp("split") / "x.csv"
    clean = [[cell.replace(separator, "_") for cell in row] for row in rows]
    lines = ends.join(separator.join(row) for row in [["p", "q", "r"], *clean])
    path.write_bytes((lines + ends * is_ended).encode())
    expected = list(csv.reader(io.StringIO(path.read_bytes().decode(), ""), delimiter=separator))
    columns = list(zip(*filter(None, expected[1:]), strict=True)) or [(), (), ()]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(delimited, "_BLOCK_BYTES", block)
        patched.setattr(delimited.Delimited, "_parse", None)
        texts, coded = read(path, "p", "q", "r")
    assert [texts, *coded] == [list(column) for column in columns]


BAD = {
    "empty": (".csv", b"", "is empty"),
    "a mark alone": (".csv", b"\xef\xbb\xbf", "is empty"),
    "empty lines": (".csv", b"\n\r\n\n", "names no columns"),
    "UTF-16": (".csv", "path,label".encode("utf-16"), "is UTF-16 or UTF-32, expected UTF-8"),
    "Latin-1": (".csv", b"path,label\na,b\nc,\xe9t\xe9\n", "line 3: no UTF-8 (b'\\xe9t\\xe9"),
    "half a letter": (".csv", b"path,label\na,\xc3", "line 2: ends within a letter"),
    "a NUL": (".csv", b"path,label\na,b\nc,\0\n", "line 3: a NUL byte, expected text"),
    "no header": (".csv", b"a/1.JPG,cat\nb,dog\n", "begins with 'a/1.JPG', expected the names of"),
    "twice": (".csv", b"path,label,label\n", "two columns are named 'label', expected each name"),
    "short": (".csv", b"path,label\na,b\n\nc\n", "line 4: 1 cell, expected 2, one for each col"),
    "long": (".csv", b"path,label\na,b\nc,d,e\n", "line 3: 3 cells, expected 2"),
    "long, quoted": (".csv", b'path,label\n"a\nb",b\nc,d,e\n', "line 4: 3 cells, expected 2"),
    "open quote": (".csv", b'path,label\na,b\n"c,d\ne,f\n', "line 3: unexpected end of data"),
    "odd quote": (".tsv", b'path\tlabel\n"a"b\tc\n', "line 2: '\t' expected after"),
    "open quote first": (".csv", b'"path,label\na,b\n', "line 1: unexpected end of data"),
    "huge cell": (".csv", b'path,label\na,"' + b"b" * 200_000 + b'"\n', "line 2: field larger"),
    "endless line": (".csv", b"path,label\n" + b"a" * (3 << 20), "line 2: does not end, expect"),
    "no JSON": (".jsonl", b'{"path": 1}\n{"path": }\n', "line 2: cannot be read as JSON (Expec"),
    "two values": (".jsonl", b'{"path": 1} {"path": 2}\n', "line 1: cannot be read as JSON (more"),
    "a list": (".jsonl", b"[1]\n", "line 1: JSON of '[1]', expected an object for each line"),
    "no key": (
        ".jsonl",
        b'{"path": 1, "l": 2}\n{"path": 1}\n',
        "line 2: no 'l', expected the keys",
    ),
    "other key": (
        ".jsonl",
        b'{"path": 1}\n{"path": 1, "x": 2}\n',
        "line 2: the additional key 'x'",
    ),
    "NaN": (".jsonl", b'{"path": NaN}\n', "line 1: cannot be read as JSON (NaN is no JSON)"),
    "deep": (".jsonl", b'{"path": ' + b"[" * 200_000 + b"\n", "line 1: cannot be read as JSON (t"),
    "long number": (".jsonl", b'{"path": ' + b"9" * 9999 + b"}\n", "line 1: cannot be read as JS"),
    "an object": (".jsonl", b'{"path": {}}\n', "line 1: an object as 'path', expected text, num"),
    "lists in lists": (".jsonl", b'{"path": [[1]]}\n', "line 1: a list of lists or objects as 'p"),
    "a list of paths": (".jsonl", b'{"path": ["a"]}\n', "line 1: a list as 'path', expected text"),
    "empty lines only": (".ndjson", b"\n \n", "names no columns"),
    "no Parquet": (".parquet", b"path,label\na,b\n" * 9, "cannot be read as Parquet (Parquet ma"),
    "empty Parquet": (".parquet", b"", "cannot be read as Parquet ("),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused(tmp_path: Path, kind: str) -> None:
    suffix, content, said = BAD[kind]
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    found = failure(path)
    assert found.startswith(f"{path}: ")
    assert said.encode("unicode_escape").decode() in found or said in found


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "x.csv: no such file" in failure(tmp_path / "x.csv")
    (tmp_path / "y.csv").mkdir()
    assert "y.csv: is a folder, expected a table" in failure(tmp_path / "y.csv")
    os.mkfifo(tmp_path / "z.csv")
    assert "z.csv: is no plain file" in failure(tmp_path / "z.csv")
    assert "file name too long" in failure(tmp_path / f"{'x' * 300}.csv")
    with pytest.raises(UsageError, match=r"x\.txt: is no table by its name, expected one of \.csv"):
        read(tmp_path / "x.txt", "path")


def test_a_file_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "x.csv", ROWS)
    monkeypatch.setattr(text, "MOST_TEXT_BYTES", 100)
    assert f"{path.stat().st_size} bytes long, expected at most 100" in failure(path)
    monkeypatch.setattr(parquet, "MOST_TEXT_BYTES", 50)
    assert "more text in 'path', exp" in failure(write_parquet(tmp_path / "x.parquet", ROWS))
    with pytest.raises(DataError, match="at most 134,217,728"):
        require_room(path, 1 << 28, 1)
    with pytest.raises(DataError, match="1,000,000 rows and more of 2,000 columns, expected at mo"):
        require_room(path, 1_000_000, 2_000)


def test_rows_are_counted_while_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (delimited, json_lines, parquet):
        monkeypatch.setattr(module, "require_room", lambda path, rows, coded: 1 / (rows < 11))
    for suffix, write in ((".csv", write_csv), (".jsonl", write_json_lines)):
        with pytest.raises(ZeroDivisionError):
            read(write(tmp_path / f"x{suffix}", ROWS), "path")
    with pytest.raises(ZeroDivisionError):
        read(write_parquet(tmp_path / "x.parquet", ROWS), "path")


def test_types_that_say_nothing_are_refused(tmp_path: Path) -> None:
    rows = [{"path": "a", "x": {"bytes": b"1"}, "y": b"1", "z": [[1]], "l": ["a"]}]
    path = write_parquet(tmp_path / "x.parquet", rows)
    for name, kind in (("x", "struct<bytes: binary>"), ("y", "binary"), ("z", "list<")):
        found = failure(path, name)
        assert f"column '{name}' is {kind}" in found
        assert "expected text or numbers, or lists of them; name another column" in found
    with pytest.raises(FormatError, match=r"column 'l' is list<.*, expected text; name another"):
        read(path, "l")
    with open_table(path) as table:
        assert [name for name in table.columns if table.has_values(name)] == ["path", "l"]


def test_without_pyarrow_parquet_alone_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pyarrow is not installed, expected it to read Parquet; pip install 'fastft[data]'" in (
        failure(tmp_path / "x.parquet")
    )
    for suffix, write in ((".csv", write_csv), (".jsonl", write_json_lines)):
        assert len(read(write(tmp_path / f"x{suffix}", ROWS), "path")[0]) == len(ROWS)


def mutate(content: bytes, changes: Sequence[tuple[int, bytes]]) -> bytes:
    for at, new in changes:
        place = at % (len(content) + 1)
        content = content[:place] + new + content[place + at % 3 :]
    return content


TOKENS = (b"", b"\0", b"\xff", b'"', b",", b"\n", b"\r", b"{", b"]", b"null", b"1e999", b"\\ud800")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("valid")
    rows = [{**row, "tags": ["a", "b"]} for row in ROWS]
    files = [write_csv(folder / "x.csv", ROWS), write_csv(folder / "x.tsv", ROWS, delimiter="\t")]
    files += [write_json_lines(folder / "x.jsonl", rows)]
    return {path.suffix: path.read_bytes() for path in files}


CHANGES = some.lists(
    some.tuples(some.integers(0, 1 << 16), some.sampled_from(TOKENS) | some.binary(max_size=4)),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(changes=CHANGES, suffix=some.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_damaged_text_is_refused_or_read(
    valid: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, bytes]],
    suffix: str,
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"x{suffix}"
    path.write_bytes(mutate(valid[suffix], changes))
    assert "\n" not in read_all(path)


@settings(max_examples=150, deadline=None)
@given(changes=CHANGES, codec=some.sampled_from(["none", "snappy"]))
def test_damaged_parquet_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], codec: str
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.parquet"
    rows = [{**row, "tags": ["a", "b"]} for row in ROWS]
    path.write_bytes(mutate(write_parquet(path, rows, compression=codec).read_bytes(), changes))
    assert "\n" not in read_all(path)


def read_all(path: Path) -> str:
    """Read all columns of a table that may be damaged; the words that it is refused with."""
    try:
        with open_table(path) as table:
            names = [name for name in table.columns if name]
            texts, columns = table.read(names[0], names[1:])
    except FastftError as error:
        return str(error)
    assert all(isinstance(each, str) for each in texts)
    for column in columns:
        assert column.codes.dtype == np.int32
        assert len(column.codes) == len(texts)
        assert all(isinstance(each, (str, tuple)) for each in column.values)
    return ""


def test_suffixes_are_those_that_open() -> None:
    assert TABLE_SUFFIXES == (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
