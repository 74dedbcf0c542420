"""The model that a path stands for: a run's best, a checkpoint, an exported file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fastft.model.classifier import restore_model
from fastft.model.exported import is_exported, open_exported
from fastft.runs.checkpoint import Checkpoint, load_checkpoint
from fastft.runs.folder import find_best
from pipelines.errors import DataError


def open_run(run: Path) -> tuple[Checkpoint, Path]:
    """A run folder's best checkpoint, or a checkpoint file, with its path.

    Raises:
        DataError: there is no such thing, or it is no checkpoint of ours.
    """
    path = find_best(run)
    if is_exported(path):
        found, remedy = "is an exported model, which predict alone runs", "name its run"
        raise DataError(path, found, "a run folder or a checkpoint", remedy)
    return load_checkpoint(path), path


def open_model(run: Path, device: torch.device) -> tuple[Checkpoint, Path, nn.Module]:
    """The network that a path stands for, ready to be asked, on a device.

    Args:
        run: a run folder, a checkpoint, or what `fastft export` wrote.
        device: where to.

    Returns:
        What it is, as a checkpoint; its file; the network. One that has an attribute
        `takes_whole_images` that is true takes uint8[1, H, W, 3] RGB instead of crops.

    Raises:
        DataError: there is no such thing, or it is none of ours.
        UsageError: a library is missing that runs it.
    """
    if is_exported(run):
        checkpoint, model = open_exported(run, device)
        return checkpoint, run, model
    checkpoint, path = open_run(run)
    return checkpoint, path, restore_model(checkpoint, path).to(device)
