"""Every command with valid arguments on tiny data, run in a process of its own that meets a fault.

`Case` is a row of the table of commands: what it is called with, what it writes, and what of that
may be there already. A process is forked from one that has imported what takes seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from processes import PRELOADED, SERVER

from fastft.datasets.fetch import MARKER
from fastft.runs.checkpoint import load_checkpoint
from fastft.runs.metrics import read_metrics

#: A machine that is busy takes a while; less than what ends a run of tests, without a word of why.
PATIENCE_S = 180.0
TINY = "--size 40 --batch-size 10 --amp off --arch shufflenet_v2_x0_5 --workers 1".split()
#: For a process of its own.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "PYTHONUNBUFFERED": "",
}
SERVER.set_forkserver_preload(
    [
        *PRELOADED,
        "fastft.cli.commands",
        "fastft.evaluate.run",
        "fastft.datasets.show",
        "fastft.evaluate.predict",
    ]
)


@dataclass(frozen=True)
class Case:
    """A command.

    Attributes:
        name: of the command.
        arguments: what it is called with; OUT stands for its output.
        out: what its output is called, '' if it has none.
        files: the files that a whole output consists of, if it is a folder.
        heavy: it takes seconds, as it starts processes that import torch.
    """

    name: str
    arguments: tuple[str, ...]
    out: str = ""
    files: tuple[str, ...] = ()
    heavy: bool = False

    def call(self, folder: Path) -> list[str]:
        """The arguments, with the output in that folder."""
        return [each.replace("OUT", str(folder / self.out)) for each in self.arguments]

    def is_whole(self, folder: Path) -> bool:
        out = folder / self.out
        return out.is_file() or all((out / name).is_file() for name in self.files)


def require_sound(place: Path) -> None:
    """Nothing half written lies there: every file can be read as what its name says."""
    for file in place.rglob("*"):
        if file.is_dir() or file.name.endswith((".part", ".part.json")):  # a download to go on with
            continue
        assert not file.name.startswith(".") or file.name == MARKER, file
        if file.suffix in (".png", ".jpg"):
            with Image.open(file) as image:
                image.load()
        elif file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".jsonl":
            read_metrics(file)
        elif file.suffix == ".safetensors":
            load_checkpoint(file)
        elif file.suffix == ".store" or file.name.startswith("events.out."):
            pass  # which tell by themselves what of them counts
        else:
            assert file.suffix in (".html", ".csv"), file
            assert file.read_text().endswith("\n")


def content_of(folder: Path) -> dict[str, bytes]:
    """The bytes of each file in a folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def cpu_s(pid: int) -> float:
    """Seconds that a process and its children have computed: a clock that no load slows down."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in family)
    except psutil.Error:  # one of them has just ended
        return 0.0


def make_cases(photos: Path, data: Path, run: Path, url: str) -> dict[str, Case]:
    """The commands by name.

    Args:
        photos: class folders in train and test.
        data: the same, converted.
        run: a run folder; what `train` makes will do.
        url: of an archive.
    """
    training = ["--data", str(data), *TINY, "--epochs", "1"]
    rows = [
        Case(
            "synth",
            (
                "synth",
                "OUT",
                "--classes",
                "2",
                "--per-class",
                "60",
                "--test-per-class",
                "1",
                "--size",
                "40x32",
                "--workers",
                "2",
            ),
            "made",
            ("synth.json",),
        ),
        Case("fetch", ("fetch", url, "OUT"), "fetched", ("photos/.fastft-fetch.json",)),
        Case("inspect", ("inspect", str(data / "train.beton"), "--verify")),
        Case("show", ("show", str(data), "--out", "OUT"), "sheet.png"),
        Case("check", ("check", str(data), "--out", "OUT"), "checked", ("check.json",)),
        Case(
            "train",
            ("train", *training, "--weights", "none", "--out", "OUT"),
            "run",
            (
                "config.json",
                "metrics.jsonl",
                "last.safetensors",
                "best.safetensors",
                "curves.png",
                "summary.json",
            ),
        ),
        Case(
            "evaluate",
            ("evaluate", str(run), "--data", str(data), "--out", "OUT"),
            "evaluation",
            ("evaluation.json", "predictions.csv", "confusion.png", "top_losses.png"),
        ),
        Case("predict", ("predict", str(run), str(photos / "test"), "--json", "OUT"), "found.json"),
        Case(
            "compare",
            ("compare", *training, "--weights", str(run), "--seeds", "2", "--out", "OUT"),
            "compared",
            ("compare.json", "compare.png"),
            heavy=True,
        ),
        Case(
            "sweep",
            ("sweep", *training, "--weights", "none", "--lr", "1e-3,1e-2", "--out", "OUT"),
            "swept",
            ("sweep.json", "sweep.png"),
            heavy=True,
        ),
        Case(
            "bench",
            (
                "bench",
                str(data),
                "--loaders",
                "torchvision",
                "--size",
                "40",
                "--batch-size",
                "8",
                "--workers",
                "1",
                "--seconds",
                "0.1",
                "--arch",
                "shufflenet_v2_x0_5",
                "--amp",
                "off",
                "--no-cold",
                "--out",
                "OUT",
            ),
            "bench",
            ("bench.json", "bench.png"),
            heavy=True,
        ),
        Case(
            "parity",
            (
                "parity",
                str(data),
                "--loaders",
                "torchvision",
                "--size",
                "40",
                "--images",
                "6",
                "--out",
                "OUT",
            ),
            "parity",
            ("pixels.json", "pixels.png"),
        ),
        Case("report", ("report", str(run), "--out", "OUT"), "page.html"),
        Case("doctor", ("doctor",), heavy=True),
    ]
    return {row.name: row for row in rows}


class Living:
    """A command under way, in a session of its own, with what it has said in files.

    Attributes:
        pid: of its first process.
    """

    def __init__(self, folder: Path, pid: int, wait: Callable[[float], int | None]) -> None:
        self._folder, self.pid, self._wait = folder, pid, wait
        # Of another one with that number, perhaps; this one has only begun.
        self._shared = set(os.listdir("/dev/shm"))

    @property
    def place(self) -> Path:
        """Where its output is to be."""
        return self._folder / "place"

    def ends(self, within_s: float) -> bool:
        """Whether it ends in this time."""
        return self._wait(within_s) is not None

    def family(self) -> list[psutil.Process]:
        """It, and all that it has started, whatever has become of who started them."""
        return [each for each in psutil.process_iter() if self._is_of_it(each)]

    def _is_of_it(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            mark = process.environ().get("TMPDIR", "")
            return mark.startswith(f"{self._folder}/") or os.getsid(process.pid) == self.pid
        except (psutil.Error, ProcessLookupError):
            return False

    def end(self) -> tuple[int, str, str]:
        """Exit status, stdout and stderr; and nothing of it is left."""
        status = self._wait(PATIENCE_S)
        if status is None:
            for each in self.family():
                each.kill()
            raise AssertionError("hangs")
        gives_up_s = time.monotonic() + PATIENCE_S
        while family := self.family():
            assert time.monotonic() < gives_up_s, [each.cmdline() for each in family]
            psutil.wait_procs(family, timeout=0.05)
        # torch's compiler makes itself a folder as soon as it is imported.
        left = [each.name for each in (self._folder / "tmp").iterdir()]
        left = [name for name in left if not name.startswith("torchinductor_")]
        shared = set(os.listdir("/dev/shm")) - self._shared
        left += [name for name in shared if f"_{self.pid}_" in name]
        assert left == [], left
        out, err = ((self._folder / name).read_text() for name in ("stdout", "stderr"))
        assert "Traceback" not in err, err
        assert "Exception ignored" not in err, err
        return status, out, err


def begin(
    arguments: list[str], folder: Path, setup: Callable[..., None] | None = None, *given: object
) -> Living:
    """Begin a command in a process that is forked from one that has imported torch.

    Args:
        arguments: of the command line.
        folder: an empty one, with `place` in it if that is not to be made.
        setup: called in the process before, with what is given.
    """
    for name in ("place", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    process = SERVER.Process(target=_work, args=(arguments, folder, setup, given))
    process.start()
    assert process.pid is not None

    def wait(within_s: float) -> int | None:
        process.join(within_s)
        return process.exitcode

    while process.exitcode is None and not (folder / "stderr").exists():
        process.join(0.01)
    return Living(folder, process.pid, wait)


def begin_alone(
    arguments: list[str], folder: Path, program: Sequence[str] = ("-m", "fastft"), **options: Any
) -> Living:
    """Begin a command as a shell does, imports and all; options are those of `Popen`."""
    for name in ("place", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            **{"stdout": out, "stderr": err, "start_new_session": True, **options},
            env={**ENVIRONMENT, "TMPDIR": str(folder / "tmp")},
            cwd=folder,
        )

    def wait(within_s: float) -> int | None:
        try:
            return process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    return Living(folder, process.pid, wait)


def _work(
    arguments: list[str], folder: Path, setup: Callable[..., None] | None, given: tuple[object, ...]
) -> None:
    import multiprocessing
    import tempfile

    import torch

    from fastft.cli.main import main

    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in any process that is not forked
    # A shell's background job has Ctrl-C ignored; a fork server may have begun while signals were
    # held, as for other processes of a parity check.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ["TMPDIR"], tempfile.tempdir = str(folder / "tmp"), None
    os.environ["PYTHONWARNINGS"] = "ignore"
    sys.argv = ["fastft", *arguments]
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    if setup is not None:
        setup(*given)
    main()
