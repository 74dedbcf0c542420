"""Photos, archives and shards that change, or go, between being listed and being read."""

import os
import re
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disturbed import ROOT, said, visible
from effort import choose
from killed_conversions import merges_changing
from processes import SERVER, run_program
from records import pack, write_rec
from shard_jobs import contents, one_pixel, run_shards
from zips import DEFLATED, zip_folder

from pipelines.conversion import run as module
from pipelines.conversion.merge import merge
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.formats.archive import ZipFolder
from pipelines.formats.beton import read_index
from pipelines.formats.folder import Folder
from pipelines.formats.recordio import Records

Run = Callable[..., tuple[int, str, str]]
Tried = Callable[..., None]


def replaced_by_socket(path: Path) -> None:
    path.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:  # a socket's path may not be long
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


#: What happens to a photo, and what is said of it; '' if it is read all the same.
CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (Path.unlink, "No such file"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), "Premature end"),
    "emptied": (lambda path: os.truncate(path, 0), "empty"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + bytes(100_000)), ""),
    "grown beyond all": (lambda path: os.truncate(path, 3 << 30), "3,221,225,472 bytes"),
    "another": (lambda path: shutil.copy(ROOT / "tests/data/odd/jpegs/s444.jpg", path), ""),
    "a folder": (lambda path: replaced(path, Path.mkdir), "no plain file"),
    "a pipe": (lambda path: replaced(path, os.mkfifo), "no plain file"),
    "a socket": (replaced_by_socket, "No such device"),
    "a device": (lambda path: replaced(path, lambda at: at.symlink_to("/dev/zero")), "no plain"),
    "a link to itself": (
        lambda path: replaced(path, lambda at: at.symlink_to(at)),
        "Too many levels",
    ),
}


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is something left to read when the first samples have been."""
    monkeypatch.setattr(module, "_TASK_IMAGES", 2)


@pytest.fixture
def src(photos: Path, tmp_path: Path) -> Path:
    """Class folders of 33 photos."""
    shutil.copytree(photos / "train", tmp_path / "src")
    return tmp_path / "src"


@pytest.fixture
def when_read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something happen when so many samples have been read, behind the listing at 0."""

    def prepare(kind: type, number: int, change: Callable[[], object]) -> None:
        real, count, lock = kind.read, [0], threading.Lock()  # type: ignore[attr-defined]

        def read(listing: Any, sample: int) -> bytes:
            with lock:  # nobody reads half of the change
                count[0] += 1
                if count[0] == number + 1:
                    change()
                return bytes(real(listing, sample))

        monkeypatch.setattr(kind, "read", read)

    return prepare


@pytest.mark.parametrize("name", CHANGES)
def test_a_photo_that_changes(
    name: str, src: Path, tmp_path: Path, fastft: Run, when_read: Callable[..., None], tried: Tried
) -> None:
    change, reason = CHANGES[name]
    victims = sorted(src.glob("*/*"))
    for number in choose([0], [0, 5, 20]):
        victim = victims[number + 8]
        content = victim.read_bytes()
        when_read(Folder, number, lambda victim=victim: change(victim))
        status, text, err = fastft(
            "convert", src, tmp_path / "out.beton", "--max-bad", 1, "--workers", 2
        )
        tried("convert whose source changes")
        assert (status, err) == (0, "")
        index = read_index(tmp_path / "out.beton")
        names = [index.name(sample) for sample in range(len(index))]
        named = f"{victim.parent.name}/{victim.name}"
        if reason:
            assert re.search(f"left out: {named}: .*{reason}", text)
            assert len(index) == 32
            assert named not in names
        else:
            assert len(index) == 33
            assert bytes(index.stored(names.index(named)).data) == victim.read_bytes()
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink(missing_ok=True)
        victim.write_bytes(content)


def test_photos_that_may_no_longer_be_read(src: Path, tmp_path: Path, tried: Tried) -> None:
    victim = sorted(src.glob("*/*"))[3]
    victim.chmod(0)
    program = ROOT / "tests" / "support" / "unprivileged.py"
    given = "convert", src, tmp_path / "out.beton", "--max-bad", 1
    ended = run_program(program, *given, folder=tmp_path, within_s=200)
    tried("convert whose source changes")
    assert ended.returncode == 0, ended.stderr
    left_out = f"left out: {victim.parent.name}/{victim.name}: Permission denied"
    assert left_out in ended.stdout
    victim.parent.chmod(0)
    try:
        ended = run_program(program, *given, folder=tmp_path, within_s=200)
    finally:
        victim.parent.chmod(0o755)
    assert ended.returncode == 1
    said(ended.stderr, str(victim.parent), "ermission denied")


@pytest.mark.parametrize("number", choose([0], [0, 5, 20]))
@pytest.mark.parametrize("what", ["class", "all"])
def test_folders_that_go(
    what: str,
    number: int,
    src: Path,
    tmp_path: Path,
    fastft: Run,
    when_read: Callable[..., None],
    tried: Tried,
) -> None:
    victim = sorted(src.iterdir())[-1] if what == "class" else src
    when_read(Folder, number, lambda: shutil.rmtree(victim))
    out = tmp_path / "out.beton"
    status, _, err = fastft("convert", src, out, "--max-bad", "100%", "--workers", 2)
    tried("convert whose source changes")
    assert status == 1
    said(err, f"{src}/", "every image is broken, the first (", "No such file or directory")
    assert not out.exists()


def archives(photos: Path, folder: Path, kind: str) -> tuple[Path, type]:
    """The training photos as one file, and the listing that reads it."""
    if kind == "zip":
        return zip_folder(photos / "train", folder / "photos.zip", DEFLATED), ZipFolder
    files = sorted((photos / "train").glob("*/*"))
    labels = sorted({file.parent for file in files})
    rows = [pack(file.read_bytes(), labels.index(file.parent), k) for k, file in enumerate(files)]
    write_rec(folder / "photos.rec", rows)
    return folder / "photos.rec", Records


@pytest.mark.parametrize("kind", ["zip", "rec"])
@pytest.mark.parametrize("change", ["cut short", "emptied", "zeros", "another", "deleted"])
def test_an_archive_that_changes(
    kind: str,
    change: str,
    photos: Path,
    tmp_path: Path,
    fastft: Run,
    when_read: Callable[..., None],
    tried: Tried,
) -> None:
    src, listing = archives(photos, tmp_path, kind)
    size, out = src.stat().st_size, tmp_path / "out"

    def happen() -> None:
        if change in ("cut short", "emptied"):
            os.truncate(src, size // 2 if change == "cut short" else 0)
        elif change == "zeros":
            with src.open("r+b") as file:
                file.write(bytes(size))
        elif change == "another":
            (tmp_path / "new").write_bytes(bytes(size))
            os.replace(tmp_path / "new", src)
        else:
            src.unlink()

    convert(ConvertConfig(src=src, out=tmp_path / "whole" / "x.beton"))
    for number in choose([5], [0, 5, 20]):
        shutil.rmtree(out, ignore_errors=True)
        archives(photos, tmp_path, kind)
        when_read(listing, number, happen)
        status, text, err = fastft("convert", src, out / "x.beton", "--max-bad", 33)
        tried("convert whose source changes")
        if change in ("another", "deleted"):  # what was opened is read to its end
            assert (status, err) == (0, "")
            assert visible(out) == visible(tmp_path / "whole")
        elif status:
            said(err, str(src), "every image is broken")
            assert contents(out) == {}
        else:
            assert "left out: " in text
            index = read_index(out / "x.beton")
            assert set(index.damaged()) == {None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("cut short", r": is now [\d,]+ bytes long, .* --shard 2/2$"),
        ("emptied", ": is now 0 bytes long, .* --shard 2/2$"),
        ("without tables", ": has changed, expected what it was; run fastft merge again$"),
        ("overwritten", ": its bytes have changed, .* --shard 2/2$"),
        ("deleted", "^$"),  # it was open
    ],
)
def test_a_shard_that_changes_while_it_is_merged(
    change: str, said: str, tmp_path: Path, tried: Tried
) -> None:
    """In a process of its own, which a memory map would end by SIGBUS."""
    for name in "ab":
        one_pixel(tmp_path / "src" / name, "1")
        for number in range(200):  # whose names alone fill a page
            image = tmp_path / "src" / name / "1.png"
            os.link(image, image.with_name(f"{'long ' * 9}{number}.png"))
    out = tmp_path / "x.beton"
    run_shards(tmp_path / "src", out, 2)
    merge(out)
    whole = out.read_bytes()
    out.unlink()
    before = contents(tmp_path)
    shard = tmp_path / "x.2-of-2.beton"
    reader, writer = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=merges_changing, args=(out, shard, change, writer))
    process.start()
    writer.close()
    process.join()
    tried("merge whose shard changes")
    assert process.exitcode == 0
    assert re.search(said, message := reader.recv()), message
    if change == "deleted":
        assert out.read_bytes() == whole
    else:
        assert f"{shard}: " in message
        after = contents(tmp_path)
        assert after.pop(shard.name) != before.pop(shard.name)
        assert after == before
