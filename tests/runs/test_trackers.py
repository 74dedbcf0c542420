"""Trackers of experiments: told as the folder is, continued, no harm when they fail."""

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_tracker import FakeTracker

from fastft.runs import trackers
from fastft.runs.metrics import EpochMetrics, MetricsFile, StepMetrics
from fastft.runs.tracker import Ending, Row, scalars
from fastft.runs.trackers import Trackers, open_trackers, require_trackers
from pipelines.errors import DataError, UsageError

SETTINGS = {"lr": 0.1, "freeze": "", "scale": [0.08, 1.0], "depth": None}
STOPPED, FINISHED = Ending("stopped", {}), Ending("finished", {"epochs": 1, "best_accuracy": 0.5})


def step(number: int) -> StepMetrics:
    return StepMetrics(
        epoch=0, step=number, loss=9 - number, lr=0.1, wait_s=0, step_s=1, img_per_s=8
    )


EPOCH = EpochMetrics(
    epoch=0,
    size=64,
    train_loss=1,
    train_accuracy=0.25,
    eval_loss=2,
    eval_accuracy=0.5,
    img_per_s=8,
    wait_s=1,
    train_s=4,
    eval_s=1,
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def begin(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Trackers]:
    """Opens a fake as the tracker of a run, or fails to, whatever its name."""

    def begin(tracker: FakeTracker | Exception, **options: Any) -> Trackers:
        def open_fake(*_: object) -> FakeTracker:
            if isinstance(tracker, Exception):
                raise tracker
            return tracker

        monkeypatch.setattr("fastft.runs.trackers._open", open_fake)
        opened = open_trackers(["mlflow"], tmp_path, SETTINGS, said.append, **options)
        assert opened is not None
        return opened

    return begin


def test_nothing_asked_loads_nothing(tmp_path: Path, said: list[str]) -> None:
    assert open_trackers([], tmp_path, SETTINGS, said.append) is None
    assert not list(tmp_path.iterdir())
    code = """
import sys, fastft.runs.trackers
assert not {"mlflow", "tensorboard", "wandb"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_come_whole_and_in_order(begin: Callable[..., Trackers]) -> None:
    fake, rows = FakeTracker(), list[Row]([*map(step, range(50)), EPOCH])
    opened = begin(fake)
    for row in rows:
        opened.add(row)
    opened.close(FINISHED)
    assert fake.told == rows
    assert fake.endings == [FINISHED]


def test_a_failing_tracker_is_named_once(begin: Callable[..., Trackers], said: list[str]) -> None:
    tried = threading.Event()

    def fail() -> None:
        tried.set()
        raise OSError("no route to host\nand more")

    fake = FakeTracker(fail)
    opened = begin(fake)
    opened.add(step(0))
    assert tried.wait(60)
    for number in range(1, 20):
        opened.add(step(number))
    opened.close(STOPPED)
    named = "mlflow is told no more: no route to host; metrics.jsonl has all rows"
    assert [line for line in said if "no more" in line] == [named]
    assert not fake.told
    assert "tracker mlflow" not in [thread.name for thread in threading.enumerate()]


def test_a_hanging_tracker_holds_up_nobody(
    begin: Callable[..., Trackers], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "CLOSE_S", 0.01)
    monkeypatch.setattr(trackers, "_MOST_ROWS", 3)
    released = threading.Event()
    fake = FakeTracker(lambda: released.wait(60))
    opened = begin(fake)
    opened.add(step(0))
    opened.close(STOPPED)
    assert "it has not sent all within 0.01 s" in said[-1]
    released.set()
    full = begin(FakeTracker(lambda: released.wait(60)))
    released.clear()
    for number in range(10):
        full.add(step(number))
    full.close(STOPPED)
    released.set()
    assert "it lags 3 rows behind" in said[-1]


def test_a_continued_run_tells_nothing_twice(
    begin: Callable[..., Trackers], tmp_path: Path
) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for number in range(4):
        file.write(step(number))
    kept = file.size_bytes
    for row in (step(4), EPOCH, step(5)):
        file.write(row)
    file.close()
    with (tmp_path / "metrics.jsonl").open("a") as opened:
        opened.write('{"kind": "step", "epoch": 0, "st')  # of a process that was killed
    continued = MetricsFile(tmp_path / "metrics.jsonl", kept)
    continued.close()
    assert continued.dropped == (5, 0)

    begin(FakeTracker()).close(STOPPED)
    again, other = FakeTracker(), FakeTracker()
    other.key = "another run"
    for fake in (again, other):
        following = begin(fake, first_step=4, heard=continued.dropped)
        for row in (step(4), EPOCH, step(5), step(6)):
            following.add(row)
        following.close(FINISHED)
    assert again.told == [step(6)]
    assert len(other.told) == 4


def test_a_tracker_that_is_refused_is_told(begin: Callable[..., Trackers], said: list[str]) -> None:
    refused = DataError("--track mlflow", "cannot be opened: no route")
    with pytest.raises(DataError, match="no route"):
        begin(refused)
    begin(refused, first_step=7).close(STOPPED)
    assert said == ["--track mlflow: cannot be opened: no route; the run goes on without it"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_trackers([])
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf'is not installed.*pip install "fastft\[{name}\]"'):
        require_trackers([name])


def test_a_library_that_does_not_load_is_named(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastft.runs.mlflow_run", None)
    with pytest.raises(UsageError, match=r"cannot be imported .*fastft\[mlflow\]"):
        open_trackers(["mlflow"], tmp_path, SETTINGS, said.append)


def test_a_folder_of_its_name_is_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(UsageError, match="is not installed"):
        require_trackers(["wandb"])


def test_damaged_keys_begin_anew(begin: Callable[..., Trackers], tmp_path: Path) -> None:
    for content in ("{", "[]", '{"mlflow": 3}'):
        (tmp_path / "tracked.json").write_text(content)
        begin(FakeTracker()).close(STOPPED)
        assert json.loads((tmp_path / "tracked.json").read_text()) == {"mlflow": "known"}


def tell(name: str, out: Path, rows: Sequence[Row], ending: Ending, **options: Any) -> None:
    """Tell a real tracker; leaves no thread of its own."""
    said: list[str] = []
    opened = open_trackers([name], out, SETTINGS, said.append, **options)
    assert opened is not None
    for row in rows:
        opened.add(row)
    opened.close(ending)
    assert len(said) == 1, said
    assert said[0].startswith(f"tracked by {name}: ")


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    from mlflow import MlflowClient

    return MlflowClient


def test_mlflow_has_what_a_run_has(mlflow: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    tell("mlflow", out, [step(0), step(1)], STOPPED)
    key = json.loads((out / "tracked.json").read_text())["mlflow"]
    client = mlflow()
    begun = client.get_run(key)
    assert (begun.info.status, begun.info.run_name) == ("KILLED", "run")
    assert begun.data.params == {"lr": "0.1", "freeze": "", "scale": "[0.08, 1.0]", "depth": "null"}

    tell("mlflow", out, [step(1), step(2), EPOCH], FINISHED, first_step=1, heard=(1, -1))
    found = client.get_run(key)
    assert found.info.status == "FINISHED"
    for name, value, _ in [*scalars(step(2)), *scalars(EPOCH)]:
        assert found.data.metrics[name] == value
    assert found.data.metrics["summary/best_accuracy"] == 0.5
    history = client.get_metric_history(key, "step/loss")
    assert [(each.step, each.value) for each in history] == [(0, 9), (1, 8), (2, 7)]


def test_mlflow_stores_that_need_more_are_named(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    with pytest.raises(UsageError, match="set MLFLOW_ALLOW_FILE_STORE=true"):
        tell("mlflow", tmp_path, [], FINISHED)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    if importlib.util.find_spec("sqlalchemy") is None:
        with pytest.raises(UsageError, match=r"is a database.*pip install mlflow"):
            tell("mlflow", tmp_path, [], FINISHED)


def test_mlflow_without_a_server_is_refused(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(DataError, match="--track mlflow: cannot be opened: ") as refused:
        tell("mlflow", tmp_path, [], FINISHED)
    assert "\n" not in str(refused.value)


def records(content: bytes) -> Iterator[Any]:
    """The records in a W&B file: LevelDB's log format behind 7 bytes of its own."""
    Record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record

    at, whole = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a record is whole
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def read_wandb(file: Path) -> Mapping[str, list[Any]]:
    """What a W&B file has: runs, rows of history, exit codes, values of the summary."""
    found: dict[str, list[Any]] = {"run": [], "history": [], "exit": [], "summary": []}
    for record in records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = record.history.item
            row = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in items}
            found[kind].append({k: v for k, v in row.items() if not k.startswith("_")})
        elif kind == "summary":
            for item in record.summary.update:
                found[kind].append((item.key or item.nested_key[0], json.loads(item.value_json)))
        elif kind == "exit":
            found[kind].append(record.exit.exit_code)
        elif kind == "run":
            found[kind].append(record.run)
    return found


def find_children() -> set[str]:
    """Ids of the processes that this one has started."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


@pytest.fixture
def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, where W&B sends nothing."""
    pytest.importorskip("wandb", reason="W&B is not installed")
    for name in ("WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_NAME", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_wandb_has_what_a_run_has(wandb_offline: Path) -> None:
    out = wandb_offline
    children, threads = find_children(), set(threading.enumerate())
    tell("wandb", out, [step(0), step(1)], STOPPED)
    tell("wandb", out, [step(1), step(2), EPOCH], FINISHED, first_step=1, heard=(1, -1))
    assert not find_children() - children
    assert not set(threading.enumerate()) - threads

    key = json.loads((out / "tracked.json").read_text())["wandb"]
    files = sorted(out.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)
    begun, continued = map(read_wandb, files)
    (first, *_), (second, *_) = begun["run"], continued["run"]
    assert (first.run_id, second.run_id, first.project) == (key, key, "fastft")
    assert first.display_name == "run"
    config = {item.key: json.loads(item.value_json) for item in first.config.update}
    assert SETTINGS.items() <= config.items()
    assert (begun["exit"], continued["exit"]) == ([1], [0])
    rows = [*begun["history"], *continued["history"]]
    wanted = [{n: v for n, v, _ in scalars(row)} for row in (step(0), step(1), step(2))]
    assert rows[:3] == [{**values, "step": at} for at, values in enumerate(wanted)]
    assert rows[3] == {**{name: value for name, value, _ in scalars(EPOCH)}, "epoch": 1}
    assert len(rows) == 4
    assert {("best_accuracy", 0.5), ("status", "finished")} <= set(continued["summary"])
