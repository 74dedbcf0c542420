"""Hugging Face data sets, made by `datasets` itself, and what is read of them."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pipelines.errors import DataError, FastftError
from pipelines.formats.columns import ColumnNames
from pipelines.formats.packed.huggingface import Rows, open_arrow

NO_NAMES = ColumnNames()
WORDS = ("cat", "dog", "Emu")


def load_datasets(monkeypatch: pytest.MonkeyPatch, cache: Path) -> ModuleType:
    """The library, kept from networks, its caches in `cache`; the test is skipped without it."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(cache))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.disable_progress_bars()
    return datasets


def make_images(count: int, seed: int = 0, prefix: str = "") -> list[dict[str, Any]]:
    """Images as `datasets` keeps them; none is one, but each begins like one."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5000, count)
    return [
        {"bytes": b"\xff\xd8\xff" + random.bytes(int(size)), "path": f"{prefix}{i}.jpg"}
        for i, size in enumerate(sizes)
    ]


def make_dataset(datasets: ModuleType, count: int, seed: int = 0, **more: Any) -> Any:
    """A data set with an image and a ClassLabel for each row; `more` are further columns."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WORDS))}
    rows = {"image": make_images(count, seed), "label": [i % 3 for i in range(count)]}
    for name, (feature, values) in more.items():
        features[name], rows[name] = feature, values
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def expected_of(dataset: Any) -> list[tuple[str, bytes]]:
    """The class and the bytes of each row, as `datasets` itself gives them."""
    plain = dataset.cast_column("image", type(dataset.features["image"])(decode=False))
    names = dataset.features["label"].names
    return [(names[row["label"]], row["image"]["bytes"]) for row in plain]


def read_all(src: Path, names: ColumnNames = NO_NAMES, classes: tuple[str, ...] = ()) -> dict:
    """Split -> class and bytes of each sample, or what reading is refused with."""
    with open_arrow(src, names, classes) as listings:
        return {split: list(samples(each)) for split, each in listings.items()}


def samples(listing: Rows) -> Iterator[tuple[str, bytes | str]]:
    assert len(listing) == len(listing.labels) == len(set(listing.names))
    for i, name in enumerate(listing.names):
        try:
            data: bytes | str = listing.read(i)
        except DataError as error:
            data = error.found if error.where == listing.where(name) else str(error)
        assert listing.size_bytes(i) >= 0
        yield listing.classes[listing.labels[i]], data


def failure(src: Path, names: ColumnNames = NO_NAMES, classes: tuple[str, ...] = ()) -> str:
    """The message that refuses a data set: one line."""
    with pytest.raises(FastftError) as caught, open_arrow(src, names, classes):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
