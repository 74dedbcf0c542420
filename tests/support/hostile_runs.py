"""Hostile files in a run's folder: checkpoints, settings, stores, metrics; valid ones, readers."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from hostile import TEXT_TOKENS, Number, Target
from hostile_files import places, zip_numbers
from odd_states import content_of
from old_checkpoints import content_of as old_content
from old_checkpoints import save_old
from stores import KEY, held, layout_of, put

from fastft.config.recipes import make_config, read_settings
from fastft.model.loss import class_weights
from fastft.report.sources import read_sources
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastft.runs.metrics import EpochMetrics, StepMetrics, read_metrics
from fastft.train.run_state import unpack_state
from pipelines.errors import DataError, UsageError
from pipelines.resident.store_memory import FileMemory

SAVED = Checkpoint(
    model={"a": torch.arange(6.0), "b": torch.tensor(3)},
    arch="resnet18",
    classes=("x", "y"),
    size=64,
    view="eval",
    epoch=2,
    accuracy=0.5,
    optimizer={"0/step": torch.ones(2)},
    scaler={},
    config={"lr": 0.1},
    progress=content_of("sgd")["progress"],
)


def saved(folder: Path, checkpoint: Checkpoint = SAVED) -> bytes:
    save_checkpoint(folder / "c.safetensors", checkpoint)
    return (folder / "c.safetensors").read_bytes()


def checkpoint_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        ours = saved(Path(folder))
        sealed = save_old(Path(folder) / "c.pt", old_content(SAVED)).read_bytes()
    plain, old = io.BytesIO(), io.BytesIO()
    content = {**old_content(SAVED), "format": "fastft-checkpoint", "version": 1}
    torch.save({**content, "classes": ["x"]}, plain)
    torch.save({**content, "classes": ["x"]}, old, _use_new_zipfile_serialization=False)
    return [ours, sealed, plain.getvalue(), old.getvalue()]


def checkpoint_numbers(content: bytes) -> list[Number]:
    return [Number(0, 8)] if content[8:9] == b"{" else zip_numbers(content)


def mend_checkpoint(content: bytes) -> bytes:
    """Let the CRC-32 of a safetensors file, or of a zip's records, be right."""
    mended = bytearray(content)
    if content[8:9] == b"{":
        at = content.find(b'"fastft-crc32":"') + 16
        if at >= 16 and at + 8 <= len(content):
            mended[at : at + 8] = b"0" * 8
            mended[at : at + 8] = b"%08x" % zlib.crc32(mended)
        return bytes(mended)
    for at in places(content, b"PK\1\2"):
        if at + 46 > len(content):
            return content
        (where,) = struct.unpack_from("<I", content, at + 42)
        (size,) = struct.unpack_from("<I", content, at + 20)
        if where + 30 > len(content):
            return content
        start = where + 30 + sum(struct.unpack_from("<HH", content, where + 26))
        struct.pack_into("<I", mended, at + 16, zlib.crc32(content[start : start + size]))
    return bytes(mended)


def read_checkpoint(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    assert all(isinstance(name, str) for name in (*checkpoint.model, *checkpoint.classes))
    assert sum(tensor.numel() for tensor in checkpoint.model.values()) >= 0
    if checkpoint.progress is not None:
        unpack_state(checkpoint.progress, path)


def read_config(path: Path) -> None:
    read_settings(path)
    try:
        config = make_config({"data": path, "out": path}, file=path)
        class_weights(config.class_weight, ("hotdog", "x"), np.zeros(3, np.int64))
    except UsageError as error:  # of a value, wherever it was given
        if not error.where.startswith("--"):
            raise


TOML = [
    b'recipe = "d2l"\nlr = 0.1\nepochs = 3\nweights = "none"\n# words\nstock = false\n',
    b'batch-size = 8\nreuse-head = ["hotdog=934"]\nsize = 64\nlr = 1\n',
    b'class-weight = "hotdog=6,*=0.5"\n',
]
JSON = [b'{"config": {"lr": 0.1, "epochs": 3, "weights": "none", "batch_size": null, "out": "x"}}']


def store_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        memory = FileMemory(Path(folder) / "x.store", layout_of(), KEY)
        for sample in (0, 2, 4):
            put(memory, sample, sample)
        memory.close()
        return [(Path(folder) / "x.store").read_bytes()]


def read_store(path: Path) -> None:
    """A store as a run opens it: what it holds is what was put in, or is decoded anew."""
    memory = FileMemory(path, layout_of(), KEY)
    try:
        for sample, is_held in enumerate(held(memory)):
            if is_held:
                assert memory.pixels[layout_of().place(sample)].size == layout_of().sizes[sample]
        put(memory, 3, 9)
        assert held(memory)[3]
    finally:
        memory.close()


def metrics_seeds() -> list[bytes]:
    step = StepMetrics(epoch=0, step=1, loss=0.5, lr=0.1, wait_s=0.1, step_s=0.2, img_per_s=9.5)
    names = EpochMetrics.__slots__
    epoch = EpochMetrics(**dict.fromkeys(names, 1))  # type: ignore[arg-type]
    rows = [{"kind": "step", **asdict(step)}, {"kind": "epoch", **asdict(epoch)}]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


def read_run(path: Path) -> None:
    """A run's rows, for its curves, and for a page, which takes half a row, too."""
    path.with_name("config.json").write_bytes(b'{"config": {}, "environment": {}}')
    refused = None
    try:
        read_sources([path.parent])
    except DataError as error:
        refused = error
    read_metrics(path)
    if refused is not None:
        raise refused


RUNS = (
    Target(
        name="checkpoint",
        group="checkpoints",
        file="last.ckpt",
        read=read_checkpoint,
        numbers=checkpoint_numbers,
        seeds=checkpoint_seeds,
        mend=mend_checkpoint,
        tokens=(
            b"K",
            b"X",
            b"}",
            b"]",
            b"t",
            b"R",
            b"q\0",
            b"\x85",
            b"storage",
            b"[" * 2000,
            b'\\"',
            b"1e999",
            b"9" * 400,
            b"NaN",
            b"F32",
            b"I64",
            b":",
            b",",
        ),
    ),
    Target(
        name="config",
        group="settings and reports",
        file="x.toml",
        read=read_config,
        seeds=lambda: TOML,
        tokens=TEXT_TOKENS,
    ),
    Target(
        name="config-json",
        group="settings and reports",
        file="config.json",
        read=read_config,
        seeds=lambda: JSON,
        tokens=TEXT_TOKENS,
    ),
    Target(
        name="store",
        group="stores",
        file="x.store",
        read=read_store,
        seeds=store_seeds,
        heals=True,  # its pixels are decoded anew
    ),
    Target(
        name="metrics",
        group="settings and reports",
        file="metrics.jsonl",
        read=read_run,
        seeds=metrics_seeds,
        tokens=TEXT_TOKENS,
        heals=True,  # half a row at the end is a killed run's
    ),
)
