"""Several labels and numbers in a `.beton`: ours, stock FFCV's, hostile ones."""

import importlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import FormatError, UsageError
from pipelines.formats import beton_writer
from pipelines.formats.beton import read_index
from pipelines.formats.beton_labels import TYPE_NDARRAY, describe_rows, place_rows
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.columns import Columns, Task, hash_words, join_columns
from pipelines.formats.layout import DESCRIPTOR, HEADER, MODE_RAW, About, Stored

LABELS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]], np.float32)
NAMES = ("cat", "dog", "outdoors")
DESCRIBED_AT = HEADER.itemsize + DESCRIPTOR.itemsize


def write(path: Path, columns: Columns, classes: tuple[str, ...] = NAMES) -> None:
    samples = len(columns.targets) if columns.targets is not None else 5
    with BetonWriter(path, samples) as writer:
        for i in range(samples):
            data = bytes([i, 50, 200]) * 12
            writer.append(Stored(MODE_RAW, 12, 1, data), 0, f"p/{i}.png", zlib.crc32(data))
        writer.finish(About(classes=classes, columns=columns))
        writer.publish()


@pytest.mark.parametrize(
    ("task", "targets", "classes"),
    [
        ("labels", LABELS, NAMES),
        ("labels", LABELS[:, :1], NAMES[:1]),
        ("number", np.array([[2.5], [-1e30], [0], [7], [1e-20]], np.float32), ("age",)),
    ],
)
def test_rows_are_read_as_written(
    tmp_path: Path, task: Task, targets: Any, classes: tuple[str, ...]
) -> None:
    groups, weights = hash_words(["a", "a", "b", "c", "c"]), np.array([1, 2, 0.5, 3, 1], np.float32)
    columns = Columns(task=task, targets=targets, groups=groups, weights=weights)
    write(tmp_path / "a.beton", columns, classes)
    index = read_index(tmp_path / "a.beton")
    found = index.columns
    assert (found.task, index.classes) == (task, classes)
    np.testing.assert_array_equal(found.targets, targets)
    np.testing.assert_array_equal(found.groups, groups)
    np.testing.assert_array_equal(found.weights, weights)
    assert index.labels.tolist() == [0] * 5
    assert index.names() == [f"p/{i}.png" for i in range(5)]


def test_columns_stay_with_plain_classes(tmp_path: Path) -> None:
    weights = np.arange(1, 6, dtype=np.float32)
    write(tmp_path / "a.beton", Columns(weights=weights))
    found = read_index(tmp_path / "a.beton").columns
    np.testing.assert_array_equal(found.weights, weights)
    assert (found.task, found.targets, found.groups) == ("classes", None, None)


def test_a_part_is_numbered_anew(tmp_path: Path) -> None:
    write(tmp_path / "a.beton", Columns(task="labels", targets=LABELS))
    whole = read_index(tmp_path / "a.beton")
    part = whole.take(np.array([4, 1, 3])).take(np.array([2, 0]))
    assert [part.name(i) for i in range(2)] == part.names() == ["p/3.png", "p/4.png"]
    assert [part.stored(i) for i in range(2)] == [whole.stored(3), whole.stored(4)]
    np.testing.assert_array_equal(part.columns.targets, LABELS[[3, 4]])
    assert part.fingerprint() != whole.fingerprint()
    function, arguments = part.__reduce__()
    again = function(*arguments)  # type: ignore[operator]
    assert (again.names(), again.widths.tolist()) == (part.names(), part.widths.tolist())


def test_stock_ffcv_reads_rows(
    tmp_path: Path, read_by_stock_ffcv: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pages so small that rows of labels fill several of them.
    monkeypatch.setattr(beton_writer, "PAGE_BYTES", 64)
    path = tmp_path / "a.beton"
    write(path, Columns(task="labels", targets=LABELS))
    np.testing.assert_array_equal(read_index(path).columns.targets, LABELS)
    for _, labels in read_by_stock_ffcv((path, True), (path, False)):
        np.testing.assert_array_equal(labels, LABELS)


def test_the_description_is_ffcvs_own() -> None:
    reason = "ffcv is not installed"
    pytest.importorskip("pipelines.loaders.ffcv_loader", reason=reason, exc_type=UsageError)
    fields = importlib.import_module("ffcv.fields")
    theirs = fields.NDArrayField(np.dtype("<f4"), (7,)).to_binary()[0]
    ours = describe_rows(7)
    assert bytes(theirs[: len(ours)]) == ours.tobytes()
    assert not theirs[len(ours) :].any()
    types = importlib.import_module("ffcv.types")
    assert types.TYPE_ID_HANDLER[TYPE_NDARRAY] is fields.NDArrayField


@pytest.mark.parametrize(
    ("dtype", "values", "task"), [("<f4", [0, 1, 1], "labels"), ("<i8", [3], "number")]
)
def test_stock_ffcvs_rows_are_read(
    tmp_path: Path, dtype: str, values: list[int], task: str
) -> None:
    reason = "ffcv is not installed"
    pytest.importorskip("pipelines.loaders.ffcv_loader", reason=reason, exc_type=UsageError)
    fields = importlib.import_module("ffcv.fields")
    writer = importlib.import_module("ffcv.writer")
    path, kind = tmp_path / "stock.beton", np.dtype(dtype)
    rows = [np.roll(np.array(values, kind), i) + (i if task == "number" else 0) for i in range(6)]
    images = [np.full((9, 8, 3), i, np.uint8) for i in range(6)]
    field = fields.NDArrayField(kind, (len(values),))
    columns = {"image": fields.RGBImageField(write_mode="raw"), "label": field}
    made = writer.DatasetWriter(str(path), columns, num_workers=1)
    made.from_indexed_dataset(list(zip(images, rows, strict=True)), chunksize=3)
    found = read_index(path).columns
    assert found.task == task
    np.testing.assert_array_equal(found.targets, np.array(rows, np.float32))


def test_rows_never_cross_a_page() -> None:
    for start, first in ((0, 0), (1, 4), (64, 64), (100, 100), (110, 128), (108, 108), (109, 128)):
        for samples in (1, 2, 50):
            places = place_rows(start, samples, 5, 64)
            assert places[0] == first
            assert (places // 64 == (places + 19) // 64).all()
            assert (np.diff(places.astype(np.int64)) >= 20).all()


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (1 + 16, (4).to_bytes(8, "little"), "labels are of another size"),
        (1 + 16, (0).to_bytes(8, "little"), "labels of shape none"),
        (1 + 16, (1 << 40).to_bytes(8, "little"), "labels of shape 1099511627776"),
        (1 + 16 + 8, (2).to_bytes(8, "little"), "labels of shape 3 x 2"),
        (1 + 16 + 32 * 8, (1 << 60).to_bytes(8, "little"), "of no type that is read"),
        (1 + 16 + 33 * 8, b'[["", "|O"]]   ', "of no type that is read"),
        (1 + 16 + 33 * 8, b'[["", "<U4"]]  ', "of no type that is read"),
        (1 + 16 + 33 * 8, b"[[[[[[[[[[[[[[[", "of no type that is read"),
        (1 + 16 + 33 * 8, b'[["", "<f8"]]  ', "labels are of another size"),
        (0, b"\5", "fields of types [2, 5]"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, at: int, data: bytes, words: str) -> None:
    path = tmp_path / "a.beton"
    write(path, Columns(task="labels", targets=LABELS))
    overwrite(path, DESCRIBED_AT + at, data)
    with pytest.raises(FormatError) as caught:
        read_index(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "not of the task"), (np.nan, "no finite"), (1.0, "have changed")]
)
def test_changed_labels_are_noticed(tmp_path: Path, value: float, words: str) -> None:
    path = tmp_path / "a.beton"
    write(path, Columns(task="labels", targets=LABELS))
    at = path.read_bytes().index(LABELS.tobytes())
    overwrite(path, at + 4, np.float32(value).tobytes())
    with pytest.raises(FormatError, match=words):
        read_index(path)


def test_columns_of_another_length_are_refused(tmp_path: Path) -> None:
    for columns in (
        Columns(weights=np.ones(4, np.float32)),
        Columns(weights=np.array([1, 1, 1, 1, -1], np.float32)),
        Columns(groups=np.ones(6, np.uint64)),
    ):
        write(tmp_path / "a.beton", columns)
        with pytest.raises(FormatError, match="cannot be read"):
            read_index(tmp_path / "a.beton")


def test_columns_join_where_all_have_them() -> None:
    part = Columns(task="labels", targets=LABELS, weights=np.ones(5, np.float32))
    joined = join_columns([part, replace(part, weights=None)])
    assert joined.targets is not None
    assert (joined.task, len(joined.targets), joined.weights) == ("labels", 10, None)
