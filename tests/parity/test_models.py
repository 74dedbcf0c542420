import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from effort import rest
from PIL import Image
from rich.console import Console
from torch import nn

from fastft.config.commands import AccuracyConfig
from fastft.config.train import LOADER_CHOICES, TrainConfig
from fastft.model.built import BuiltModel
from fastft.parity import models as accuracy
from fastft.parity.equivalence import AccuracyResult, judge
from fastft.parity.model_plots import save_accuracy
from fastft.parity.model_section import conclusion
from fastft.parity.models import run_accuracy
from fastft.runs.checkpoint import read_file
from fastft.runs.metrics import read_metrics
from fastft.train.run import train
from pipelines.errors import DataError, UsageError
from pipelines.loaders import LOADERS, Loader
from pipelines.loaders.torchvision_loader import TorchvisionLoader
from pipelines.plan import Plan
from pipelines.preprocessing import STD

QUIET = Console(quiet=True)
LEVEL = 1 / (255 * torch.tensor(STD)).reshape(1, 3, 1, 1)

Images = torch.Tensor


def config(data: Path, **options: Any) -> AccuracyConfig:
    small: dict[str, Any] = {
        "loaders": ("torchvision",),
        "seeds": 2,
        "size": 33,
        "batch_size": 16,
        "warm_epochs": 1,
        "amp": "off",
        "workers": 1,
        "weights": "none",
    }
    return AccuracyConfig(data=data, **{**small, **options})


class Altered(TorchvisionLoader):
    """The plain loader, its normalized training images changed."""

    change: Callable[[Images], Images]
    views = ("train",)

    def _batches(self, plan: Plan, start: int) -> Any:
        for images, labels in super()._batches(plan, start):
            altered = type(self).change(images) if self.view in self.views else images
            yield altered.contiguous(memory_format=torch.channels_last), labels


class Reordered(TorchvisionLoader):
    """Executes another seed's plan."""

    def _enter(self, epoch: int) -> None:
        super()._enter(epoch + 1000)


def noise(images: Images) -> Images:
    """A level up, a level down, or none."""
    random = torch.Generator().manual_seed(3)
    return images + torch.randint(-1, 2, images.shape, generator=random) * LEVEL


def swapped(images: Images) -> Images:
    return images.flip(1)


def unnormalized(images: Images) -> Images:
    """As if the mean had not been subtracted: batch norm hides it, but for the zeros around."""
    return images + 124 * LEVEL


class Small(nn.Module):
    """Learns in a hundredth of a ResNet-18's time; the runs are the subject here, not the model."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)

    def forward(self, images: Images) -> torch.Tensor:
        features = self.norm(self.conv(images)).relu().mean((2, 3))
        logits: torch.Tensor = self.fc(features)
        return logits


def build_small(
    classes: int | Sequence[str], weights: str, *, seed: int, **options: Any
) -> BuiltModel:
    torch.manual_seed(seed)
    model = Small(classes if isinstance(classes, int) else len(classes))
    if weights != "none":
        state = read_file(Path(weights))
        assert isinstance(state, dict), weights
        body = {name: value for name, value in state.items() if not name.startswith("fc.")}
        model.load_state_dict(body, strict=False)
    return BuiltModel(model, "small", model.fc, weights != "none", (), {})


pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost a small model more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastft.train.run.build_model", build_small)


@pytest.fixture
def add_loader(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Loader]], None]:
    """Registers a loader under the name `altered`."""

    def add(kind: type[Loader]) -> None:
        monkeypatch.setitem(LOADERS, "altered", ("altered_loader", "Kind"))
        for place in ("config.train", "train.inputs"):
            choices = (*LOADER_CHOICES, "altered")
            monkeypatch.setattr(f"fastft.{place}.LOADER_CHOICES", choices)
        module = SimpleNamespace(Kind=kind)
        monkeypatch.setitem(sys.modules, "pipelines.loaders.altered_loader", module)

    return add


def altered(change: Callable[[Images], Images], *views: str) -> type[Loader]:
    return type(
        "Changed", (Altered,), {"change": staticmethod(change), "views": views or ("train",)}
    )


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> AccuracyResult:
    """Torchvision against its stock form, with files."""
    out = tmp_path_factory.mktemp("accuracy") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastft.train.run.build_model", build_small)
        return run_accuracy(config(data, weights="warm", out=out), QUIET)


def test_a_result_is_complete(finished: AccuracyResult) -> None:
    assert finished.loaders == ("torchvision", "stock")
    assert (finished.steps, finished.train_images, finished.eval_images) == (3, 33, 6)
    assert (finished.dtype, finished.control_dtype) == ("float32", "bfloat16")
    for name in finished.loaders:
        assert [len(curve) for curve in finished.losses[name]] == [3, 3]
        for other in finished.loaders:
            values = finished.accuracies[name][other]
            assert finished.findings.matrix[name][other] == pytest.approx(sum(values) / 2)
            assert all(0 <= value <= 100 for value in values)
    assert len(finished.control_losses) == 2
    assert finished.control_losses[0] != finished.losses["torchvision"][0]
    assert finished.control_losses[0] == pytest.approx(finished.losses["torchvision"][0], abs=0.1)
    assert set(finished.findings.against_baseline) == {"torchvision"}
    assert finished.findings.against_reference == finished.findings.curves == {}
    # The stock evaluation's pixels are the reference's: the same models, the same answers.
    assert finished.findings.evaluation["stock"].mean == 0


def test_files_hold_the_result(finished: AccuracyResult) -> None:
    out = Path(finished.config["out"])
    assert sorted(file.name for file in out.iterdir()) == ["accuracy.json", "accuracy.png"]
    content = json.loads((out / "accuracy.json").read_text())
    assert content["passed"] is finished.passed
    assert content["losses"]["stock"][1] == list(finished.losses["stock"][1])
    assert content["environment"]["torch"]
    assert content["config"]["batch_size"] == 16
    with Image.open(out / "accuracy.png") as image:
        assert image.width > 1000


@pytest.mark.usefixtures("small_model")
def test_a_run_is_what_fastft_train_does(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_accuracy(config(data, seed=4, epochs=2), QUIET)
    train(
        TrainConfig(
            data=data,
            out=tmp_path / "run",
            loader="torchvision",
            weights="none",
            size=33,
            epochs=2,
            batch_size=16,
            amp="off",
            seed=5,
            workers=1,
        ),
        QUIET,
    )
    steps, epochs = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row.loss for row in steps] == list(result.losses["torchvision"][1])
    accuracy = result.accuracies["torchvision"]["torchvision"][1]
    assert accuracy == pytest.approx(100 * epochs[-1].eval_accuracy)


@pytest.mark.usefixtures("small_model")
def test_all_runs_start_from_one_body(finished: AccuracyResult, data: Path) -> None:
    again, other = (
        run_accuracy(config(data, weights="warm", warm_epochs=epochs), QUIET) for epochs in (1, 2)
    )
    assert again.start.startswith("a body trained here")
    assert again.losses == finished.losses
    assert again.accuracies == finished.accuracies
    first, second = (curve[0] for curve in again.losses["torchvision"])
    assert first != second
    # The same layers and images on another body.
    assert other.losses["torchvision"][0][0] != first


@pytest.mark.usefixtures("small_model")
def test_a_loader_within_one_level_passes(data: Path, add_loader: Any) -> None:
    add_loader(altered(noise, "train", "eval"))
    result = run_accuracy(config(data, loaders=("altered",), amp="bf16", margin=50), QUIET)
    match = result.findings.curves["altered"]
    assert 0 < match.rms < match.limit
    assert match.first > 0
    assert result.passed
    assert result.loaders == ("torchvision", "altered", "stock")


@pytest.mark.usefixtures("small_model")
@pytest.mark.parametrize(
    ("what", "amp"),
    [("not normalized", "bf16"), *rest(("another order", "off"), ("channels swapped", "off"))],
)
def test_a_loader_of_other_data_fails(what: str, amp: str, data: Path, add_loader: Any) -> None:
    kinds: dict[str, type[Loader]] = {
        "channels swapped": altered(swapped),
        "not normalized": altered(unnormalized),
        "another order": Reordered,
    }
    add_loader(kinds[what])
    result = run_accuracy(config(data, loaders=("altered",), amp=amp), QUIET)
    assert not result.findings.curves["altered"].within
    assert not result.passed
    assert any("altered: its loss curve" in line for line in conclusion(result))
    assert conclusion(result)[-1].startswith("FAILED")


@pytest.mark.usefixtures("small_model")
def test_loaders_of_the_installation_agree(data: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    result = run_accuracy(config(data, loaders=("dali",)), QUIET)
    assert result.findings.curves["dali"].within
    assert result.findings.against_reference["dali"].n == 2


@pytest.mark.usefixtures("small_model")
def test_what_does_not_take_part_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "usable_loaders", lambda sources: ("torchvision",))
    console = Console(record=True, file=io.StringIO(), width=100)
    result = run_accuracy(config(data, loaders=()), console)
    assert result.loaders == ("torchvision", "stock")
    assert "dali" in result.left_out
    assert re.search("Left out, not installed or unable .*dali", console.export_text())


def result_of(finished: AccuracyResult, offsets: tuple[float, ...]) -> AccuracyResult:
    """`finished` with five seeds, torchvision's accuracy so far above stock's."""
    stock = (90.0,) * len(offsets)
    better = tuple(a + b for a, b in zip(stock, offsets, strict=True))
    rows = {"torchvision": better, "stock": stock}
    accuracies = {name: dict.fromkeys(rows, row) for name, row in rows.items()}
    findings = judge(
        finished.losses,
        finished.control_losses,
        accuracies,
        reference="torchvision",
        baseline="stock",
        margin=1.0,
    )
    return replace(
        finished,
        accuracies=accuracies,
        findings=findings,
        passed=findings.passed,
        config={**finished.config, "margin": 1.0},
    )


@pytest.mark.parametrize(
    ("offsets", "passed", "lines"),
    [
        ((0.1, -0.1, 0.2, 0.0, 0.1), True, ["passed in"]),
        ((3.0, 3.1, 2.9, 3.2, 3.0), False, [r"stock: different, \+3\.04 ", "FAILED in"]),
        (
            (3.0, -3.0, 2.0, -2.0, 0.0),
            True,
            [r"not shown to lie within 1: \+0\.00 .* \d\d seeds would", "not all is shown in"],
        ),
    ],
)
def test_conclusions(
    finished: AccuracyResult,
    offsets: tuple[float, ...],
    passed: bool,
    lines: list[str],
    tmp_path: Path,
) -> None:
    result = result_of(finished, offsets)
    assert result.passed is passed
    found = conclusion(result)
    assert len(found) == len(lines)
    for line, wanted in zip(found, lines, strict=True):
        assert re.search(wanted, line)
    if passed:
        return  # drawn as `finished` is
    save_accuracy(result, tmp_path)
    with Image.open(tmp_path / "accuracy.png") as image:
        assert image.width > 1000


def test_evaluation_that_differs_fails(finished: AccuracyResult) -> None:
    """Runs that train alike, and a loader whose evaluation view is off."""
    rows = {"torchvision": (90.0, 91.0, 90.5), "stock": (85.0, 86.5, 85.5)}
    findings = judge(
        finished.losses,
        finished.control_losses,
        dict.fromkeys(rows, rows),
        reference="torchvision",
        baseline="stock",
        margin=1.0,
    )
    assert findings.evaluation["stock"].verdict == "different"
    assert not findings.passed


def test_settings_are_checked(data: Path) -> None:
    for options in (
        {"seeds": 1},
        {"epochs": 0},
        {"size": 32},
        {"margin": 0.0},
        {"margin": float("nan")},
        {"lr": -1.0},
        {"amp": "half"},
        {"seed": 2**32 - 5},
        {"workers": -1},
        {"batch_size": 0},
        {"warm_epochs": 0},
    ):
        with pytest.raises(UsageError, match=f"--{next(iter(options)).replace('_', '-')}: "):
            config(data, **options)


@pytest.mark.usefixtures("small_model")
def test_what_cannot_run_leaves_nothing(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for options, error in (
        ({"loaders": ("tf",)}, r"--loaders: 'tf', expected one of torchvision"),
        ({"batch_size": 34}, "--batch-size: 34 for the 33 images"),
        ({"device": "cuda:77"}, "--device"),
        ({"weights": str(tmp_path / "none.pt")}, "none.pt"),
        ({"lr": 1e6, "epochs": 2}, r"seed 0, step \d: loss (nan|inf), expected a number"),
        ({"out": file}, "--out: .* is a file"),
        ({"out": Path("/proc/none/out")}, "/proc/none/out: .*, expected a folder to make"),
    ):
        with pytest.raises((DataError, UsageError), match=error):
            run_accuracy(config(data, **{"out": tmp_path / "out", **options}), QUIET)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
