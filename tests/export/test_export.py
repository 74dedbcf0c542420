"""What is exported says what the run says, in every format, for every task."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from runs import SIZE, make_checkpoint
from safetensors.torch import load_file
from targets import LABELS, NUMBER
from tiny import make_tiny
from torch.onnx._internal.exporter._registration import ONNXRegistry

from fastft.config.commands import PredictConfig
from fastft.config.export import ExportConfig
from fastft.evaluate.predict import predict
from fastft.export import run as export_run
from fastft.export.run import Export, run_export
from fastft.export.worker import compare
from fastft.model.classifier import restore_model
from fastft.runs.checkpoint import load_checkpoint, save_checkpoint
from fastft.runs.meaning import Meaning

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("gear", "rosette", "star")
BICUBIC = {
    "filter": "bicubic",
    "crop_share": 0.9,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.4, 0.5, 0.6],
}
#: Name -> format, whether with preprocessing, task, what else the checkpoint has.
VARIANTS: dict[str, tuple[str, bool, str, dict[str, Any]]] = {
    "onnx": ("onnx", False, "labels", {}),
    "onnx-photos": ("onnx", True, "classes", {"view": "eval-square"}),
    "torch": ("torch", False, "number", {}),
    "torch-photos": ("torch", True, "classes", {"preprocessing": BICUBIC}),
    "safetensors": ("safetensors", False, "classes", {"preprocessing": BICUBIC}),
}
QUIET = Console(quiet=True)


def make_run(folder: Path, data: Path, task: str, more: dict[str, Any]) -> Path:
    """A run of a task, whose weights' average is what counts."""
    classes = {"classes": CLASSES, "labels": LABELS, "number": NUMBER}[task]
    checkpoint = make_checkpoint(data, classes)
    config = {**checkpoint.config, "data": str(data), "out": "/home/me/run", "lr": 0.01}
    thresholds = (0.4, 0.6) if task == "labels" else ()
    meaning = Meaning(task=task, thresholds=thresholds, mean=1100.0, deviation=58.0)  # type: ignore[arg-type]
    if task == "classes":
        meaning = Meaning()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in checkpoint.model.items()}
    checkpoint = replace(
        checkpoint, model=zeros, ema=checkpoint.model, config=config, meaning=meaning.pack(), **more
    )
    save_checkpoint(folder / "best.safetensors", checkpoint)
    return folder


@pytest.fixture(scope="module")
def made(
    data: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Path, Export]]]:
    """The run and the export of a variant, each exported once and compared in this process."""
    folder = tmp_path_factory.mktemp("exports")
    found: dict[str, tuple[Path, Export]] = {}

    def make(name: str) -> tuple[Path, Export]:
        if name not in found:
            export_format, inside, task, more = VARIANTS[name]
            run = make_run(folder / name, data, task, more)
            config = ExportConfig(
                run=run,
                format=export_format,
                with_preprocessing=inside,
                check=(photos / "test",),
            )
            found[name] = run, run_export(config, QUIET)
        return found[name]

    # torch describes its thousand ONNX operators for each export, which takes a second.
    read = ONNXRegistry.from_torchlib
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        patch.setattr(export_run, "compare_in_process", compare)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(read)))
        yield make


def predicted(run: Path, photos: Path, **options: Any) -> list[Any]:
    config = PredictConfig(run=run, images=(photos / "test",), amp="off", device="cpu", **options)
    return predict(config)


def numbers_of(told: list[Any]) -> np.ndarray:
    return np.array([each.value if hasattr(each, "value") else each.probabilities for each in told])


@pytest.mark.parametrize("name", VARIANTS)
def test_an_export_predicts_as_its_run(
    name: str, made: Callable[[str], tuple[Path, Export]], photos: Path, tmp_path: Path
) -> None:
    run, export = made(name)
    inside = VARIANTS[name][1]
    wanted = predicted(run, photos, csv=tmp_path / "run.csv")
    more = {"sheet": tmp_path / "s.png"} if name == "torch-photos" else {}
    found = predicted(export.file, photos, csv=tmp_path / "found.csv", **more)
    assert [each.path for each in found] == [each.path for each in wanted]
    heads = [(tmp_path / f"{each}.csv").read_text().split("\n")[0] for each in ("run", "found")]
    assert heads[0] == heads[1]
    scale = 58.0 if VARIANTS[name][2] == "number" else 1.0
    apart = np.abs(numbers_of(found) - numbers_of(wanted)).max() / scale
    assert apart < (0.02 if inside else 1e-5)
    assert np.ptp(numbers_of(wanted), axis=0).max() / scale > 0.05, "photos look alike to it"
    assert all(sheet.stat().st_size > 0 for sheet in more.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_comparison_is_told(name: str, made: Callable[[str], tuple[Path, Export]]) -> None:
    _, export = made(name)
    found, card = export.differences, export.card.read_text()
    assert (found.photos, found.same) == (6, 6)
    assert found.most < (0.02 if VARIANTS[name][1] else 1e-5)
    assert (found.most_levels is not None) == VARIANTS[name][1]
    assert "for 6 of 6, " in card
    assert f"at most {found.most:.1e} apart" in card
    if found.most_levels is not None:
        assert 0 <= found.most_levels <= 1
        assert f"pixels at most {found.most_levels:g} of 255 levels" in card


@pytest.mark.parametrize("name", VARIANTS)
def test_a_cards_example_runs(
    name: str,
    made: Callable[[str], tuple[Path, Export]],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, export = made(name)
    photo = sorted((photos / "test").rglob("*.jpg"))[0]
    for link, target in ((export.file.name, export.file), ("photo.jpg", photo)):
        (tmp_path / link).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", export.card.read_text(), re.DOTALL)
    exec(compile(program, "card", "exec"), {})
    said = capsys.readouterr().out
    wanted = predicted(run, photos)[0]
    if VARIANTS[name][2] == "classes":
        probability, label = said.split()
        assert label == wanted.label
        assert float(probability) == pytest.approx(wanted.probability, abs=0.02)
    elif VARIANTS[name][2] == "labels":
        likely = zip(wanted.classes, wanted.probabilities, strict=True)
        assert [line.split()[1] for line in said.splitlines()] == [n for n, p in likely if p >= 0.5]
    else:
        assert float(said.split()[0]) == pytest.approx(wanted.value, abs=0.01)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_tells_no_places_of_this_machine(
    name: str, made: Callable[[str], tuple[Path, Export]], data: Path
) -> None:
    _, export = made(name)
    content = export.file.read_bytes() + export.card.read_bytes()
    for place in (str(data), "/home/me", str(ROOT), "site-packages", "stack_trace", __file__):
        assert place.encode() not in content
    assert data.name.encode() in content


def test_onnx_names_its_inputs_and_outputs(made: Callable[[str], tuple[Path, Export]]) -> None:
    def sides(values: Any) -> dict[str, list[str | int]]:
        return {
            value.name: [
                side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim
            ]
            for value in values
        }

    graph = onnx.load(made("onnx")[1].file).graph
    assert sides(graph.input) == {"images": ["batch", 3, SIZE, SIZE]}
    assert sides(graph.output) == {"logits": ["batch", 2], "probabilities": ["batch", 2]}
    proto = onnx.load(made("onnx-photos")[1].file)
    assert sides(proto.graph.input) == {"images": ["batch", "height", "width", 3]}
    assert list(sides(proto.graph.output)) == ["logits", "probabilities"]
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", 18)]


def test_batches_of_photos_have_any_size(made: Callable[[str], tuple[Path, Export]]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(made("onnx-photos")[1].file)
    program = torch.export.load(made("torch-photos")[1].file).module()
    for sides in ((1, 35, 90), (3, 120, 41), (2, 40, 40), (1, 1, 50)):
        images = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
        logits, probabilities = session.run(None, {"images": images})
        assert logits.shape == probabilities.shape == (sides[0], 3)
        found = program(torch.from_numpy(images))
        assert [tuple(each.shape) for each in found] == [
            (sides[0], 3),
            (sides[0], 3),
            (sides[0], 3, SIZE, SIZE),
        ]


def test_weights_are_the_evaluated_ones_under_their_own_names(
    made: Callable[[str], tuple[Path, Export]],
) -> None:
    run, export = made("safetensors")
    checkpoint = load_checkpoint(run / "best.safetensors")
    found = load_file(export.file)
    own = restore_model(checkpoint, run).state_dict()
    assert set(found) == set(own)
    assert all(torch.equal(found[name], own[name]) for name in own)
    assert load_checkpoint(export.file).preprocessed == checkpoint.preprocessed


def test_evaluate_refuses_an_export(
    made: Callable[[str], tuple[Path, Export]], data: Path, refuses: Callable[..., str]
) -> None:
    for name in ("onnx", "torch"):
        file = made(name)[1].file
        refuses(name, ["evaluate", file, "--data", data], 1, "a checkpoint")


def test_models_of_whole_photos_refuse_crops(
    made: Callable[[str], tuple[Path, Export]], data: Path, refuses: Callable[..., str]
) -> None:
    file = made("onnx-photos")[1].file
    refuses("crops", ["predict", file, data, "--crops", "5"], 2, "a model that cuts photos itself")
