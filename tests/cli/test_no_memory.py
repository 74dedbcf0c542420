"""Memory that runs out under a command: one line that says what to do, nothing half done."""

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import effort
import pytest
from commands import Case, begin, require_sound

from fastft.cli import commands as program

Cases = dict[str, Case]
Tried = Callable[..., None]
READING = (
    "synth",
    "fetch",
    "inspect",
    "show",
    "train",
    "evaluate",
    "predict",
    "compare",
    "sweep",
    "parity",
    "report",
)
#: MB beside what a process has that has imported all.
ROOMS_MB = (4, 16, 64, 128, 256, 400, 700)


def _keeps_within(room_mb: int) -> None:
    """More memory than so many MB is refused."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (room_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.parametrize("name", effort.choose(("train", "show"), READING))
def test_a_command_that_gets_no_memory_says_so(
    name: str, cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    for room_mb in effort.choose(ROOMS_MB[2:3], ROOMS_MB):
        folder = tmp_path / str(room_mb)
        arguments = cases[name].call(folder / "place")
        status, _, err = begin(arguments, folder, _keeps_within, room_mb).end()
        require_sound(folder / "place")
        if not status:
            continue
        assert status == 1, (room_mb, status, err)
        assert err.count("\n") == 1, (room_mb, err)
        assert "memory" in err.lower(), (room_mb, err)
        tried(f"{name} out of memory", 1)


ERRORS = {
    "Python": MemoryError(),
    "NumPy": MemoryError("Unable to allocate 8.00 GiB for an array"),
    "torch on a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:130] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 9 bytes.\nmore"
    ),
    "torch on a GPU": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "C++": RuntimeError("std::bad_alloc"),
    "oneDNN": RuntimeError("could not create a primitive"),
    "the system": OSError(12, "Cannot allocate memory"),
    "threads": RuntimeError("can't start new thread"),
    "the linker": ImportError("libx.so: failed to map segment from shared object"),
}


@pytest.mark.parametrize("who", ERRORS)
def test_lack_of_memory_names_the_commands_remedies(
    who: str,
    fastft: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tried: Tried,
) -> None:
    def fails() -> int:
        raise ERRORS[who]

    monkeypatch.setattr(program, "run", fails)
    status, _, err = fastft("evaluate")
    assert (status, err.count("\n")) == (1, 1), err
    assert err.startswith("fastft: memory ran out"), err
    for remedy in ("a smaller --batch-size", "fewer --workers", "another --loader"):
        assert remedy in err
    assert "--size" not in err
    assert fastft("inspect")[2].endswith("take a machine or container that has more\n")
    tried("errors of who gets no memory")


def test_another_error_of_theirs_is_a_bug(
    fastft: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for said in ("shapes do not match", "could not create a primitive descriptor for a matmul"):

        def fails(said: str = said) -> int:
            raise RuntimeError(said)

        monkeypatch.setattr(program, "run", fails)
        with pytest.raises(RuntimeError, match=said):
            fastft("evaluate")


def test_a_measurement_that_the_system_killed_is_named(
    fastft: Callable[..., tuple[int, str, str]],
    cases: Cases,
    tmp_path: Path,
    tried: Tried,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where memory runs out."""
    from fastft.system import isolated as child

    dies = f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})"
    monkeypatch.setattr(child, "_PROGRAM", dies)
    status, _, err = fastft(*cases["bench"].call(tmp_path))
    assert (status, err.count("\n")) == (1, 1), err
    assert "was killed (SIGKILL), as by the system where memory runs out" in err
    assert "a smaller --batch-size" in err
    assert not list(tmp_path.iterdir())
    status, out, _ = fastft("doctor")
    assert status == 1
    assert "killed (SIGKILL)" in " ".join(out.split())
    tried("measurements that the system killed", 2)
