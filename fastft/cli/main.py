"""The program: what a command ends with, whatever happens to it, as a status and at most one line.

Only this is loaded before signals are heard: the commands take their time, libraries seconds.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from fastft.system.signals import Interruptions, Stopped, find_stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def main() -> None:
    """Run the command line; ends the process with 0, 1 (data), 2 (usage), 130 or 143 (signals)."""
    execute(Interruptions())


def execute(interruptions: Interruptions) -> NoReturn:
    """Run the command line.

    Raises:
        SystemExit: always, but for a bug, which keeps its traceback.
    """
    interruptions.begin()
    _open_standard_files()
    from fastft.cli import commands
    from pipelines.errors import FastftError

    said = ""
    try:
        with interruptions.raised():
            status = commands.run()
    except SystemExit as error:  # a help that was asked for; a pipe whose reader has left
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except FastftError as error:
        status, said = error.exit_code, str(error)
    except commands.ArgumentError as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "fastft")
        status, said = 2, f"{where}: {error.format_message()} See {where} --help"
    except Stopped as error:
        status, said = _stopped(error)
    except BrokenPipeError:  # nobody is there to be told
        status = 1
    except (Exception, KeyboardInterrupt) as error:
        status, said = _explain(error, interruptions.heard, commands.sparing)
    _leave(status, said)


def _explain(
    error: BaseException, heard: int, sparing: Callable[[str], Iterable[str]]
) -> tuple[int, str]:
    """Status and line of what is nobody's fault; a bug is raised again."""
    from pipelines.errors import is_no_files, is_no_memory, no_files

    if heard or isinstance(error, KeyboardInterrupt):  # of which compiled code may make another
        return _stopped(Stopped(heard or 2))
    stopped = find_stopped(error)
    if stopped is not None:
        return _stopped(stopped)
    if is_no_memory(error):
        found = next(iter(str(error).splitlines()), "")
        try:
            remedy = " or ".join(sparing(sys.argv[1]))
        except MemoryError:  # there is none left to ask what the command's options are
            remedy = ""
        remedy = remedy or "a machine or container that has more"
        return 1, f"fastft: memory ran out{f' ({found})' if found else ''}; take {remedy}"
    if is_no_files(error):
        return 1, str(no_files("fastft"))
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return 1, f"fastft: {error} If memory ran out, take fewer --workers."
    if (broken := _broken_library(error)) is not None:
        return 2, broken
    if isinstance(error, OSError):  # a full disk, a missing permission: the machine's doing
        return 1, f"{error.filename or _unnamed(error)}: {error.strerror or error}"
    raise error


def _broken_library(error: BaseException) -> str | None:
    """The line about a library that cannot be imported, or that lacks the compiler it calls.

    An import of ours that fails is a bug.
    """
    if isinstance(error, ImportError):
        library = (error.name or _innermost(error)).partition(".")[0]
        if library in ("", "fastft", "pipelines"):
            return None
        first = next(iter(str(error).splitlines()), "")
        return f"{library}: cannot be imported ({first}); fastft doctor looks for what is missing"
    from subprocess import CalledProcessError

    # Triton builds its link to the GPU's driver where it is first used.
    gcc = isinstance(error, CalledProcessError) and "-shared" in error.cmd
    if gcc or (isinstance(error, RuntimeError) and "Failed to find C compiler" in str(error)):
        from fastft.system.machine import COMPILER

        return f"fastft: Triton needs a C compiler and Python's headers to use a GPU; {COMPILER}"
    return None


def _innermost(error: BaseException) -> str:
    """The name of the module whose line raised it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else str(last.tb_frame.f_globals.get("__name__", ""))


def _stopped(error: Stopped) -> tuple[int, str]:
    return error.exit_code, f"fastft: {error}" if str(error) else ""


def _unnamed(error: OSError) -> str:
    """The output that could not be written, where the system does not say."""
    return "standard output" if _innermost(error) == "rich.console" else "fastft"


def _leave(status: int, said: str) -> NoReturn:
    """Say it, and end; what cannot be written any more is not tried again at the very end."""
    from pipelines.errors import one_line

    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and not said:
            said = f"standard output: {error.strerror}"
        status = status or 1
        _drop(sys.stdout.fileno())
    try:
        if said:
            print(one_line(said), file=sys.stderr)
        sys.stderr.flush()
    except OSError:  # nobody listens
        _drop(sys.stderr.fileno())
    _end(status)


def _end(status: int) -> NoReturn:
    """End; without the interpreter's own end if this process is still joined to others.

    It is after an error. Ending the threads of torch's connections would be to wait for the others;
    left alone they outlive the interpreter, and what they call in it then is a fatal error.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        sys.exit(status)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(status)


def _drop(descriptor: int) -> None:
    """Let what is still to be written go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _Terminal(io.FileIO):
    """A terminal, or where one was: what is written when it is closed goes nowhere.

    It is closed where a connection is lost. A command that is told so has something to finish, and
    one that was started to go on without shall do so.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def _writer(file: TextIO | None, descriptor: int) -> TextIO:
    """A standard file that can be written to."""
    if file is None:
        return open(descriptor, "w", closefd=False)
    if not file.isatty():
        return file
    raw = _Terminal(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), file.encoding, file.errors, line_buffering=True)


def _open_standard_files() -> None:
    """Open what was closed when the process began, or the next file would be taken for it.

    A library that prints a warning would write it into a checkpoint.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
    sys.stdout, sys.stderr = _writer(sys.stdout, 1), _writer(sys.stderr, 2)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may hold what its encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
