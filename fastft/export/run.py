"""`fastft export`: a checkpoint to a folder with a model that others run, and its card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from fastft.config.export import SUFFIXES, ExportConfig
from fastft.export.card import CardFacts, write_card
from fastft.export.check import (
    Photos,
    compare_in_process,
    describe_differences,
    find_photos,
    find_run_data,
    require_equal,
    write_photos,
)
from fastft.export.formats import OPSET, require_onnx, write_export
from fastft.export.worker import Differences
from fastft.model.classifier import restore_model
from fastft.runs.checkpoint import Checkpoint, load_checkpoint
from fastft.runs.description import ExportFormat, Interface, for_others
from fastft.runs.folder import find_best
from fastft.runs.measures import MEASURES
from pipelines.atomic import AtomicFile, temporary_prefix, unguessable, write_whole
from pipelines.errors import DataError, UsageError

CARD = "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What was written.

    Attributes:
        file: the model.
        card: its card.
        interface: what it takes and gives.
        differences: what it says otherwise than the checkpoint.
    """

    file: Path
    card: Path
    interface: Interface
    differences: Differences


def run_export(config: ExportConfig, console: Console) -> Export:
    """Export a model, run what was written, and compare; all of it appears at once or not at all.

    Raises:
        UsageError: a folder that holds something else, or a missing library.
        DataError: the checkpoint or photos cannot be read, the model cannot be written in this
            format, or says otherwise than the checkpoint.
    """
    if config.format == "onnx":
        require_onnx("--format onnx")
    path = find_best(config.run)
    checkpoint = load_checkpoint(path)
    out = config.folder(path)
    check_free(out, config.overwrite)
    model = restore_model(checkpoint, path)
    data = find_run_data(checkpoint)
    photos = find_photos(config, checkpoint, data.evaluation)
    told = for_others(checkpoint)
    with _stage(out) as staging:
        made = staging / "export"
        file = made / config.file_name
        interface = _write(file, config, told, model)
        found = _compare(config, path, file, photos, staging)
        require_equal(found, checkpoint, config)
        facts = CardFacts(
            checkpoint=told,
            interface=interface,
            file_name=config.file_name,
            size_bytes=file.stat().st_size,
            written=date.fromtimestamp(path.stat().st_mtime),
            data=data,
            differences=describe_differences(found, checkpoint, photos.name),
        )
        write_whole(made / CARD, write_card(facts))
        check_free(out, config.overwrite)
        _publish(made, out, staging)
    result = Export(
        file=out / config.file_name, card=out / CARD, interface=interface, differences=found
    )
    lines = describe_differences(found, checkpoint, photos.what)
    for line in _closing_lines(result, told, lines):
        console.print(line, markup=False)
    return result


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse a folder that would lose something.

    Raises:
        UsageError: it holds other files, or an export that is not to be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("--out", f"{out} is a file", "a folder to make", "name another")
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if not names:
        return
    if names - {CARD} - {f"model{suffix}" for suffix in SUFFIXES.values()} or names == {CARD}:
        raise UsageError("--out", f"{out} holds other files", "a new folder", "name another")
    if not overwrite:
        found, remedy = f"{out} holds an export", "name another or add --overwrite"
        raise UsageError("--out", found, "a new folder", remedy)


@contextmanager
def _stage(out: Path) -> Iterator[Path]:
    """A folder beside `out` that nobody else can enter, which is removed in the end.

    Raises:
        DataError: it cannot be made or written.
    """
    staging: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        prefix = unguessable(temporary_prefix(out))
        staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=out.parent))
        (staging / "export").mkdir()
        yield staging
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(
            out, f"cannot be written: {reason}", "", "see its disk and folder"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _write(file: Path, config: ExportConfig, told: Checkpoint, model: Any) -> Interface:
    with AtomicFile(file) as target:
        interface = write_export(
            target,
            cast(ExportFormat, config.format),
            told,
            model,
            whole_photos=config.with_preprocessing,
        )
        target.publish()
    return interface


def _compare(
    config: ExportConfig, checkpoint: Path, file: Path, photos: Photos, staging: Path
) -> Differences:
    shown = staging / "photos.beton"
    write_photos(photos, config.check_images, shown)
    return compare_in_process(checkpoint, file, config.format, shown)


def _publish(made: Path, out: Path, staging: Path) -> None:
    """Put a whole folder into its place."""
    if out.exists():
        os.rename(out, staging / "replaced")
    os.rename(made, out)


def _closing_lines(result: Export, told: Checkpoint, differences: list[str]) -> list[str]:
    kind = {"onnx": f"ONNX opset {OPSET}", "torch": "torch.export", "safetensors": "weights"}
    interface = result.interface
    noun = MEASURES[told.outputs.task].count(told.classes)
    size = f"{result.file.stat().st_size / 1e6:,.1f} MB"
    gives = f"; gives {', '.join(interface.outputs)}" if interface.outputs else ""
    return [
        f"{told.arch}, {noun}, {told.size} px: {kind[interface.format]}, float32, {size}; takes "
        f"{interface.takes}{gives}",
        *differences,
        f"{result.file}, {result.card}",
    ]
