"""The proof on a GPU, as far as it can be tried without one: its parts, each in this process."""

import importlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from bench.gpu import __main__ as command
from bench.gpu import (
    clocks,
    end_to_end,
    fed,
    loaders,
    photos,
    probe,
    steps,
    suite,
    suite_report,
    trainings,
)
from bench.gpu.task import Found, Task, answer, read_task
from fastft.config.train import TrainConfig
from fastft.model.classifier import build_model
from fastft.system.isolated import ANSWER
from pipelines.errors import UsageError
from pipelines.formats.beton import read_index
from pipelines.loaders.dali_decode import WAYS, Decoding

needs_dali = pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI")


@pytest.fixture(scope="module")
def task(photos: Path, data: Path) -> Task:
    return Task(
        device="cpu",
        root=str(command.ROOT),
        photos=str(photos),
        data=str(data),
        many=str(data),
        size=40,
        batches=(4, 8),
        trained=(4,),
        epochs=1,
        times=2,
        rounds=2,
        seconds=0.01,
        workers=1,
    )


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are those of a smaller model than a ResNet-18."""
    small = partial(build_model, arch="shufflenet_v2_x0_5")
    monkeypatch.setattr(steps, "build_model", small)


def last(found: Iterable[Found]) -> Found:
    *_, whole = found
    return json.loads(json.dumps(whole))


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("part", "variant", "has"),
    [
        ("machine", "", {"bytes_per_s"}),
        ("pixels", "resident", {"rows", "verdicts"}),
        ("steps", "bf16, channels_last, eager", {"rows"}),
        ("loaders", "resident", {"rows"}),
        ("loaders", loaders.STOCK_TORCHVISION, {"rows"}),
    ],
)
def test_a_part_measures(part: str, variant: str, has: set[str], task: Task) -> None:
    measure = importlib.import_module(f"bench.gpu.{part}").measure
    assert has <= set(last(measure(replace(task, variant=variant))))


def test_every_loader_and_batch_size_has_a_row(task: Task) -> None:
    found = last(loaders.measure(replace(task, variant="resident")))
    assert [row["batch"] for row in found["rows"]] == [4, 8]
    # So short a reading may take no tick of the processor's clock.
    assert all(row["img_per_s"] > 0 and row["cores"] >= 0 for row in found["rows"])


@needs_dali
def test_each_way_to_decode_is_kept(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed = Decoding(failed="crashed: SIGSEGV")
    monkeypatch.setattr(
        probe,
        "try_way",
        lambda way, *_, **__: crashed if way.region else Decoding(img_per_s=9.0),
    )
    told = list(probe.measure(task))
    assert [len(each["ways"]) for each in told] == [1, 2, 3, 4]
    assert list(told[1]["ways"]) == ["whole, fancy", "region, fancy"]
    assert set(told[-1]["ways"]) == {str(way) for way in WAYS}
    assert told[-1]["takes_regions"] is False


@pytest.mark.usefixtures("light")
def test_contenders_take_turns(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fed, "LOADERS", ("resident", "none such"))
    monkeypatch.setattr(fed, "_WARM", 1)
    monkeypatch.setattr(fed, "_LEAST_REHEARSED", 1)
    monkeypatch.setattr(fed, "train_through", lambda name, task, batch: {"batch": batch})
    told = [last([each]) for each in fed.measure(replace(task, variant="large batch"))]
    turns = [[len(one["rounds"]) for one in each["contenders"].values()] for each in told]
    assert turns == [[1, 0, 0], [1, 1, 0], [2, 1, 0], [2, 2, 0], [2, 2, 0]]
    found = told[-1]
    assert "'none such', expected one of" in found["contenders"]["none such"]["missing"]
    for name in ("bound", "resident"):
        for one in found["contenders"][name]["rounds"]:
            assert one["img_per_s"] == pytest.approx(found["steps"] * 4 / one["seconds"])
    assert found["trainer"] == {"batch": 4}


def test_the_trainer_counts_from_its_second_epoch(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: TrainConfig, console: Console) -> SimpleNamespace:
        assert (config.data, config.batch_size, config.loader) == (Path(task.many), 4, "resident")
        rates = range(config.epochs)
        return SimpleNamespace(
            epochs=[SimpleNamespace(img_per_s=rate, wait_s=0.1, train_s=1.0) for rate in rates]
        )

    monkeypatch.setattr(fed, "train", train)
    assert fed.train_through("resident", task, 4)["img_per_s"] == [1, 2]


def test_rounds_synchronize_at_both_ends(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(fed, "wait", lambda device: seen.append("wait"))
    batches = iter([(torch.zeros(1), torch.zeros(1))] * 9)
    fed._take_turn(lambda *_: seen.append("step"), batches, 4, task, 1)
    assert seen == ["step", "wait", *["step"] * 4, "wait"]


def test_photos_are_linked_and_converted(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "_FEW", (4, 4, (40, 40)))
    names = {name: str(tmp_path / name) for name in ("photos", "data", "many")}
    last(photos.measure(replace(task, **names)))
    counts = {
        name: len(read_index(tmp_path / name))
        for name in ("data/train.beton", "data/test.beton", "many/train.beton", "many/test.beton")
    }
    assert list(counts.values()) == [8, 8, 8 * photos.TIMES, 8]
    assert len(list((tmp_path / "photos").rglob("*.jpg"))) == 16


def test_rows_are_told_as_they_come(task: Task, tmp_path: Path) -> None:
    def measure(task: Task) -> Iterator[Found]:
        yield {"half": task.variant}
        if task.variant == "bad":
            raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")
        if task.variant == "refused":
            raise UsageError("--loader", "x", "y")
        yield {"half": task.variant, "whole": True}

    told = replace(task, variants=("bad", "refused", "good"), rows=str(tmp_path / "rows"))
    assert read_task(told.as_json()) == told
    answer(measure, [told.as_json(), str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [(line["variant"], line["done"]) for line in lines] == [
        ("bad", False),
        ("bad", True),
        ("refused", False),
        ("refused", True),
        ("good", False),
        ("good", False),
        ("good", True),
    ]
    found = {line["variant"]: line["found"] for line in lines}
    assert found["bad"]["half"] == "bad"
    assert found["bad"]["failed"] == "RuntimeError: CUDA error: an illegal memory access"
    assert found["refused"]["failed"] == "--loader: x, expected y"
    assert found["good"] == {"half": "good", "whole": True}
    assert (tmp_path / ANSWER).exists()


_TESTS = """
import pytest

def test_unmarked(): raise SystemExit(9)

@pytest.mark.kernel
def test_kernel(): pass

@pytest.mark.gpu
def test_good(): pass

@pytest.mark.gpu
def test_bad(): assert 3 == 4

@pytest.mark.gpu
@pytest.mark.skip(reason="no nvJPEG")
def test_skipped(): pass
"""


def test_all_marked_tests_are_run_and_counted(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(command.ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which take a second to load
    monkeypatch.setattr(suite, "REHEARSED", suite.ON_GPU)
    monkeypatch.setattr(suite, "_LOOK_S", 0.05)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(_TESTS)
    (tmp_path / "tests" / "test_b.py").write_text("import a_library_that_is_not_here")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu\n    kernel\n")
    found = last(suite.measure(replace(task, root=str(tmp_path))))
    assert (found["tests"], found["passed"], found["skipped"]) == (4, 2, 1)
    assert found["failures"] == {"tests/test_a.py::test_bad": "assert 3 == 4"}
    assert "a_library_that_is_not_here" in found["not_collected"]["tests/test_b.py"]
    assert found["failed"] == "1 tests failed"


def test_tests_of_a_gpu_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Item(SimpleNamespace):
        def get_closest_marker(self, name: str) -> bool | None:
            return True if name in self.marks else None

    monkeypatch.setenv(suite_report.FILE, str(tmp_path / "report"))
    items: Any = [
        Item(name=name, marks=marks)
        for name, marks in (("a", "kernel"), ("b", "gpu"), ("c", "kernel"), ("d", "gpu"))
    ]
    suite_report.pytest_collection_modifyitems(items)
    assert [item.name for item in items] == ["b", "d", "a", "c"]
    (line,) = (tmp_path / "report").read_text().splitlines()
    assert json.loads(line) == {"what": "collected", "tests": 4}


def test_an_ended_suite_names_its_test() -> None:
    events = [
        {"what": "collected", "tests": 9},
        {"what": "began", "test": "a"},
        {"what": "passed", "test": "a", "when": "setup", "seconds": 0.1, "said": ""},
        {"what": "passed", "test": "a", "when": "call", "seconds": 0.2, "said": ""},
        {"what": "failed", "test": "a", "when": "teardown", "seconds": 0.1, "said": "left"},
        {"what": "ended", "test": "a"},
        {"what": "began", "test": "b"},
    ]
    lines = [*map(json.dumps, events), '{"what": "passed", "tes']
    found = suite.count(suite.read_events(lines))
    assert found["failures"] == {"a": "left"}
    assert (found["tests"], found["passed"], found["running"]) == (9, 0, "b")
    assert found["slowest"] == {"a": pytest.approx(0.4)}


def make_run(folder: Path, costs: dict[str, float] | None) -> None:
    folder.mkdir()
    epoch = {
        "kind": "epoch",
        "train_s": 1.5,
        "eval_s": 0.5,
        "wait_s": 0.25,
        "img_per_s": 100.0,
        "eval_accuracy": 0.75,
    }
    rows = [{"kind": "step"}, epoch, {**epoch, "img_per_s": 200.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"seconds": 6.0} | ({} if costs is None else {"costs_s": costs})
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "last.safetensors").write_bytes(b"12345")


@pytest.mark.parametrize("costs", [None, {"imports": 2.5, "curves": 0.5}])
def test_a_run_is_itemized_by_what_it_tells(costs: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "run", costs)
    found = trainings.read_run(tmp_path / "run")
    assert found["costs_s"] == (costs or {})
    assert found["run_s"] == 6.0
    assert found["img_per_s"] == [100.0, 200.0]
    assert (found["waited_s"], found["accuracy"], found["checkpoint_bytes"]) == (0.5, 0.75, 5)


def test_each_training_is_timed_several_times(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], *_: object) -> tuple[float, str]:
        commands.append(command)
        if "fastft" in command:
            make_run(Path(command[command.index("--out") + 1]), None)
        else:
            Path(command[3]).touch()
        return 9.0, 'told\n{"accuracy": 0.5}'

    monkeypatch.setattr(end_to_end, "run", run)
    counts = {
        name: len(last(end_to_end.measure(replace(task, variant=name)))["runs"])
        for name in end_to_end.VARIANTS
    }
    assert set(counts.values()) == {2}
    assert [task.photos in each for each in commands] == [False] * 4 + [True] * 6


def test_a_training_that_fails_says_why(task: Task, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('CUDA out of memory')"]
    with pytest.raises(RuntimeError, match="status 1: CUDA out of memory"):
        trainings.run(command, task, tmp_path)


def test_clocks_are_sampled(tmp_path: Path) -> None:
    """One sample or more: the program may be asked a second time."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '1500, 2619, 300.5, 50, 90'\n")
    program.chmod(0o755)
    with clocks.Clocks(str(program)) as sampled:
        pass
    found = sampled.found
    assert found["sm_mhz"] == {"median": 1500, "max": 1500}
    assert found["power_w"] == {"median": 300.5, "max": 300.5}
    assert found["samples"] >= 1


def test_clocks_are_summed_up() -> None:
    lines = ["1500, 2619, 300.5, 50, 90", "1980, 2619, [N/A], 54, 99", "cut o"]
    found = clocks.summarize(lines)
    assert found["sm_mhz"] == {"median": 1740, "max": 1980}
    assert found["power_w"] == {"median": 300.5, "max": 300.5}
    assert found["samples"] == 2


def test_no_clocks_do_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with clocks.Clocks() as sampled:
        pass
    with clocks.Clocks(str(tmp_path / "nothing")) as other:
        pass
    assert sampled.found == other.found == {}
    assert clocks.summarize(["no devices were found"]) == {}
