"""Checkpoints as fastft wrote them before safetensors: by `torch.save`, with a seal in the zip."""

from __future__ import annotations

import struct
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from fastft.runs.checkpoint import Checkpoint, load_checkpoint
from fastft.runs.folder import OLD

#: Nobody compares its CRC-32 any more, which was that of what lies between the records.
SEAL = b"fastft crc32 12345678"
#: How torch's optimizers compute where nothing else is asked for, as a checkpoint had it.
_HOW_USUALLY = {"fused": None, "capturable": False}


def pack_old(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state as it lay in a checkpoint, its settings with it."""
    packed = optimizer.state_dict()
    packed["param_groups"] = [
        {name: _HOW_USUALLY.get(name, value) for name, value in group.items()}
        for group in packed["param_groups"]
    ]
    return packed


def save_old(path: Path, content: dict[str, Any]) -> Path:
    """Write the parts of a checkpoint, whatever they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    classes = content["classes"]
    if isinstance(classes, tuple):
        classes = list(classes)
    torch.save({"format": "fastft-checkpoint", "version": 1, **content, "classes": classes}, path)
    with open(path, "r+b") as file:
        file.seek(-2, 2)
        file.write(struct.pack("<H", len(SEAL)) + SEAL)
    return path


def content_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The parts that a file held."""
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in checkpoint.optimizer.items():
        number, _, name = key.partition("/")
        form = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        states.setdefault(int(number), {})[name] = tensor.to(memory_format=form)
    packed = {"state": states, "param_groups": []} if states else {}
    parts = {each.name: getattr(checkpoint, each.name) for each in fields(Checkpoint)}
    return {**parts, "optimizer": packed}


def age(run: Path) -> None:
    """Make the checkpoints of a folder those of an earlier version."""
    for name, old in OLD.items():
        if (run / name).exists():
            save_old(run / old, content_of(load_checkpoint(run / name)))
            (run / name).unlink()
