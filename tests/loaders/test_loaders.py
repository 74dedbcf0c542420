import inspect
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import everything, same
from effort import rest
from rendered import LOADERS, check_pixels, make
from scipy import stats

from pipelines import loaders
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.layout import MODE_JPG, MODE_RAW
from pipelines.formats.source import Source, open_source
from pipelines.loaders import Loader, make_loader
from pipelines.reference import normalize, render_batch

Used = tuple[str, Loader, list[tuple[torch.Tensor, torch.Tensor]]]


@pytest.fixture(scope="module")
def real(few_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """Real photos, as they are and decoded."""
    sources = {}
    for mode in ("passthrough", "raw"):
        out = tmp_path_factory.mktemp("real") / "real.beton"
        convert(ConvertConfig(src=few_photos, out=out, mode=mode, verify=False))
        sources[mode] = open_source(out)
    assert sources["raw"].modes[0] == MODE_RAW
    return sources


@pytest.mark.parametrize(
    ("mode", "name", "view"),
    [
        *(("passthrough", name, "train") for name in LOADERS),
        ("passthrough", "dali", "eval"),
        ("raw", "resident", "eval"),
        *rest(*(("passthrough", name, "eval") for name in LOADERS if name != "dali")),
        # Others take raw pixels as any other image that is no JPEG: test_odd_images.
        *rest(("raw", "ffcv", "train"), ("raw", "ffcv", "eval"), ("raw", "resident", "train")),
    ],
)
def test_pixels_of_real_photos(mode: str, name: str, view: str, real: dict[str, Source]) -> None:
    check_pixels(name, real[mode], view, size=224)


@pytest.mark.parametrize(
    ("name", "view"),
    [
        *((name, "train") for name in LOADERS),
        *((name, "eval") for name in LOADERS if name != "torchvision"),
        *rest(("torchvision", "eval")),
    ],
)
def test_pixels_of_synthetic_photos(name: str, view: str, data: Path) -> None:
    check_pixels(name, data / "train.beton", view)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in LOADERS),
        *((name, torch.bfloat16) for name in LOADERS if name != "torchvision"),
        ("torchvision", torch.float16),
        *rest(*((name, torch.float16) for name in LOADERS if name != "torchvision")),
        *rest(("torchvision", torch.bfloat16)),
    ],
)
def test_normalized(name: str, dtype: torch.dtype, data: Path) -> None:
    source = open_source(data / "test.beton")
    with (
        make(name, source, view="eval", dtype=dtype) as floats,
        make(name, source, view="eval", normalize=False) as bytes_,
    ):
        ((images, _),), ((pixels, _),) = list(floats), list(bytes_)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)
    wanted = torch.from_numpy(normalize(pixels.permute(0, 2, 3, 1).numpy())).permute(0, 3, 1, 2)
    # Two float32 roundings apart from torchvision's three operations, then the dtype's own.
    half_ulp = {torch.float32: 0, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    assert ((images.float() - wanted).abs() <= 2e-6 + half_ulp * wanted.abs()).all()


@pytest.mark.parametrize("name", LOADERS)
def test_epochs(name: str, data: Path) -> None:
    with make(name, data / "train.beton", workers=2) as loader:
        assert len(loader) == 5
        first = everything(loader)
        assert [len(labels) for _, labels in first] == [8, 8, 8, 8, 1]
        assert same(everything(loader), first)
        loader.set_epoch(1)
        second = everything(loader)
        assert not same(second, first)
        loader.set_epoch(0)
        assert same(everything(loader), first)
    with make(name, data / "train.beton", seed=9) as other:
        assert not same(everything(other), first)


@pytest.fixture(scope="module", params=LOADERS)
def used(request: pytest.FixtureRequest, data: Path) -> Iterator[Used]:
    """A loader's name, an open one, and its epoch 3, which each test leaves it in."""
    with make(request.param, data / "train.beton") as loader:
        loader.set_epoch(3)
        yield request.param, loader, everything(loader)


def test_batches_stay_valid(used: Used) -> None:
    """A batch is the caller's for good: no later one may be written over it."""
    _, loader, whole = used
    held = list(loader)
    assert same(held, everything(loader))
    assert same(held, whole)


def test_leaving_early_and_coming_back(used: Used) -> None:
    _, loader, whole = used
    for stop in (0, 1, 3):
        for step, _ in enumerate(loader):
            if step == stop:
                break
        assert loader.state_dict()["consumed"] == 8 * (stop + 1)
    assert same(everything(loader), whole)


def test_a_second_iteration_ends_the_first(used: Used) -> None:
    _, loader, whole = used
    old = iter(loader)
    next(old)
    assert same(everything(loader), whole)
    assert list(old) == []


def test_resume_in_the_middle(used: Used, data: Path) -> None:
    name, loader, whole = used
    for step, _ in enumerate(loader):
        if step == 1:
            break
    state = loader.state_dict()
    assert state == {"seed": 0, "epoch": 3, "consumed": 16}
    with make(name, data / "train.beton") as again:
        again.load_state_dict(state)
        assert same(everything(again), whole[2:])
        assert again.state_dict()["consumed"] == 33
        with pytest.raises(UsageError, match="loader state"):
            again.load_state_dict({"seed": 1, "epoch": 0, "consumed": 0})
        with pytest.raises(UsageError, match="loader state"):
            again.load_state_dict({"seed": 0, "epoch": 0, "consumed": 5})


def test_ranks_share_each_global_batch(used: Used, data: Path) -> None:
    name, _, whole = used
    parts = []
    for rank in range(2):
        with make(name, data / "train.beton", rank=rank, world=2) as loader:
            loader.set_epoch(3)
            parts.append(everything(loader))
    assert [len(labels) for _, labels in parts[1]] == [4, 4, 4, 4, 0]
    joined = [
        (torch.cat((a[0], b[0])), torch.cat((a[1], b[1]))) for a, b in zip(*parts, strict=True)
    ]
    assert same(joined, whole)


@pytest.mark.parametrize("name", ["ffcv", "dali", "resident", *rest("torchvision")])
def test_drop_last(name: str, data: Path) -> None:
    with make(name, data / "train.beton", drop_last=True) as loader:
        assert [len(labels) for _, labels in loader] == [8] * len(loader) == [8] * 4
    with make(name, data / "train.beton", batch_size=100) as loader:
        assert [len(labels) for _, labels in loader] == [33]
    with pytest.raises(UsageError, match="at most 33 when the last batch is dropped"):
        make(name, data / "train.beton", batch_size=34, drop_last=True)


def overwrite(path: Path, sample: int, at: int, with_: bytes) -> None:
    """Change a sample's bytes from `at` on, behind the back of its checksum."""
    with path.open("r+b") as file:
        file.seek(int(read_index(path).pointers[sample]) + at)
        file.write(with_)


@pytest.fixture
def damaged(
    request: pytest.FixtureRequest, data: Path, photos: Path, tmp_path: Path
) -> tuple[Path, str]:
    """A .beton whose eleventh sample is broken, and that sample's name."""
    path = tmp_path / "damaged.beton"
    index = read_index(data / "train.beton")
    assert index.modes[10] == MODE_JPG
    size = int(index.sizes[10])
    if request.param == "truncated":  # before it was converted: its checksum holds
        shutil.copytree(photos / "train", tmp_path / "photos")
        source = tmp_path / "photos" / index.name(10)
        source.write_bytes(source.read_bytes()[: size // 2])
        convert(ConvertConfig(src=tmp_path / "photos", out=path, verify=False))
        return path, index.name(10)
    shutil.copyfile(data / "train.beton", path)
    if request.param == "zeros":
        overwrite(path, 10, 20, bytes(size - 20))
    else:  # a bit of the last code words: every decoder takes it for another picture
        byte = index.stored(10).data[size - 12]
        overwrite(path, 10, size - 12, bytes([int(byte) ^ 4]))
    return path, index.name(10)


#: In an ordinary run each loader meets what nothing but the checksum tells; that what was broken
#: before conversion is refused by each is shown by `test_odd_images.py`.
DAMAGED = [
    *(("bit", name) for name in (*LOADERS, "stock")),
    ("truncated", "stock"),
    ("zeros", "ffcv"),
]
OTHERS = [
    (how, name)
    for how in ("zeros", "truncated")
    for name in (*LOADERS, "stock")
    if (how, name) not in DAMAGED
]


@pytest.mark.parametrize(("damaged", "name"), [*DAMAGED, *rest(*OTHERS)], indirect=["damaged"])
def test_a_broken_sample_is_named(name: str, damaged: tuple[Path, str]) -> None:
    path, sample = damaged
    with make(name, path) as loader:
        for _ in range(2):  # the loader survives it, too
            with pytest.raises(DataError) as caught:
                everything(loader)
            assert str(caught.value).startswith(f"{path}: {sample}: ")


@pytest.mark.parametrize("damaged", ["bit", *rest("zeros", "truncated")], indirect=True)
@pytest.mark.parametrize("name", LOADERS)
def test_broken_samples_beyond_an_exit_are_harmless(name: str, damaged: tuple[Path, str]) -> None:
    path, _ = damaged
    with make(name, path, view="eval", batch_size=4) as loader:
        first = next(iter(loader))
        again = next(iter(loader))
    assert same([first], [again])


def test_plan_reaches_the_output(data: Path) -> None:
    """What comes out, not what was planned: order, and flips recognized in the pixels."""
    source, epochs = open_source(data / "train.beton"), 6
    wanted: dict[int, np.ndarray] = {}
    for name in LOADERS:
        labels, flips = [], []
        with make(name, source, view="recordio", normalize=False, batch_size=33) as loader:
            for epoch in range(epochs):
                loader.set_epoch(epoch)
                rows = next(iter(loader.plan.batches(33)))
                if epoch not in wanted:
                    stored = [source.stored(int(sample)) for sample in rows.samples]
                    wanted[epoch] = render_batch(stored, rows)
                ((images, batch_labels),) = loader
                pixels = images.permute(0, 2, 3, 1).numpy().astype(int)
                direct = np.abs(pixels - wanted[epoch]).mean((1, 2, 3))
                mirrored = np.abs(pixels - wanted[epoch][:, :, ::-1]).mean((1, 2, 3))
                assert (direct < mirrored).all()
                flips += rows.flips.tolist()
                labels.append(tuple(batch_labels.tolist()))
        assert len(set(labels)) == epochs
        assert stats.binomtest(sum(flips), len(flips)).pvalue > 1e-4


def test_the_stock_loader_is_torchvisions(data: Path) -> None:
    source = open_source(data / "train.beton")
    with make("stock", source) as loader:
        epochs = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            batches = everything(loader)
            assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 1]
            epochs.append(torch.cat([labels for _, labels in batches]).tolist())
        assert epochs[0] != epochs[1]
        assert sorted(epochs[0]) == sorted(source.labels.tolist())
    with (
        make("stock", source, view="eval") as stock,
        make("torchvision", source, view="eval") as ours,
    ):
        for (a, _), (b, _) in zip(stock, ours, strict=True):
            assert (a - b).abs().max() < 2e-6
            assert a.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(UsageError):
        make("stock", source, view="recordio")


def test_an_unknown_loader_and_a_missing_library(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="loader: 'x', expected one of torchvision"):
        make_loader("x", data / "train.beton")
    monkeypatch.setitem(loaders.LOADERS, "dali", ("dali_loader", "DaliLoader"))
    for module in ("dali_loader", "dali_graph"):
        monkeypatch.delitem(sys.modules, f"pipelines.loaders.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UsageError, match=r"nvidia-dali is not installed.*pip install"):
        make_loader("dali", data / "train.beton")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("num_workers", "no such argument; write workers"),
        ("num_threads", "no such argument; write workers"),
        ("image_size", "no such argument; write size"),
        ("root", "no such argument; write data"),
        ("batchsize", "no such argument; write batch_size"),
        ("drop_lst", "no such argument; write drop_last"),
        ("stor_file", "no such argument; write store_file"),
        ("shuffle", "no such argument; view='train' shuffles by the seed, view='eval' keeps"),
        ("batch_sampler", "no such argument; view='train' shuffles by the seed"),
        ("transforms", "no such argument; transform takes a function of uint8 batches"),
        ("pin_memory", "no such argument; leave it out: for device='cuda' it is done"),
        ("persistent_workers", "no such argument; leave it out: workers live until close"),
        ("prefetch_factor", "no such argument; leave it out: each loader reads ahead"),
        ("collate_fn", "no such argument; leave it out: batches are"),
        ("qqqq", "no such argument, expected one of name, data, view, size, batch_size, seed, dev"),
    ],
)
@pytest.mark.parametrize("name", ["torchvision", "resident"])
def test_an_unknown_argument_is_told_ours(name: str, argument: str, said: str, data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_loader(name, data / "train.beton", **{argument: 2})
    assert str(caught.value).startswith(f"make_loader({argument}=...): {said}")


def test_what_is_said_of_foreign_arguments_is_true() -> None:
    ours = {*inspect.signature(make_loader).parameters, *loaders._STORE}
    assert set(loaders._KNOWN_ELSEWHERE.values()) <= ours
    assert not ours & {*loaders._KNOWN_ELSEWHERE, *loaders._NOT_NEEDED}
    with pytest.raises(UsageError, match="store: given for loader 'ffcv', expected loader 'res"):
        make_loader("ffcv", "nothing", store="rgb")


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"rank": 2, "world": 2},
        {"workers": -1},
        {"dtype": torch.int8},
        {"view": "upside-down"},
        {"size": 0},
    ],
)
def test_nonsense_is_a_usage_error(options: dict[str, Any], data: Path) -> None:
    with pytest.raises(UsageError):
        make("torchvision", data / "train.beton", **options)


@pytest.mark.gpu
@pytest.mark.parametrize("view", ["train", "eval"])
@pytest.mark.parametrize("name", LOADERS)
def test_gpu_batches(name: str, view: str, data: Path) -> None:
    source = open_source(data / "train.beton")
    with (
        make(name, source, view=view, device="cuda", normalize=False) as on_gpu,
        make(name, source, view=view, normalize=False) as on_cpu,
    ):
        for _ in range(2):
            for (a, la), (b, lb) in zip(on_gpu, on_cpu, strict=True):
                assert a.is_cuda
                assert a.is_contiguous(memory_format=torch.channels_last)
                assert la.tolist() == lb.tolist()
                apart = (a.cpu().int() - b.int()).abs()
                # nvJPEG and libjpeg-turbo differ in the last bits of the inverse DCT.
                assert apart.float().mean() <= (1 if name == "dali" else 0)
