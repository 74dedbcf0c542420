"""Nobody reads what a command prints, or it cannot be written: no traceback, never a success."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import effort
import pytest
from commands import Case, Living, begin, begin_alone, require_sound

from fastft.cli import commands as program

Cases = dict[str, Case]
Tried = Callable[..., None]
PRINTING = effort.choose(
    ("inspect",),
    (
        "synth",
        "fetch",
        "inspect",
        "show",
        "train",
        "evaluate",
        "predict",
        "compare",
        "sweep",
        "bench",
        "parity",
        "report",
        "doctor",
    ),
)
FULL = "standard output: No space left on device\n"


def broken() -> int:
    """The end of a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


#: Whose reader has left, and that is full.
BOTH = [(broken, ""), (full, FULL)]


def start_with(
    standard: int, make: Callable[[], int], arguments: list[str], folder: Path
) -> Living:
    """Begin a command, one of whose standard files is such a one."""
    if not effort.SOAK_H:
        return begin(arguments, folder, _replace, standard, make)
    descriptor = make()
    stream = {1: "stdout", 2: "stderr"}[standard]
    living = begin_alone(arguments, folder, **{stream: descriptor})  # type: ignore[arg-type]
    os.close(descriptor)
    return living


def _replace(standard: int, make: Callable[[], int]) -> None:
    descriptor = make()
    os.dup2(descriptor, standard)
    os.close(descriptor)
    if standard == 1:  # the stream that was there takes it for a file
        sys.stdout = os.fdopen(1, "w", closefd=False)


@pytest.mark.parametrize("name", PRINTING)
@pytest.mark.parametrize(("make", "said"), effort.choose(BOTH[:1], BOTH))
def test_an_unwritable_output_is_no_success(
    make: Callable[[], int], said: str, name: str, cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    arguments = cases[name].call(tmp_path / "place")
    # Forked in an ordinary run, but for the last flush, below.
    assert start_with(1, make, arguments, tmp_path).end()[::2] == (1, said)
    tried("standard output that cannot be written")


#: A command whose text is still in Python's buffers when it ends.
_PRINTS = """
from fastft.cli import commands, main
commands.run = lambda: print("text") or 0
main.main()
"""


@pytest.mark.parametrize(("make", "said"), effort.choose([(full, FULL)], BOTH))
def test_a_failed_last_flush_is_no_success(
    make: Callable[[], int], said: str, tmp_path: Path, tried: Tried
) -> None:
    descriptor = make()
    living = begin_alone([], tmp_path, ("-c", _PRINTS), stdout=descriptor)
    os.close(descriptor)
    assert living.end()[::2] == (1, said)
    tried("standard output that cannot be written")


@pytest.mark.parametrize("make", effort.choose([broken], [broken, full]))
def test_untold_errors_still_fail(make: Callable[[], int], tmp_path: Path, tried: Tried) -> None:
    assert start_with(2, make, ["inspect"], tmp_path).end() == (2, "", "")
    tried("standard error that cannot be written")


@pytest.mark.parametrize("name", PRINTING)
@pytest.mark.parametrize("descriptors", effort.choose([(0, 1, 2)], [(1,), (0, 1, 2)]))
def test_a_command_does_without_what_was_closed(
    descriptors: tuple[int, ...], name: str, cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    arguments = cases[name].call(tmp_path / "place")
    living = begin_alone(arguments, tmp_path, preexec_fn=partial(_close, descriptors))
    assert living.end() == (0, "", "")
    assert not cases[name].out or cases[name].is_whole(tmp_path / "place")
    require_sound(tmp_path / "place")
    tried("standard files that are closed")


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _without_standard_files() -> None:
    def warns() -> int:
        with Path("first").open("wb") as file:
            for descriptor in range(3):
                with suppress(OSError):  # libraries in compiled code warn there
                    os.write(descriptor, b"warning")
            file.write(b"checkpoint")
        return 0

    program.run = warns
    _close((0, 1, 2))


def test_closed_streams_are_not_reused_as_files(tmp_path: Path, tried: Tried) -> None:
    assert begin(["inspect"], tmp_path, _without_standard_files).end() == (0, "", "")
    assert (tmp_path / "first").read_bytes() == b"checkpoint"
    tried("standard files that are closed")
