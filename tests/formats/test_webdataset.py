import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tars import NO_NAMES, PAIRS, Files, failure, read_all, write_tar

from pipelines.errors import DataError
from pipelines.formats.columns import ColumnNames
from pipelines.formats.folder import read_folder
from pipelines.formats.packed import shard_files
from pipelines.formats.packed.webdataset import is_tars, open_tars


@pytest.fixture
def webdataset() -> ModuleType:
    return pytest.importorskip("webdataset", reason="webdataset is not installed")


# Contents of shards.


def test_shards_of_webdataset_are_read(webdataset: ModuleType, tmp_path: Path) -> None:
    random, written = np.random.default_rng(3), {}
    for split, count in (("train", 23), ("val", 7)):
        pattern = str(tmp_path / f"photos-{split}-%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=5, verbose=0) as sink:
            for i in range(count):
                data, shard = random.bytes(int(random.integers(3000))), i // 5
                sink.write({"__key__": f"k/{i:04d}", "jpg": data, "cls": i % 3})
                name = f"{i % 3}/photos-{split}-{shard:06d}/k/{i:04d}.jpg"
                written.setdefault(split, {})[name] = (str(i % 3), data)
    assert read_all(tmp_path) == written
    assert list(read_all(tmp_path)["train"]) == list(written["train"])


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(tmp_path: Path, format_: int) -> None:
    key = "/".join(["folder" * 5] * 5) + "/" + "ö" * (20 if format_ == tarfile.USTAR_FORMAT else 90)
    files = [(f"{key}.jpg", b"image"), (f"{key}.cls", b"0")]
    path = write_tar(tmp_path / "x.tar", files, format=format_)
    assert read_all(path) == {"": {f"0/{key}.jpg": ("0", b"image")}}


@pytest.mark.parametrize(
    ("parts", "names", "read"),
    [
        ({"cls": b"1\n"}, {}, "1"),
        ({"cls": b" cat "}, {}, "cat"),
        ({"txt": b"cat"}, {}, "cat"),
        ({"CLS": b"3", "txt": b"dog"}, {}, "3"),
        ({"json": b'{"label": 2, "x": [{}]}'}, {}, "2"),
        ({"json": b'{"class_name": "cat", "target": 4}'}, {}, "cat"),
        ({"json": b'{"label": null}', "txt": b"cat"}, {}, "cat"),
        ({"json": b'{"label": true}'}, {}, "1"),
        ({"json": b'{"label": 3.0}'}, {}, "3"),
        ({"json": b'"cat"'}, {}, "cat"),
        ({"cls": b"9", "json": b'{"kind": "cat"}'}, {"label": "kind"}, "cat"),
        ({"cls": b"9", "kind": b"cat"}, {"label": "kind"}, "cat"),
        ({"cls": b"9", "top.kind": b"cat"}, {"label": ".top.kind"}, "cat"),
    ],
)
def test_labels_are_found(
    tmp_path: Path, parts: dict[str, bytes], names: dict[str, str], read: str
) -> None:
    files = [(f"x.{part}", content) for part, content in [("jpg", b"image"), *parts.items()]]
    others = [(f"{i}.{part}", content) for i in range(10) for part, content in zeros(parts, i)]
    path = write_tar(tmp_path / "x.tar", [*files, *others])
    found = read_all(path, ColumnNames(**names))
    assert found[""][f"{read}/x.jpg"] == (read, b"image")


def zeros(parts: dict[str, bytes], number: int) -> Files:
    """A sample of class `number`, so that class numbers have no gap, whatever it is called."""
    part = next((each for each in parts if each.endswith("kind")), "cls")
    if b"kind" in b"".join(parts.values()):
        return [("png", b"image"), ("json", b'{"kind": "%d"}' % number)]
    return [("png", b"image"), (part, b"%d" % number)]


@pytest.mark.parametrize(
    ("parts", "image", "chosen"),
    [
        ("jpg seg.png", "", "jpg"),
        ("seg.png jpg", "", "jpg"),
        ("image.jpg npy", "", "image.jpg"),
        ("JPEG", "", "jpeg"),
        ("webp", "", "webp"),
        ("left.jpg right.jpg", "right.jpg", "right.jpg"),
        ("jpg png", ".png", "png"),
        ("bin jpg", "bin", "bin"),
    ],
)
def test_the_image_of_a_sample_is_found(
    tmp_path: Path, parts: str, image: str, chosen: str
) -> None:
    files = [(f"x.{part}", part.lower().encode()) for part in parts.split()]
    path = write_tar(tmp_path / "x.tar", [*files, ("x.cls", b"0")])
    found = read_all(path, ColumnNames(image=image))
    assert found == {"": {f"0/x.{chosen}": ("0", chosen.encode())}}


def test_numbers_are_classes_and_get_names(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", PAIRS)
    assert [label for label, _ in read_all(path)[""].values()] == ["1", "0"]
    named = read_all(path, classes=("cold", "hot"))[""]
    assert list(named) == ["hot/a.jpg", "cold/b.jpg"]
    assert "expected 0 to 0, for 1 classes" in failure(path, classes=("cold",))


def test_names_are_sorted_as_folders_are(tmp_path: Path) -> None:
    words = ("dog", "cat", "Emu")
    files = [each for w in words for each in ((f"{w}1.jpg", b"x"), (f"{w}1.txt", w.encode()))]
    path = write_tar(tmp_path / "x.tar", files)
    with open_tars(path, NO_NAMES) as listings:
        assert listings[""].classes == ("Emu", "cat", "dog")
        assert listings[""].labels.tolist() == [2, 1, 0]
    assert "given for" in failure(path, classes=("a", "b", "c"))


@pytest.mark.parametrize(
    ("labels", "task", "classes", "targets"),
    [
        (['["b", "a"]', "[]", '["a"]'], "", ("a", "b"), [[1, 1], [0, 0], [1, 0]]),
        (["[1, 0]", "[]", "[2]"], "", ("0", "1", "2"), [[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
        (
            ["[1, 0, 1]", "[0, 0, 0]", "[1, 0, 0]"],
            "",
            ("0", "1", "2"),
            [[1, 0, 1], [0, 0, 0], [1, 0, 0]],
        ),
        (["[0.0, 1.0]", "[1, 0]", "[0, 0]"], "", ("0", "1"), [[0, 1], [1, 0], [0, 0]]),
        (['"b;a"', '""', '"a"'], "labels", ("a", "b"), [[1, 1], [0, 0], [1, 0]]),
        (["0.5", "-3", '"1e3"'], "number", ("label",), [[0.5], [-3], [1000]]),
    ],
)
def test_lists_and_numbers_become_targets(
    tmp_path: Path, labels: list[str], task: str, classes: tuple[str, ...], targets: list
) -> None:
    files: Files = []
    for i, label in enumerate(labels):
        files += [(f"{i}.png", b"%d" % i), (f"{i}.json", f'{{"label": {label}}}'.encode())]
    path = write_tar(tmp_path / "x.tar", files)
    with open_tars(path, ColumnNames(task=task)) as listings:
        (listing,) = listings.values()
        assert listing.columns.task == (task or "labels")
        assert listing.classes == classes
        assert listing.labels.tolist() == [0, 0, 0]
        assert listing.columns.targets is not None
        assert listing.columns.targets.dtype == np.float32
        assert listing.columns.targets.tolist() == targets
        assert listing.names == ("0.png", "1.png", "2.png")


def test_weights_and_groups_are_read_by_name(tmp_path: Path) -> None:
    files: Files = []
    for i, patient in enumerate("xyx"):
        row = {"label": i % 2, "w": i + 0.5, "patient": patient}
        files += [(f"{i}.png", b"."), (f"{i}.json", json.dumps(row).encode())]
    path = write_tar(tmp_path / "x.tar", files)
    with open_tars(path, ColumnNames(weight="w", group="patient")) as listings:
        columns = listings[""].columns
        assert columns.weights is not None
        assert columns.weights.tolist() == [0.5, 1.5, 2.5]
        assert columns.groups is not None
        assert columns.groups[0] == columns.groups[2] != columns.groups[1]
    assert "0: has no 'nothing'" in failure(path, ColumnNames(weight="nothing"))


def test_several_columns_of_flags_are_labels(tmp_path: Path) -> None:
    files: Files = []
    for i, row in enumerate(({"a": 1, "b": 0}, {"a": 1, "b": 1})):
        files += [(f"{i}.png", b"."), (f"{i}.json", json.dumps(row).encode())]
    with open_tars(write_tar(tmp_path / "x.tar", files), ColumnNames(label="a,b")) as listings:
        assert listings[""].classes == ("a", "b")
        assert listings[""].columns.targets is not None
        assert listings[""].columns.targets.tolist() == [[1, 0], [1, 1]]


def test_class_folders_in_a_tar_are_as_unpacked(photos: Path, tmp_path: Path) -> None:
    for folder, inner in ((photos, "all"), (photos, "."), (photos / "train", ".")):
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w") as target:
            target.add(folder, inner)
        with open_tars(path, NO_NAMES) as listings:
            for split, listing in listings.items():
                wanted = read_folder(folder / split)
                assert listing.names == wanted.names
                assert listing.labels.tolist() == wanted.labels.tolist()
                assert [listing.read(i) for i in range(len(listing))] == [
                    wanted.read(i) for i in range(len(wanted))
                ]
        assert list(listings) == (["train", "test"] if folder == photos else [""])


def test_a_tar_of_class_folders_for_each_split(photos: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as target:
            target.add(photos / split, ".")
    found = read_all(tmp_path)
    assert {split: len(each) for split, each in found.items()} == {"train": 33, "test": 6}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["x-000.tar", "x-001.tar"], {"": 2}),
        (["train-0.tar", "train-1.tar", "val-0.tar"], {"train": 2, "val": 1}),
        (["a_validation_1.tar", "a_TRAIN_1.tar"], {"train": 1, "val": 1}),
        (["train/0.tar", "train/1.tar", "test/train-0.tar"], {"train": 2, "test": 1}),
        (["val-0.tar", "val-1.tar"], {"": 2}),
        (["train.tar", ".hidden.tar", "readme.txt"], {"train": 1}),
    ],
)
def test_names_tell_splits(tmp_path: Path, names: list[str], splits: dict[str, int]) -> None:
    for name in names:
        write_tar(tmp_path / name, PAIRS)
    assert is_tars(tmp_path)
    found = read_all(tmp_path)
    expected = {split: 2 * count for split, count in splits.items()}
    expected = {"": 2} if names[0] == "train.tar" else expected
    assert {split: len(each) for split, each in found.items()} == expected


@pytest.mark.parametrize(
    ("names", "are_tars"),
    [
        (["x.tar"], True),
        (["x.tgz"], True),
        (["train/0.tar", "val/0.tar"], True),
        (["train/0.tar", "notes/readme.txt"], True),
        (["cats/1.jpg", "dogs/1.jpg", "pets.tar", "pets.tar.gz"], False),
        (["train/cats/1.jpg", "train/pets.tar"], False),
        (["cats/1.tar"], False),
        (["x.txt"], False),
    ],
)
def test_tars_beside_folders_are_not_meant(
    tmp_path: Path, names: list[str], are_tars: bool
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert is_tars(tmp_path) is are_tars
    assert is_tars(tmp_path / "any.tar.zst")
    assert not is_tars(tmp_path / "any.zip")


def test_shards_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 100, 1):
        write_tar(tmp_path / f"x-{number}.tar", [("a.png", b"%d" % number), ("a.cls", b"0")])
    found = read_all(tmp_path)[""]
    assert [data for _, data in found.values()] == [b"1", b"9", b"10", b"100"]
    assert list(found)[1] == "0/x-9/a.png"


def test_parts_that_are_not_read_are_counted(tmp_path: Path) -> None:
    files = [("._a.jpg", b""), ("README", b""), ("c.json", b"{}"), ("a.npy", b""), *PAIRS]
    with open_tars(write_tar(tmp_path / "x.tar", files), NO_NAMES) as listings:
        assert listings[""].ignored == {
            ".npy": 1,
            "dot files": 1,
            "no suffix": 1,
            "samples without an image": 1,
        }


# Reading from many threads, and what becomes of files meanwhile.


@pytest.mark.parametrize("held", [256, 1])
def test_threads_read_more_shards_than_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(shard_files, "_MOST_HELD", held)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(6):
        files = [each for i in range(9) for each in ((f"{i}.png", b"%d" % i), (f"{i}.cls", b"0"))]
        write_tar(tmp_path / f"{number}.tar", files)
    with open_tars(tmp_path, NO_NAMES) as listings, ThreadPoolExecutor(8) as threads:
        listing = listings[""]
        assert len(os.listdir("/proc/self/fd")) - before <= min(held, 6) + 1
        read = list(threads.map(listing.read, [*range(54)] * 20))
    assert read == [b"%d" % (i % 9) for i in range(54)] * 20
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("held", [256, 0])
def test_a_tar_that_changes_meanwhile_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(shard_files, "_MOST_HELD", held)
    path = write_tar(tmp_path / "x.tar", PAIRS)
    with open_tars(path, NO_NAMES) as listings:
        assert listings[""].read(0) == b"A" * 700
        os.truncate(path, 800)
        with pytest.raises(DataError, match=r"x.tar: 1/a.jpg: the file has changed since it was"):
            listings[""].read(0)


def test_a_file_that_takes_the_name_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "_MOST_HELD", 0)
    path = write_tar(tmp_path / "x.tar", PAIRS)
    with open_tars(path, NO_NAMES) as listings:
        write_tar(tmp_path / "y.tar", PAIRS).replace(path)
        with pytest.raises(DataError, match="the file has changed since it was listed"):
            listings[""].read(0)
