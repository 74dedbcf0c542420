import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import atomic
from pipelines.atomic import AtomicFile, make_locked, write_whole

ROOT = Path(__file__).resolve().parents[2]
Tried = Callable[..., None]
#: Begins to write each of the files, says so, and waits to be killed.
_WRITES = """
import os, sys
from pathlib import Path
from pipelines.atomic import AtomicFile
files = [AtomicFile(Path(name)) for name in sys.argv[1:]]
for file in files:
    os.write(file.descriptor, b"half")
print("begun", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def begin() -> Any:
    """Starts a process that is in the middle of writing some files."""
    started = []

    def begin(*paths: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITES, *map(str, paths)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_published_replaces_and_takes_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"
    old = os.umask(0o027)
    try:
        with AtomicFile(path) as file:
            os.write(file.descriptor, b"one")
            (temporary,) = path.parent.iterdir()
            assert temporary.stat().st_mode & 0o777 == 0o600
            file.publish()
    finally:
        os.umask(old)
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["a"]


def test_left_unpublished_leaves_what_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyError), AtomicFile(tmp_path / "a") as file:  # noqa: PT012
        os.write(file.descriptor, b"new")
        raise KeyError
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_next_write_removes_a_killed_processs_leftovers(
    tmp_path: Path, begin: Callable[..., Any], tried: Tried
) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    process = begin(a, b, a)
    assert len(os.listdir(tmp_path)) == 3
    write_whole(a, "beside a process that lives")
    assert len(os.listdir(tmp_path)) == 4
    process.kill()
    process.wait()
    tried("writer of a file killed by kill -9", 3)
    write_whole(a, "new")
    assert a.read_text() == "new"
    assert len(list(tmp_path.glob(".a*"))) == 0
    assert len(list(tmp_path.glob(".b*"))) == 1
    with pytest.raises(KeyError), AtomicFile(b):
        raise KeyError
    assert os.listdir(tmp_path) == ["a.json"]


def test_only_what_is_ours_goes(tmp_path: Path, begin: Callable[..., Any], tried: Tried) -> None:
    path, elsewhere = tmp_path / "a", tmp_path / "elsewhere"
    elsewhere.write_text("years of work")
    begin(path).kill()
    (left,) = tmp_path.glob(".a.*.tmp")
    name = left.name
    left.unlink()
    token = name.removeprefix(".a.").removesuffix(".tmp")
    others = [
        "a.tmp",
        ".a.tmp",
        ".a.backup.tmp",
        f".b.{token}.tmp",
        f".a.{token}",
        f".a.{token}.tmp.old",
        f".a.{token}.journal",
        f".a.{token.upper()[:-1]}X.tmp",
        f".a.{token[:-1]}.tmp",
    ]
    for other in others:
        (tmp_path / other).write_text("not ours")
    odd = [f".a.{number:032x}.tmp" for number in range(4)]
    (tmp_path / odd[0]).symlink_to(elsewhere)
    (tmp_path / odd[1]).symlink_to("nowhere")
    (tmp_path / odd[2]).mkdir()
    os.mkfifo(tmp_path / odd[3])
    if not os.geteuid():
        odd.append(f".a.{4:032x}.tmp")
        (tmp_path / odd[4]).write_text("another user's")
        os.chown(tmp_path / odd[4], 12345, 12345)
    tried("file that only looks left behind", len(others) + len(odd))
    write_whole(path, "new")
    assert sorted(os.listdir(tmp_path)) == sorted(["a", "elsewhere", *others, *odd])
    assert elsewhere.read_text() == "years of work"


def test_temporary_names_are_unguessable_and_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for _ in range(50):
        descriptor, name = make_locked(tmp_path / "a", ".tmp")
        assert stat.S_IMODE(name.stat().st_mode) == 0o600
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
        names.add(name.name)
    digits = [re.fullmatch(r"\.a\.([0-9a-f]{32})\.tmp", name) for name in names]
    assert len(digits) == 50
    # Each of 128 bits is drawn.
    values = [int(found[1], 16) for found in digits if found]
    both = [{value >> bit & 1 for value in values} for bit in range(128)]
    assert both == [{0, 1}] * 128
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: "0" * 2 * size)
    for put in (Path.touch, lambda place: place.symlink_to(tmp_path / "elsewhere")):
        place = tmp_path / f".a.{'0' * 32}.tmp"
        put(place)
        with pytest.raises(FileExistsError):
            make_locked(tmp_path / "a", ".tmp")
        place.unlink()
    assert not (tmp_path / "elsewhere").exists()


def test_a_swept_temporary_file_is_remade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, taken = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not taken:  # another writer sees it between its making and its lock
            taken.extend(tmp_path.glob(".a.*"))
            taken[0].unlink()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    write_whole(tmp_path / "a", "new")
    assert taken
    assert os.listdir(tmp_path) == ["a"]


def test_without_locks_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[..., Any]
) -> None:
    begin(tmp_path / "a").kill()

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert len(os.listdir(tmp_path)) == 2


def test_a_folder_that_goes_is_no_second_error(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(FileNotFoundError, match="a") as caught, AtomicFile(folder / "a") as file:  # noqa: PT012
        (temporary,) = folder.iterdir()
        temporary.unlink()
        folder.rmdir()
        file.publish()
    assert caught.value.__context__ is None
