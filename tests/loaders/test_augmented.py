"""Loaders that do more than crop and mirror: the same images and mixes, whoever makes them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import everything, same
from effort import choose, rest
from rendered import LOADERS, make
from torch.nn import functional

from pipelines import codes
from pipelines.augment import Augment
from pipelines.errors import UsageError
from pipelines.formats.source import Source, open_source
from pipelines.loaders import Loader
from pipelines.operations import Operations
from pipelines.plan import Plan
from pipelines.reference import change, mix, render_batch

MANY = Augment(
    policy="rand-n2-m9",
    scale=(0.3, 0.9),
    ratio=(0.8, 1.2),
    vflip=0.4,
    color_jitter=(0.4, 0.4, 0.4, 0.2),
    grayscale=0.2,
    erase=0.5,
)
MIXED = Augment(policy="trivial", mixup=0.4, cutmix=1.0, mix_prob=0.8)
#: One operation with a value of those that a plan draws.
VALUES = {
    codes.FLIP_DOWN: 0,
    codes.SHEAR_X: 0.33,
    codes.SHEAR_Y: -0.61,
    codes.TRANSLATE_X: 7,
    codes.TRANSLATE_Y: -5,
    codes.ROTATE: 33.3,
    codes.BRIGHTNESS: 1.4,
    codes.CONTRAST: 0.45,
    codes.SATURATION: 1.7,
    codes.SHARPNESS: 1.8,
    codes.HUE: 0.21,
    codes.GRAY: 0,
    codes.POSTERIZE: 3,
    codes.SOLARIZE: 90,
    codes.AUTO_CONTRAST: 0,
    codes.EQUALIZE: 0,
    codes.ERASE: 0,
}


def pixels(batches: Any) -> np.ndarray:
    return torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def source(data: Path) -> Source:
    return open_source(data / "train.beton")


@pytest.mark.parametrize("name", [each for each in LOADERS if each != "torchvision"])
def test_each_operation_within_one_level(
    name: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = np.array(list(VALUES), np.int32)
    epochs = range(choose(1, len(every)))  # each sample meets another one in each

    def draw(plan: Plan, samples: np.ndarray) -> Operations:
        """One for each sample, with its value, as if vflip had drawn it."""
        drawn = every[(samples + plan.epoch) % len(every)][:, None]
        box = np.array([plan.size // 5, plan.size // 4, plan.size // 2, plan.size // 3], np.int32)
        values = np.array([[float(VALUES[code])] for code in drawn[:, 0]])
        return Operations(drawn, values, np.tile(box, (len(samples), 1)))

    before = []
    with make(name, source, size=37, normalize=False) as loader:
        for epoch in epochs:
            loader.set_epoch(epoch)
            before.append(pixels(loader))
    monkeypatch.setattr(Plan, "operations", draw)
    found: dict[int, list[tuple[np.ndarray, ...]]] = {code: [] for code in VALUES}
    with make(name, source, size=37, normalize=False, augment=Augment(vflip=0.5)) as loader:
        for epoch in epochs:
            loader.set_epoch(epoch)
            rows = loader.plan.rows(loader.plan.order)
            assert rows.operations is not None
            got = pixels(loader).astype(int)
            for at, code in enumerate(rows.operations.codes[:, 0]):
                wanted = change(before[epoch][at], rows.operations, at)
                found[code].append((np.abs(got[at] - wanted), wanted != before[epoch][at]))
    for code, images in found.items():
        apart, changed = (np.stack(each) for each in zip(*images, strict=True))
        assert apart.max() <= 1, codes.NAMES[code]
        assert (apart > 0).mean() < 0.04, codes.NAMES[code]
        assert changed.mean() > 0.05, codes.NAMES[code]


@pytest.mark.parametrize("size", [33, *rest(64)])
def test_loaders_of_the_same_crops_agree(size: int, source: Source) -> None:
    found = {}
    for name in ("torchvision", "ffcv", "resident"):
        with make(name, source, size=size, augment=MANY, normalize=False) as loader:
            found[name] = everything(loader)
    assert same(found["torchvision"], found["ffcv"])
    assert same(found["torchvision"], found["resident"])


def test_chains_are_near_their_definition(source: Source) -> None:
    with make("ffcv", source, size=48, augment=MANY, normalize=False) as loader:
        rows = loader.plan.rows(loader.plan.order)
        wanted = render_batch([source.stored(int(each)) for each in rows.samples], rows)
        apart = np.abs(pixels(loader).astype(int) - wanted)
    assert apart.mean() < 0.02
    assert np.quantile(apart, 0.999) <= 1


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in LOADERS if name != "torchvision"),
        *((name, torch.bfloat16) for name in LOADERS if name != "torchvision"),
        ("torchvision", torch.float16),
        *rest(*((name, torch.float16) for name in LOADERS if name != "torchvision")),
        *rest(("torchvision", torch.float32), ("torchvision", torch.bfloat16)),
    ],
)
def test_changed_images_are_normalized_alike(name: str, dtype: torch.dtype, source: Source) -> None:
    options = {"size": 33, "augment": Augment(policy="trivial")}
    with (
        make(name, source, dtype=dtype, **options) as floats,
        make(name, source, normalize=False, **options) as bytes_,
    ):
        from pipelines.reference import normalize

        for (images, _), (levels, _) in zip(floats, bytes_, strict=True):
            assert images.dtype == dtype
            assert images.is_contiguous(memory_format=torch.channels_last)
            wanted = torch.from_numpy(normalize(levels.permute(0, 2, 3, 1).numpy()))
            half_ulp = {torch.float32: 0, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
            apart = (images.float() - wanted.permute(0, 3, 1, 2)).abs()
            assert (apart <= 2e-6 + half_ulp * images.float().abs()).all()


def mixed(loader: Loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader.set_epoch(2)
    return everything(loader)


@pytest.mark.parametrize("name", LOADERS)
def test_mixes_are_the_references(name: str, source: Source) -> None:
    with make(name, source, size=33, augment=Augment(policy="trivial")) as loader:
        plain = mixed(loader)
    with make(name, source, size=33, augment=MIXED) as loader:
        found, plan = mixed(loader), loader.plan
    for number, ((images, labels), (got, targets)) in enumerate(zip(plain, found, strict=True)):
        how = plan.mix(number)
        assert how is not None
        shares = functional.one_hot(labels, len(source.classes)).float()
        wanted, wanted_targets = mix(images, shares, how)
        assert (got - wanted).abs().max() <= 1e-6
        assert (targets - wanted_targets).abs().max() <= 1e-6
        assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", LOADERS)
def test_mixes_do_not_depend_on_ranks(name: str, source: Source) -> None:
    # 33 samples: a last batch with fewer of them than ranks, of a single one.
    with make(name, source, size=16, augment=MIXED) as loader:
        alone = mixed(loader)
    for world in choose((3,), (2, 3)):
        parts = []
        for rank in range(world):
            with make(name, source, size=16, augment=MIXED, rank=rank, world=world) as loader:
                parts.append(mixed(loader))
        together = [
            tuple(torch.cat([part[at][kind] for part in parts]) for kind in range(2))
            for at in range(len(alone))
        ]
        assert same(alone, together)


@pytest.mark.parametrize("name", LOADERS)
def test_resume_meets_the_same_mixes(name: str, source: Source) -> None:
    with make(name, source, size=16, augment=MIXED) as loader:
        whole = mixed(loader)
        for step, _ in enumerate(loader):
            if step == 1:
                break
        state = loader.state_dict()
    with make(name, source, size=16, augment=MIXED) as loader:
        loader.load_state_dict(state)
        assert same(everything(loader), whole[2:])


@pytest.mark.parametrize("name", ["torchvision", "resident"])
def test_pickled_loaders_change_alike(name: str, source: Source) -> None:
    with make(name, source, size=16, augment=MIXED) as loader:
        first = mixed(loader)
        with pickle.loads(pickle.dumps(loader)) as other:
            assert same(mixed(other), first)


def darken(images: torch.Tensor) -> torch.Tensor:
    """Half of the light, and noise of torch's own."""
    noise = torch.randint(0, 9, images.shape, dtype=torch.uint8)
    return (images // 2 + noise).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", LOADERS)
def test_own_transform_sees_uint8(name: str, source: Source) -> None:
    options = {"size": 20, "augment": Augment(policy="trivial")}
    with make(name, source, normalize=False, **options) as loader:
        before = everything(loader)
    with make(name, source, normalize=False, transform=darken, **options) as loader:
        after = everything(loader)
        batches = iter(loader)
        next(batches)
        state = torch.get_rng_state()
        assert same(list(batches), after[1:])  # its numbers are the batch's
    assert torch.equal(torch.get_rng_state(), state)  # and nobody else's
    for (images, _), (changed, _) in zip(before, after, strict=True):
        noise = changed.int() - images.int() // 2
        assert noise.min() == 0
        assert noise.max() == 8
    assert not torch.equal(after[0][0] - before[0][0] // 2, after[1][0] - before[1][0] // 2)


@pytest.mark.parametrize("name", LOADERS)
def test_transformed_images_are_normalized(name: str, source: Source) -> None:
    with make(name, source, size=20) as loader:
        wanted = everything(loader)
    with make(name, source, size=20, transform=torch.clone) as loader:
        found = everything(loader)
    for (images, labels), (got, answers) in zip(wanted, found, strict=True):
        assert torch.equal(labels, answers)
        assert (images - got).abs().max() < (2e-6 if name != "dali" else 0.02)
        assert got.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augment": Augment(mixup=1.0), "batch_size": 1}, "batches of 1"),
        ({"augment": Augment(mixup=1.0), "normalize": False}, "uint8 images"),
        ({"augment": Augment(vflip=1.0), "view": "eval"}, "given with view 'eval'"),
        ({"augment": Augment(scale=(0.5, 1)), "view": "recordio"}, "given with view 'recordio'"),
        ({"transform": "blur"}, "str, expected a function"),
    ],
)
def test_settings_of_no_sense_are_refused(
    options: dict[str, Any], said: str, source: Source
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        make("torchvision", source, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [torch.Tensor.float, lambda images: images[:, :1]])
def test_transforms_of_other_images_are_refused(bad: Any, source: Source) -> None:
    with make("resident", source, transform=bad) as loader:
        with pytest.raises(UsageError, match="transform: gives"):
            next(iter(loader))


def test_one_class_cannot_be_mixed(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(3):
        (tmp_path / "photos" / "only").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "only" / f"{number}.png")
    with pytest.raises(UsageError, match="one class"):
        make("torchvision", tmp_path / "photos", augment=Augment(cutmix=1.0))


def test_stock_loader_draws_its_own(source: Source) -> None:
    asked = Augment(policy="trivial", erase=1.0, color_jitter=(0.3,), vflip=0.5, grayscale=0.1)
    with make("stock", source, size=40, augment=asked) as loader:
        images = torch.cat([images for images, _ in loader])
    # Erased is the mean colour, which the other images have nowhere for so long.
    assert (images == 0).flatten(1).float().mean(1).min() > 0.01
    with make("stock", source, size=40, augment=Augment(mixup=0.3)) as loader:
        for _, targets in loader:
            assert targets.shape[1] == len(source.classes)
            assert torch.allclose(targets.sum(1), torch.ones(len(targets)))


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOADERS)
def test_gpu_changes_and_mixes_alike(name: str, source: Source) -> None:
    options = {"size": 64, "augment": MIXED}
    with (
        make(name, source, device="cuda", **options) as on_gpu,
        make(name, source, **options) as on_cpu,
    ):
        for (a, la), (b, lb) in zip(mixed(on_gpu), mixed(on_cpu), strict=True):
            assert a.is_cuda
            assert torch.allclose(la.cpu(), lb)
            apart = (a.cpu() - b).abs()
            # nvJPEG's last bits, and a level here and there before steps such as equalizing.
            assert apart.mean() <= (0.05 if name == "dali" else 0.005)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOADERS)
def test_gpu_calls_own_transforms(name: str, source: Source) -> None:
    seen: list[torch.device] = []

    def note(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.device)
        return 255 - images

    with make(name, source, device="cuda", size=20, transform=note, normalize=False) as loader:
        found = everything(loader)
    assert {each.type for each in seen} == {"cuda"}
    with make(name, source, device="cuda", size=20, normalize=False) as loader:
        for (images, _), (wanted, _) in zip(found, loader, strict=True):
            assert torch.equal(images, 255 - wanted)
