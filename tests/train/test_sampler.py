"""Trainings that show rare classes more often: the same draws for any processes, and resumed."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mortal import differences
from processes import run_program
from rich.console import Console
from stopped import QUIET, config_of, run_until

from fastft.datasets.synth import SynthConfig, write_synth
from fastft.runs.checkpoint import load_checkpoint, save_checkpoint
from fastft.runs.folder import CONFIG, LAST
from fastft.train.distributed import ALONE
from fastft.train.inputs import open_inputs, open_sources, resolve_inputs
from fastft.train.resume import read_run
from fastft.train.run import resume, train
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import UsageError
from pipelines.formats.beton import read_index
from pipelines.plan import Plan, make_plan
from pipelines.sampling import find_frequencies

RANKS = Path(__file__).parents[1] / "support" / "ranks.py"
#: Images of each class that are left to learn from: 21, in batches of 10.
SIZES = (14, 5, 2)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted photos of unequal classes."""
    folder = tmp_path_factory.mktemp("skewed")
    write_synth(
        SynthConfig(out=folder / "photos", classes=3, per_class=14, test_per_class=2, size=(60, 50))
    )
    for kind, size in zip(sorted((folder / "photos" / "train").iterdir()), SIZES, strict=True):
        for photo in sorted(kind.iterdir())[size:]:
            photo.unlink()
    convert(ConvertConfig(src=folder / "photos", out=folder / "data"))
    return folder / "data"


@pytest.fixture(scope="module")
def straight(skewed: Path, shallow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that nobody disturbed."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train(config_of(skewed, out, sampler="balanced"), QUIET)
    return out


@pytest.fixture
def begun(skewed: Path, tmp_path: Path, shallow: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, stopped in the middle of its second epoch."""
    out = tmp_path / "begun"
    run_until(config_of(skewed, out, sampler="balanced"), 4, monkeypatch)
    return out


def plan_of(skewed: Path, epoch: int, sampler: Any = "balanced") -> Plan:
    index = read_index(skewed / "train.beton")
    found = find_frequencies(sampler, index.labels)
    sides = index.widths, index.heights
    return make_plan(*sides, view="train", size=40, epoch=epoch, frequencies=found)


def shown(trace: Path, epoch: int) -> list[tuple[np.ndarray, ...]]:
    """The visits, boxes and flips of global batches that the processes of a run showed."""
    shares: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for file in sorted(trace.glob("*.npz"), key=lambda each: int(each.stem.split("-")[2])):
        with np.load(file) as rows:
            if rows["epoch"] == epoch:
                part = tuple(rows[name] for name in ("samples", "boxes", "flips"))
                shares.setdefault(int(file.stem.split("-")[1]), []).append(part)
    ranks = zip(*(shares[rank] for rank in sorted(shares)), strict=True)
    return [tuple(map(np.concatenate, zip(*batch, strict=True))) for batch in ranks]


def test_processes_share_the_same_draws(skewed: Path, tmp_path: Path) -> None:
    usual = {
        "data": str(skewed),
        "weights": "none",
        "size": 40,
        "batch_size": 10,
        "amp": "off",
        "workers": 1,
        "loader": "resident",
        "sync_bn": True,
        "checkpoint_every": "1",
        "arch": "shufflenet_v2_x0_5",
        "sampler": "balanced",
        "epochs": 1,
        "out": str(tmp_path / "run"),
    }
    jobs = [
        {"world": world, "config": usual, "trace": str(tmp_path / f"trace-{world}"), **more}
        for world, more in ((1, {"stop_after": 1}), (2, {"stop_after": 1}), (3, {}))
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    ended = run_program(RANKS, tmp_path / "jobs.json", folder=tmp_path, within_s=400)
    assert ended.returncode == 0, ended.stderr
    codes = [each["codes"] for each in json.loads(ended.stdout)]
    assert codes == [[143], [143] * 2, [0] * 3], ended.stderr
    plan = plan_of(skewed, 0)
    wanted = list(plan.shares(10))
    assert plan.order.max() >= len(plan)  # samples come again
    for world, first in ((1, 0), (2, 1), (3, 2)):
        batches = shown(tmp_path / f"trace-{world}", 0)
        assert batches
        for visits, (found, boxes, flips) in zip(wanted[first:], batches, strict=False):
            assert np.array_equal(found, visits)
            rows = plan.rows(visits)
            assert np.array_equal(boxes, rows.boxes)
            assert np.array_equal(flips, rows.flips)


def test_a_stopped_run_resumes_to_the_bit(straight: Path, begun: Path) -> None:
    console = Console(record=True, width=400, file=io.StringIO())
    resume(begun, {"sampler": "balanced"}, console)
    assert "sampler balanced: an epoch is 21 draws" in console.export_text()
    assert differences(straight, begun) == []


def test_a_sampler_changes_the_run(skewed: Path, straight: Path, tmp_path: Path) -> None:
    train(config_of(skewed, tmp_path / "plain"), QUIET)
    assert differences(straight, tmp_path / "plain")


def test_another_sampler_is_refused(begun: Path) -> None:
    for sampler in ("sqrt", "shuffle"):
        with pytest.raises(UsageError) as refused:
            resume(begun, {"sampler": sampler}, QUIET)
        assert str(refused.value) == (
            f"--sampler: {sampler}, and {begun} was begun with balanced, expected the same; leave "
            "it out, or train anew into another --out"
        )


def test_runs_from_before_samplers_resume(
    skewed: Path, tmp_path: Path, shallow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(skewed, tmp_path / "old")
    run_until(config, 4, monkeypatch)
    for name in (LAST, "previous.safetensors", "best.safetensors"):
        path = config.out / name
        checkpoint = load_checkpoint(path)
        kept = {name: value for name, value in checkpoint.config.items() if name != "sampler"}
        save_checkpoint(path, replace(checkpoint, config=kept))
    content = json.loads((config.out / CONFIG).read_text())
    del content["config"]["sampler"]
    (config.out / CONFIG).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"sqrt, and .* was begun with shuffle"):
        resume(config.out, {"sampler": "sqrt"}, QUIET)
    # As --auto-resume asks for it: every setting is given.
    train(config, QUIET, or_resume=True)
    assert read_run(config.out, {}, ALONE, QUIET).config.sampler == "shuffle"
    train(config_of(skewed, tmp_path / "straight"), QUIET)
    assert differences(tmp_path / "straight", config.out) == []


@pytest.mark.parametrize("stock", [False, True])
def test_evaluation_is_never_sampled(stock: bool, skewed: Path, tmp_path: Path) -> None:
    config = config_of(skewed, tmp_path, sampler="sqrt", stock=stock, loader="torchvision")
    sources = open_sources(config)
    with open_inputs(resolve_inputs(config, sources), sources) as inputs:
        assert inputs.train.frequencies is not None
        assert inputs.evaluation.frequencies is None
        assert inputs.evaluation.plan.order.tolist() == list(range(len(sources[1])))


def test_odd_samplers_are_refused_in_a_line(
    skewed: Path, tmp_path: Path, refuses: Callable[..., str]
) -> None:
    files = {
        "number": "sampler = 3",
        "unknown": 'sampler = "rare"',
        "both": 'sampler = "sqrt"\nclass-weight = "balanced"',
        "list": 'sampler = ["balanced"]',
    }
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    usual = ["train", "--data", skewed, "--out", tmp_path / "run", "--weights", "none"]
    config = [*usual, "--device", "cpu", "--config"]
    for name, arguments, status, said in (
        ("unknown", [*usual, "--sampler", "Balanced"], 2, "--sampler: 'Balanced', expected one of"),
        ("empty", [*usual, "--sampler", ""], 2, "--sampler: '', expected one of shuffle, balanced"),
        (
            "twice",
            [*usual, "--sampler", "balanced", "--class-weight", "balanced"],
            2,
            "--class-weight balanced: with --sampler balanced: classes would be evened out twice",
        ),
        ("weights", [*usual, "--sampler", "weights"], 2, "train.beton has no weights"),
        ("TOML, both", [*config, tmp_path / "both.toml"], 2, "with --sampler sqrt"),
        ("TOML, number", [*config, tmp_path / "number.toml"], 2, "sampler: 3, expected a string"),
        ("TOML, list", [*config, tmp_path / "list.toml"], 2, "sampler: a list"),
        ("TOML, unknown", [*config, tmp_path / "unknown.toml"], 2, "--sampler: 'rare'"),
    ):
        refuses(name, arguments, status, said)
        assert not (tmp_path / "run").exists()
