"""The command: what it leaves, replaces and refuses."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from runs import Command

from fastft.config.export import ExportConfig
from fastft.export import run as export_run
from fastft.export.run import run_export
from fastft.export.worker import compare
from fastft.runs.checkpoint import Checkpoint, save_checkpoint
from pipelines.errors import DataError, UsageError

QUIET = Console(quiet=True)


def spoil(patch: pytest.MonkeyPatch, **values: Any) -> None:
    """Comparisons find other differences than there are."""

    def find(*arguments: Any) -> Any:
        return replace(compare(*arguments), **values)

    patch.setattr(export_run, "compare_in_process", find)


@pytest.mark.parametrize(
    "values",
    [{"most": 2e-4}, {"most": float("nan")}, {"second": 1e-3}],
    ids=["apart", "NaN", "second"],
)
def test_an_export_that_differs_leaves_nothing(
    values: dict[str, float], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, **values)
    with pytest.raises(DataError, match=r"apart from the checkpoint's.*at most 0\.0001"):
        run_export(ExportConfig(run=run, format="safetensors", check_images=2), QUIET)
    assert os.listdir(run) == ["best.safetensors", "exported"]
    assert os.listdir(run / "exported") == []


def test_exports_are_replaced_only_on_request(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    config = ExportConfig(run=run, format="safetensors", out=tmp_path / "o", check_images=2)
    run_export(config, QUIET)
    (tmp_path / "o" / "model.onnx").write_text("of another time")
    with pytest.raises(UsageError, match=r"holds an export.*--overwrite"):
        run_export(config, QUIET)
    run_export(replace(config, overwrite=True), QUIET)
    assert sorted(os.listdir(tmp_path / "o")) == ["README.md", "model.safetensors"]
    (tmp_path / "o" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        run_export(replace(config, overwrite=True), QUIET)
    assert (tmp_path / "o" / "mine.txt").read_text() == "mine"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


def test_the_command_compares_in_a_process(
    run: Path, trained: Checkpoint, data: Path, photos: Path, fastft: Command
) -> None:
    config = {**trained.config, "data": str(data)}
    save_checkpoint(run / "best.safetensors", replace(trained, config=config))
    status, out, err = fastft("export", run, "--format", "safetensors")
    assert (status, err) == (0, "")
    first, second, last = out.splitlines()
    assert first.startswith("shufflenet_v2_x0_5, 3 classes, 40 px: weights, float32, ")
    assert f" on {data / 'test.beton'}: the same class for 6 of 6, " in second
    assert last == ", ".join(
        str(run / "exported" / "safetensors" / each) for each in ("model.safetensors", "README.md")
    )
    card = (run / "exported" / "safetensors" / "README.md").read_text()
    assert "| trained on | 33 photos (" in card
    assert "| judged by | 6 photos (" in card


def test_a_missing_library_is_one_line(
    run: Path, tmp_path: Path, refuses: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "m.onnx").write_bytes(b"")
    for command in (["export", run], ["predict", tmp_path / "m.onnx", tmp_path]):
        refuses("missing", command, 2, 'pip install "fastft[export]"')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tflite"], "one of onnx, torch, safetensors"),
        (["--format", "safetensors", "--with-preprocessing"], "holds weights alone"),
        (["--check-images", "0"], "--check-images: 0"),
        (["--format", "torch", "--check", "/nothing/here"], "no such file"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], message: str, run: Path, refuses: Callable[..., str]
) -> None:
    wanted = 1 if "--check" in arguments else 2
    refuses(arguments[0], ["export", run, *arguments], wanted, message)
    assert not (run / "exported").exists()
