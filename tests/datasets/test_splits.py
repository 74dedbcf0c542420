import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fastft.datasets import splits as data_module
from fastft.datasets.splits import fastest_loader, find_splits, training_split, usable_loaders
from pipelines.errors import DataError
from pipelines.formats.source import Source, open_source
from pipelines.memory import FreeMemory
from pipelines.resident.placement import GpuRoom
from pipelines.resident.store import StoreFormat, lay_out

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What counts as installed, for a test to change."""
    packages = {"ffcv", "nvidia.dali"}
    monkeypatch.setattr(data_module, "_is_installed", packages.__contains__)
    return packages


def fastest(sources: Sequence[Source], device: torch.device) -> str:
    return fastest_loader(sources, device, batch=8, size=64)


def test_what_auto_takes_on_a_cpu(
    installed: set[str], data: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [open_source(data / name) for name in ("train.beton", "test.beton")]
    folders = [stored[0], open_source(photos / "test")]
    assert usable_loaders(stored) == ("torchvision", "ffcv", "dali", "resident")
    assert usable_loaders(folders) == ("torchvision", "dali", "resident")
    assert fastest(stored, CPU) == fastest(folders, CPU) == "resident"
    pixels = sum(lay_out(source, StoreFormat()).total for source in stored)
    memory = FreeMemory(2 * pixels - 1, "of this machine")  # half of it is a byte too few
    monkeypatch.setattr(data_module, "free_memory", lambda: memory)
    assert fastest(stored, CPU) == "ffcv"
    assert fastest([*stored, *folders], CPU) == "torchvision"
    installed.clear()
    assert usable_loaders(stored) == ("torchvision", "resident")
    assert fastest(stored, CPU) == "torchvision"


def test_what_auto_takes_on_a_gpu(
    installed: set[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both splits have to fit beside training."""
    stored = [open_source(data / name) for name in ("train.beton", "test.beton")]
    pixels = sum(lay_out(source, StoreFormat()).total for source in stored)
    reserve, asked = 4 << 30, []

    def give(free: int) -> None:
        def room(device: torch.device, *, batch: int, size: int) -> GpuRoom:
            asked.append((device, batch, size))
            return GpuRoom(free, reserve)

        monkeypatch.setattr(data_module, "gpu_room", room)

    give(reserve + pixels)
    assert fastest(stored, GPU) == "resident"
    assert asked == [(GPU, 8, 64)]
    # Of one epoch, nothing need be kept.
    assert fastest_loader(stored, GPU, batch=8, size=64, is_read_once=True) == "dali"
    assert fastest_loader(stored, CPU, batch=8, size=64, is_read_once=True) == "resident"
    give(reserve + pixels - 1)
    assert fastest(stored, GPU) == "dali"
    installed.remove("nvidia.dali")
    assert fastest(stored, GPU) == "resident"  # in half of the machine's memory
    memory = FreeMemory(2 * pixels - 1, "of this machine")
    monkeypatch.setattr(data_module, "free_memory", lambda: memory)
    assert fastest(stored, GPU) == "ffcv"
    installed.clear()
    assert fastest(stored, GPU) == "torchvision"
    give(reserve + pixels)
    assert fastest(stored, GPU) == "resident"


def test_missing_parent_packages_count_as_absent() -> None:
    assert not data_module._is_installed("no_such_package.at_all")
    assert data_module._is_installed("torch.nn")


def test_splits(data: Path, photos: Path, tmp_path: Path) -> None:
    assert find_splits(data) == (data / "train.beton", data / "test.beton")
    assert find_splits(photos) == (photos / "train", photos / "test")
    assert training_split(data) == data / "train.beton"
    assert training_split(photos) == photos / "train"
    assert training_split(photos / "test") == photos / "test"
    with pytest.raises(DataError, match="has neither train nor test nor val"):
        find_splits(tmp_path)


def test_a_folder_without_splits_is_named(data: Path, photos: Path, tmp_path: Path) -> None:
    assert find_splits(data) == (data / "train.beton", data / "test.beton")
    assert find_splits(photos) == (photos / "train", photos / "test")
    for path, found in ((tmp_path, "has neither"), (tmp_path / "x", "no such folder")):
        with pytest.raises(DataError, match=found):
            find_splits(path)
    shutil.copy(data / "train.beton", tmp_path)
    with pytest.raises(DataError, match="has train, expected train and test or val"):
        find_splits(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        find_splits(data / "train.beton")
