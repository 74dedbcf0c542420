"""A measurement in a process of its own, which may crash, hang or change settings there alone.

The answer comes back as a JSON file, as libraries print what they like.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.atomic import unguessable

#: The file, in the process's folder, that holds the answer.
ANSWER = "answer.json"
#: In a folder of its own, so that no torch.py of the current folder is taken for the library.
#: fastft comes last: its folder may be site-packages, which must not precede the standard library.
#: Killed when its parent ends, even where that had no time to kill it: prctl(PR_SET_PDEATHSIG).
_PROGRAM = f"""
import ctypes, os, sys
from importlib import import_module
ctypes.CDLL(None).prctl(1, {signal.SIGKILL:d})
if os.getppid() != int(sys.argv[1]):
    sys.exit("its parent has ended")
sys.path.append(sys.argv[2])
import_module(sys.argv[3]).main(sys.argv[4:])
"""


def run_child(module: str, arguments: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run a module's `main` in a process of its own, which leaves neither files nor processes.

    Args:
        module: its `main` takes the arguments and an empty folder, where it writes ANSWER.
        arguments: without that folder; paths must be absolute.
        limit_s: how long it may take before it is killed.

    Returns:
        Its answer; with the key `failed`, a line that says why, if it has none to give.
    """
    with tempfile.TemporaryDirectory(prefix=unguessable("fastft-")) as folder:
        errors = Path(folder) / "stderr"
        root = str(Path(__file__).parents[2])
        with errors.open("wb") as stderr:
            program = [sys.executable, "-c", _PROGRAM, str(os.getpid()), root, module]
            process = subprocess.Popen(
                [*program, *arguments, folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=folder,
                env={**os.environ, "TMPDIR": folder},
                start_new_session=True,
            )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return {"failed": f"took longer than {limit_s:g} s and was killed"}
        finally:
            _kill(process)
        if status == -signal.SIGKILL:
            return {"failed": "was killed (SIGKILL), as by the system where memory runs out"}
        if status < 0:
            return {"failed": f"crashed: {_signal_name(-status)}"}
        try:
            answer: dict[str, Any] = json.loads((Path(folder) / ANSWER).read_text())
        except (OSError, ValueError):  # it ended before it could answer
            said = errors.read_text(errors="replace").strip().splitlines()
            return {"failed": f"ended with status {status}: {said[-1] if said else 'no message'}"}
        return {"failed": f"ended with status {status}"} if status else answer


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever it has started, which is all in one session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all of it has ended
        pass
    process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
