"""Class folders in a store: the samples of the same tree on a disk, and the same refusals."""

from pathlib import Path

import numpy as np
import pytest
from effort import rest
from objects import QUICK, as_path, memory_address, put_bytes, put_tree

from pipelines.errors import DataError, FastftError
from pipelines.formats.folder import read_folder, read_splits
from pipelines.remote import store as store_module
from pipelines.remote.faults import Denied
from pipelines.remote.source import open_input
from pipelines.remote.store import Found, Store
from pipelines.remote.tree import RemoteFolder, grow_tree, read_tree


def list_remote(address: str, work: Path) -> dict[str, RemoteFolder]:
    given = open_input(address, work, store=Store(address, QUICK))
    assert given.listings is not None
    return given.listings


def write_files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


TREES = {
    "classes": [
        "cat/1.jpg",
        "cat/deep/2.PNG",
        "cat/deep/.x.jpg",
        "cat/a.txt",
        "dog/3.gif",
        "x.jpg",
    ],
    "sorted as a disk is": ["b/10.jpg", "b/2.jpg", "b/B.jpg", "b/é.jpg", "b-c/1.jpg", "a b/1.jpg"],
    "splits": ["train/a/1.jpg", "train/b/2.jpg", "valid/a/3.jpg", "valid/b/4.jpg", "notes/x.txt"],
    "a hidden folder": [".git/x", "a/1.jpg", "b/.hidden/2.jpg", "b/2.jpg", "__MACOSX/a/._1.jpg"],
    "many classes": [f"{number:02}/{number}.jpg" for number in range(40)],
    "a class like a split": ["train/1.jpg", "val/2.jpg", "other/3.jpg"],
    "metadata beside": ["a/1.jpg", "b/2.jpg", "metadata.json"],
}


@pytest.mark.parametrize(
    ("tree", "kind"),
    [
        *((tree, "memory") for tree in TREES),
        ("classes", "s3"),
        ("splits", "s3"),
        *rest(*((tree, "s3") for tree in TREES if tree not in ("classes", "splits"))),
    ],
)
def test_samples_are_those_of_a_disk(
    tree: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
):
    root = write_files(tmp_path / "root", *TREES[tree])
    holder = request.getfixturevalue("bucket") if kind == "s3" else memory_address()
    put_tree(root, f"{holder}/root")
    there = list_remote(f"{holder}/root", tmp_path / "work")
    here = read_splits(root) or {"": read_folder(root)}
    assert list(there) == list(here)
    for split, folder in here.items():
        remote = there[split]
        assert remote.classes == folder.classes
        assert remote.names == folder.names
        assert np.array_equal(remote.labels, folder.labels)
        assert remote.ignored == folder.ignored
        assert remote.passed_over == folder.passed_over
        assert remote.columns == folder.columns
        for sample in range(len(folder)):
            assert remote.size_bytes(sample) == folder.size_bytes(sample)
            assert remote.read(sample) == folder.read(sample)
        below = folder.root.relative_to(root).as_posix()
        where = f"{holder}/root/" + ("" if below == "." else f"{below}/")
        assert remote.where("a/x") == f"{where}a/x"


BAD_TREES = {
    "loose images": ["1.jpg", "2.jpg"],
    "a class without images": ["a/1.jpg", "b/notes.txt"],
    "names that clash": ["Cat/1.jpg", "cat/2.jpg"],
    "splits without train": ["val/a/1.jpg", "test/a/2.jpg"],
    "other classes": ["train/a/1.jpg", "val/b/2.jpg"],
    "one split twice": ["train/a/1.jpg", "training/a/1.jpg"],
    "splits below classes": ["a/train/1.jpg", "a/test/1.jpg", "b/train/1.jpg"],
}


@pytest.mark.parametrize("names", BAD_TREES.values(), ids=BAD_TREES)
def test_refusals_are_those_of_a_disk(names: list[str], tmp_path: Path):
    root = write_files(tmp_path / "root", *names)
    holder = memory_address()
    put_tree(root, f"{holder}/root")
    with pytest.raises(DataError) as here:
        _ = read_splits(root) or {"": read_folder(root)}
    with pytest.raises(DataError) as there:
        list_remote(f"{holder}/root", tmp_path / "work")
    assert there.value.found == here.value.found
    assert there.value.where == here.value.where.replace(str(root), f"{holder}/root")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a/../x.jpg"], "is no plain relative name"),
        (["a//x.jpg"], "is no plain relative name"),
        (["/x.jpg"], "is no plain relative name"),
        (["a/./x.jpg"], "is no plain relative name"),
        (["a\0/x.jpg"], "is no plain relative name"),
        (["/".join("a" * 120)], "more than 100 folders deep"),
        (["a/b", "a/b/c"], "lies in what is a file, too"),
        (["a/b/c", "a/b"], "is a folder, too"),
    ],
)
def test_names_that_are_no_files_are_refused(files: list[str], said: str):
    with pytest.raises(DataError, match=said):
        grow_tree("s3://b/x", [(name, 1) for name in files])


def test_a_folder_that_is_known_and_empty_is_a_class(tmp_path: Path):
    store = Store(memory_address(), QUICK)
    tree = grow_tree("s3://b/x", [("a/1.jpg", 1), ("b/", 0), ("a/", 0)])
    with pytest.raises(DataError, match="s3://b/x/b: holds no images"):
        read_tree("s3://b/x", tree, store)


def test_nothing_in_a_store_is_refused(tmp_path: Path):
    holder = memory_address()
    store = Store(holder, QUICK)
    store.file_system().makedirs(f"{holder}/root/a")
    with pytest.raises(DataError, match="root: holds no files"):
        list_remote(f"{holder}/root", tmp_path)
    with pytest.raises(DataError, match="nothing: no such file or folder"):
        list_remote(f"{holder}/nothing", tmp_path)


def test_a_sample_that_is_gone_counts_as_broken(tmp_path: Path):
    holder = memory_address()
    put_tree(write_files(tmp_path / "root", "a/1.jpg", "b/2.jpg"), holder)
    listing = list_remote(holder, tmp_path / "work")[""]
    Store(holder, QUICK).remove(f"{holder}/b/2.jpg")
    with pytest.raises(DataError, match=r"b/2\.jpg: no such file"):
        listing.read(1)


def test_a_store_that_refuses_breaks_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    holder = memory_address()
    put_tree(write_files(tmp_path / "root", "a/1.jpg", "b/2.jpg"), holder)
    listing = list_remote(holder, tmp_path / "work")[""]

    def refuse(*_: object) -> bytes:
        raise PermissionError

    monkeypatch.setattr(store_module.Store, "_range", refuse)
    with pytest.raises(FastftError, match="access is denied") as caught:
        listing.read(1)
    assert not isinstance(caught.value, DataError)
    assert isinstance(caught.value.__cause__, Denied)


def test_a_sample_of_no_images_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = grow_tree("s3://b/x", [("a/1.jpg", 1 << 40), ("b/1.jpg", 1)])
    listing = read_tree("s3://b/x", found, Store(memory_address(), QUICK))[""]
    with pytest.raises(DataError, match="1,099,511,627,776 bytes long, more than"):
        listing.read(0)


def test_packed_files_are_fetched_whole(tmp_path: Path):
    holder = memory_address()
    files = ["a/0.tar", "a/1.tar", "a/README.md", "names.txt", ".cache/x.tar"]
    put_tree(write_files(tmp_path / "root", *files), f"{holder}/set")
    given = open_input(f"{holder}/set", tmp_path / "work", store=Store(holder, QUICK))
    assert given.listings is None
    assert given.src.name == "set"
    found = sorted(p.relative_to(given.src).as_posix() for p in given.src.rglob("*.*"))
    assert found == ["a/0.tar", "a/1.tar", "names.txt"]
    Store(holder, QUICK).remove(f"{holder}/set/a/0.tar")
    open_input(f"{holder}/set", tmp_path / "work", store=Store(holder, QUICK))
    assert not (given.src / "a/0.tar").exists()


def test_a_rec_comes_with_its_index(tmp_path: Path):
    holder = memory_address()
    for name in ("x.rec", "x.idx", "y.rec"):
        put_bytes(f"{holder}/{name}", name.encode())
    for name, beside in (("x.rec", True), ("y.rec", False)):
        src = open_input(f"{holder}/{name}", tmp_path / name, store=Store(holder, QUICK)).src
        assert src.read_bytes() == name.encode()
        assert src.with_suffix(".idx").exists() == beside


def test_paths_of_addresses_have_lost_a_slash():
    assert str(as_path("s3://b/x")) == "s3:/b/x"
    assert Found(address="s3://b/x").size == 0
