"""One training by several processes: the same data, the same steps, whatever their number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effort import choose
from processes import run_program

from fastft.datasets.synth import SynthConfig, write_synth
from fastft.runs.checkpoint import load_checkpoint
from fastft.runs.metrics import read_metrics
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.formats.beton import read_index
from pipelines.plan import make_plan

RANKS = Path(__file__).parents[1] / "support" / "ranks.py"
BATCH, IMAGES = 10, 36
#: How many processes share a run; one is shared by three and two of them in any case.
WORLDS = choose([1], [1, 2, 3, 4])
UNEVEN = {
    # processes, photos to learn from, photos to be judged by, batch
    "one sample": (2, 1, 1, 1),
    "a last batch of one": (3, 7, 4, 3),
}
Job = dict[str, Any]


def run_jobs(folder: Path, jobs: list[Job]) -> tuple[list[list[int]], str]:
    """Run jobs of tests/support/ranks.py; the exit statuses of each, and stderr of all."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    ended = run_program(RANKS, file, folder=folder, within_s=400)
    assert ended.returncode == 0, ended.stderr
    return [result["codes"] for result in json.loads(ended.stdout)], ended.stderr


def settings(data: Path, out: Path, **options: Any) -> Job:
    usual = {
        "weights": "none",
        "size": 40,
        "batch_size": BATCH,
        "epochs": 1,
        "amp": "off",
        "workers": 1,
        "loader": "resident",
        "schedule": "constant",
        "sync_bn": True,
        "checkpoint_every": "0",
        "arch": "shufflenet_v2_x0_5",
    }
    return {"data": str(data), "out": str(out), **usual, **options}


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 photos to learn from, 7 to be judged by: neither divides by the batch."""
    folder = tmp_path_factory.mktemp("even")
    config = SynthConfig(
        out=folder / "photos", classes=3, per_class=12, test_per_class=3, size=(90, 70)
    )
    write_synth(config)
    convert(ConvertConfig(src=folder / "photos", out=folder / "data"))
    return folder / "data"


@pytest.fixture(scope="module")
def runs(even: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run by each number of processes, one whose number changed twice, and others.

    All of them by one program, which loads for seconds what they share.
    """
    out = tmp_path_factory.mktemp("several")
    jobs: list[Job] = [
        {
            "world": world,
            "double": True,
            "trace": str(out / f"trace-{world}"),
            # The only one that the changed one is compared with behind the first epoch.
            "config": settings(even, out / f"run-{world}", epochs=2 if world == 1 else 1),
        }
        for world in WORLDS
    ]
    # Where a checkpoint may be made, all processes look whether they are to stop.
    config = settings(even, out / "changed", epochs=2, checkpoint_every="1")
    changed = {"double": True, "config": config}
    mixes = {"augment": "trivial", "erase": 0.3, "mixup": 0.3, "cutmix": 1.0, "mix_prob": 0.8}
    for name, world, more in (
        ("mixed", 1, {}),
        ("mixed-changed", 2, {"stop_after": 2}),
        ("mixed-changed", 3, {}),
    ):
        mixing = settings(even, out / name, checkpoint_every="1", class_weight="balanced", **mixes)
        jobs.append({"world": world, "double": True, "config": mixing, **more})
    jobs += [
        # In the first epoch, in the second, and to the end.
        {"world": 1, "stop_after": 2, "trace": str(out / "changed-0"), **changed},
        {"world": 3, "stop_after": 3, "stop_rank": 1, "trace": str(out / "changed-1"), **changed},
        {"world": 2, "trace": str(out / "changed-2"), **changed},
    ]
    wanted = [[0] * world for world in WORLDS]
    wanted += [[0], [143] * 2, [0] * 3, [143], [143] * 3, [0, 0]]
    for name, (world, train, test, batch) in UNEVEN.items():
        data = make_data(photos, out / name / "data", train, test)
        config = settings(data, out / name / "run", batch_size=batch, sync_bn=False)
        jobs.append({"world": world, "config": config})
        wanted.append([0] * world)
    config = settings(even, out / "died", checkpoint_every="1")
    jobs += [
        {"world": 2, "config": config, "die_rank": 1, "die_at": 3},
        {"world": 2, "config": config},
    ]
    wanted += [[1, -9], [0, 0]]
    codes, said = run_jobs(out, jobs)
    assert codes == wanted, said
    (out / "said").write_text(said)
    return out


def global_batches(folder: Path, epoch: int) -> list[tuple[np.ndarray, ...]]:
    """What the processes of a run showed, share by share put together: samples, boxes, flips."""
    shares: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for file in sorted(folder.glob("*.npz"), key=lambda f: int(f.stem.split("-")[2])):
        with np.load(file) as rows:
            if rows["epoch"] == epoch:
                rank = int(file.stem.split("-")[1])
                parts = tuple(rows[name] for name in ("samples", "boxes", "flips"))
                shares.setdefault(rank, []).append(parts)
    by_rank = [shares[rank] for rank in sorted(shares)]
    return [
        tuple(np.concatenate(parts) for parts in zip(*batch, strict=True))
        for batch in zip(*by_rank, strict=True)
    ]


def losses(run: Path) -> list[float]:
    return [row.loss for row in read_metrics(run / "metrics.jsonl")[0]]


@pytest.mark.parametrize("world", WORLDS)
def test_global_batches_ignore_the_world_size(
    world: int, runs: Path, even: Path, tried: Callable[..., None]
) -> None:
    index = read_index(even / "train.beton")
    plan = make_plan(index.widths, index.heights, view="train", size=40)
    wanted = list(plan.batches(BATCH))
    # Behind the run a loader is tried by itself: only what was trained on counts.
    found = global_batches(runs / f"trace-{world}", epoch=0)[: len(wanted)]
    assert [len(batch[0]) for batch in found] == [10, 10, 10, 6]
    for batch, rows in zip(found, wanted, strict=True):
        assert np.array_equal(batch[0], rows.samples)
        assert np.array_equal(batch[1], rows.boxes)
        assert np.array_equal(batch[2], rows.flips)
    tried("training shared by processes")


@pytest.mark.parametrize("run", ["changed", *(f"run-{world}" for world in WORLDS[1:])])
def test_steps_ignore_the_world_size(run: str, runs: Path, tried: Callable[..., None]) -> None:
    """In float64, where only the order of sums differs, and what comes of it."""
    alone, shared = runs / "run-1", runs / run
    assert losses(shared)[:4] == pytest.approx(losses(alone)[:4], rel=1e-9)
    mine, theirs = (read_metrics(run / "metrics.jsonl")[1][0] for run in (shared, alone))
    assert mine.train_accuracy == theirs.train_accuracy
    assert mine.eval_accuracy == theirs.eval_accuracy
    assert mine.eval_loss == pytest.approx(theirs.eval_loss, rel=1e-6)
    tried("training shared by processes")


def test_processes_may_come_and_go_between_steps(runs: Path) -> None:
    straight, changed = runs / "run-1", runs / "changed"
    assert losses(changed) == pytest.approx(losses(straight), rel=1e-8)
    steps, epochs = read_metrics(changed / "metrics.jsonl")
    assert [row.step for row in steps] == list(range(8))
    assert [row.epoch for row in epochs] == [0, 1]
    first, second = (load_checkpoint(run / "last.safetensors") for run in (straight, changed))
    for name, tensor in first.model.items():
        assert torch.allclose(tensor, second.model[name], rtol=1e-6, atol=1e-9), name
    # Each part showed the rest of the plan from where the part before it had stopped.
    whole = [batch for epoch in (0, 1) for batch in global_batches(runs / "trace-1", epoch)[:4]]
    shown = {
        (part, epoch): global_batches(runs / f"changed-{part}", epoch)
        for part in range(3)
        for epoch in (0, 1)
    }
    joined = [*shown[0, 0][:2], *shown[1, 0][:2], *shown[1, 1][:1], *shown[2, 1][:3]]
    for mine, theirs in zip(joined, whole, strict=True):
        for part, wanted in zip(mine, theirs, strict=True):
            assert np.array_equal(part, wanted)


def test_mixed_steps_ignore_the_world_size(runs: Path) -> None:
    """Begun by two processes, ended by three: the same images, operations and mixes."""
    alone, changed = losses(runs / "mixed"), losses(runs / "mixed-changed")
    assert changed == pytest.approx(alone, rel=1e-9)
    assert alone != pytest.approx(losses(runs / "run-1")[: len(alone)], rel=1e-2)


def make_data(photos: Path, out: Path, train: int, test: int) -> Path:
    """Data of few photos of one class each way, as class folders."""
    files = sorted((photos / "train").rglob("*.jpg"))
    for split, count in (("train", train), ("test", test)):
        folder = out / split / "only"
        folder.mkdir(parents=True)
        for file in files[:count]:
            (folder / file.name).symlink_to(file)
    return out


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_sizes_are_counted_once(name: str, runs: Path) -> None:
    _, train, test, batch = UNEVEN[name]
    run = runs / name / "run"
    steps, (epoch,) = read_metrics(run / "metrics.jsonl")
    assert len(steps) == -(-train // batch)
    # There is one class only: whoever counts right finds everything right, and no loss.
    assert (epoch.train_accuracy, epoch.eval_accuracy) == (1.0, 1.0)
    # A rate is written with one digit behind the point, whatever it is.
    assert epoch.img_per_s == pytest.approx(train / epoch.train_s, rel=0.05, abs=0.051)
    progress = load_checkpoint(run / "last.safetensors").progress
    assert progress is not None
    found = {split: progress["data"][split]["images"] for split in ("train", "eval")}
    assert (progress["is_done"], found) == (True, {"train": train, "eval": test})


def test_a_process_that_dies_ends_the_others(runs: Path) -> None:
    assert "rank 0: process 1 of 2: lost the others" in (runs / "said").read_text()
    # And nothing is lost but the step it died in.
    assert [row.step for row in read_metrics(runs / "died" / "metrics.jsonl")[0]] == [0, 1, 2, 3]
