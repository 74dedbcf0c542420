"""Programs in forks of an interpreter that has imported what they need, down to their own end.

What `processes.run_program` starts ends as `multiprocessing` lets its processes end. Here a program
is the main module, and ends as one that somebody has started: by what was registered for that, with
its globals still there.

    python tests/support/whole_programs.py

Reads a line of JSON for each: file, arguments, where it says what. Answers with its exit status.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

#: Imported, and nothing is computed: what has threads cannot be forked.
_LOADERS = {"torchvision": "torchvision", "resident": "numba", "ffcv": "ffcv", "dali": "nvidia"}


def run_whole(
    program: Path, *arguments: object, folder: Path, within_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a file as a program that somebody starts and that ends as it will.

    Args:
        program: the file.
        arguments: of its command line.
        folder: for what it says.
        within_s: seconds behind which the test fails.
    """
    server = _start()
    assert server.stdin is not None
    assert server.stdout is not None
    said = folder / "whole.stdout", folder / "whole.stderr"
    given = [str(each) for each in (program, *arguments)]
    server.stdin.write(json.dumps([given, *map(str, said)]) + "\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], within_s)[0]:
        server.kill()
        _start.cache_clear()
        raise AssertionError(f"{program} hangs")
    status = int(server.stdout.readline())
    out, err = (file.read_text() for file in said)
    return subprocess.CompletedProcess(given, status, out, err)


@cache
def _start() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)
    return server


def _load() -> None:
    import_module("loader_kinds")
    for loader, library in _LOADERS.items():
        if find_spec(library) is not None:
            with suppress(ImportError):
                import_module(f"pipelines.loaders.{loader}_loader")


def _serve() -> str:
    """Fork for each line that is read; gives the fork the text of its program."""
    for line in sys.stdin:
        given, *said = json.loads(line)
        child = os.fork()
        if child == 0:
            for descriptor, file in zip((0, 1, 2), (os.devnull, *said), strict=True):
                opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                os.dup2(opened, descriptor)
                os.close(opened)
            sys.argv[:] = given
            sys.path[0] = str(Path(given[0]).parent)
            return Path(given[0]).read_text()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    _load()
    _text = _serve()
    __file__ = sys.argv[0]  # for processes that it starts
    exec(compile(_text, __file__, "exec", dont_inherit=True))
