"""What several test files ask of stores and of the resident loader."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pipelines.formats.beton import read_index
from pipelines.formats.source import Source
from pipelines.loaders import make_loader, resident_loader
from pipelines.reference import render_batch
from pipelines.resident.keeping import MANY
from pipelines.resident.store import Layout, StoreFormat, lay_out
from pipelines.resident.store_memory import StoreMemory

KEY, OTHER = b"k" * 32, b"o" * 32
SAMPLES = 5


def layout_of(samples: int = SAMPLES, side: int = 40) -> Layout:
    source: Any = SimpleNamespace(
        heights=np.arange(side, side + samples, dtype=np.int32),
        widths=np.full(samples, side, np.int32),
    )
    return lay_out(source, StoreFormat())


def put(memory: StoreMemory, sample: int, value: int) -> None:
    memory.reserve(sample)
    memory.pixels[layout_of().place(sample)] = value
    memory.commit(sample)


def got(memory: StoreMemory, sample: int) -> set[int]:
    return set(memory.pixels[layout_of().place(sample)].tolist())


def held(memory: StoreMemory) -> list[bool]:
    return [memory.holds(sample) for sample in range(len(memory.ready))]


def make_resident(data: Path | Source, **options: Any) -> resident_loader.ResidentLoader:
    """One that keeps all pixels at once."""
    usual = {"size": 48, "batch_size": 8, "workers": 2, "normalize": False, "epochs": MANY}
    loader = make_loader("resident", data, **{**usual, **options})
    assert isinstance(loader, resident_loader.ResidentLoader)
    return loader


def pixels_of(loader: Any) -> np.ndarray:
    """uint8[N, S, S, 3], an epoch in its order."""
    return torch.cat([images for images, _ in loader]).permute(0, 2, 3, 1).cpu().numpy()


def wanted_of(loader: Any) -> np.ndarray:
    """What the reference makes of that epoch."""
    rows = loader.plan.rows(loader.plan.order)
    stored = [loader.source.stored(int(sample)) for sample in rows.samples]
    return render_batch(stored, rows)


def spoil(whole: Path, sample: int, out: Path) -> str:
    """Write a `.beton` of which one JPEG is broken in its middle; gives that one's name."""
    index, content = read_index(whole), bytearray(whole.read_bytes())
    at = int(index.pointers[sample]) + int(index.sizes[sample]) // 2
    content[at : at + 40] = bytes(40)
    out.write_bytes(content)
    return index.name(sample)
