import mmap
import os
import subprocess
from pathlib import Path

import pytest

from fastft.system.page_cache import evict, resident_share

PAGE = mmap.PAGESIZE


def write(path: Path, pages: int) -> Path:
    path.write_bytes(os.urandom(pages * PAGE))
    return path


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True
    ).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        pytest.skip(f"{tmp_path} lies in memory ({kind}), from where nothing can be evicted")
    return tmp_path


def test_written_pages_are_evicted_and_reread(on_disk: Path) -> None:
    files = [write(on_disk / "a", 64), write(on_disk / "b", 3)]
    assert [resident_share(file) for file in files] == [1, 1]
    assert evict(files) == 0
    assert [resident_share(file) for file in files] == [0, 0]
    assert len(files[1].read_bytes()) == 3 * PAGE
    assert [resident_share(file) for file in files] == [0, 1]


def test_pages_that_somebody_maps_stay_and_are_counted(on_disk: Path) -> None:
    files = [write(on_disk / "mapped", 4), write(on_disk / "other", 12)]
    with files[0].open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[at] for at in range(0, len(mapped), PAGE)) >= 0  # touches every page
        assert evict(files) == 4 / 16
    assert evict(files) == 0


def test_the_last_page_counts_partly(on_disk: Path) -> None:
    file = on_disk / "short"
    file.write_bytes(b"x" * (PAGE + 1))
    assert resident_share(file) == 1
    assert evict([file]) == 0


def test_what_lies_in_memory_alone_stays() -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        pytest.skip("there is no /dev/shm")
    file = write(shm / f"fastft-test-{os.getpid()}", 2)
    try:
        assert evict([file]) == 1
    finally:
        file.unlink()


def test_nothing_is_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert (resident_share(empty), evict([empty]), evict([])) == (0, 0, 0)


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        evict([tmp_path / "none"])
