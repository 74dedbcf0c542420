"""`fastft train --nproc N`, and under torchrun: one run, one voice, and nobody left behind."""

import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from commands import PATIENCE_S, Living, begin
from effort import choose, long
from forked import be_torchrun, fork_ranks
from loaded_kernels import load_kernels
from ranks import do_the_least

from fastft.config.train import TrainConfig
from fastft.runs.checkpoint import load_checkpoint
from fastft.runs.folder import LAST, METRICS
from fastft.runs.metrics import read_metrics
from fastft.train.distributed import divide_cpus, join_world
from fastft.train.launch import count_processes
from pipelines.errors import UsageError
from pipelines.formats.source import open_source
from pipelines.plan import make_plan

Command = Callable[..., tuple[int, str, str]]
OPTIONS = (
    "--weights none --size 40 --batch-size 10 --amp off --arch shufflenet_v2_x0_5 --workers 1"
    " --checkpoint-every 1".split()
)


def fork_small_ranks(data: Path | None = None) -> None:
    """Let ranks be forks of this process, which train a network of three layers.

    Args:
        data: what kernels are loaded for that all of them use.
    """
    do_the_least()
    if data is not None:
        load_kernels(TrainConfig(data=data, out=Path("out"), size=40, batch_size=10, workers=1))
    fork_ranks()


def be_small_torchrun(data: Path, *given: str) -> None:
    """Be torchrun, whose ranks are such forks."""
    fork_small_ranks(data)
    be_torchrun(*given)


def start(folder: Path, data: Path, *arguments: object) -> Living:
    """A training whose processes are forked."""
    given = ["train", "--data", str(data), *map(str, arguments)]
    return begin(given, folder / "begun", fork_small_ranks, data)


def ranks_of(process: Living, folder: Path) -> list[psutil.Process]:
    """The processes of a training by rank, once it has got so far as to write rows."""
    gives_up_s, log = time.monotonic() + PATIENCE_S, folder / "run" / METRICS
    while not (log.exists() and log.stat().st_size) and not process.ends(0.02):
        assert time.monotonic() < gives_up_s
    ranks = [psutil.Process(int(file.read_text())) for file in sorted(folder.glob("begun/rank-*"))]
    assert all(rank.ppid() == process.pid for rank in ranks)
    return ranks


def test_two_processes_make_one_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("--out", out, *OPTIONS, "--nproc", 2, "--epochs", 2)
    status, said, err = start(tmp_path, data, *arguments).end()
    assert (status, err) == (0, "")
    assert len(re.findall(r"^epoch \d/2", said, re.MULTILINE)) == 2
    assert said.count("33 training and 6 evaluation images, 3 classes") == 1
    assert "2 x cpu" in said
    assert said.count("best accuracy") == 1
    steps, epochs = read_metrics(out / METRICS)
    assert [row.step for row in steps] == list(range(8))
    assert len(epochs) == 2
    assert sorted(file.name for file in out.iterdir()) == [
        "best.safetensors",
        "config.json",
        "curves.png",
        "last.safetensors",
        "metrics.jsonl",
        "summary.json",
    ]
    checkpoint = load_checkpoint(out / LAST)
    assert not [name for name in checkpoint.model if name.startswith("module.")]


def test_one_processs_error_ends_all_once(
    photos: Path, tmp_path: Path, tried: Callable[..., None]
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    source = open_source(photos / "train")
    plan = make_plan(source.widths, source.heights, view="train", size=40)
    # The first process shows the first photo, the second one the last of a batch; it holds back for
    # seconds before it says what is wrong.
    first = int(plan.order[choose(0, 9)])
    victim = tmp_path / "photos" / "train" / source.name(first)
    victim.write_bytes(victim.read_bytes()[:-400])
    arguments = ("--data", tmp_path / "photos", "--out", tmp_path / "run", "--nproc", 2)
    given = ["train", *map(str, arguments), *OPTIONS]
    # At length its ranks are started as ever, imports and all.
    status, _, err = begin(given, tmp_path / "begun", choose(fork_small_ranks, None)).end()
    tried("a training of processes ended in the middle by an error")
    assert status == 1
    assert err.count("\n") == 1, err
    assert victim.name in err
    assert not (tmp_path / "run").exists()


def test_a_process_that_is_killed_is_named(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("--out", out, *OPTIONS, "--nproc", 2, "--epochs", 1000)
    process = start(tmp_path, data, *arguments)
    ranks = ranks_of(process, tmp_path)
    assert len(ranks) == 2
    ranks[1].kill()
    status, _, err = process.end()
    assert status == 1
    assert err == (
        "process 2 of 2: was ended by SIGKILL; if memory ran out, take fewer --workers; "
        "continue with fastft train --resume\n"
    )


#: A process becomes one that is joined to others: as torch says it, under soak in truth.
_JOINS = choose(
    """
distributed = types.ModuleType("torch.distributed")
distributed.is_available = distributed.is_initialized = lambda: True
sys.modules["torch.distributed"] = distributed
""",
    """
from torch import distributed
store = distributed.HashStore()
distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
""",
)
#: Ends as a command does that had an error, alone and joined to others; says how far the
#: interpreter's own end came.
_LEAVES = f"""
import atexit, os, sys, types
from fastft.cli.main import _leave

class Object:
    def __del__(self):
        os.write(1, b"finalized ")

forked = os.fork()
if forked:
    _, status = os.waitpid(forked, 0)
    os.write(1, b"%d, " % os.waitstatus_to_exitcode(status))
# In a module of its own: some libraries keep the main one for good.
sys.modules["kept"] = types.ModuleType("kept")
sys.modules["kept"].object = Object()
atexit.register(os.write, 1, b"closed ")
if not forked:
    exec({_JOINS!r})
_leave(1, "the error")
"""


def test_no_thread_of_torch_sees_the_interpreter_end() -> None:
    """Those of a process that is still joined to others call into it."""
    ended = subprocess.run(
        [sys.executable, "-c", _LEAVES], capture_output=True, text=True, check=False
    )
    joined, alone = "closed ", "closed finalized "
    assert (ended.returncode, ended.stdout) == (1, f"{joined}1, {alone}")
    assert ended.stderr.count("the error\n") == 2


def test_sigterm_saves_and_ends_all(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("--out", out, *OPTIONS, "--nproc", 2, "--epochs", 1000)
    process = start(tmp_path, data, *arguments)
    ranks_of(process, tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    status, _, err = process.end()
    assert status == 143
    assert re.fullmatch(
        r"fastft: stopped; .*last.safetensors is that of epoch .* --resume .*\n", err
    )
    progress = load_checkpoint(out / LAST).progress
    assert progress is not None
    assert len(read_metrics(out / METRICS)[0]) == progress["epoch"] * 4 + progress["sums"]["steps"]


@long
def test_reading_processes_survive_a_group_signal(data: Path, tmp_path: Path) -> None:
    """Signals of terminals and schedulers reach the loader's own processes, too.

    In an ordinary run an evaluation's are told, in `test_interrupts`.
    """
    out = tmp_path / "run"
    arguments = ("--out", out, *OPTIONS, "--loader", "torchvision")
    process = start(tmp_path, data, *arguments, "--epochs", 1000)
    ranks_of(process, tmp_path)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        os.killpg(process.pid, number)
    status, _, err = process.end()
    assert status in (129, 130, 143)  # whichever it saw first
    assert err.startswith("fastft: stopped; ")
    assert load_checkpoint(out / LAST).progress is not None


def be_in_terminal(screen: str) -> None:
    """Make a terminal this process's own, as a shell's child has it; ranks are forks of it."""
    fork_small_ranks()
    descriptor = os.open(screen, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("nproc", choose([2], [1, 2]))
def test_a_terminal_that_is_closed_loses_nothing(
    nproc: int, data: Path, tmp_path: Path, tried: Callable[..., None]
) -> None:
    """As where a connection is lost: whatever is printed from then on is an error."""
    out, (keyboard, screen) = tmp_path / "run", os.openpty()
    arguments = ["--data", data, "--out", out, *OPTIONS, "--loader", "torchvision"]
    arguments += ["--nproc", nproc, "--epochs", 1000, "--checkpoint-every", 1000]
    process = begin(
        ["train", *map(str, arguments)], tmp_path / "begun", be_in_terminal, os.ttyname(screen)
    )
    while not (out / METRICS).exists() or b'"epoch": 1' not in (out / METRICS).read_bytes():
        assert not process.ends(0.02)
        if select.select([keyboard], [], [], 0)[0]:
            os.read(keyboard, 1 << 16)
    os.close(screen)
    os.close(keyboard)
    assert process.end()[0] == 129
    tried("train's terminal closed: SIGHUP")
    progress = load_checkpoint(out / LAST).progress
    assert progress is not None
    assert len(read_metrics(out / METRICS)[0]) == progress["epoch"] * 4 + progress["sums"]["steps"]


def test_torchrun_starts_it_again_and_it_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    options += ["--log-dir", os.devnull]  # else it leaves a folder
    arguments = ["train", "--data", data, "--out", out, *OPTIONS, "--epochs", 6]
    given = [*options, "-m", "fastft", *map(str, arguments)]
    process = begin([], tmp_path / "begun", be_small_torchrun, data, *given)
    ranks_of(process, tmp_path)[0].kill()
    status, said, err = process.end()
    assert status == 0, err
    assert said.count("33 training and 6 evaluation images, 3 classes") == 2
    assert [row.step for row in read_metrics(out / METRICS)[0]] == list(range(24))


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1025", ""])
def test_odd_numbers_of_processes_are_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="--nproc"):
        count_processes(asked)


def test_nproc_counts_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert count_processes("gpu") == 3
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UsageError, match="gpu, but no GPU is visible"):
        count_processes("gpu")
    # A process of many starts no others.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert count_processes("4") == 1


def test_options_that_do_not_go_together(data: Path, tmp_path: Path, fastft: Command) -> None:
    arguments = ("train", "--data", data, "--out", tmp_path / "run", *OPTIONS)
    for options, said in (
        (("--lr-find", "--nproc", 2), "--lr-find: given for several processes"),
        (("--auto-resume", "--overwrite"), "--auto-resume: given with --overwrite"),
    ):
        status, _, err = fastft(*arguments, *options)
        assert status == 2
        assert err.startswith(said)
    status, _, err = fastft("train", "--data", data)
    assert (status, err.startswith("--out: missing")) == (2, True)


# Its place in the world.


def test_an_environment_of_halves_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="'RANK' is missing"), join_world("cpu"):
        pass


def test_alone_nothing_is_asked_of_others() -> None:
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.gather([1.5, 2]) == [[1.5, 2]]
        assert world.sum([1.5]) == [1.5]
        assert world.share(b"x") == b"x"
        world.wait()


def describe_cpus(folder: Path, places: dict[int, tuple[int, int]]) -> Path:
    """A folder like /sys/devices/system/cpu: cpu -> socket, core."""
    for cpu, (package, core) in places.items():
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
    return folder


def test_cores_of_a_socket_stay_together(tmp_path: Path) -> None:
    # Linux numbers the second threads of all cores behind the first ones.
    cpus = describe_cpus(tmp_path, {n: (n % 8 // 4, n % 4) for n in range(16)})
    assert divide_cpus(range(16), 4, cpus) == [
        [0, 8, 1, 9],
        [2, 10, 3, 11],
        [4, 12, 5, 13],
        [6, 14, 7, 15],
    ]
    assert divide_cpus([1, 2, 9], 2, cpus) == [[1], [9, 2]]
    assert divide_cpus(range(5), 2, tmp_path / "none") == [[0, 1], [2, 3, 4]]
