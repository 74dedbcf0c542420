"""Files that processes share: whose they are, what they hold, and what is left of them."""

import fcntl
import gc
import os
import weakref
from pathlib import Path

import pytest
from stores import KEY, OTHER, SAMPLES, got, held, layout_of, put

from pipelines.errors import DataError
from pipelines.resident import shared_file, store_memory
from pipelines.resident.store_memory import (
    FileMemory,
    GroupMemory,
    PrivateMemory,
    promised_bytes,
)


def leave(path: Path, *samples: int) -> None:
    """A file that an earlier run has filled as far as these, each with its number."""
    memory = FileMemory(path, layout_of(), KEY)
    for sample in samples:
        put(memory, sample, sample)
    memory.close()


def is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "pixels"


@pytest.fixture(autouse=True)
def _alone_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What loaders of other tests have not closed is no concern of these."""
    monkeypatch.setattr(store_memory, "_living", type(store_memory._living)())
    monkeypatch.setattr(shared_file, "_PATIENCE_S", 0)
    monkeypatch.setattr(shared_file, "_LOOK_S", 0.001)


# Memory of one process.


def test_private_memory_holds_what_was_committed() -> None:
    memory = PrivateMemory(layout_of())
    assert memory.pixels.size == layout_of().total
    assert held(memory) == [False] * SAMPLES
    put(memory, 2, 7)
    assert held(memory) == [False, False, True, False, False]
    assert got(memory, 2) == {7}


def test_closing_gives_private_memory_back() -> None:
    memory = PrivateMemory(layout_of())
    pixels = weakref.ref(memory.pixels)
    memory.close()
    memory.close()
    assert pixels() is None


def test_promised_bytes_fall_as_samples_come() -> None:
    layout = layout_of()
    assert promised_bytes() == 0
    gc.freeze()  # what is there by now need not be gone through
    first, second = PrivateMemory(layout), PrivateMemory(layout)
    assert promised_bytes() == 2 * layout.sizes.sum()
    put(first, 1, 7)
    put(second, 4, 7)
    assert promised_bytes() == 2 * layout.sizes.sum() - layout.sizes[1] - layout.sizes[4]
    assert first.missing_bytes() == layout.sizes.sum() - layout.sizes[1]
    first.close()
    assert promised_bytes() == layout.sizes.sum() - layout.sizes[4]
    del second
    gc.collect()  # where something else has kept it in a circle
    assert promised_bytes() == 0


def test_a_group_promises_memory(shm: Path) -> None:
    memory = GroupMemory(layout_of(), KEY, "group", 0, 2)
    assert promised_bytes() == layout_of().sizes.sum()
    put(memory, 0, 7)
    assert promised_bytes() == layout_of().sizes[1:].sum()
    memory.close()
    assert promised_bytes() == 0


def test_a_file_on_a_disk_promises_none(path: Path) -> None:
    """The system writes it out where memory is short: it need not fit."""
    memory = FileMemory(path, layout_of(), KEY)
    assert promised_bytes() == 0
    memory.close()


# A file that outlives processes.


def test_a_file_is_made_whole_and_empty(path: Path) -> None:
    layout = layout_of()
    memory = FileMemory(path, layout, KEY)
    state = path.stat()
    assert state.st_size >= layout.total + 5 * SAMPLES + 4096
    assert state.st_size == state.st_size // 4096 * 4096 + layout.total % 4096
    assert state.st_blocks * 512 >= state.st_size  # none is missing when it is written to
    assert memory.pixels.size == layout.total
    assert memory.pixels.ctypes.data % 4096 == 0
    assert held(memory) == [False] * SAMPLES
    assert [each.name for each in path.parent.iterdir()] == ["pixels"]
    memory.close()


def test_partly_filled_files_are_found_again(path: Path) -> None:
    leave(path, 1, 3)
    inode = path.stat().st_ino
    again = FileMemory(path, layout_of(), KEY)
    assert path.stat().st_ino == inode
    assert held(again) == [False, True, False, True, False]
    assert (got(again, 1), got(again, 3)) == ({1}, {3})
    assert again.missing_bytes() == layout_of().sizes[[0, 2, 4]].sum()
    again.close()


def test_whoever_has_the_file_sees_what_others_decode(path: Path) -> None:
    first, second = (FileMemory(path, layout_of(), KEY) for _ in range(2))
    put(first, 2, 9)
    assert second.holds(2)
    assert got(second, 2) == {9}
    put(second, 4, 8)
    assert first.holds(4)
    assert got(first, 4) == {8}
    first.close()
    second.close()


def test_harmed_samples_are_decoded_anew(path: Path) -> None:
    layout = layout_of()
    leave(path, *range(SAMPLES))
    pixels_at = path.stat().st_size - layout.total
    with path.open("r+b") as file:
        file.seek(pixels_at + layout.place(3).stop - 1)
        file.write(b"\xff")
    again = FileMemory(path, layout, KEY)
    assert held(again) == [True, True, True, False, True]
    put(again, 3, 3)
    assert held(again) == [True] * SAMPLES
    again.close()


def test_samples_keep_separate_flags_and_sums(path: Path) -> None:
    """As many as fill whole lines of flags, and one more or less."""
    for samples in (1, 63, 64, 65, 1024):
        layout = layout_of(samples, side=1)
        memory = FileMemory(path.with_name(str(samples)), layout, KEY)
        for sample in range(samples):
            memory.pixels[layout.place(sample)] = sample % 251
            memory.commit(sample)
        assert all(held(memory))
        memory.close()


def test_closing_gives_a_file_back(path: Path) -> None:
    memory = FileMemory(path, layout_of(), KEY)
    put(memory, 0, 1)
    assert is_mapped(path)
    assert is_locked(path)
    memory.close()
    memory.close()
    assert not is_mapped(path)
    assert not is_locked(path)


def test_closing_frees_a_file_despite_slices(path: Path) -> None:
    memory = FileMemory(path, layout_of(), KEY)
    put(memory, 0, 1)
    kept = memory.pixels[layout_of().place(0)]
    memory.close()
    assert not is_locked(path)
    FileMemory(path, layout_of(), OTHER).close()
    assert set(kept.tolist()) == {1}


def test_a_file_that_is_dropped_is_given_back(path: Path) -> None:
    gc.freeze()  # what is there by now need not be gone through
    memory = FileMemory(path, layout_of(), KEY)
    del memory
    gc.collect()
    assert not is_mapped(path)


@pytest.mark.parametrize(("key", "samples"), [(OTHER, SAMPLES), (KEY, SAMPLES + 1)])
def test_unused_files_of_other_samples_are_replaced(key: bytes, samples: int, path: Path) -> None:
    leave(path, 0, 2)
    layout = layout_of(samples)
    memory = FileMemory(path, layout, key)
    assert held(memory) == [False] * samples
    assert memory.pixels.size == layout.total
    assert [each.name for each in path.parent.iterdir()] == ["pixels"]
    memory.close()


def test_closed_stores_can_be_replaced(path: Path) -> None:
    memory = FileMemory(path, layout_of(), KEY)
    memory.close()
    assert KEY in path.read_bytes()
    other = FileMemory(path, layout_of(), OTHER)
    assert OTHER in path.read_bytes()
    assert held(other) == [False] * SAMPLES
    other.close()


@pytest.mark.parametrize("length", [-1, 4096, 70, 8])
def test_a_store_that_was_cut_short_is_replaced(length: int, path: Path) -> None:
    leave(path, 0)
    size = path.stat().st_size
    os.truncate(path, length % size)
    again = FileMemory(path, layout_of(), KEY)
    assert path.stat().st_size == size
    assert held(again) == [False] * SAMPLES
    again.close()


@pytest.mark.parametrize("key", [OTHER, KEY])
def test_files_in_use_elsewhere_are_refused(key: bytes, path: Path) -> None:
    memory = FileMemory(path, layout_of(), KEY)
    put(memory, 0, 1)
    layout = layout_of(SAMPLES + (key == KEY))
    with pytest.raises(DataError, match="in use with other data or settings") as error:
        FileMemory(path, layout, key)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert memory.holds(0)
    assert path.stat().st_size > layout_of().total
    memory.close()


def test_files_freed_in_time_are_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(path)
    holder = os.open(path, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_SH)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            os.close(holder)

    monkeypatch.setattr(shared_file, "_PATIENCE_S", 60)
    monkeypatch.setattr(shared_file.time, "sleep", wait)
    memory = FileMemory(path, layout_of(), OTHER)
    assert len(waits) == 3
    assert held(memory) == [False] * SAMPLES
    memory.close()


@pytest.mark.parametrize("by", ["nothing", "another"])
def test_files_replaced_while_opened_are_reopened(
    by: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the name between the opening and the lock."""
    leave(path)
    leave(path.with_name("another"))
    real, aside = fcntl.flock, path.with_name("aside")

    def flock(descriptor: int, how: int) -> None:
        if not aside.exists():
            path.rename(aside)
            if by == "another":
                path.with_name("another").rename(path)
        real(descriptor, how)

    monkeypatch.setattr(shared_file.fcntl, "flock", flock)
    memory = FileMemory(path, layout_of(), KEY)
    put(memory, 0, 1)
    again = FileMemory(path, layout_of(), KEY)
    assert again.holds(0)
    memory.close()
    again.close()


def test_new_stores_are_not_mistaken_for_old(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process replaces an old file between the look at it and its removal."""
    leave(path)
    real, new = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not new:
            path.unlink()
            new.append(None)
            new[0] = FileMemory(path, layout_of(), OTHER)
            put(new[0], 0, 1)
        real(descriptor, how)

    monkeypatch.setattr(shared_file.fcntl, "flock", flock)
    memory = FileMemory(path, layout_of(), OTHER)
    assert memory.holds(0)
    new[0].close()
    memory.close()


def test_who_makes_a_file_second_takes_the_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, first = os.link, []

    def link(source: str, target: Path) -> None:
        if not first:
            first.append(None)
            first[0] = FileMemory(path, layout_of(), KEY)
            put(first[0], 0, 9)
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    second = FileMemory(path, layout_of(), KEY)
    assert second.holds(0)
    assert [each.name for each in path.parent.iterdir()] == ["pixels"]
    second.close()
