"""`--compile auto`: when another way to compute steps is taken, and left."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from steps import Recorder, make_small

from fastft.config.train import TrainConfig
from fastft.model.loss import Loss
from fastft.runs.checkpoint import load_checkpoint, save_checkpoint
from fastft.runs.metrics import read_metrics
from fastft.train import loop as trainer
from fastft.train import step as step_module
from fastft.train.compiling import ASSUMED, Compiling, Measured, choose, name_setup
from fastft.train.distributed import ALONE
from fastft.train.run import resume, train
from fastft.train.step import TrainStep
from pipelines.errors import UsageError
from pipelines.findings import read_findings
from pipelines.loaders.resident_loader import ResidentLoader

BOTH = ("default", "graph")
FAST = Measured(step_s=0.008, prepared_s=30.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("found", "steps", "taken"),
    [
        ({}, 100, "off"),
        # 5 % of 10 ms are 50 s of 100,000 steps, for a capture of 5 s; 15 % are 150 for 60.
        ({}, 25_000, "graph"),
        ({}, 100_000, "default"),
        ({"default": Measured(0.008, 50.0)}, 24_000, "graph"),
        ({"default": FAST}, 100_000, "default"),
        ({"default": FAST, "graph": Measured(0.011, 1.0)}, 14_000, "off"),
        ({"default": FAST, "graph": Measured(0.011, 1.0)}, 15_100, "default"),
        ({"default": Measured(0.012, 30.0), "graph": Measured(0.011, 1.0)}, 10**6, "off"),
    ],
)
def test_a_way_has_to_earn_its_start(found: dict[str, Measured], steps: int, taken: str) -> None:
    how, told = choose(found, 0.010, steps, BOTH)  # type: ignore[arg-type]
    assert how == taken
    if taken != "off":
        assert f"{steps:,} steps of 10.0 ms are left" in told
        assert ("measured before" if taken in found else "assumed, not measured") in told


def test_what_cannot_be_is_not_chosen() -> None:
    assert choose({}, 0.010, 10**6, ())[0] == "off"
    assert choose({}, 0.010, 10**6, ("graph",))[0] == "graph"


class Steps:
    """A GPU's steps, whose seconds a test says."""

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        self.prepared: list[str] = []
        self.prepared_s = 0.0
        self.on_failure: Any = None
        self.obstacles: dict[str, str] = {}

    def find_obstacle(self, how: str) -> str:
        return self.obstacles.get(how, "")

    def prepare(self, how: str, batch: int, size: int) -> None:
        assert (batch, size) == (128, 224)
        self.prepared.append(how)
        self.prepared_s = 0.0


def make(steps: Steps, choice: str = "auto") -> tuple[Compiling, list[str]]:
    told: list[str] = []
    made = Compiling(
        choice,  # type: ignore[arg-type]
        steps,
        setup="a card",
        batch=128,
        size=224,
        world=ALONE,
        say=told.append,
    )
    return made, told


def take(compiling: Compiling, seconds: float, count: int = 20) -> None:
    for _ in range(count):
        assert compiling.took(seconds) == 0.0


def test_auto_changes_between_epochs_and_says_so() -> None:
    steps = Steps()
    compiling, told = make(steps)
    compiling.decide(100_000)
    take(compiling, 0.010, 19)
    compiling.decide(100_000)
    assert steps.prepared == []  # nothing has been measured yet
    take(compiling, 0.010)
    compiling.decide(100_000)
    assert steps.prepared == ["default"]
    assert told == [
        "--compile auto: default from here on; 100,000 steps of 10.0 ms are left, of which it "
        "saves 150 s and costs 60 (assumed, not measured)"
    ]


def test_what_turns_out_slower_is_left_and_remembered() -> None:
    steps = Steps()
    compiling, told = make(steps)
    take(compiling, 0.010)
    compiling.decide(100_000)
    steps.prepared_s = 42.0
    assert compiling.took(42.5) == 42.0
    take(compiling, 0.012)
    compiling.decide(90_000)
    assert steps.prepared == ["default", "off"]
    assert told[1] == "--compile auto: off from here on; 12.0 ms a step, 10.0 before"
    take(compiling, 0.010)
    compiling.decide(80_000)
    assert compiling.how == "off"
    compiling.save()
    kept = read_findings("steps", "a card")
    assert kept["default"] == {"step_s": 0.012, "prepared_s": 42.0}
    assert kept["off"]["step_s"] == 0.010
    # The next run does not try it again.
    again, _ = make(Steps())
    take(again, 0.010)
    again.decide(100_000)
    assert again.how == "graph"


def test_what_fails_is_left_or_refused() -> None:
    steps = Steps()
    compiling, told = make(steps)
    take(compiling, 0.010)
    compiling.decide(100_000)
    steps.on_failure(RuntimeError("no\ncompiler"))
    assert compiling.how == "off"
    assert "default failed with RuntimeError: no" in told[1]
    assert told[1].endswith("; off from here on")
    assert "\n" not in told[1]
    steps = Steps()
    compiling, _ = make(steps, "graph")
    assert steps.prepared == ["graph"]
    with pytest.raises(UsageError, match=r"^--compile: graph failed with ValueError: x; take off$"):
        steps.on_failure(ValueError("x"))


def test_impossible_requests_are_refused() -> None:
    steps = Steps()
    steps.obstacles["graph"] = "needs a CUDA GPU"
    with pytest.raises(UsageError, match=r"^--compile: graph, which needs a CUDA GPU"):
        make(steps, "graph")


@pytest.mark.parametrize(
    ("choice", "saved", "now", "says"),
    [
        ("auto", "default", "default", False),
        ("auto", "graph", "graph", False),
        ("auto", "off", "off", False),
        ("auto", "nonsense", "off", False),
        ("off", "graph", "off", False),  # the same kernels
        ("off", "default", "off", True),
        ("default", "off", "default", True),
        ("default", "default", "default", False),
    ],
)
def test_a_run_goes_on_as_it_was_computed(choice: str, saved: str, now: str, says: bool) -> None:
    compiling, told = make(Steps(), choice)
    compiling.restore(saved)
    assert compiling.how == now
    assert [line.startswith("not to the bit") for line in told] == [True] * says


def test_a_setup_names_what_speed_depends_on() -> None:
    found = name_setup(torch.device("cpu"), arch="resnet18", px=224)
    assert found == f"cpu, torch {torch.__version__}, arch resnet18, px 224"
    assert set(ASSUMED) == set(BOTH)


def test_a_cpu_never_changes_by_itself() -> None:
    model = make_small()
    step = TrainStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        Loss(),
        device=torch.device("cpu"),
        amp_dtype=None,
    )
    compiling = Compiling("auto", step, setup="", batch=8, size=16, world=ALONE, say=print)
    take(compiling, 100.0)
    compiling.decide(10**6)
    assert compiling.how == "off"
    compiling.save()
    assert read_findings("steps", "") == {}


@pytest.mark.usefixtures("shallow")
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # Python 3.13.0
def test_a_compiled_run_trains_and_resumes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the compiler that takes no time; a checkpoint says how its steps were computed."""
    monkeypatch.setattr(step_module, "BACKEND", "eager")
    out = tmp_path / "run"
    quiet = Console(quiet=True)
    config = TrainConfig(
        data=data,
        out=out,
        weights="none",
        arch="shufflenet_v2_x0_5",
        size=40,
        epochs=1,
        batch_size=16,
        amp="off",
        loader="resident",
        compile="default",
    )
    train(config, quiet)
    last = load_checkpoint(out / "last.safetensors")
    assert last.progress is not None
    assert last.progress["compiled"] == "default"
    assert all(not name.startswith("_orig_mod") for name in last.model)
    assert len(read_metrics(out / "metrics.jsonl")[0]) == 3
    # One that was written before there was such a choice.
    older = {name: value for name, value in last.progress.items() if name != "compiled"}
    save_checkpoint(
        out / "last.safetensors", SimpleNamespace(**{**vars_of(last), "progress": older})
    )  # type: ignore[arg-type]
    assert resume(out, {}, quiet).best_score >= 0


@pytest.mark.usefixtures("shallow")
def test_a_captured_run_learns_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole loop: rates, short batches, an average, evaluation."""
    recorder, offered = Recorder(), []
    real = ResidentLoader.render_into

    def note(self: ResidentLoader, tensors: Any) -> None:
        offered.append(len(tensors))
        real(self, tensors)

    monkeypatch.setattr(ResidentLoader, "render_into", note)
    runs = []
    for how in ("off", "graph"):
        config = TrainConfig(
            data=data,
            out=tmp_path / how,
            weights="none",
            arch="shufflenet_v2_x0_5",
            size=40,
            epochs=2,
            batch_size=4,
            amp="off",
            loader="resident",
            compile=how,  # type: ignore[arg-type]
            ema=0.9,
        )
        if how == "graph":
            monkeypatch.setattr(trainer, "TrainStep", partial(TrainStep, capture=recorder))
        train(config, Console(quiet=True))
        runs.append(read_metrics(tmp_path / how / "metrics.jsonl"))
    assert recorder.captured == 2
    assert recorder.replayed >= 2 * 8 - 3  # and those that are tried in the end
    assert offered == [2]
    (steps, epochs), (own_steps, own_epochs) = runs
    assert [row.loss for row in own_steps] == pytest.approx([row.loss for row in steps], rel=1e-3)
    assert [row.eval_loss for row in own_epochs] == pytest.approx(
        [row.eval_loss for row in epochs], rel=1e-2
    )


def vars_of(checkpoint: Any) -> dict[str, Any]:
    return {name: getattr(checkpoint, name) for name in checkpoint.__slots__}
