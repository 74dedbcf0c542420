import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fastft.system import isolated as child
from fastft.system.isolated import run_child

ROOT = Path(__file__).resolve().parents[2]
Put = Callable[[str], None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Makes the module `probe` of these lines of its `main`; TMPDIR is the test's folder."""
    monkeypatch.setattr(child.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    modules = tmp_path / "modules"
    modules.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(modules))

    def write(body: str) -> None:
        lines = "\n    ".join(body.splitlines())
        (modules / "probe.py").write_text(
            "import json, os, pathlib, signal\n"
            f"def main(arguments):\n    folder = pathlib.Path(arguments[-1])\n    {lines}\n"
        )

    return write


def test_the_answer_comes_back_and_nothing_is_left(put: Put, tmp_path: Path) -> None:
    put(
        "print('noise')\n"
        "(folder / 'answer.json').write_text(json.dumps([arguments[:-1], os.getcwd() == str(folder)"
        ", os.environ['TMPDIR'] == str(folder)]))"
    )
    assert run_child("probe", ["a", "b"], 60) == [["a", "b"], True, True]
    assert not list((tmp_path / "tmp").iterdir())


def test_a_crash_is_told(put: Put) -> None:
    put("os.kill(os.getpid(), signal.SIGSEGV)")
    assert run_child("probe", [], 60) == {"failed": "crashed: SIGSEGV"}


def test_last_words_of_a_silent_process(put: Put) -> None:
    put("os.write(2, b'first\\nno driver\\n')\nos._exit(7)")
    assert run_child("probe", [], 60) == {"failed": "ended with status 7: no driver"}
    put("pass")
    assert run_child("probe", [], 60) == {"failed": "ended with status 0: no message"}


def test_an_answer_of_who_failed_afterwards_is_none(put: Put) -> None:
    put("(folder / 'answer.json').write_text('{}')\nos._exit(3)")
    assert run_child("probe", [], 60) == {"failed": "ended with status 3"}


def test_a_hang_ends_with_all_that_was_started(put: Put, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    put(
        "other = os.fork()\n"
        f"os.write(os.open({str(pids)!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND), "
        "b'%d\\n' % os.getpid())\n"
        "signal.pause()"
    )
    assert run_child("probe", [], 1) == {"failed": "took longer than 1 s and was killed"}
    started = list(map(int, pids.read_text().split()))
    assert len(started) == 2
    for pid in filter(psutil.pid_exists, started):
        with suppress(psutil.NoSuchProcess):
            # What nobody has waited for is a zombie until init looks; what is killed takes a while.
            while (process := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE:
                process.wait(100)
    assert not list((tmp_path / "tmp").iterdir())


def test_ctrl_c_ends_the_process(put: Put, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    put(
        f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "signal.pause()"
    )
    # What a shell starts in its background has this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_child("probe", [], 60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not psutil.pid_exists(int(pid.read_text()))
    assert not list((tmp_path / "tmp").iterdir())


def test_processes_end_with_their_parent(put: Put, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    put(
        f"file = open({str(pipe)!r}, 'wb', buffering=0)\n"
        "file.write(b'here')\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
        "signal.pause()"
    )
    program = "from fastft.system.isolated import run_child; run_child('probe', [], 60)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # which it has no time to clear
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment)
    with pipe.open("rb") as reader:
        assert reader.read() == b"here"  # to the end: nobody has it open any more
    assert parent.wait() == -signal.SIGKILL
