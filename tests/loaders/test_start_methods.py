"""Loaders in processes that are forked or spawned: each works or says why not, and none waits."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from effort import choose
from loader_kinds import KINDS, LIBRARIES, LONG_S, alike, by_sample, make_kind
from processes import run_program
from start_methods import LEFT_OUT, STARTING, STATES
from whole_programs import run_whole

from pipelines.errors import UsageError
from pipelines.forks import explain_start, here, start_method
from pipelines.formats.beton import read_index

ALL = [
    kind
    for kind in (*KINDS, "stock")
    if kind != "resident-yuv420"
    and find_spec(LIBRARIES.get(kind, "torch").split(".")[0]) is not None
]
IMAGES, BATCH = 33, 8
#: Imports of the others take seconds: that they can be pickled is shown here, that DALI's loader
#: works where it is imported anew by `test_iterating.py`.
STARTED = choose(["torchvision", "resident", "resident-file"], ALL)
#: A DataLoader's worker is one that may start no processes itself.
FORKS = ["os.fork:fork", "DataLoader:fork", *choose([], ["Process:fork"])]
#: Each takes as long as all that it imports.
PLACES = choose(
    ["DataLoader:forkserver"],
    ["DataLoader:forkserver", "Process:forkserver", "DataLoader:spawn", "Process:spawn"],
)
PROGRAM = Path(__file__).parents[1] / "support" / "start_methods.py"

Found = dict[str, dict[str, Any]]


def look(ended: subprocess.CompletedProcess[str]) -> Found:
    """What became of the loaders in each place; nobody failed beside that."""
    # What tracks semaphores writes there, too, of a lock that numba makes when ffcv is imported.
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    found: Found = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def forked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A whole program, as its forks' way to their end counts."""
    folder = tmp_path_factory.mktemp("forked")
    arguments = data / "train.beton", folder, ",".join(FORKS), *ALL
    return look(run_whole(PROGRAM, *arguments, folder=folder, within_s=6 * LONG_S))


@pytest.fixture(scope="module")
def started(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("started")
    arguments = data / "train.beton", folder, ",".join(PLACES), *STARTED
    return look(run_program(PROGRAM, *arguments, folder=folder, within_s=6 * LONG_S))


def check(found: Found, place: str) -> int:
    """Compare what loaders gave in a place with what they give here; returns how many did."""
    assert "error" not in found[place], found[place]
    given = {name: said for name, said in found[place].items() if not name.endswith(":held")}
    for name, said in given.items():
        if place.startswith("DataLoader") and name.startswith("stock"):
            assert said.startswith("UsageError: loader 'stock': in a daemonic process, such as a")
            assert "\n" not in said
        else:
            assert said.startswith(f"{IMAGES} images, "), (place, name, said)
            assert said == found["here"][name], (place, name)
    return len(given)


@pytest.mark.parametrize("place", FORKS)
def test_a_forked_process_reads_what_its_parent_does(forked: Found, place: str) -> None:
    assert check(forked, place) == len(ALL) * len(STATES)


@pytest.mark.parametrize("place", PLACES)
def test_a_process_started_anew_reads_the_same(started: Found, place: str) -> None:
    in_data_loader = place.startswith("DataLoader")
    left_out = STARTING if in_data_loader else {*STARTING, *LEFT_OUT}
    plain = [kind for kind in STARTED if kind not in left_out]
    unused = [kind for kind in STARTED if kind in STARTING]
    others = len(unused) if in_data_loader else choose(0, 1)
    assert check(started, place) == len(plain) * len(STATES) + others


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "stock"])
def test_a_pickled_loader_reads_the_same(kind: str, data: Path, tmp_path: Path) -> None:
    """As it goes to a process that is started anew."""
    with make_kind(kind, data / "train.beton", tmp_path, view="train") as loader:
        batches = iter(loader)
        next(batches)
        with pickle.loads(pickle.dumps(loader)) as copy:
            assert alike(by_sample(copy), by_sample(loader))


_OWN_SERVER = """
import multiprocessing, os, sys
from pipelines.forks import ensure_servers
def run():
    ensure_servers()
    process = multiprocessing.Process(target=print, args=("started", ))
    process.start()
    process.join()
    return process.exitcode
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver", force=True)
    assert run() == 0
    child = os.fork()
    if child == 0:
        sys.exit(run())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run() == 0
"""


def test_forks_start_their_own_fork_server(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_OWN_SERVER)
    ended = run_whole(script, folder=tmp_path, within_s=2 * LONG_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "started\n" * 3, "")


def test_the_parent_goes_on_where_it_was(forked: Found, started: Found) -> None:
    for found in (forked, started):
        for name, rest in found["rest"].items():
            assert rest == IMAGES - BATCH, name


def test_an_iteration_from_before_the_fork_says_so(forked: Found) -> None:
    held = {name: said for name, said in forked["os.fork:fork"].items() if name.endswith(":held")}
    assert len(held) == len(ALL)
    for name, said in held.items():
        assert "an iteration that began before this process was forked" in said, name
        assert said.startswith("UsageError: "), name


def test_a_closed_loader_says_so(forked: Found) -> None:
    assert len(forked["closed"]) == len(ALL) * len(STATES)
    for name, said in forked["closed"].items():
        kind = name.split(":")[0].split("-")[0]
        assert said == (
            f"UsageError: loader '{kind}': is closed, expected an open one; make another by "
            "make_loader"
        )


def test_closing_ends_an_iteration_by_an_error(data: Path, tmp_path: Path) -> None:
    loader = make_kind("resident", data / "train.beton", tmp_path)
    batches: Iterator[Any] = iter(loader)
    next(batches)
    loader.close()
    with pytest.raises(UsageError, match="is closed"):
        next(batches)
    with pytest.raises(UsageError, match="is closed"):
        loader.set_size(48)


def test_a_gpu_is_left_to_the_parent(data: Path, tmp_path: Path) -> None:
    """In a fork; the class of the parent's process stands for it here."""
    loader = make_kind("resident", data / "train.beton", tmp_path)
    try:
        loader.device, loader._home = torch.device("cuda"), type(here())()
        with pytest.raises(UsageError, match="gives batches on a GPU, in a process that was fork"):
            next(iter(loader))
    finally:
        loader.device, loader._home = torch.device("cpu"), here()
        loader.close()


_NO_GUARD = """
import multiprocessing, sys
import torch.utils.data.dataloader as theirs
from pipelines import make_loader
# So long torch waits for a batch before it looks whether its worker lives.
theirs._MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.2,)
multiprocessing.set_start_method("spawn", force=True)
loader = make_loader("torchvision", sys.argv[1], size=32, batch_size=8, workers=1)
print(sum(len(labels) for _, labels in loader))
"""


def test_a_missing_main_guard_is_named(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_NO_GUARD)
    ended = run_program(script, data / "train.beton", folder=tmp_path, within_s=4 * LONG_S)
    assert ended.returncode == 1
    assert "bootstrapping" not in ended.stderr
    guard = 'expected its work under `if __name__ == "__main__":`; move it there'
    said = [line for line in ended.stderr.splitlines() if line.endswith(guard)]
    assert said == [
        f"pipelines.errors.UsageError: {script}: uses a loader while a process that it started "
        f"imports it, {guard}",
        f"pipelines.errors.UsageError: {script}: has no main guard, and processes started by "
        f"spawn import it, {guard}",
    ]


def test_processes_that_end_at_once_are_explained(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = read_index(data / "train.beton").path
    script = tmp_path / "script.py"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    generic = f"a loader process started by {start_method()} ended before its first batch"
    for text in (None, 'if __name__ == "__main__":\n    main()\n'):
        if text is not None:
            script.write_text(text)
        assert f"{generic} (exit status 3); see" in str(explain_start(source, [3]))
    assert f"{generic}; see" in str(explain_start(source, []))
