"""Loaders that a sampler lets show samples again: the plan's visits, whoever renders them."""

import pickle
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import everything, same
from effort import choose, rest
from rendered import LOADERS, check_pixels, make

from pipelines.augment import Augment
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.columns import Columns
from pipelines.resident.store import PixelWriter

#: Images of each class: of 20, balanced epochs show the one of the last class 6 or 7 times.
SIZES = (14, 5, 1)
COUNT = sum(SIZES)
CHANGED = Augment(policy="trivial", erase=0.5)
MIXED = Augment(policy="trivial", mixup=0.4, cutmix=1.0)


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of unequal classes."""
    out = tmp_path_factory.mktemp("skewed") / "photos"
    every = sorted((photos / "train").rglob("*.jpg"))
    for label, size in enumerate(SIZES):
        (out / f"class-{label}").mkdir(parents=True)
        for number in range(size):
            target = out / f"class-{label}" / f"{number}.jpg"
            shutil.copy(every[sum(SIZES[:label]) + number], target)
    return out


@pytest.fixture(scope="module")
def source(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The same as a .beton, with weights."""
    out = tmp_path_factory.mktemp("beton") / "skewed.beton"
    convert(ConvertConfig(src=folder, out=out))
    weights = np.linspace(0.2, 5, COUNT).astype(np.float32)
    return replace(read_index(out), columns=Columns(weights=weights))


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        *((name, "weights") for name in LOADERS),
        ("resident", "balanced"),
        ("ffcv", "sqrt"),
        *rest(*((name, "balanced") for name in LOADERS if name != "resident")),
        *rest(*((name, "sqrt") for name in LOADERS if name != "ffcv")),
    ],
)
def test_pixels_are_the_visits(name: str, sampler: str, source: Index) -> None:
    check_pixels(name, source, "train", sampler=sampler, seed=2, size=40)


@pytest.mark.parametrize("name", LOADERS)
def test_epochs_repeat_within_and_across_batches(name: str, source: Index) -> None:
    with make(name, source, size=24, sampler="balanced", normalize=False) as loader:
        assert len(loader) == 3
        samples = [rows.samples.tolist() for rows in loader.plan.batches(8)]
        assert any(len(set(each)) < len(each) for each in samples)
        assert any(set(a) & set(b) for a, b in pairwise(samples))
        images = torch.cat([each for each, _ in loader])
    flat = np.concatenate(samples)
    assert np.abs(np.bincount(source.labels[flat], minlength=3) - COUNT / 3).max() < 1
    # The same photo, cut otherwise each time.
    mine = images[torch.from_numpy(flat == COUNT - 1)]
    assert len(mine) >= 6
    assert len(torch.unique(mine.flatten(1), dim=0)) == len(mine)


@pytest.mark.parametrize("name", LOADERS)
def test_operations_of_visits_agree(name: str, source: Index) -> None:
    options = {"size": 33, "augment": CHANGED, "sampler": "balanced"}
    check_pixels(name, source, "train", (1.5, 255), **options)
    options["normalize"] = False
    with make(name, source, **options) as loader, make("resident", source, **options) as other:
        for (images, labels), (wanted, answers) in zip(loader, other, strict=True):
            assert torch.equal(labels, answers)
            apart = (images.int() - wanted.int()).abs().float()
            assert apart.mean() <= (1.5 if name == "dali" else 0)


@pytest.mark.parametrize(
    ("name", "augment"),
    [
        *((name, MIXED) for name in LOADERS if name != "torchvision"),
        ("resident", CHANGED),
        *rest(*((name, CHANGED) for name in LOADERS if name != "resident")),
        *rest(("torchvision", MIXED)),
    ],
)
def test_ranks_share_sampled_batches(name: str, augment: Augment, source: Index) -> None:
    options = {"size": 16, "augment": augment, "sampler": "balanced", "batch_size": 7}
    with make(name, source, **options) as loader:
        alone = everything(loader)
    for world in choose((3,), (2, 3)):
        parts = []
        for rank in range(world):
            with make(name, source, rank=rank, world=world, **options) as loader:
                parts.append(everything(loader))
        together = [
            tuple(torch.cat([part[at][kind] for part in parts]) for kind in range(2))
            for at in range(len(alone))
        ]
        assert same(alone, together)


@pytest.mark.parametrize("name", ["ffcv", "dali", "resident", *rest("torchvision")])
def test_sampled_epochs_resume_select_and_grow(name: str, source: Index) -> None:
    with make(name, source, size=24, sampler="balanced") as loader:
        loader.set_epoch(3)
        whole, order = everything(loader), loader.plan.order
        for step, _ in enumerate(loader):
            if step == 1:
                break
        state = loader.state_dict()
        assert state["consumed"] == 16
        # Visits may be asked for, and samples, which come as if for the first time.
        loader.select(order[[4, 11, 5]])
        (images, labels), *rest = everything(loader)
        assert not rest
        assert labels.tolist() == [int(whole[at // 8][1][at % 8]) for at in (4, 11, 5)]
        for row, at in enumerate((4, 11, 5)):
            assert torch.equal(images[row], whole[at // 8][0][at % 8])
        last = COUNT - 1
        loader.select(np.array([last, last]))
        ((images, labels),) = everything(loader)
        assert torch.equal(images[0], images[1])
        assert labels.tolist() == [2, 2]
        loader.set_size(32)
        assert np.array_equal(loader.plan.order, order)
        grown = everything(loader)
        loader.set_size(24)
        assert same(everything(loader), whole)
    with make(name, source, size=24, sampler="balanced") as loader:
        loader.load_state_dict(state)
        assert same(everything(loader), whole[2:])
    with make(name, source, size=32, sampler="balanced") as loader:
        loader.set_epoch(3)
        assert same(everything(loader), grown)


@pytest.mark.parametrize("name", ["ffcv", "resident", *rest("torchvision")])
def test_pickled_loaders_draw_alike(name: str, source: Index) -> None:
    # As it is pickled by its file, which has no weights.
    with make(name, source.path, size=16, sampler="balanced") as loader:
        loader.set_epoch(2)
        first = everything(loader)
        with pickle.loads(pickle.dumps(loader)) as other:
            assert other.sampling == "balanced"
            assert same(everything(other), first)


@pytest.mark.parametrize("name", ["torchvision", "dali", "resident"])
def test_class_folders_are_sampled_alike(name: str, folder: Path, source: Index) -> None:
    options = {"size": 16, "sampler": "sqrt", "normalize": False}
    with make(name, folder, **options) as loader, make(name, source, **options) as other:
        assert same(everything(loader), everything(other))


def test_samples_are_decoded_once(source: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    write = PixelWriter.write

    def count(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
        decoded.append(sample)
        write(writer, sample, target)

    monkeypatch.setattr(PixelWriter, "write", count)
    met: set[int] = set()
    with make("resident", source, size=16, sampler="balanced", epochs=6) as loader:
        for epoch in range(6):
            loader.set_epoch(epoch)
            everything(loader)
            met |= set(loader.plan.samples(loader.plan.order).tolist())
            # Images that an epoch does not show are not decoded for it.
            assert sorted(decoded) == sorted(met)
    assert len(met) == COUNT


def test_drop_last_leaves_out_draws(source: Index) -> None:
    with make("resident", source, size=16, sampler="balanced", drop_last=True) as loader:
        assert [len(labels) for _, labels in loader] == [8, 8]


def test_stock_loader_draws_with_replacement(source: Index) -> None:
    with make("stock", source, size=16, sampler="balanced") as loader:
        labels = []
        for epoch in range(12):
            loader.set_epoch(epoch)
            labels += torch.cat([each for _, each in loader]).tolist()
        loader.set_epoch(11)
        assert labels[-COUNT:] == torch.cat([each for _, each in loader]).tolist()
    shares = np.bincount(labels, minlength=3) / len(labels)
    assert len(labels) == 12 * COUNT
    assert np.abs(shares - 1 / 3).max() < 0.1


@pytest.mark.parametrize("name", ["resident", *rest("torchvision", "ffcv", "dali")])
def test_equal_classes_need_no_sampler(name: str, data: Path) -> None:
    with make(name, data / "train.beton", size=16) as loader:
        wanted = everything(loader)
    with make(name, data / "train.beton", size=16, sampler="balanced") as loader:
        assert loader.frequencies is None
        assert same(everything(loader), wanted)


@pytest.mark.parametrize(
    ("options", "columns", "error", "message"),
    [
        ({"sampler": "random"}, None, UsageError, "'random', expected one of shuffle, balanced"),
        ({"sampler": torch.Generator()}, None, UsageError, "sampler: a Generator"),
        ({"sampler": np.ones(3)}, None, UsageError, "sampler: a ndarray"),
        ({"view": "eval"}, None, UsageError, "'balanced' with view 'eval'"),
        ({"view": "eval-square"}, None, UsageError, "expected view 'train' or 'recordio'"),
        ({"sampler": "weights"}, Columns(), UsageError, "has no weights"),
        (
            {},
            Columns(task="number", targets=np.zeros((COUNT, 1), np.float32)),
            UsageError,
            "holds a number for each image",
        ),
        (
            {"sampler": "weights"},
            Columns(weights=np.full(COUNT, np.nan, np.float32)),
            DataError,
            "gives sample 0 the weight nan",
        ),
        (
            {"sampler": "weights"},
            Columns(weights=np.eye(COUNT, dtype=np.float32)[1] * 99 + 1),
            DataError,
            "gives sample 1 84% of all weight",
        ),
    ],
)
def test_odd_samplers_are_refused(
    options: dict[str, Any],
    columns: Columns | None,
    error: type[Exception],
    message: str,
    source: Index,
) -> None:
    given = source if columns is None else replace(source, columns=columns)
    with pytest.raises(error) as refused:
        make("torchvision", given, **{"sampler": "balanced", **options})
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("place", ["auto", "ram"])
def test_gpu_shows_the_same_visits(name: str, place: str, source: Index) -> None:
    options = {"size": 64, "augment": CHANGED, "sampler": "balanced"}
    own = {"store_place": place} if name == "resident" else {}
    with (
        make(name, source, device="cuda", **own, **options) as on_gpu,
        make(name, source, **options) as on_cpu,
    ):
        for epoch in range(2):
            on_gpu.set_epoch(epoch)
            on_cpu.set_epoch(epoch)
            for (a, la), (b, lb) in zip(on_gpu, on_cpu, strict=True):
                assert torch.equal(la.cpu(), lb)
                assert (a.cpu() - b).abs().mean() <= (0.05 if name == "dali" else 0.005)
