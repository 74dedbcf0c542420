"""Batches of several labels or a number: the same rows from every loader, mixed as classes are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loader_kinds import KINDS, make_kind
from targets import write_targets

from pipelines.augment import Augment
from pipelines.formats.beton import read_index
from pipelines.formats.columns import Task
from pipelines.loaders import Loader

TASKS: tuple[Task, ...] = ("labels", "number")
#: Both kinds of mixing, each in some steps.
MIXING = Augment(mixup=0.4, cutmix=1.0, mix_prob=0.7)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("targets")
    return {task: write_targets(folder / f"{task}.beton", task, 21) for task in TASKS}


def answers(loader: Loader) -> list[torch.Tensor]:
    return [labels.clone() for _, labels in loader]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "resident-file"])
def test_every_loader_gives_rows_in_order(
    kind: str, task: str, files: dict[str, Path], tmp_path: Path
) -> None:
    index = read_index(files[task])
    assert index.columns.targets is not None
    with make_kind(kind, files[task], tmp_path, view="train") as loader:
        loader.set_epoch(1)
        found = answers(loader)
        order = loader.plan.order
    assert all(labels.dtype == torch.float32 for labels in found)
    assert [len(labels) for labels in found] == [8, 8, 5]
    np.testing.assert_array_equal(torch.cat(found).numpy(), index.columns.targets[order])


def test_the_stock_loader_gives_each_row_once(files: dict[str, Path], tmp_path: Path) -> None:
    index = read_index(files["number"])
    assert index.columns.targets is not None
    with make_kind("stock", files["number"], tmp_path, view="train", normalize=True) as loader:
        found = torch.cat(answers(loader))
    assert found.dtype == torch.float32
    assert found.shape == (21, 1)
    assert sorted(found.ravel().tolist()) == sorted(index.columns.targets.ravel().tolist())


@pytest.mark.parametrize("task", TASKS)
def test_mixing_blends_rows_by_the_share(task: str, files: dict[str, Path], tmp_path: Path) -> None:
    targets = read_index(files[task]).columns.targets
    assert targets is not None
    options: dict[str, Any] = {"view": "train", "normalize": True, "augment": MIXING}
    with make_kind("resident", files[task], tmp_path, **options) as loader:
        found, plan, mixed = answers(loader), loader.plan, 0
        for number, (labels, rows) in enumerate(zip(found, plan.batches(8), strict=True)):
            how = plan.mix(number)
            wanted = targets[rows.samples].astype(np.float64)
            if how is not None:
                mixed += how.share < 1
                wanted = how.share * wanted + (1 - how.share) * np.roll(wanted, 1, 0)
            np.testing.assert_allclose(labels.numpy(), wanted, rtol=1e-6, atol=1e-6)
    assert mixed


def test_one_label_alone_may_be_mixed(tmp_path: Path) -> None:
    file = write_targets(
        tmp_path / "one.beton", "labels", 8, targets=np.eye(8)[:, :1], classes=("disc",)
    )
    options: dict[str, Any] = {"view": "train", "normalize": True, "augment": Augment(mixup=0.4)}
    with make_kind("resident", file, tmp_path, **options) as loader:
        (labels,) = answers(loader)
    assert labels.shape == (8, 1)
    assert labels.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("task", TASKS)
def test_ranks_share_the_rows(task: str, files: dict[str, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"view": "train", "normalize": True, "augment": MIXING}
    with make_kind("resident", files[task], tmp_path, **options) as loader:
        whole = answers(loader)
    parts = []
    for rank in range(2):
        with make_kind("resident", files[task], tmp_path, rank=rank, world=2, **options) as loader:
            parts.append(answers(loader))
    for labels, *shares in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat(shares), labels)
