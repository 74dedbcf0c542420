"""Where a store's file cannot be: each is one line of error, and nothing is left behind."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.resident import shared_file
from pipelines.resident.store import Layout, StoreFormat, lay_out
from pipelines.resident.store_memory import FileMemory

KEY = b"k" * 32


def layout_of() -> Layout:
    sides = np.array([40, 41], np.int32)
    source: Any = SimpleNamespace(heights=sides, widths=sides)
    return lay_out(source, StoreFormat())


NO_STORES: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "text": lambda path: path.write_text("notes\n" * 1000),
    "empty": Path.touch,
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("target"),
    "loop": lambda path: path.symlink_to(path.name),
}


def identity(path: Path) -> tuple[int, ...]:
    state = path.lstat()
    return state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns, state.st_ctime_ns


@pytest.mark.parametrize("kind", NO_STORES)
def test_other_files_are_refused_untouched(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    FileMemory(tmp_path / "target", layout_of(), KEY).close()
    NO_STORES[kind](path)
    before = identity(path), sorted(tmp_path.iterdir())
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DataError, match=rf"^{path}: .*, expected ") as error:
        FileMemory(path, layout_of(), KEY)
    assert "\n" not in str(error.value)
    assert (identity(path), sorted(tmp_path.iterdir())) == before
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file/pixels", tmp_path / "file/folder/pixels"):
        with pytest.raises(DataError, match="not a directory, expected "):
            FileMemory(path, layout_of(), KEY)


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file name too long, expected "):
        FileMemory(tmp_path / ("x" * 300), layout_of(), KEY)


def test_dangling_folder_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("nothing")
    real, tries = shared_file._make_file, []

    def make(*arguments: Any) -> None:
        tries.append(arguments)
        if len(tries) > 20:
            raise AssertionError("tried for ever")
        real(*arguments)

    monkeypatch.setattr(shared_file, "_make_file", make)
    with pytest.raises(DataError):
        FileMemory(tmp_path / "link/pixels", layout_of(), KEY)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_unwritable_folders_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="permission denied, expected a file to make"):
            FileMemory(tmp_path / "pixels", layout_of(), KEY)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read anything")
def test_unwritable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pixels"
    FileMemory(path, layout_of(), KEY).close()
    path.chmod(0o400)
    with pytest.raises(DataError, match="permission denied, expected a store file"):
        FileMemory(path, layout_of(), KEY)


def fail(number: int) -> Callable[..., None]:
    def call(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", fail(errno.ENOSPC))
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DataError, match=r"GB are free, expected room for \d+\.\d\d GB; ") as error:
        FileMemory(tmp_path / "pixels", layout_of(), KEY)
    assert str(error.value).startswith(f"{tmp_path / 'pixels'}: ")
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    monkeypatch.undo()
    FileMemory(tmp_path / "pixels", layout_of(), KEY).close()


@pytest.mark.parametrize("call", ["link", "ftruncate", "pwrite"])
def test_whatever_else_fails_nothing_is_left(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, fail(errno.EPERM))
    with pytest.raises(DataError, match="operation not permitted, expected a file to make"):
        FileMemory(tmp_path / "pixels", layout_of(), KEY)
    assert list(tmp_path.iterdir()) == []


def test_dev_shm_files_reserve_memory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing to a page for which there is none would end the process."""
    monkeypatch.setattr(shared_file, "SHM", tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", fail(errno.ENOSPC))

    def fill() -> None:
        memory = FileMemory(tmp_path / "pixels", layout_of(), KEY)
        memory.reserve(0)
        memory.close()

    with pytest.raises(DataError, match="GB are free"):
        fill()
