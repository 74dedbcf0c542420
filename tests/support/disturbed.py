"""Conversions through the command line, in a process group of their own, that are disturbed.

And what comes with it: sources that take a while, disks that are small, what may be left.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from shard_jobs import contents

ROOT = Path(__file__).resolve().parents[2]
#: A process that takes so long hangs.
MOST_S = 200.0
#: Each photo is decoded, shrunk and encoded, and two are broken: what takes time to write.
OPTIONS = ("--max-side", "60", "--max-bad", "1", "--workers", "2")
_LOOK_S = 0.0005


def start(*arguments: object, shell: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start the command line.

    Args:
        arguments: of fastft.
        shell: what a shell does first, such as `ulimit -f 100`; it becomes the process.
        options: of Popen.
    """
    command = [sys.executable, "-m", "fastft", *map(str, arguments)]
    if shell:
        command = ["/bin/sh", "-c", f'{shell}; exec "$@"', "sh", *command]
    options = {"stdout": PIPE, "stderr": PIPE, **options}
    return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **options)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait until all of it has ended; status, what it said, what went wrong."""
    try:
        out, err = process.communicate(timeout=MOST_S)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in (err or "") or is_pythons_own(err), err
    return process.returncode, out, err


def is_pythons_own(err: str) -> bool:
    """Whether Ctrl-C came while the interpreter began, before a line of ours could hear it."""
    ours = re.findall(r'/fastft/(\S+)", line', err)
    return "KeyboardInterrupt" in err and all(file == "__main__.py" for file in ours)


def execute(*arguments: object, shell: str = "") -> tuple[int, str, str]:
    """Run the command line; see `start` and `end`."""
    return end(start(*arguments, shell=shell))


def has_begun(out: Path) -> bool:
    """Whether a conversion to the folder `out` is writing."""
    return out.is_dir() and any(name.endswith(".journal") for name in os.listdir(out))


class Moments:
    """Random moments of a conversion's life: as it starts, while it writes, as it ends.

    Attributes:
        whole: what one that nobody disturbs leaves.
        writes_s: how long that one wrote.
    """

    def __init__(self, src: Path, out: Path, seed: int) -> None:
        """Convert without disturbance, to see how long it takes."""
        self._draw = random.Random(seed)
        process = start("convert", src, out, *OPTIONS)
        self._begins_s = self._until_begun(process, out)
        began = time.perf_counter()
        status, _, err = end(process)
        assert status == 0, err
        self.writes_s = time.perf_counter() - began
        self.whole = contents(out)
        assert len(self.whole) == 4

    def send(self, number: int, process: subprocess.Popen[str], out: Path) -> None:
        """Send a signal to all processes of a group at the next moment, if any is left by then."""
        if self._draw.random() < 0.15:
            wait_s = self._draw.uniform(0, self._begins_s)
        else:
            self._until_begun(process, out)
            wait_s = self._draw.uniform(0, self.writes_s)
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
            return
        os.killpg(process.pid, number)

    def _until_begun(self, process: subprocess.Popen[str], out: Path) -> float:
        began = time.perf_counter()
        while process.poll() is None and not has_begun(out):
            assert time.perf_counter() - began < MOST_S
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
        return time.perf_counter() - began


def make_long(photos: Path, folder: Path, times: int) -> Path:
    """Class folders in which each photo is there so many times, and one of each split is broken."""
    for file in photos.glob("*/*/*.jpg"):
        place = folder / file.parent.relative_to(photos)
        place.mkdir(parents=True, exist_ok=True)
        for number in range(times):
            os.link(file, place / f"{number}-{file.name}")
    for split in ("train", "test"):
        broken = sorted((folder / split).glob("*/*"))[2]
        content = broken.read_bytes()
        broken.unlink()
        broken.write_bytes(content[:-300])
    return folder


def visible(out: Path) -> dict[str, str]:
    """What of a folder's files is not hidden, by name: its bytes' hash."""
    return {name: digest for name, digest in contents(out).items() if name[0] != "."}


def hidden(out: Path) -> set[str]:
    """The names of a folder's hidden files."""
    return {path.name for path in out.glob(".*")}


@contextmanager
def small_disk(place: Path, size: str, *, files: int = 0) -> Iterator[Path]:
    """A disk of so many bytes, and files if that is not 0, in the folder `place`."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount a disk that is small")
    place.mkdir()
    options = f"size={size}" + (f",nr_inodes={files}" if files else "")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write to a folder, root neither."""
    if os.geteuid():
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    if shutil.which("mount") is None:
        pytest.skip("root may write everywhere but where a mount says no, and there is no mount")
    with ExitStack() as mounts:
        for options in (["--bind", folder], ["-o", "remount,bind,ro"]):
            mounted = subprocess.run(
                ["mount", *options, folder], capture_output=True, text=True, check=False
            )
            if mounted.returncode:
                pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
            if options[0] == "--bind":
                mounts.callback(subprocess.run, ["umount", "-l", folder], check=True)
        yield


@contextmanager
def little_memory(limit: int) -> Iterator[Path]:
    """A group of processes that the system kills if they take more than so many bytes together.

    Gives the file that a process is put into the group by.
    """
    with suppress(OSError, StopIteration):
        rows = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(row.split(":")[2] for row in rows if row.split(":")[1] == "memory")
        group = Path(f"/sys/fs/cgroup/memory{own}") / f"fastft-test-{os.getpid()}"
        group.mkdir()
        try:
            (group / "memory.limit_in_bytes").write_text(str(limit))
            yield group / "cgroup.procs"
        finally:
            group.rmdir()
        return
    pytest.skip("only root may limit memory, where there are cgroups of version 1")


def said(err: str, *parts: str) -> None:
    """An error of one line, in which all of this stands."""
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err, err
