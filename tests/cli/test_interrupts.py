"""Signals that end, in every command, at any moment: a status, at most one line, nothing left."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import effort
import psutil
import pytest
from commands import (
    Case,
    Living,
    begin,
    begin_alone,
    cpu_s,
    require_sound,
)
from disturbed import is_pythons_own

from fastft.system.signals import StopSignals

Cases = dict[str, Case]
Tried = Callable[..., None]
#: In an ordinary run those that are ended in ways of their own; `synth` is ended as it starts
#: processes, below.
COMMANDS = effort.choose(
    ("fetch", "train", "compare", "doctor"),
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
#: Seconds of processors into which a moment falls: of a process that has imported all, and of one
#: that begins as a shell begins it.
_FORKED_S, _ALONE_S = 0.6, 5.0
SAID = {
    signal.SIGINT: (130, ("fastft: interrupted\n", "fastft: stopped; ")),
    signal.SIGTERM: (143, ("", "fastft: stopped; ")),
    signal.SIGHUP: (129, ("", "fastft: stopped; ")),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_interrupted_commands_leave_nothing_half_done(
    name: str, cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    draw = random.Random(name)
    for number in range(effort.scale(1, 10)):
        (number_,) = draw.choices([*SAID], [6, 3, 1])
        alone = number % 2 == 1
        folder = tmp_path / str(number)
        case = cases[name]
        start = begin_alone if alone else begin
        living = start(case.call(folder / "place"), folder)
        until = draw.uniform(0, _ALONE_S if alone else _FORKED_S)
        if not alone:
            until += cpu_s(living.pid)  # the fork brings its parent's
        tell(living, number_, until, group=draw.random() < 0.6)
        status, _, err = living.end()
        require_sound(folder / "place")
        tried(f"{name} told to end", 1)
        if alone and is_pythons_own(err):
            continue
        wanted, said = SAID[number_]
        # What was told too late has ended as if it had not been.
        whole = not case.out or case.is_whole(folder / "place")
        # Python ends by the signal itself, which shells call by the same number: before this
        # program has begun and behind its end, and if text that it ran was interrupted.
        assert (status == 0 and whole) or status in (wanted, -number_), (status, err)
        assert err.count("\n") == bool(err), err
        assert err.startswith(said) or (status in (0, -number_) and not err), err


def tell(living: Living, number: int, until_s: float, *, group: bool) -> None:
    """Send a signal once a command has computed so long, to all its processes or to the first."""
    while cpu_s(living.pid) < until_s and not living.ends(0.005):
        pass
    try:
        (os.killpg if group else os.kill)(living.pid, number)
    except ProcessLookupError:  # it has ended
        pass


# --- before, within and behind what a command does -----------------------------------------------

#: Ctrl-C at the k-th import of this program's.
_AT_IMPORT = """
import os, signal, sys
left, begun = int(sys.argv.pop(1)), False
def count(event, arguments):
    global left, begun
    begun = begun or event == "import" and arguments[0] == "fastft.cli.main"
    left -= begun and event == "import"
    if begun and left == 0:
        left = -1
        os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(count)
from fastft.__main__ import main
main()
"""


def test_ctrl_c_while_importing_is_one_line(cases: Cases, tmp_path: Path, tried: Tried) -> None:
    """Or none, as long as the signal itself ends the process: some ten imports."""
    draw = random.Random(3)
    moments = effort.choose([2], [*range(1, 20)])
    # Some 700 before the command begins, thousands with torch's.
    moments += [draw.randint(20, 600) for _ in range(effort.scale(1, 40))]
    moments += [draw.randint(600, 2500) for _ in range(effort.scale(0, 20))]
    for moment in moments:
        folder = tmp_path / str(moment)
        arguments = [str(moment), *cases["evaluate"].call(folder / "place")]
        status, _, err = begin_alone(arguments, folder, ("-c", _AT_IMPORT)).end()
        said = {130: "fastft: interrupted\n", -signal.SIGINT: ""}
        assert err == said.get(status), moment
        assert status == 130 or moment < 20
        assert not list((folder / "place").iterdir())
        tried("Ctrl-C while importing", 1)


def _runs(function: Callable[[], int]) -> None:
    from fastft.cli import commands

    commands.run = function


class Deaf:
    """What happens in a destructor is dropped."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass


def drops_it() -> int:
    Deaf()
    while True:
        signal.pause()


def makes_another_of_it() -> int:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    except KeyboardInterrupt:
        raise RuntimeError("an error occurred in compiled code") from None
    return 0


def hears_it_twice() -> int:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    finally:
        os.kill(os.getpid(), signal.SIGINT)  # as from a terminal and from a launcher
        for _ in range(1000):
            pass
        Path("cleared").touch()
    return 0


@pytest.mark.parametrize("function", [drops_it, makes_another_of_it, hears_it_twice])
def test_ctrl_c_is_not_lost(function: Callable[[], int], tmp_path: Path, tried: Tried) -> None:
    living = begin(["doctor"], tmp_path, _runs, function)
    assert living.end()[::2] == (130, "fastft: interrupted\n")
    assert (tmp_path / "cleared").exists() == (function is hears_it_twice)
    tried("Ctrl-C that compiled code hears", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_so(number: int, tmp_path: Path, tried: Tried) -> None:
    """As Ctrl-C in what a shell has started in its background, and what `nohup` lets live on."""
    living = begin(["doctor"], tmp_path, _ignored, number)
    assert living.end()[::2] == (0, "")
    tried("signals that are ignored")


def _ignored(number: int) -> None:
    def is_told() -> int:
        os.kill(os.getpid(), number)
        with StopSignals() as stop:  # as of a training
            os.kill(os.getpid(), number)
        return stop.requested

    signal.signal(number, signal.SIG_IGN)
    _runs(is_told)


def _late() -> None:
    import atexit
    from multiprocessing import util

    _runs(lambda: 0)
    util.Finalize(None, lambda: os.kill(os.getpid(), signal.SIGINT), exitpriority=1)
    atexit.register(lambda: None)


def test_ctrl_c_at_the_end_is_one_line(tmp_path: Path, tried: Tried) -> None:
    living = begin(["doctor"], tmp_path, _late)
    assert living.end()[::2] == (130, "fastft: interrupted\n")
    tried("Ctrl-C at the very end")


# --- processes that a command has started --------------------------------------------------------


def drawing(living: Living, count: int) -> list[psutil.Process]:
    """The processes that draw, once there are so many of them."""
    while not living.ends(0.001):
        children = psutil.Process(living.pid).children()
        found = [
            child for child in children if any("spawn_main" in each for each in child.cmdline())
        ]
        if len(found) >= count:
            return found
    raise AssertionError("ended without")


def test_ctrl_c_while_workers_start_is_one_line(cases: Cases, tmp_path: Path, tried: Tried) -> None:
    draw = random.Random(1)
    for number in range(effort.scale(1, 10)):
        folder = tmp_path / str(number)
        living = begin(cases["synth"].call(folder / "place"), folder)
        importing = drawing(living, 1)[0].pid
        until_s = draw.uniform(0.05, 0.2)
        while cpu_s(importing) < until_s and not living.ends(0.001):
            pass
        os.killpg(living.pid, signal.SIGINT)
        assert living.end()[::2] == (130, "fastft: interrupted\n")
        assert not list((folder / "place").iterdir())
        tried("Ctrl-C while processes start", 1)


def _tells_workers() -> None:
    from torch.utils.data._utils import worker

    begins = worker._worker_loop

    def told(*arguments: object) -> None:
        for number in SAID:
            os.kill(os.getpid(), number)
        begins(*arguments)

    worker._worker_loop = told


def test_loader_processes_ignore_signals_from_birth(
    cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    living = begin(
        [*cases["evaluate"].call(tmp_path / "place"), "--loader", "torchvision"],
        tmp_path,
        _tells_workers,
    )
    assert living.end()[::2] == (0, "")
    tried("signals to a loader's process as it begins", 2)


def test_a_process_killed_while_drawing_is_told(cases: Cases, tmp_path: Path, tried: Tried) -> None:
    arguments = cases["synth"].call(tmp_path / "place")
    arguments[arguments.index("60")] = "20000"
    living = begin(arguments, tmp_path)
    drawing(living, 2)[-1].kill()
    status, _, err = living.end()
    assert (status, err.count("\n")) == (1, 1), err
    assert "one of its processes was killed; if memory ran out, take fewer --workers" in err
    assert not list((tmp_path / "place").iterdir())
    tried("synth's process killed")
