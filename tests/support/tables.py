"""Writes one table in every format, each by the library that people write it with, and lists it."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import FastftError
from pipelines.formats.columns import UNNAMED, ColumnNames
from pipelines.formats.tables.manifest import Manifest, open_manifest

Rows = Sequence[dict[str, Any]]


def write_csv(path: Path, rows: Rows, **options: Any) -> Path:
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Rows, **options: Any) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(list(rows)), path, **options)
    return path


def _write_categories(path: Path, rows: Rows) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(list(rows))
    columns = [
        each.dictionary_encode() if arrow.types.is_string(each.type) else each
        for each in table.columns
    ]
    parquet.write_table(arrow.table(columns, table.column_names), path)
    return path


def _write_large_strings(path: Path, rows: Rows) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(list(rows))
    fields = [
        field.with_type(arrow.large_string()) if arrow.types.is_string(field.type) else field
        for field in table.schema
    ]
    parquet.write_table(table.cast(arrow.schema(fields)), path, row_group_size=3)
    return path


def _write_by_pandas(path: Path, rows: Rows) -> Path:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    frame = pandas.DataFrame(list(rows))
    frame.to_csv(path) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


#: A writer's name -> the file's suffix, and the function that writes it.
WRITERS: dict[str, tuple[str, Callable[[Path, Rows], Path]]] = {
    "csv": (".csv", write_csv),
    "csv, lines of Unix": (".csv", lambda p, rows: write_csv(p, rows, lineterminator="\n")),
    "csv, quoted": (".csv", lambda p, rows: write_csv(p, rows, quoting=csv.QUOTE_ALL)),
    "csv, semicolons": (".csv", lambda p, rows: write_csv(p, rows, delimiter=";")),
    "csv of Excel": (".CSV", lambda p, rows: write_csv(p, rows, encoding="utf-8-sig")),
    "csv, lines of old": (".csv", lambda p, rows: write_csv(p, rows, lineterminator="\r")),
    "csv, empty lines": (".csv", lambda p, rows: write_csv(p, rows, lineterminator="\r\n\n")),
    "csv, quoted, empty lines": (
        ".csv",
        lambda p, rows: write_csv(p, rows, lineterminator="\n\n", quoting=csv.QUOTE_ALL),
    ),
    "csv of pandas": (".csv", _write_by_pandas),
    "tsv": (".tsv", lambda p, rows: write_csv(p, rows, delimiter="\t")),
    "jsonl": (".jsonl", write_json_lines),
    "ndjson": (".ndjson", write_json_lines),
    "parquet": (".parquet", write_parquet),
    "parquet, categories": (".parquet", _write_categories),
    "parquet, large strings": (".parquet", _write_large_strings),
    "parquet of pandas": (".parquet", _write_by_pandas),
}

Listings = dict[str, Manifest]


def read(path: Path, names: ColumnNames = UNNAMED, **options: Any) -> Listings:
    with open_manifest(path, names, **options) as listings:
        return dict(listings)


def read_text(folder: Path, text: str, names: ColumnNames = UNNAMED, **options: Any) -> Listings:
    """The listings of a CSV with this text, commas without spaces."""
    path = folder / "x.csv"
    path.write_text(text)
    return read(path, names, **options)


def failure(path: Path, names: ColumnNames = UNNAMED, **options: Any) -> str:
    """The message that refuses a table: one line."""
    with pytest.raises(FastftError) as caught:
        read(path, names, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
