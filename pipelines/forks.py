"""Processes that are forked: what a child inherits without the threads and processes behind it.

A fork has one thread, the one that forked. Whatever other threads did stays half done for ever:
who waits for them, or for a lock that they held, waits for ever, and who ends them ends the
parent's. And processes that are spawned: a script's main guard.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import forkserver, process
from pathlib import Path
from typing import Any

from pipelines.errors import UsageError
from pipelines.workers import not_interrupted

_GUARD = 'its work under `if __name__ == "__main__":`'


class Process:
    """This process, as opposed to those that it was forked from or that are forked from it."""


_here = Process()


def here() -> Process:
    """This process; another object after a fork."""
    return _here


def _move() -> None:
    global _here
    _here = Process()


os.register_at_fork(after_in_child=_move)


def in_every_fork(action: Callable[[], None]) -> None:
    """Have every process that is forked from this one begin with `action`, behind `here`'s change.

    It must not wait for anything.
    """
    os.register_at_fork(after_in_child=action)


def hold_while_forking(lock: Any) -> None:
    """Let no fork happen while another thread has the lock: its child would never get it."""
    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
    )


def keep_for_good(*things: object) -> None:
    """Never destroy some objects, not even at the end: a destructor would wait for threads."""
    for each in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def disown(children: Iterable[process.BaseProcess]) -> None:
    """Have `multiprocessing` forget of processes that are the parent's, in a fork of that.

    It would end them when this process ends.
    """
    for child in children:
        process._children.discard(child)  # type: ignore[attr-defined]


def is_daemonic() -> bool:
    """Whether this process, such as a DataLoader's worker, may start no other ones."""
    return process.current_process().daemon


def start_method() -> str:
    """The start method of `multiprocessing` here; asking does not settle it."""
    asked = multiprocessing.get_start_method(allow_none=True)
    return asked or multiprocessing.get_all_start_methods()[0]


def ensure_servers() -> None:
    """Start what starts processes, if processes are not forked: once, and before signals are held.

    A fork server that hears nothing of a child's end tells nobody of it.
    """
    method = start_method()
    if method != "fork":
        with not_interrupted():
            if method == "forkserver":
                _ensure_fork_server()


def _ensure_fork_server() -> None:
    try:
        forkserver.ensure_running()
    except ChildProcessError:  # it is another process's, which this one was forked from
        server: Any = forkserver._forkserver
        server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
        forkserver.ensure_running()


def require_main_guard() -> None:
    """Refuse to work in a process that was spawned and is still importing the parent's script.

    Raises:
        UsageError: so it is.
    """
    if getattr(process.current_process(), "_inheriting", False):
        found = "uses a loader while a process that it started imports it"
        raise UsageError(sys.argv[0] or "the script", found, _GUARD, "move it there")


def explain_start(source: Path, codes: Sequence[int]) -> UsageError:
    """The error to raise where processes that were not forked ended before they gave anything.

    Args:
        source: what they were to read.
        codes: exit statuses of those that had begun.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is not None and not _has_guard(Path(script)):
        found = "has no main guard, and processes started by"
        return UsageError(script, f"{found} {start_method()} import it", _GUARD, "move it there")
    found = f"a loader process started by {start_method()} ended before its first batch"
    found += f" (exit status {codes[0]})" if codes else ""
    return UsageError(source, found, "", f"see what it says; a script has {_GUARD}")


def _has_guard(script: Path) -> bool:
    try:
        return "__main__" in script.read_text(errors="replace")
    except OSError:
        return True
