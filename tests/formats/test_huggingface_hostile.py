import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hugging import NO_NAMES, failure, make_images, read_all
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.errors import DataError, FastftError, UsageError
from pipelines.formats.columns import ColumnNames
from pipelines.formats.packed.huggingface import is_image_parquet, open_arrow

arrow: Any = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet: Any = pytest.importorskip("pyarrow.parquet")

IMAGE = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
LABEL = {"_type": "ClassLabel", "names": ["a", "b"]}


def make_table(labels: list, features: dict | None = None, **columns: Any) -> Any:
    """A table of images and labels; `features` is what `datasets` says of its columns."""
    said = {"image": {"_type": "Image"}, **(features or {})}
    images = arrow.array(
        [{**each, "bytes": each["bytes"][:40]} for each in make_images(len(labels))], IMAGE
    )
    table = arrow.table({"image": images, "label": labels, **columns})
    text = json.dumps({"info": {"features": said}})
    return table.replace_schema_metadata({"huggingface": text})


def write(table: Any, path: Path, **options: Any) -> Path:
    """A table as Parquet, or as a folder of Arrow as `save_to_disk` makes it."""
    if path.suffix == ".parquet":
        parquet.write_table(table, path, **options)
        return path
    path.mkdir(parents=True, exist_ok=True)
    with arrow.ipc.new_stream(path / "data.arrow", table.schema, **options) as target:
        target.write_table(table, 3)
    (path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    return path


@pytest.mark.parametrize("name", ["x", "x.parquet"])
@pytest.mark.parametrize(
    ("labels", "features", "said"),
    [
        ([0, None], {"label": LABEL}, "a/0.jpg|1.jpg: no 'label', expected one for each image"),
        ([0, -1], {"label": LABEL}, "1.jpg: 'label' is '-1', expected a class number"),
        ([0, 2], {"label": LABEL}, "'label' is '2', expected 0 to 1, for 2 classes"),
        ([0, 0], {"label": LABEL}, "has no class b, expected the same classes"),
        ([0, 2], {}, "label 1 has no rows, expected each of 0 to 2"),
        ([0, 1], {"label": {**LABEL, "names": ["a", "a"]}}, "are not told apart by name"),
        ([0, 1], {"label": {**LABEL, "names": ["a", 3]}}, "says of column 'label' no names of"),
        ([0, 1], {"label": {**LABEL, "names": ["A", "a"]}}, "'A' and 'a', one name on other file"),
        ([0, 1], {"label": {"_type": "ClassLabel"}}, "says of column 'label' no names"),
        ([b"x", b"y"], {}, "column 'label' is binary, expected text, numbers or lists"),
        ([[[1]], [[0]]], {}, "column 'label' is list"),
        ([{"x": 1}, {"x": 2}], {}, "column 'label' is struct"),
        ([float("nan"), 0.0], {}, "'label' is 'nan', expected a class number"),
        ([], {}, "holds no rows"),
    ],
)
def test_bad_labels_are_refused(
    tmp_path: Path, name: str, labels: list, features: dict, said: str
) -> None:
    src = write(make_table(labels, features), tmp_path / name)
    with pytest.raises(DataError, match=said) as caught, open_arrow(src, NO_NAMES):
        pass
    assert str(caught.value).startswith(str(src))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x", "x.parquet"])
def test_what_no_column_may_be_is_said(tmp_path: Path, name: str) -> None:
    src = write(make_table([0, 1]).rename_columns(["image", "x"]), tmp_path / name)
    assert "no column by a usual name for their labels" in failure(src)
    two = make_table([0, 1], one=make_table([0, 1]).column("image"))
    src = write(two.rename_columns(["left", "label", "right"]), tmp_path / name)
    assert "'left' and 'right' may be the images, expected one column" in failure(src)
    src = write(arrow.table({"path": ["x.jpg"], "label": [0]}), tmp_path / name)
    assert "holds no images, expected a column of images" in failure(src)
    with pytest.raises(UsageError, match=r"--split-column: 'fold', expected a table"):
        read_all(src, ColumnNames(split="fold"))


def test_a_split_must_mean_the_same_classes(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    write(make_table([0, 1], {"label": LABEL}), tmp_path / "x" / "train.parquet")
    other = {"label": {**LABEL, "names": ["b", "a"]}}
    write(make_table([0, 1], other), tmp_path / "x" / "test.parquet")
    assert "test.parquet: its numbers in 'label' mean other classes" in failure(tmp_path / "x")
    write(make_table([0, 1]).drop_columns("label"), tmp_path / "x" / "test.parquet")
    assert "test.parquet: has no column 'label', expected int64, as in" in failure(tmp_path / "x")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("state.json", "{", "state.json: its JSON is damaged"),
        ("state.json", "[" * 99_999, "state.json: its JSON is damaged"),
        ("state.json", "[]", "state.json: lists no files"),
        ("state.json", '{"_data_files": [{"filename": "../data.arrow"}]}', "lists no files"),
        ("state.json", '{"_data_files": [{"filename": "/etc/passwd"}]}', "lists no files"),
        ("state.json", '{"_data_files": [{"filename": ".."}]}', "lists no files"),
        ("state.json", '{"_data_files": [{"filename": 3}]}', "lists no files"),
        ("state.json", '{"_data_files": [{"filename": "none.arrow"}]}', "none.arrow: no such"),
        (
            "state.json",
            '{"_data_files": [{"filename": "data.arrow"}], "_indices_data_files": [3]}',
            "picks its rows by another file",
        ),
        ("dataset_dict.json", "3", "dataset_dict.json: lists no splits"),
        ("dataset_dict.json", '{"splits": ["../x"]}', "lists no splits"),
        ("dataset_dict.json", '{"splits": ["train", 3]}', "lists no splits"),
        ("dataset_dict.json", '{"splits": ["test"]}', "has test but no train folder"),
        ("dataset_dict.json", '{"splits": ["a", "b"]}', "has the splits a, b, expected train"),
        ("dataset_dict.json", '{"splits": ["train", "training"]}', "expected one folder for train"),
        ("dataset_dict.json", '{"splits": ["train"]}', "train: holds no state.json and no .arrow"),
        (
            "dataset_info.json",
            '{"features": {"label": {"_type": "ClassLabel", "names": 1}}}',
            "says of column 'label' no names",
        ),
    ],
)
def test_lists_of_files_are_not_trusted(tmp_path: Path, file: str, text: str, said: str) -> None:
    src = write(make_table([0, 1]).replace_schema_metadata(None), tmp_path / "x")
    assert read_all(src)
    (src / file).write_text(text)
    assert said in failure(src)


@pytest.mark.parametrize("name", ["x", "x.parquet"])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: b"",
        lambda x: b"no data" * 99,
        lambda x: x[:-200],
        lambda x: x[: len(x) // 2],
        lambda x: x[:8],
        lambda x: bytes(len(x)),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    src = write(make_table([0, 1] * 20), tmp_path / name)
    file = src / "data.arrow" if src.is_dir() else src
    file.write_bytes(change(file.read_bytes()))
    message = failure(src)
    assert message.startswith(f"{file}: cannot be read as ")
    if name == "x.parquet":
        with pytest.raises(DataError, match="cannot be read as a Parquet file"):
            is_image_parquet(src)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_arrow_is_refused(tmp_path: Path, compression: str) -> None:
    options = arrow.ipc.IpcWriteOptions(compression=compression)
    src = write(make_table([0, 1] * 900), tmp_path / "x", options=options)
    assert "data.arrow: its buffers are compressed" in failure(src)


def test_a_compressed_dictionary_is_refused(tmp_path: Path) -> None:
    words = arrow.array(["a" * 999, "b"]).dictionary_encode()
    options = arrow.ipc.IpcWriteOptions(compression="zstd")
    src = write(make_table([0, 1], word=words), tmp_path / "x")
    assert read_all(src)
    write(make_table([0, 1], word=words), tmp_path / "x", options=options)
    assert "its buffers are compressed" in failure(src)


def test_rows_that_take_no_bytes_are_refused(tmp_path: Path) -> None:
    rows = 3_000_000
    images = arrow.nulls(rows, IMAGE)
    table = arrow.table({"image": images, "label": arrow.array([0] * rows, arrow.int8())})
    src = write(table, tmp_path / "x.parquet")
    assert src.stat().st_size < rows
    assert "says that it has 3,000,000 rows in" in failure(src)


def test_offsets_out_of_the_file_are_refused(tmp_path: Path) -> None:
    src = write(make_table([0, 1, 1]), tmp_path / "x")
    content = bytearray((src / "data.arrow").read_bytes())
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 40, 80, 120))
    at = content.index(offsets)
    content[at + 12 : at + 16] = (1 << 30).to_bytes(4, "little")
    (src / "data.arrow").write_bytes(content)
    assert "data.arrow: cannot be read as an Arrow stream" in failure(src)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.parquet")
    assert "x.parquet: is no plain file" in failure(tmp_path / "x.parquet")
    assert not is_image_parquet(tmp_path / "x.parquet")
    src = write(make_table([0, 1]), tmp_path / "y")
    (src / "data.arrow").unlink()
    os.mkfifo(src / "data.arrow")
    assert "data.arrow: is no plain file" in failure(src)


def _seed() -> bytes:
    target = io.BytesIO()
    table = make_table([0, 1] * 4, {"label": LABEL})
    parquet.write_table(table, target, row_group_size=3)
    return target.getvalue()


SEED = _seed()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.binary(max_size=9)), max_size=3),
    end=st.integers(0, len(SEED)) | st.just(len(SEED)),
)
@example(edits=[], end=len(SEED))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], end: int
) -> None:
    content = bytearray(SEED)
    for at, piece in edits:
        content[at : at + len(piece)] = piece
    path = tmp_path_factory.getbasetemp() / "fuzzed.parquet"
    path.write_bytes(content[:end])
    said = ""
    try:
        found = read_all(path)
    except FastftError as error:
        said = str(error)
    assert said.count("\n") == 0
    assert said or found
