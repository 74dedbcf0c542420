from __future__ import annotations

import gzip
import hashlib
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastft.datasets.fetch import FetchConfig, FetchResult, fetch
from fastft.datasets.unpack import MARKER
from pipelines.errors import DataError, FormatError, UsageError

Entry = tuple[str, bytes]
PHOTOS: list[Entry] = [("set/train/a/1.jpg", b"1" * 5000), ("set/test/a/2.jpg", b"22")]
PLAIN: Entry = ("set/1.jpg", b"1")
TARS = ["tar", "tar.gz", "tar.bz2", "tar.xz"]


def zip_of(*entries: Entry, method: int = zipfile.ZIP_STORED, **fields: Any) -> bytes:
    """A zip; `fields` are given to the last entry."""
    made = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, zipfile.ZipFile(made, "w", method) as archive:
        patch.setattr("warnings.warn", lambda *arguments, **options: None)  # of two of one name
        for i, (name, data) in enumerate(entries):
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is: ZipInfo cuts at NUL
            info.compress_type = method
            if i == len(entries) - 1:
                for field, value in fields.items():
                    setattr(info, field, value)
            archive.writestr(info, data)
    return made.getvalue()


def tar_of(*entries: Entry, kind: str = "tar", **fields: Any) -> bytes:
    """A tar; `fields` are given to the last entry."""
    made = io.BytesIO()
    mode: Any = "w:" + kind[4:]
    with tarfile.open(fileobj=made, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for i, (name, data) in enumerate(entries):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if i == len(entries) - 1:
                for field, value in fields.items():
                    setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def patched(data: bytes, signature: bytes, offset: int, form: str, value: int) -> bytes:
    """A zip with a field overwritten in the last header of that kind."""
    at = data.rindex(signature) + offset
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def unpack(folder: Path, data: bytes, name: str = "x.zip", **options: Any) -> FetchResult:
    """Fetch what has been downloaded already."""
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(data)
    digits = hashlib.sha256(data).hexdigest()
    on_progress = options.pop("on_progress", None)
    config = FetchConfig(source=f"http://host/{name}", out=out, sha256=digits, **options)
    return fetch(config, on_progress)


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# --- what is unpacked --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, *TARS])
def test_one_folder_stays_that_folder(tmp_path: Path, kind: Any) -> None:
    junk = [("__MACOSX/set/._1.jpg", b"x"), ("set/train/._1.jpg", b"x"), ("set/.DS_Store", b"x")]
    if kind in TARS:
        data = tar_of(*PHOTOS, *junk, kind=kind)
    else:
        data = zip_of(("set/", b""), *PHOTOS, *junk, method=kind)
    seen: list[tuple[str, int, int | None]] = []
    result = unpack(tmp_path, data, "name", on_progress=lambda *progress: seen.append(progress))
    assert result.path == tmp_path / "out" / "set"
    assert result.files == 2
    assert tree(result.path) == sorted(["train/a/1.jpg", "test/a/2.jpg", MARKER])
    for name, content in PHOTOS:
        assert (tmp_path / "out" / name).read_bytes() == content
    assert seen[-1] == ("unpacking", 5002, 5002)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["name", "set"]
    assert stat.S_IMODE(result.path.stat().st_mode) & 0o500 == 0o500


@pytest.mark.parametrize(
    ("entries", "name", "folder"),
    [
        ([("a/1.jpg", b""), ("b/1.jpg", b"")], "two.tar.gz", "two"),
        ([("1.jpg", b"")], "flat.zip", "flat"),
        ([("./a/1.jpg", b""), ("./b/2.jpg", b"")], "dots.TGZ", "dots"),
        ([(".ssh/authorized_keys", b"")], "hidden.zip", "hidden"),
    ],
)
def test_other_archives_become_a_folder(
    tmp_path: Path, entries: list[Entry], name: str, folder: str
) -> None:
    for data in (zip_of(*entries), tar_of(*entries)):
        result = unpack(tmp_path / str(len(data)), data, name)
        assert result.path.name == folder
        assert tree(result.path) == sorted([MARKER, *(n.removeprefix("./") for n, _ in entries)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        bytes(2048),
        zip_of(("net/data.pkl", b""), ("net/version", b"3")),
        zip_of(("a.npy", b""), ("b.npy", b"")),
        gzip.compress(b"\0\0\10\3" * 999),
    ],
    ids=["empty", "text", "zeros", "torch", "numpy", "idx.gz"],
)
def test_other_files_stay(tmp_path: Path, data: bytes) -> None:
    result = unpack(tmp_path, data, "model.pth")
    assert (result.path, result.files, result.was_there) == (tmp_path / "out/model.pth", 1, True)
    assert tree(tmp_path) == ["out/model.pth"]


# --- what is refused ---------------------------------------------------------------------------

LINK = (stat.S_IFLNK | 0o777) << 16
HOSTILE: dict[str, tuple[bytes, str]] = {
    "zip ..": (zip_of(PLAIN, ("set/../../evil", b"")), "set/../../evil: leads out of the folder"),
    "zip absolute": (zip_of(PLAIN, ("/evil", b"")), "/evil: an absolute name"),
    "zip backslash": (zip_of(PLAIN, ("..\\evil", b"")), r"..\\evil: a backslash, a drive"),
    "zip drive": (zip_of(PLAIN, ("C:/evil", b"")), "C:/evil: a backslash, a drive letter"),
    "zip NUL": (zip_of(PLAIN, ("set/a\0.jpg", b"")), r"set/a\\x00.jpg: a backslash, a drive"),
    "zip link": (zip_of(PLAIN, ("set/l", b"/"), external_attr=LINK), "set/l: a link or device"),
    "zip junk ..": (zip_of(PLAIN, ("__MACOSX/../../evil", b"")), "evil: leads out of the folder"),
    "zip twice": (zip_of(PLAIN, PLAIN), "set/1.jpg: two of that name"),
    "zip twice, dotted": (zip_of(PLAIN, ("set/./1.jpg", b"")), "set/./1.jpg: two of that name"),
    "zip file as folder": (
        zip_of(PLAIN, ("set/1.jpg/x", b"")),
        "set/1.jpg: both a file and a folder",
    ),
    "zip file and folder": (zip_of(PLAIN, ("set/1.jpg/", b"")), "set/1.jpg/: two of that name"),
    "zip long": (zip_of(PLAIN, ("set/" + "x" * 256, b"")), "a name too long"),
    "zip encrypted": (patched(zip_of(PLAIN), b"PK\1\2", 8, "<H", 1), "set/1.jpg: encrypted"),
    "zip bzip2": (zip_of(PLAIN, method=zipfile.ZIP_BZIP2), "set/1.jpg: compressed by method 12"),
    "zip of nothing": (zip_of(), "an archive without files"),
    "zip of a folder": (zip_of(("set/", b"")), "an archive without files"),
    "zip cut": (zip_of(PLAIN)[:-30], "damaged archive"),
    "zip checksum": (
        zip_of(PLAIN).replace(b"1.jpg1", b"1.jpg2"),
        "set/1.jpg: damaged .Bad CRC-32",
    ),
    "zip checksum, deflated": (
        patched(zip_of(*PHOTOS, method=zipfile.ZIP_DEFLATED), b"PK\1\2", 16, "<I", 7),
        "damaged",
    ),
    "zip bomb that lies": (
        patched(zip_of(("set/0", bytes(9**6)), method=8), b"PK\1\2", 24, "<I", 10),
        "0: damaged",
    ),
    "zip that says nothing": (patched(zip_of(PLAIN), b"PK\1\2", 24, "<I", 0), "jpg: damaged"),
    "zip that promises": (patched(zip_of(PLAIN), b"PK\1\2", 24, "<I", 9), "set/1.jpg: not as long"),
    "tar ..": (tar_of(PLAIN, ("../evil", b"")), "../evil: leads out of the folder"),
    "tar absolute": (tar_of(PLAIN, ("/evil", b"")), "/evil: an absolute name"),
    "tar link": (
        tar_of(PLAIN, ("set/l", b""), type=tarfile.SYMTYPE, linkname="/"),
        "set/l: a link",
    ),
    "tar hard link": (
        tar_of(PLAIN, ("set/l", b""), type=tarfile.LNKTYPE, linkname="set/1.jpg"),
        "set/l: a link",
    ),
    "tar device": (tar_of(PLAIN, ("set/d", b""), type=tarfile.CHRTYPE), "set/d: a device"),
    "tar FIFO": (tar_of(PLAIN, ("set/d", b""), type=tarfile.FIFOTYPE), "set/d: a device"),
    "tar twice": (tar_of(PLAIN, PLAIN), "set/1.jpg: two of that name"),
    "tar of nothing": (tar_of(("set", b""), type=tarfile.DIRTYPE), "an archive without files"),
    "tar without end": (tar_of(PLAIN)[:1024], "cut short, or a broken header"),
    "tar cut": (tar_of(*PHOTOS)[:2000], "unexpected end of data"),
    "tar header": (tar_of(PLAIN, PLAIN)[:1024] + b"x" * 2048, "cut short, or a broken header"),
    "tar.gz cut": (tar_of(*PHOTOS, kind="tar.gz")[:-12], "ended before the end-of-stream"),
    "tar.gz checksum": (tar_of(PLAIN, kind="tar.gz")[:-8] + bytes(8), "CRC check failed"),
    "tar.xz cut": (tar_of(*PHOTOS, kind="tar.xz")[:-40], "damaged archive"),
    "tar.bz2 cut": (tar_of(*PHOTOS, kind="tar.bz2")[:-40], "damaged archive"),
    "tar long header": (
        tar_of(("././@LongLink", bytes(10**6)), type=b"L") + tar_of(PLAIN),
        "a header of 1,000,",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    with pytest.raises(FormatError, match=message) as caught:
        unpack(tmp_path / "a", data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "a/out/x.zip: "))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "out", "x.zip"]


def test_no_file_gets_more_than_was_declared(tmp_path: Path) -> None:
    bomb = zip_of(("set/0", bytes(9**6)), method=zipfile.ZIP_DEFLATED)
    bomb = patched(bomb, b"PK\1\2", 24, "<I", 10)
    bomb = patched(bomb, b"PK\1\2", 16, "<I", zlib.crc32(bytes(10)))
    assert (unpack(tmp_path, bomb).path / "0").stat().st_size == 10


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_names_are_looked_at_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., bytes]
) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", None)
    with pytest.raises(FormatError, match="leads out"):
        unpack(tmp_path, make(*PHOTOS, ("../evil", b"")))


def test_a_size_below_zero(tmp_path: Path) -> None:
    data = bytearray(tar_of(PLAIN, ("set/2.jpg", b""), ("set/3.jpg", b"")))
    header = data[1536:2048]
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024: from the last back to the second
    header[148:156] = b" " * 8
    data[1536:2048] = header.replace(b" " * 8, b"%06o\0 " % sum(header))
    with pytest.raises(FormatError, match=r"a size below zero|a broken header"):
        unpack(tmp_path, bytes(data))


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zip_of(*[(f"set/{i}", b"") for i in range(10)])
    for free, fits in ((40_959, False), (40_960, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, n=free: SimpleNamespace(free=n))
        if fits:
            assert unpack(tmp_path, data).files == 10
        else:
            with pytest.raises(DataError, match=r"0\.0 MB free on the disk"):
                unpack(tmp_path, data)
            assert tree(tmp_path) == ["out/x.zip"]


@pytest.mark.parametrize("kind", ["zip", *TARS])
def test_any_damaged_byte_is_an_error_or_none(tmp_path: Path, kind: str) -> None:
    data = tar_of(PLAIN, kind=kind) if "tar" in kind else zip_of(PLAIN, method=zipfile.ZIP_DEFLATED)
    for i in range(0, min(len(data), 600), 3):
        folder = tmp_path / str(i)
        folder.mkdir()
        broken = data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1 :]
        try:
            assert unpack(folder, broken).path.parent == folder / "out"
        except DataError:
            assert tree(folder) == ["out/x.zip"]


# --- where it lands ----------------------------------------------------------------------------


def test_an_interruption_leaves_nothing_half(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        if stage == "unpacking":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path, zip_of(*PHOTOS), on_progress=interrupt)
    assert tree(tmp_path) == ["out/x.zip"]
    assert unpack(tmp_path, zip_of(*PHOTOS)).files == 2
    assert unpack(tmp_path, zip_of(*PHOTOS)).was_there


@pytest.mark.parametrize("there", ["file", "folder", "link", "marker"])
def test_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", None)
    path = tmp_path / "out" / "set"
    path.parent.mkdir()
    if there == "file":
        path.write_bytes(b"mine")
    elif there == "link":
        path.symlink_to(tmp_path)
    else:
        path.mkdir()
        (path / (MARKER if there == "marker" else "mine")).write_text("[]")
    kept = tree(tmp_path)
    with pytest.raises(DataError, match="out/set: there already, not from this file"):
        unpack(tmp_path, zip_of(*PHOTOS))
    assert tree(tmp_path) == sorted([*kept, "out/x.zip"])


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out" / "set").mkdir(parents=True)
    assert unpack(tmp_path, zip_of(*PHOTOS)).files == 2


def test_archive_and_folder_of_one_name(tmp_path: Path) -> None:
    for keep, kind in ((True, UsageError), (False, DataError)):
        with pytest.raises(kind, match=r"^--keep: archive and folder would|x\.zip: there already"):
            unpack(tmp_path, zip_of(("x.zip/1", b"")), keep=keep)
