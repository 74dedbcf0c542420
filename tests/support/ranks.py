"""Trainings of several processes, forked from one that has imported everything.

    python tests/support/ranks.py JOBS.json

JOBS is a list of {"world", "config", "trace", "stop_after", "die_at"}: how many processes; the
settings; a folder for what each process's training loader was asked to show; after how many steps
the process `stop_rank` is sent SIGTERM; at which step process `die_rank` kills itself; "double":
compute in float64, where what differs by more than the order of sums shows. A job goes on with the
run that is there. Prints the exit statuses of each job's processes and its seconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loaded_kernels import load_kernels
from rich.console import Console
from tiny import make_tiny

import fastft.runs.curves
import fastft.train.distributed
import fastft.train.run
from fastft.config.train import TrainConfig
from fastft.system.signals import Stopped, StopSignals
from fastft.train.run import train
from fastft.train.step import TrainStep
from pipelines.errors import FastftError
from pipelines.plan import Plan, Rows


def trace_to(folder: Path, rank: int) -> None:
    """Keep every row of the training view that a loader asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    real, count = Plan.rows, 0

    def rows(self: Plan, samples: np.ndarray) -> Rows:
        nonlocal count
        found = real(self, samples)
        if self.view == "train":
            name = folder / f"{os.getpid()}-{rank}-{count}.npz"
            np.savez(name, epoch=self.epoch, samples=samples, boxes=found.boxes, flips=found.flips)
            count += 1
        return found

    Plan.rows = rows  # type: ignore[method-assign]


def at_step(number: int, act: Any) -> None:
    """Call `act` when so many steps have been taken."""
    real, taken = TrainStep.__call__, 0

    def call(self: TrainStep, *arguments: Any) -> Any:
        nonlocal taken
        result = real(self, *arguments)
        taken += 1
        if taken == number:
            act()
        return result

    TrainStep.__call__ = call  # type: ignore[method-assign]


def compute_in_double() -> None:
    """Let models that are built from now on be of float64, and take float32 images."""
    torch.set_default_dtype(torch.float64)
    real = fastft.train.run.build_model

    def build(*arguments: Any, **options: Any) -> Any:
        built = real(*arguments, **options)
        built.model.register_forward_pre_hook(lambda _, images: (images[0].double(),))
        return built

    fastft.train.run.build_model = build  # type: ignore[attr-defined]


def do_the_least() -> None:
    """Of a deep network, curves and limits each takes as long as a tiny training, and shows nothing
    of it."""
    make_tiny(pytest.MonkeyPatch())
    fastft.runs.curves.draw_curves = lambda metrics, out: out.write_bytes(b"")
    fastft.train.run.find_bottleneck = lambda *_, **__: None  # type: ignore[attr-defined]


def config_of(job: dict[str, Any]) -> TrainConfig:
    """The settings of a job."""
    paths = {name: Path(job["config"][name]) for name in ("data", "out")}
    return TrainConfig(**{**job["config"], **paths})


def be(rank: int, job: dict[str, Any], port: int) -> int:
    """One process of a job; its exit status."""
    world = job["world"]
    do_the_least()
    fastft.train.distributed._HOLD_BACK_S = (
        0.1  # there is no launcher that would end who waits for it
    )
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if job.get("double"):
        compute_in_double()
    if "trace" in job:
        trace_to(Path(job["trace"]), rank)
    if "stop_after" in job and rank == job.get("stop_rank", 0):
        at_step(job["stop_after"], lambda: os.kill(os.getpid(), signal.SIGTERM))
    if "die_at" in job and rank == job["die_rank"]:
        at_step(job["die_at"], lambda: os.kill(os.getpid(), signal.SIGKILL))
    try:
        with StopSignals(is_one_of_many=world > 1) as stop:
            train(config_of(job), Console(quiet=True), stop, or_resume=True)
    except Stopped as error:
        return error.exit_code
    except FastftError as error:
        print(f"rank {rank}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job; see above."""
    started = time.perf_counter()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(job["world"]):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = be(rank, job, port)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"codes": codes, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for job in {job["config"].get("augment"): job for job in jobs}.values():
        load_kernels(config_of(job))
    print(json.dumps([run(job) for job in jobs]))
