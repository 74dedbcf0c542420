"""Conversion and merging where there is no room, no permission, no memory, nobody to listen."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from disturbed import (
    ROOT,
    end,
    execute,
    hidden,
    little_memory,
    read_only,
    said,
    small_disk,
    start,
    visible,
)
from effort import choose, long
from PIL import Image
from shard_jobs import contents, run_shards

from pipelines.conversion.report import Tally
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError
from pipelines.formats.encode import Encoder
from pipelines.formats.source import open_source

Run = Callable[..., tuple[int, str, str]]
Tried = Callable[..., None]
FULL = "no space left on device"


@pytest.fixture
def broken(photos: Path, tmp_path: Path) -> Path:
    """Splits of 33 and 6 photos, of which one each is cut short."""
    src = tmp_path / "broken"
    shutil.copytree(photos, src)
    for split in ("train", "test"):
        victim = sorted((src / split).glob("*/*"))[2]
        victim.write_bytes(victim.read_bytes()[:-300])
    return src


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class folder with two images, one with 48 MB of pixels, which few bytes stand for."""
    folder = tmp_path_factory.mktemp("large") / "large"
    (folder / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a" / "0.png")
    Image.new("RGB", (4000, 4000)).save(folder / "a" / "1.png", compress_level=1)
    return folder


def test_a_limit_of_open_files_breaks_no_photo(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fastft: Run
) -> None:
    """Which would be left out, each as a broken one."""
    real = os.open

    def refused(path: object, *arguments: object, **named: object) -> int:
        if str(path).endswith(".jpg"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return real(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    out = tmp_path / "out"
    status, _, err = fastft("convert", broken, out, "--max-bad", "100%")
    assert status == 1
    photo = re.escape(f"{broken / 'train'}/")
    remedy = "too many open files, as this process may have .*; raise the limit by ulimit -n 4096"
    assert re.fullmatch(f"{photo}.*jpg: {remedy}\n", err)
    assert not list(out.glob("*.beton"))
    with pytest.raises(DataError, match=f"jpg: {remedy}"):
        open_source(broken / "train")


@pytest.mark.parametrize("free_kib", choose([0, 40, 700], [0, 4, 8, 12, 16, 64, 200, 500, 700]))
def test_a_full_disk(
    free_kib: int, fastft: Run, photos: Path, data: Path, tmp_path: Path, tried: Tried
) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        shutil.copy(data / "test.beton", disk / "train.beton")  # an earlier output, and no other
        with (disk / "more").open("wb", buffering=0) as file:
            file.write(bytes(shutil.disk_usage(disk).free - free_kib * 1024))
        before = contents(disk)
        status, _, err = fastft("convert", photos, disk, "--mode", "raw")
        tried("convert on a full disk")
        assert status == 1
        said(err, "train.beton: " if free_kib < 600 else "test.beton: ", FULL)
        assert contents(disk) == before


@pytest.mark.parametrize("command", ["convert", "merge"])
def test_a_disk_that_fails_at_any_moment(
    command: str,
    broken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fastft: Run,
    tried: Tried,
) -> None:
    """At the k-th call that writes to it, for each k; photos are in one file, then their list."""
    src, out = broken / "test", tmp_path / "out"
    run_shards(src, out / "x", 2)
    arguments: list[object] = ["merge", out]
    if command == "convert":
        shutil.rmtree(out)
        arguments = ["convert", src, out / "x.beton", "--max-bad", 1, "--workers", 1]
    before, left = contents(out), 0

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*given, **named)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "pwrite", "ftruncate", "fsync", "fchmod", "replace"):
        wrap(name)
    for k in range(1, 100):
        left = k
        status, _, err = fastft(*arguments)
        if not status:
            break
        tried(f"{command} on a disk that fails")
        after = contents(out)
        assert hidden(out) == set()
        if after == before:
            said(err, f"{out}/x", "input/output error")
        else:
            said(err, f"{out}/x.beton: input/output error while writing; what is there is whole")
            assert "x.beton" in after
        for name in after.keys() - before.keys():
            (out / name).unlink()
    assert k > 14


def test_a_disk_too_small_is_known_before(
    fastft: Run, photos: Path, tmp_path: Path, tried: Tried
) -> None:
    with small_disk(tmp_path / "disk", "100k") as disk:
        status, _, err = fastft("convert", photos, disk)
        tried("convert on a full disk")
        assert status == 1
        said(err, f"{disk}: ", "bytes free on its disk, expected ")
        assert contents(disk) == {}


@pytest.mark.parametrize("files", choose([1, 4, 6, 7], range(1, 9)))
def test_a_disk_with_no_room_for_another_file(
    files: int, fastft: Run, broken: Path, tmp_path: Path, tried: Tried
) -> None:
    # Of each split its data, its journal and the list of what is left out; and the disk's root.
    with small_disk(tmp_path / "disk", "1m", files=files) as disk:
        status, _, err = fastft("convert", broken, disk, "--max-bad", 1)
        tried("convert on a full disk")
        if files < 7:
            assert status == 1
            said(err, str(disk), FULL)
            assert contents(disk) == {}
        else:
            assert status == 0
            assert len(contents(disk)) == 4


@contextmanager
def short_files(bytes_: int) -> Iterator[None]:
    """No file of this process may grow larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kib", choose([40], [1, 2, 5, 20, 40, 60, 100, 120]))
@pytest.mark.parametrize("command", choose(["convert", "merge"], ["convert", "shard", "merge"]))
def test_no_file_may_grow_so_large(
    command: str, kib: int, fastft: Run, broken: Path, tmp_path: Path, tried: Tried
) -> None:
    out = tmp_path / "out"
    arguments: list[object] = ["convert", broken, out, "--max-bad", 1]
    if command == "shard":
        arguments += ["--shard", "1/2"]
    elif command == "merge":
        arguments = ["merge", out, "--remove-shards"]
        run_shards(broken, out, 3)
    before = contents(out)
    with short_files(kib << 10):
        status, _, err = fastft(*arguments)
    tried(f"{command.replace('shard', 'convert')} on a full disk")
    if status:
        said(err, f"{out}/train.", "file too large while writing; nothing was left behind")
        assert status == 1
        assert contents(out) == before
    else:
        assert kib > 60
        assert visible(out)


@pytest.mark.parametrize("command", ["convert", "merge"])
def test_a_folder_that_may_not_be_written_to(
    command: str, fastft: Run, photos: Path, tmp_path: Path, tried: Tried
) -> None:
    out = tmp_path / "out"
    run_shards(photos, out, 2)
    before = contents(out)
    with read_only(out):
        status, _, err = fastft(*(["convert", photos] if command == "convert" else ["merge"]), out)
        tried(f"{command} where nothing may be written")
        assert status == 1
        said(err, "train.beton: ", ", expected a folder to write in; name another output")
    assert contents(out) == before


@pytest.mark.parametrize("what", ["gone", "a file", "a link to nothing"])
def test_output_folder_vanishes_while_written(
    what: str,
    fastft: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: Tried,
) -> None:
    out, real = tmp_path / "out", Tally.require_classes

    def going(tally: Tally, **options: Any) -> None:
        if tally.report.split == "test":  # all is written, nothing published
            shutil.rmtree(out)
            if what == "a file":
                out.touch()
            elif what == "a link to nothing":
                out.symlink_to("nowhere")
        real(tally, **options)

    monkeypatch.setattr(Tally, "require_classes", going)
    status, _, err = fastft("convert", photos, out)
    tried("convert whose folder goes")
    assert status == 1
    reason = "not a directory" if what == "a file" else "no such file or directory"
    said(err, f"{out}/train.beton: {reason} while writing; ")
    assert sorted(os.listdir(tmp_path)) == ["out"] * (what != "gone")


def test_a_link_to_nothing_is_replaced(
    fastft: Run, photos: Path, data: Path, tmp_path: Path, tried: Tried
) -> None:
    out = tmp_path / "train.beton"
    out.symlink_to(tmp_path / "nowhere")
    assert fastft("convert", photos / "train", out)[0] == 0
    tried("convert where nothing may be written")
    assert not out.is_symlink()
    assert os.listdir(tmp_path) == ["train.beton"]
    assert out.read_bytes() == (data / "train.beton").read_bytes()


def test_outputs_that_cannot_be(fastft: Run, photos: Path, tmp_path: Path, tried: Tried) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "train.beton").mkdir(parents=True)
    (tmp_path / "link").symlink_to("nowhere")
    for out, status, message in (
        ("folder", 2, "train.beton: is a folder, expected a file to write"),
        ("file/out", 1, "file/out/train.beton: "),
        ("link", 1, "link/train.beton: file exists, expected a folder to write in"),
        ("x" * 300, 1, "ile name too long"),
    ):
        before = sorted(tmp_path.rglob("*"))
        found, _, err = fastft("convert", photos, tmp_path / out)
        tried("convert where nothing may be written")
        assert found == status, err
        said(err, message)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("mb", choose([40], [*range(20, 80, 4), *range(600, 900, 50)]))
def test_too_little_memory(mb: int, large: Path, tmp_path: Path, tried: Tried) -> None:
    out = tmp_path / "out.beton"
    command = [sys.executable, ROOT / "tests" / "support" / "starved.py", mb, "convert", large, out]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*map(str, command), "--workers", "2"],
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
        start_new_session=True,
        **options,
    )
    status, _, err = end(process)
    tried("convert out of memory")
    assert status == (mb < 500), err
    if status:
        said(err, "memory ran out", "; take fewer --workers")
    assert os.listdir(tmp_path) == ["out.beton"] * (not status)


def test_lack_of_memory_blames_no_image(
    fastft: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    real = Encoder.encode

    def encode(encoder: Encoder, data: bytes, sample: int) -> Any:
        if sample == 20:
            raise MemoryError
        return real(encoder, data, sample)

    monkeypatch.setattr(Encoder, "encode", encode)
    status, _, err = fastft("convert", photos, tmp_path / "out")
    tried("convert out of memory")
    assert status == 1
    assert re.search(r"/train/\w+/\S+\.jpg: memory ran out; take fewer --workers", err)
    assert err.count("\n") == 1
    assert os.listdir(tmp_path / "out") == []


@long
def test_resumes_after_an_out_of_memory_kill(large: Path, tmp_path: Path, tried: Tried) -> None:
    out = tmp_path / "out"
    arguments = ("convert", large, out / "x.beton", "--workers", 1)
    with little_memory(100 << 20) as group:
        status, _, err = execute(*arguments, shell=f"echo $$ > {group}")
    tried("convert out of memory")
    assert status == -9, err
    assert visible(out) == {}
    assert len(hidden(out)) == 2
    convert(ConvertConfig(src=large, out=out / "x.beton", workers=1, resume=True))
    convert(ConvertConfig(src=large, out=tmp_path / "whole" / "x.beton"))
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "shell", choose([">&- 2>&-"], [">&- 2>&-", ">/dev/full", ">&-", "2>&-", "2>/dev/full"])
)
def test_nobody_who_listens(shell: str, broken: Path, tmp_path: Path, tried: Tried) -> None:
    out = tmp_path / "out"
    status, text, err = execute("convert", broken, out, "--max-bad", 1, shell=f"exec {shell}")
    tried("convert that nobody listens to")
    assert status == (shell == ">/dev/full")
    assert not err or re.fullmatch(f"[^:\n]+: {os.strerror(errno.ENOSPC)}\n", err)
    assert ("left out: " in text) == (">" not in shell[:1])
    convert(ConvertConfig(src=broken, out=tmp_path / "whole", max_bad="1"))
    assert contents(out) == contents(tmp_path / "whole")


@long
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_left(stream: str, broken: Path, tmp_path: Path, tried: Tried) -> None:
    out = tmp_path / "out"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        # One more broken photo than is allowed is said on stderr, a table on stdout.
        allowed = 1 if stream == "stdout" else 0
        process = start("convert", broken, out, "--max-bad", allowed, **{stream: writer})
        status, _, err = end(process)
    finally:
        os.close(writer)
    tried("convert that nobody listens to")
    assert status == 1
    assert not err
    assert hidden(out) == set()
    assert len(visible(out)) == 4 * allowed
