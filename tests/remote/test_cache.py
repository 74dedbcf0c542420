"""Copies of `.beton` files on this machine: made once, and anew when they change."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from objects import (
    Faults,
    FaultyStore,
    as_path,
    memory_address,
    put_bytes,
    put_tree,
    settings_of,
)
from processes import SERVER
from sites import names

from pipelines.errors import DataError
from pipelines.remote import cache
from pipelines.remote.cache import localize


@pytest.fixture
def address(data: Path) -> str:
    there = f"{memory_address()}/data"
    put_tree(data, there)
    return there


def counted(address: str) -> tuple[FaultyStore, Faults]:
    faults = Faults()
    return FaultyStore(address, faults), faults


def test_local_data_stay_where_they_are(data: Path, tmp_path: Path):
    assert localize(data, tmp_path) == data
    assert localize(Path("nothing"), tmp_path) == Path("nothing")
    assert names(tmp_path) == []


def test_a_folder_is_copied_once(address: str, data: Path, tmp_path: Path):
    store, faults = counted(address)
    here = localize(as_path(address), tmp_path, store=store)
    assert here.parent == tmp_path / "fastft-data"
    assert here.name.startswith("data-")
    assert names(here) == ["test.beton", "train.beton"]
    for name in names(here):
        assert (here / name).read_bytes() == (data / name).read_bytes()
    assert faults.asked["range"] == 2
    assert localize(as_path(address), tmp_path, store=store) == here
    assert faults.asked["range"] == 2


def test_one_beton_is_copied_alone(address: str, data: Path, tmp_path: Path):
    here = localize(as_path(f"{address}/test.beton"), tmp_path)
    assert here.name == "test.beton"
    assert here.read_bytes() == (data / "test.beton").read_bytes()


def test_a_changed_object_is_copied_anew(bucket: str, data: Path, tmp_path: Path):
    put_tree(data, f"{bucket}/data")
    path = as_path(f"{bucket}/data")
    here = localize(path, tmp_path)
    test = (data / "test.beton").read_bytes()
    put_bytes(f"{bucket}/data/train.beton", test)
    store, faults = counted(bucket)
    assert localize(path, tmp_path, store=store) == here
    assert (here / "train.beton").read_bytes() == test
    assert faults.asked["range"] == 1


def test_a_copy_that_was_cut_is_made_anew(address: str, data: Path, tmp_path: Path):
    here = localize(as_path(address), tmp_path)
    os.truncate(here / "train.beton", 100)
    localize(as_path(address), tmp_path)
    assert (here / "train.beton").read_bytes() == (data / "train.beton").read_bytes()


def test_a_split_that_is_gone_goes(address: str, data: Path, tmp_path: Path):
    store, _ = counted(address)
    here = localize(as_path(address), tmp_path)
    store.remove(f"{address}/test.beton")
    localize(as_path(address), tmp_path)
    assert names(here) == ["train.beton"]


@pytest.mark.parametrize("notes", ["", "[", "[]", '{"train.beton": 3}'])
def test_notes_that_say_nothing_are_made_anew(address: str, data: Path, tmp_path: Path, notes: str):
    here = localize(as_path(address), tmp_path)
    here.with_name(f"{here.name}.json").write_text(notes)
    store, faults = counted(address)
    localize(as_path(address), tmp_path, store=store)
    assert faults.asked["range"] == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photos", "photos: holds no .beton, expected train.beton and val.beton; run fastft conv"),
        ("photos.zip", r"photos.zip: holds no .beton"),
        ("nothing", "nothing: no such file or folder"),
        ("nothing.beton", "nothing.beton: no such file"),
        ("odd.beton", "odd.beton: is a folder"),
    ],
)
def test_what_is_no_beton_is_refused(tmp_path: Path, name: str, said: str):
    there = memory_address()
    put_bytes(f"{there}/photos/cat/1.jpg", b"x")
    put_bytes(f"{there}/photos.zip", b"PK")
    put_bytes(f"{there}/odd.beton/x", b"x")
    with pytest.raises(DataError, match=said) as caught:
        localize(as_path(f"{there}/{name}"), tmp_path)
    assert there in str(caught.value)


def copies(address: str, beside: Path, settings: dict[str, str], answers: Any) -> None:
    """In a process of its own: copy, and tell how many ranges that took."""
    os.environ.update(settings)
    store, faults = counted(address)
    here = localize(as_path(address), beside, store=store)
    answers.put((str(here), faults.asked.get("range", 0)))


def test_several_processes_copy_once(bucket: str, endpoint: str, data: Path, tmp_path: Path):
    put_tree(data, f"{bucket}/data")
    answers = SERVER.Queue()
    # Whoever comes first waits here, until all have come.
    folder = tmp_path / cache.FOLDER / cache.copy_name(f"{bucket}/data")
    folder.mkdir(parents=True)
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    settings = {**settings_of(endpoint), "no_proxy": "*"}
    arguments = (f"{bucket}/data", tmp_path, settings, answers)
    processes = [SERVER.Process(target=copies, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    os.close(held)
    told = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert {here for here, _ in told} == {str(folder)}
    assert sorted(ranges for _, ranges in told) == [0, 2]


def test_a_folder_that_went_while_waiting_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, real = tmp_path / "x", cache.lock
    went: list[bool] = []

    def lock(descriptor: int, path: Path, *, waits: bool) -> None:
        if not went:
            went.append(True)
            shutil.rmtree(path)
        real(descriptor, path, waits=waits)

    monkeypatch.setattr(cache, "lock", lock)
    with cache.held(folder, waits=True):
        assert folder.is_dir()
        with (
            pytest.raises(DataError, match="another process is at it"),
            cache.held(folder, waits=False),
        ):
            pass
