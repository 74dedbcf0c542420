"""Temporary files: their owner's alone, of names that nobody can guess, never through a link.

Whoever may write to the same folder could otherwise put a file or a link where one is about to be
made, and have it filled, or read it while it grows. What a sweep does with files that were left
behind is in test_atomic.py.
"""

import ast
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from runs import Command
from sites import get, serve
from stores import KEY, layout_of, make_resident
from zips import STORED, zip_folder

from fastft.datasets.part import Part
from fastft.doctor import dali_decoding as decoding
from fastft.system.isolated import run_child
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError
from pipelines.resident.store_memory import FileMemory, GroupMemory

ROOT = Path(__file__).resolve().parents[2]
#: 128 bits in hexadecimal digits, by `secrets`.
TOKEN = re.compile("[0-9a-f]{32}")
#: Makes a file of a name that it is given: what an earlier process may have left, taken up again.
TAKES_UP = {("atomic.py", "__init__"), ("part.py", "_open_no_link")}


class Made(NamedTuple):
    """A file or folder that was made."""

    path: Path
    flags: int
    mode: int


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """What is made from here on by `os.open` and `os.mkdir`, which `tempfile` calls, too."""
    found: list[Made] = []
    open_, mkdir = os.open, os.mkdir

    def note_open(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        descriptor = open_(path, flags, mode, **options)
        if flags & os.O_CREAT:
            found.append(Made(Path(os.fsdecode(path)), flags, mode))
        return descriptor

    def note_mkdir(path: Any, mode: int = 0o777, **options: Any) -> None:
        mkdir(path, mode, **options)
        found.append(Made(Path(os.fsdecode(path)), os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode))

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "mkdir", note_mkdir)
    return found


def check(found: list[Made], least: int) -> int:
    """Assert of all temporary files among those made that they are as they should be."""
    temporary = {each for each in found if TOKEN.search(each.path.name)}
    hidden = {each for each in found if each.path.name.startswith((".", "fastft-"))}
    assert not [each.path for each in hidden - temporary], "a name without 128 random bits"
    assert len({TOKEN.findall(each.path.name)[0] for each in temporary}) >= least
    for each in temporary:
        assert each.mode in (0o600, 0o700), each.path
        own = each.flags & os.O_EXCL or each.path.name.removesuffix(".journal") in {
            other.path.name.removesuffix(".journal") for other in temporary - {each}
        }  # what a journal is of bears its name
        assert own, each.path
        assert each.flags & os.O_NOFOLLOW, each.path
    return len(temporary)


def test_temporary_files_are_private_and_cannot_be_guessed(
    made: list[Made],
    photos: Path,
    run: Path,
    shm: Path,
    tmp_path: Path,
    fastft: Command,
    tried: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 0
    monkeypatch.setattr("fastft.evaluate.plots.draw_sheet", lambda _: b"as slow as all else")

    def went(least: int, *arguments: object) -> None:
        nonlocal count
        made.clear()
        assert fastft(*arguments)[0] == 0
        count += check(made, least)

    data = tmp_path / "data"
    went(2, "convert", photos, data)
    went(1, "convert", photos / "test", tmp_path / "a", "--shard", "1/1")
    went(1, "merge", tmp_path / "a")
    went(1, "synth", tmp_path / "synth", "--classes", 2, "--per-class", 2, "--size", "40x40")
    went(1, "export-data", data, tmp_path / "exported")
    went(1, "show", data, "--out", tmp_path / "sheet.png")
    outputs = [f"--{kind}={tmp_path / kind}" for kind in ("csv", "json", "sheet")]
    went(2, "predict", run, photos / "test", *outputs)
    made.clear()
    with make_resident(data / "test.beton", store_file=tmp_path / "px.store") as loader:
        next(iter(loader))
    GroupMemory(layout_of(), KEY, "group", 0, 2).close()
    run_child("json.tool", ["--help"], 60)
    count += check(made, 3)
    made.clear()
    monkeypatch.setattr(decoding, "run_child", lambda *_: {"failed": "not tried here"})
    decoding.try_decoding("cpu", 60, rehearse=True)
    count += check(made, 2)
    made.clear()
    monkeypatch.setenv("no_proxy", "*")
    archive = zip_folder(photos / "test", tmp_path / "test.zip", STORED)
    with serve() as site:
        site.body = archive.read_bytes()
        get(site, tmp_path / "fetched", "photos.zip")
    count += check(made, 2)
    assert not [path for path in tmp_path.rglob(".*") if TOKEN.search(path.name)]
    tried("temporary files", count)


def test_published_files_are_as_open_as_others(tmp_path: Path, fastft: Command) -> None:
    with AtomicFile(tmp_path / "a") as file:
        file.publish()
    with Part(tmp_path / "b", "", lambda *_: None) as part:
        assert stat.S_IMODE(part.path.stat().st_mode) == 0o600
        part.begin({}, None)
        part.write(b"x")
        part.publish()
    plain = tmp_path / "c"
    plain.touch()
    for name in "ab":
        assert (tmp_path / name).stat().st_mode == plain.stat().st_mode


def test_no_link_is_followed(tmp_path: Path, shm: Path, tried: Callable[..., None]) -> None:
    """What may have been left behind, and what processes share, has a name that can be known."""
    victim = tmp_path / "victim"
    victim.write_text("mine")

    def refuse(make: Callable[[], object], place: Path) -> None:
        for target in (victim, tmp_path / "nothing"):
            place.symlink_to(target)
            with pytest.raises((OSError, DataError)):
                make()
            place.unlink()
        assert victim.read_text() == "mine"
        assert not (tmp_path / "nothing").exists()

    def of_group() -> GroupMemory:
        return GroupMemory(layout_of(), KEY, "group", 0, 2)

    refuse(lambda: AtomicFile(tmp_path / "x", tmp_path / ".x.left"), tmp_path / ".x.left")
    refuse(lambda: Part(tmp_path / "x", "", lambda *_: None), tmp_path / "x.part")
    refuse(lambda: FileMemory(tmp_path / "s", layout_of(), KEY), tmp_path / "s")
    memory = of_group()
    (name,) = (path.name for path in shm.iterdir())
    memory.close()
    refuse(of_group, shm / name)
    tried("links where temporary files would be", 8)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_foreign_download_parts_are_refused(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"theirs")
    os.chown(part, 65534, 65534)
    with pytest.raises(DataError, match="is no file of this user's"):
        Part(tmp_path / "x", "", lambda *_: None)
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(DataError, match="is no file of this user's"):
        Part(tmp_path / "x", "", lambda *_: None)


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """Function that calls, what it calls, the call."""
    text = path.read_text()
    if not re.search("temp|mkfifo|mknod|os.open", text):
        return  # to parse all takes seconds
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    yield function.name, ast.unparse(node.func), node


def test_no_other_place_makes_any() -> None:
    """A new one has to be made like the others, and to be tried above."""
    seen = set()
    for file in (*(ROOT / "pipelines").rglob("*.py"), *(ROOT / "fastft").rglob("*.py")):
        for function, called, call in calls(file):
            name, where = called.rpartition(".")[2], f"{file.name}, line {call.lineno}"
            text = ast.unparse(call)
            if name in ("mkstemp", "mkdtemp", "TemporaryDirectory"):
                assert "prefix=unguessable(" in text or "prefix=prefix" in text, where
                seen.add(file.name)
            assert name not in ("mktemp", "NamedTemporaryFile", "TemporaryFile", "mkfifo"), where
            if called == "os.open" and ("O_CREAT" in text or "flags" in text):
                assert "NOFOLLOW" in text or "_OPEN" in text, where
                assert "O_EXCL" in text or (file.name, function) in TAKES_UP, where
                assert text.endswith(", 384)"), where  # 0o600
                seen.add(file.name)
    assert seen == {
        "atomic.py",
        "contact_sheet.py",
        "dali_decoding.py",
        "export_data.py",
        "fetch.py",
        "isolated.py",
        "models.py",
        "part.py",
        "pixels.py",
        "run.py",
        "shared_file.py",
        "stock.py",
        "synth.py",
    }
