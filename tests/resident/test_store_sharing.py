"""Processes that share a store: what each sees of it, and what is left when they end."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from stores import KEY, OTHER, SAMPLES, got, held, layout_of, put

from pipelines.errors import DataError
from pipelines.resident import shared_file
from pipelines.resident.store_memory import (
    MAX_GROUP,
    FileMemory,
    GroupMemory,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "pixels"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_file, "_PATIENCE_S", 0)
    monkeypatch.setattr(shared_file, "_LOOK_S", 0.001)


# A group's file.


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_group_memory_loses_its_name_once_shared(shm: Path) -> None:
    first = GroupMemory(layout_of(), KEY, "group", 0, 3)
    put(first, 0, 1)
    third = GroupMemory(layout_of(), KEY, "group", 2, 3)
    assert len(names_in(shm)) == 1
    second = GroupMemory(layout_of(), KEY, "group", 1, 3)
    assert names_in(shm) == []
    put(second, 1, 2)
    members = (first, second, third)
    for memory in members:
        assert held(memory) == [True, True, False, False, False]
        assert (got(memory, 0), got(memory, 1)) == ({1}, {2})
        assert memory.missing_bytes() == layout_of().sizes[2:].sum()
    for memory in members:
        memory.close()


def test_an_unshared_group_file_goes_with_its_owner(shm: Path) -> None:
    """Two loaders of the same samples in each of two processes, one of which is late."""
    early = [GroupMemory(layout_of(), KEY, "group", 0, 2) for _ in range(2)]
    late = [GroupMemory(layout_of(), KEY, "group", 1, 2) for _ in range(2)]
    assert len(names_in(shm)) == 1
    early[0].close()
    assert len(names_in(shm)) == 1
    for memory in (early[1], *late):
        memory.close()
    assert names_in(shm) == []


def test_the_largest_group_spares_the_flags(shm: Path) -> None:
    members = [GroupMemory(layout_of(), KEY, "g", rank, MAX_GROUP) for rank in (0, MAX_GROUP - 1)]
    assert held(members[0]) == [False] * SAMPLES
    assert len(names_in(shm)) == 1
    for memory in members:
        memory.close()


def test_other_groups_have_their_own_memory(shm: Path) -> None:
    first = GroupMemory(layout_of(), KEY, "group", 0, 2)
    put(first, 0, 1)
    others = [
        GroupMemory(layout_of(), KEY, "another", 1, 2),
        GroupMemory(layout_of(), OTHER, "group", 1, 2),
    ]
    assert len(names_in(shm)) == 3
    for memory in others:
        assert held(memory) == [False] * SAMPLES
        memory.close()
    first.close()


def test_a_groups_memory_is_taken_sample_by_sample(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(SAMPLES, side=300)
    memory = GroupMemory(layout, KEY, "group", 0, 2)
    (file,) = shm.iterdir()
    before, pixels_at = file.stat().st_blocks * 512, file.stat().st_size - layout.total
    assert before < layout.sizes[0]
    real, asked = os.posix_fallocate, []

    def allocate(descriptor: int, offset: int, length: int) -> None:
        real(descriptor, offset, length)
        asked.append(slice(offset - pixels_at, offset - pixels_at + length))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    for sample in range(SAMPLES):
        memory.reserve(sample)
    assert asked == [layout.place(sample) for sample in range(SAMPLES)]
    assert file.stat().st_blocks * 512 >= before + layout.sizes.sum() - 4096
    memory.close()


def test_samples_without_memory_are_refused(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = GroupMemory(layout_of(), KEY, "group", 0, 2)

    def fail(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(DataError, match=r"GB are free, expected room for 0\.00 GB; .*yuv420"):
        memory.reserve(1)
    memory.close()


def test_groups_without_memory_are_refused(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = int(layout_of().sizes.sum())
    room = SimpleNamespace(f_bavail=needed - 1, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: room)
    with pytest.raises(DataError, match=rf"^{shm}: .*--shm-size"):
        GroupMemory(layout_of(), KEY, "group", 0, 2)
    assert names_in(shm) == []
    room.f_bavail = needed
    first = GroupMemory(layout_of(), KEY, "group", 0, 2)
    put(first, 0, 1)
    room.f_bavail = needed - int(layout_of().sizes[0])
    second = GroupMemory(layout_of(), KEY, "group", 1, 2)
    assert second.holds(0)
    first.close()
    second.close()


def left_behind(shm: Path, name: str) -> Path:
    path = shm / f"fastft-{os.getuid()}-{name}"
    path.write_bytes(b"what a killed process has left")
    return path


def test_only_leftovers_of_killed_processes_are_swept(shm: Path) -> None:
    left = [left_behind(shm, name) for name in ("one", "two")]
    others = [shm / f"fastft-{os.getuid() + 1}-x", shm / "fastft-bench.x", shm / "other"]
    for path in others:
        path.touch()
    folder = shm / f"fastft-{os.getuid()}-folder"
    folder.mkdir()
    GroupMemory(layout_of(), KEY, "group", 0, 1).close()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*others, folder))


def test_what_is_in_use_is_not_swept_away(shm: Path) -> None:
    waits = GroupMemory(layout_of(), KEY, "group", 0, 2)
    (file,) = shm.iterdir()
    GroupMemory(layout_of(), OTHER, "another", 0, 1).close()
    assert file.exists()
    late = GroupMemory(layout_of(), KEY, "group", 1, 2)
    put(waits, 0, 3)
    assert late.holds(0)
    waits.close()
    late.close()


def test_sweeping_spares_a_new_file(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process of the group is sweeping, too: it was faster, and has made its own."""
    killed = GroupMemory(layout_of(), KEY, "group", 0, 2)
    (file,) = shm.iterdir()
    content = file.read_bytes()
    killed.close()
    file.write_bytes(content)
    real, first = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not first:
            first.append(None)
            file.unlink()
            first[0] = GroupMemory(layout_of(), KEY, "group", 0, 2)
        real(descriptor, how)

    monkeypatch.setattr(shared_file.fcntl, "flock", flock)
    second = GroupMemory(layout_of(), KEY, "group", 1, 2)
    put(second, 0, 5)
    assert first[0].holds(0)
    assert names_in(shm) == []
    second.close()


def test_sweeping_tolerates_a_faster_sweeper(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was listed may be gone when it is looked at, or opened."""
    left, real = left_behind(shm, "one"), Path.glob

    def glob(self: Path, pattern: str) -> Iterator[Path]:
        found = list(real(self, pattern))
        left.unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(Path, "glob", glob)
    GroupMemory(layout_of(), KEY, "group", 0, 1).close()
    assert names_in(shm) == []


# Several processes.

_CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from types import SimpleNamespace
from pipelines.resident.store import StoreFormat, lay_out
from pipelines.resident.store_memory import FileMemory, GroupMemory

signal.alarm(120)  # whatever becomes of who has started it
samples, side = int(sys.argv[1]), int(sys.argv[2])
source = SimpleNamespace(
    heights=np.arange(side, side + samples, dtype=np.int32), widths=np.full(samples, side, np.int32)
)
layout = lay_out(source, StoreFormat())
memory = None
for line in sys.stdin:
    verb, *words = line.split()
    answer = "done"
    if verb == "group":
        key, group, rank, count = words
        memory = GroupMemory(layout, bytes.fromhex(key), group, int(rank), int(count))
    elif verb == "file":
        memory = FileMemory(Path(words[1]), layout, bytes.fromhex(words[0]))
        answer = os.fstat(memory._descriptor).st_ino
    elif verb == "put":
        sample, value = map(int, words)
        memory.reserve(sample)
        memory.pixels[layout.place(sample)] = value
        memory.commit(sample)
    elif verb == "get":
        place = layout.place(int(words[0]))
        answer = *np.unique(memory.pixels[place]), memory.holds(int(words[0]))
        answer = " ".join(map(str, answer))
    print(answer, flush=True)
"""


class Child:
    """A process that does what it is told, a line at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(SAMPLES), "40"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def tell(self, *words: object) -> None:
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it has ended; what it said is above"
        return line.strip()

    def ask(self, *words: object) -> str:
        self.tell(*words)
        return self.answer()

    def end(self) -> None:
        self.process.communicate(timeout=20)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made = [Child(), Child()]
    yield made
    for child in made:
        child.kill()


def own_key() -> str:
    """A key like no other's: the real /dev/shm is everybody's."""
    return os.urandom(32).hex()


def named(key: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"*{key[:32]}*"))


def test_two_processes_share_what_either_decodes(children: list[Child]) -> None:
    one, two = children
    key = own_key()
    one.ask("group", key, "group", 0, 2)
    (file,) = named(key)
    assert file.stat().st_mode & 0o777 == 0o600
    assert one.ask("put", 0, 10) == "done"
    two.ask("group", key, "group", 1, 2)
    assert named(key) == []
    assert two.ask("get", 0) == "10 True"
    two.ask("put", 3, 13)
    assert one.ask("get", 3) == "13 True"
    assert one.ask("get", 1) == two.ask("get", 1) == "0 False"
    one.end()
    assert two.ask("get", 0) == "10 True"
    two.end()
    assert [child.process.returncode for child in children] == [0, 0]
    assert named(key) == []


def test_next_process_sweeps_a_killed_ones_file(children: list[Child]) -> None:
    killed, late = children
    key, other = own_key(), own_key()
    killed.ask("group", key, "group", 0, 2)
    GroupMemory(layout_of(), bytes.fromhex(other), other, 0, 1).close()
    assert len(named(key)) == 1
    killed.kill()
    assert len(named(key)) == 1
    late.ask("group", other, "another", 0, 2)
    assert named(key) == []
    assert len(named(other)) == 1
    late.kill()
    GroupMemory(layout_of(), bytes.fromhex(key), key, 0, 1).close()
    assert named(other) == named(key) == []


def test_concurrent_makers_agree_on_one_file(children: list[Child], tmp_path: Path) -> None:
    old = SAMPLES + 1
    for number in range(12):
        path = tmp_path / str(number)
        if number % 2:  # one of other samples, for both to replace
            FileMemory(path, layout_of(old), KEY).close()
        for child in children:
            child.tell("file", KEY.hex(), path)
        inodes = {int(child.answer()) for child in children}
        assert inodes == {path.stat().st_ino}
        children[0].ask("put", 2, number)
        assert children[1].ask("get", 2) == f"{number} True"
    assert len(names_in(tmp_path)) == 12


def test_files_in_use_are_refused_until_freed(children: list[Child], path: Path) -> None:
    holder, _ = children
    holder.ask("file", KEY.hex(), path)
    holder.ask("put", 0, 1)
    with pytest.raises(DataError, match="in use with other data or settings"):
        FileMemory(path, layout_of(), OTHER)
    shared = FileMemory(path, layout_of(), KEY)
    assert shared.holds(0)
    shared.close()
    del shared
    holder.kill()
    memory = FileMemory(path, layout_of(), OTHER)
    assert held(memory) == [False] * SAMPLES
    memory.close()
