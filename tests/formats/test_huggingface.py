import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hugging import (
    NO_NAMES,
    WORDS,
    expected_of,
    failure,
    load_datasets,
    make_dataset,
    make_images,
    open_descriptors,
    read_all,
)

from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import ColumnNames
from pipelines.formats.packed import arrow_files, parquet_files
from pipelines.formats.packed.huggingface import is_arrow_folder, is_image_parquet, open_arrow


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    return load_datasets(monkeypatch, tmp_path / "cache")


def save(dataset: Any, path: Path, kind: str) -> Path:
    """A data set as a folder of Arrow, or as Parquet of small row groups."""
    if kind == "arrow":
        dataset.save_to_disk(path, num_shards=min(3, len(dataset)))
        return path
    path = path.with_suffix(".parquet")
    dataset.to_parquet(path, batch_size=17)
    return path


KINDS = pytest.mark.parametrize("kind", ["arrow", "parquet"])


@KINDS
def test_every_row_is_read_as_datasets_does(
    datasets: ModuleType, tmp_path: Path, kind: str
) -> None:
    dataset = make_dataset(datasets, 100)
    src = save(dataset, tmp_path / "x", kind)
    assert read_all(src) == {"": expected_of(dataset)}
    with open_arrow(src, NO_NAMES) as listings:
        listing = listings[""]
        assert listing.classes == WORDS
        assert listing.labels.dtype == np.int64
        assert listing.names[:2] == ("cat/0.jpg", "dog/1.jpg")
        sizes = np.array([len(listing.read(i)) for i in range(100)])
        known = np.array([listing.size_bytes(i) for i in range(100)])
        if kind == "arrow":
            assert (known == sizes).all()
        assert sizes.sum() <= known.sum() <= 1.1 * sizes.sum() + 20_000
    assert is_arrow_folder(src) is (kind == "arrow")
    assert is_image_parquet(src) is (kind == "parquet")


def test_splits_of_a_dict_are_read(datasets: ModuleType, tmp_path: Path) -> None:
    splits = {"validation": 6, "unsupervised": 3, "train": 20, "test": 9}
    made = {name: make_dataset(datasets, n, seed=n) for name, n in splits.items()}
    datasets.DatasetDict(made).save_to_disk(tmp_path / "x")
    found = read_all(tmp_path / "x")
    assert list(found) == ["train", "val", "test"]
    assert found["train"] == expected_of(made["train"])
    assert found["val"] == expected_of(made["validation"])
    with open_arrow(tmp_path / "x", NO_NAMES) as listings:
        assert listings["train"].passed_over == ("unsupervised",)
    assert is_arrow_folder(tmp_path / "x")
    assert not is_arrow_folder(tmp_path)


@pytest.mark.parametrize("below", ["", "data/", "folders"])
def test_splits_of_parquet_are_read(datasets: ModuleType, tmp_path: Path, below: str) -> None:
    made = {split: make_dataset(datasets, 14, seed=len(split)) for split in ("train", "test")}
    for split, dataset in made.items():
        for number in range(2):
            name = f"{below}{split}-{number:05d}-of-00002.parquet"
            if below == "folders":
                name = f"{split}/{number:04d}.parquet"
            (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
            dataset.shard(2, number, contiguous=True).to_parquet(tmp_path / "x" / name)
    found = read_all(tmp_path / "x")
    assert found == {split: expected_of(dataset) for split, dataset in made.items()}
    assert is_image_parquet(tmp_path / "x")


def test_rows_without_a_path_of_their_own_are_numbered(
    datasets: ModuleType, tmp_path: Path
) -> None:
    images = [{**image, "path": "same.png"} for image in make_images(4)]
    images[2]["path"] = None
    dataset = make_dataset(datasets, 4).remove_columns("image").add_column("image", images)
    dataset = dataset.cast_column("image", datasets.Image())
    datasets.DatasetDict(train=dataset).save_to_disk(tmp_path / "x", num_shards={"train": 2})
    with open_arrow(tmp_path / "x", NO_NAMES) as listings:
        assert listings["train"].names == (
            "cat/train-00000-0000000.png",
            "dog/train-00000-0000001.png",
            "Emu/train-00001-0000000",
            "cat/train-00001-0000001.png",
        )


@KINDS
@pytest.mark.parametrize(
    ("feature", "values", "task", "classes", "targets"),
    [
        ("ints", [[0, 2], [], [1]], "", ("0", "1", "2"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (
            "ints",
            [[0, 1, 1], [0, 1, 0], [0, 0, 0]],
            "",
            ("0", "1", "2"),
            [[0, 1, 1], [0, 1, 0], [0, 0, 0]],
        ),
        ("names", [[0, 1], [1, 0], []], "", WORDS, [[1, 1, 0], [1, 1, 0], [0, 0, 0]]),
        ("words", [["b"], ["a", "b"], []], "", ("a", "b"), [[0, 1], [1, 1], [0, 0]]),
        ("float", [0.25, -1.5, 3.0], "number", ("target",), [[0.25], [-1.5], [3.0]]),
    ],
)
def test_lists_and_numbers_become_targets(
    datasets: ModuleType,
    tmp_path: Path,
    kind: str,
    feature: str,
    values: list,
    task: str,
    classes: tuple[str, ...],
    targets: list,
) -> None:
    made = {
        "ints": datasets.Sequence(datasets.Value("int32")),
        "names": datasets.Sequence(datasets.ClassLabel(names=list(WORDS))),
        "words": datasets.Sequence(datasets.Value("string")),
        "float": datasets.Value("float32"),
    }
    dataset = make_dataset(datasets, 3, target=(made[feature], values)).remove_columns("label")
    src = save(dataset, tmp_path / "x", kind)
    with open_arrow(src, ColumnNames(task=task)) as listings:
        listing = listings[""]
        assert listing.columns.task == (task or "labels")
        assert listing.classes == classes
        assert listing.columns.targets is not None
        assert listing.columns.targets.dtype == np.float32
        assert listing.columns.targets.tolist() == targets
        assert listing.names == ("0.jpg", "1.jpg", "2.jpg")


@pytest.mark.parametrize(
    ("values", "classes", "read"),
    [
        (["b", "a", "b"], (), ["b", "a", "b"]),
        ([1, 0, 1], (), ["1", "0", "1"]),
        ([1, 0, 1], ("cold", "hot"), ["hot", "cold", "hot"]),
        ([True, False, True], (), ["1", "0", "1"]),
        ([1.0, 0.0, 1.0], (), ["1", "0", "1"]),
    ],
)
def test_plain_columns_are_classes(
    datasets: ModuleType, tmp_path: Path, values: list, classes: tuple[str, ...], read: list[str]
) -> None:
    dataset = datasets.Dataset.from_dict({"image": make_images(3), "category": values})
    src = save(dataset, tmp_path / "x", "parquet")
    assert [label for label, _ in read_all(src, classes=classes)[""]] == read


def test_other_names_can_be_given_to_classes(datasets: ModuleType, tmp_path: Path) -> None:
    src = save(make_dataset(datasets, 3), tmp_path / "x", "arrow")
    assert [label for label, _ in read_all(src, classes=("c", "d", "e"))[""]] == ["c", "d", "e"]


def test_columns_are_named(datasets: ModuleType, tmp_path: Path) -> None:
    more = {
        "fine": (datasets.ClassLabel(names=["x", "y"]), [0, 1, 0]),
        "other": (datasets.Image(), make_images(3, seed=7)),
        "heavy": (datasets.Value("float64"), [0.5, 1.0, 2.0]),
        "patient": (datasets.Value("string"), ["p", "q", "p"]),
    }
    dataset = make_dataset(datasets, 3, **more).rename_column("label", "coarse")
    src = save(dataset, tmp_path / "x", "arrow")
    assert "'coarse' and 'fine' may be the labels" in failure(src)
    names = ColumnNames(image="other", label="fine", weight="heavy", group="patient")
    with open_arrow(src, names) as listings:
        listing = listings[""]
        assert listing.classes == ("x", "y")
        assert listing.read(2) == make_images(3, seed=7)[2]["bytes"]
        columns = listing.columns
        assert columns.weights is not None
        assert columns.weights.tolist() == [0.5, 1, 2]
        assert columns.groups is not None
        assert columns.groups[0] == columns.groups[2] != columns.groups[1]
    assert "'nothing', expected the name of a column" in failure(
        src, ColumnNames(image="nothing", label="fine")
    )
    assert "'heavy' is double, expected images" in failure(
        src, ColumnNames(image="heavy", label="fine")
    )


def test_plain_bytes_are_images(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"jpg": [b"one", b"two"], "cls": [0, 1], "class": ["a", "b"]})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert is_image_parquet(tmp_path / "x.parquet")
    assert read_all(tmp_path / "x.parquet") == {"": [("a", b"one"), ("b", b"two")]}
    parquet.write_table(arrow.table({"path": ["x.jpg"], "label": [0]}), tmp_path / "y.parquet")
    assert not is_image_parquet(tmp_path / "y.parquet")
    assert not is_image_parquet(tmp_path / "none.parquet")
    assert not is_image_parquet(tmp_path / "z.csv")


# Images that lie beside the rows.


@KINDS
def test_paths_are_followed_within_the_folder(
    datasets: ModuleType, tmp_path: Path, kind: str
) -> None:
    src = tmp_path / "src"
    (src / "photos").mkdir(parents=True)
    (src / "photos" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    (src / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(src / "pipe.jpg")
    paths = [
        "photos/a.jpg",
        str(src / "photos/../photos/a.jpg"),
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "link.jpg",
        "none.jpg",
        "pipe.jpg",
        "",
        None,
        "nul\0.jpg",
        "x" * 5000,
    ]
    images = [{"bytes": None, "path": path} for path in paths]
    dataset = datasets.Dataset.from_dict({"image": images, "label": ["a"] * len(paths)})
    dataset = dataset.cast_column(
        "image", {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    )
    path = save(dataset, src / "x" if kind == "parquet" else tmp_path / "y", kind)
    if kind == "arrow":
        for file in path.iterdir():
            file.rename(src / file.name)
        path = src
    found = [data for _, data in read_all(path)[""]]
    assert found[:2] == [b"inside", b"inside"]
    said = [
        "../secret.jpg', out of its folder",
        "secret.jpg', out of its folder",
        "link.jpg', out of its folder",
        "'none.jpg': No such file",
        "pipe.jpg': is no plain",
        "neither bytes nor a path",
        "neither bytes nor a path",
        "neither bytes nor a path",
        "File name too long",
    ]
    for text, part in zip(found[2:], said, strict=True):
        assert part in str(text)


# Many threads, little memory, and what becomes of files meanwhile.


@KINDS
def test_threads_read_in_any_order(
    datasets: ModuleType, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "most_bytes", lambda: 20_000)  # a few images
    monkeypatch.setattr(parquet_files, "_IMAGES_BYTES", 10_000)
    dataset = make_dataset(datasets, 120)
    src = save(dataset, tmp_path / "x", kind)
    expected, before = expected_of(dataset), open_descriptors()
    order = [*range(120), *random.Random(1).sample(range(120), 120), *reversed(range(120))]
    with open_arrow(src, NO_NAMES) as listings, ThreadPoolExecutor(8) as threads:
        read = list(threads.map(listings[""].read, order))
    assert read == [expected[i][1] for i in order]
    assert open_descriptors() <= before


def test_decoded_rows_are_kept_up_to_a_bound(
    datasets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "most_bytes", lambda: 50_000)
    monkeypatch.setattr(parquet_files, "_IMAGES_BYTES", 10_000)
    src = save(make_dataset(datasets, 200), tmp_path / "x", "parquet")
    with open_arrow(src, NO_NAMES) as listings:
        listing = listings[""]
        window = listing._files[0]._window
        for i in range(200):
            listing.read(i)
            assert window._bytes == sum(each.nbytes for each in window._kept.values())
            assert window._bytes <= 50_000
            assert len(window._streams) <= 4


def test_rows_in_order_are_decoded_once(
    datasets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = save(make_dataset(datasets, 90), tmp_path / "x", "parquet")
    opened = []
    images = parquet_files.ParquetFile.images
    monkeypatch.setattr(
        parquet_files.ParquetFile,
        "images",
        lambda self, name, group: opened.append(group) or images(self, name, group),
    )
    with open_arrow(src, NO_NAMES) as listings, ThreadPoolExecutor(4) as threads:
        list(threads.map(listings[""].read, range(90)))
    assert sorted(opened) == list(range(6))


@KINDS
@pytest.mark.parametrize("how", ["cut", "replaced"])
def test_a_file_that_changes_meanwhile_is_noticed(
    datasets: ModuleType, tmp_path: Path, kind: str, how: str
) -> None:
    src = save(make_dataset(datasets, 12), tmp_path / "x", kind)
    file = next(src.glob("*00000-of*.arrow")) if src.is_dir() else src
    with open_arrow(src, NO_NAMES) as listings:
        listings[""].read(0)
        if how == "cut":
            os.truncate(file, 100)
        else:
            (tmp_path / "y").write_bytes(file.read_bytes())
            (tmp_path / "y").replace(file)
        with pytest.raises(DataError, match=r"cat/0.jpg: the file has changed since it was listed"):
            listings[""].read(0)


def test_without_pyarrow_it_says_what_to_install(
    datasets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = save(make_dataset(datasets, 3), tmp_path / "x", "parquet")

    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(arrow_files, "import_module", fail)
    with pytest.raises(UsageError, match=r"pyarrow is not installed.*pip install 'fastft\[data\]'"):
        read_all(src)
    assert not is_image_parquet(tmp_path / "cache")
