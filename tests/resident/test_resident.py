"""What the resident loader promises beyond the contract that test_loaders holds."""

import os
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_processes
from stores import make_resident, pixels_of, spoil, wanted_of

from fastft.train.distributed import World
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.encode import decode
from pipelines.formats.source import open_source
from pipelines.memory import FreeMemory
from pipelines.plan import VIEWS
from pipelines.reference import cut
from pipelines.resident import placement
from pipelines.resident.store import PixelWriter, StoreFormat, lay_out


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs that yuv420 holds as they are: 4:2:0 and gray ones, of odd sides."""
    folder = tmp_path_factory.mktemp("halved")
    random = np.random.default_rng(3)
    for number, (height, width) in enumerate([(1, 1), (3, 2), (5, 4), (6, 5), (61, 97), (90, 64)]):
        for kind, shape in (("colour", (height, width, 3)), ("gray", (height, width))):
            (folder / "photos" / kind).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(random.integers(0, 256, shape, np.uint8))
            image.save(folder / "photos" / kind / f"{number}.jpg", subsampling=2, quality=80)
    convert(ConvertConfig(src=folder / "photos", out=folder / "halved.beton"))
    return folder / "halved.beton"


@pytest.mark.parametrize("view", VIEWS)
def test_yuv420_is_exact_where_jpegs_hold_it(view: str, halved: Path) -> None:
    source = open_source(halved)
    with make_resident(source, view=view, store="yuv420") as loader:
        assert np.array_equal(pixels_of(loader), wanted_of(loader))
        assert loader.stated is None  # of any other JPEG there is no promise
        assert loader.remarks == ("0.00 GB of yuv420 pixels in memory",)


def test_yuv420_says_what_it_loses(odd_beton: Path) -> None:
    source = open_source(odd_beton)
    with make_resident(source, view="native", store="yuv420") as loader:
        apart = np.abs(pixels_of(loader).astype(int) - wanted_of(loader))
        lossy = (apart.max((1, 2, 3)) > 0).sum()
        assert 0 < lossy < len(source)
        (_, remark) = loader.remarks
    averaged = int(remark.split()[2])
    assert lossy <= averaged < len(source)
    assert remark.endswith("images averaged over 2 x 2 px")


@pytest.mark.parametrize("view", ["train", "eval"])
def test_a_shrunken_store_equals_pillows(view: str, odd_beton: Path) -> None:
    source = open_source(odd_beton)
    with make_resident(source, view=view, store_side=30) as loader:
        plan, found = loader.plan, pixels_of(loader)
        assert np.minimum(plan.heights, plan.widths).max() <= 30
        rows = plan.rows(plan.order)
        for row, (pixels, sample) in enumerate(zip(found, rows.samples, strict=True)):
            size = int(plan.widths[sample]), int(plan.heights[sample])
            image = decode(source.stored(int(sample)))
            small = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
            expected = np.asarray(cut(small, rows, row))
            assert np.array_equal(pixels, expected[:, ::-1] if rows.flips[row] else expected)


def test_first_batch_precedes_remaining_decoding(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(data / "train.beton")
    seen, write = threading.Event(), PixelWriter.write
    with make_resident(source) as loader:
        first = set(loader.plan.order[:16].tolist())  # and one batch ahead

        def refuse(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
            if sample not in first and not seen.is_set():
                raise MemoryError("not yet")  # which threads that run ahead keep to themselves
            write(writer, sample, target)

        monkeypatch.setattr(PixelWriter, "write", refuse)
        batches = iter(loader)
        images = [next(batches)[0]]
        assert loader._executor._memory.ready.sum() <= 16
        seen.set()
        images += [each for each, _ in batches]
        found = torch.cat(images).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(found, wanted_of(loader))


def test_each_sample_is_decoded_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    write = PixelWriter.write

    def count(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
        decoded.append(sample)
        write(writer, sample, target)

    monkeypatch.setattr(PixelWriter, "write", count)
    with make_resident(data / "train.beton") as loader:
        for epoch in range(3):
            loader.set_epoch(epoch)
            for step, _ in enumerate(loader):
                if epoch == 0 and step == 1:
                    break  # what an epoch that was left has decoded stays
        assert sorted(decoded) == list(range(33))


def test_store_files_spare_the_next_decoding(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pixels.store"
    with make_resident(data / "train.beton", store_file=path) as loader:
        first = pixels_of(loader)
        assert loader.remarks == (f"0.00 GB of rgb pixels in {path}",)
    decoded: list[int] = []
    write = PixelWriter.write

    def note(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
        decoded.append(sample)
        write(writer, sample, target)

    monkeypatch.setattr(PixelWriter, "write", note)
    with make_resident(data / "train.beton", store_file=path) as loader:
        assert np.array_equal(pixels_of(loader), first)
    assert decoded == []
    # A byte that has changed on the disk is found, and that sample decoded anew.
    layout = lay_out(read_index(data / "train.beton"), StoreFormat())
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - layout.total + layout.place(7).start + 5)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with make_resident(data / "train.beton", store_file=path) as loader:
        assert np.array_equal(pixels_of(loader), first)
    assert decoded == [7]
    # Of other data, or in another format, it is made anew.
    with make_resident(data / "test.beton", store_file=path) as loader:
        assert np.array_equal(pixels_of(loader), wanted_of(loader))
    with make_resident(data / "test.beton", store_file=path, store="yuv420") as loader:
        assert len(pixels_of(loader)) == 6


def read_as_rank(world: World, data: str, group: str) -> tuple[list[torch.Tensor], int, int]:
    """Two epochs of a process as torchrun starts it; how many samples are there, and by it."""
    named = {"MASTER_ADDR": "here", "MASTER_PORT": group}
    os.environ.update(LOCAL_WORLD_SIZE="2", LOCAL_RANK=str(world.rank), **named)
    decoded, write = [], PixelWriter.write

    def note(writer: PixelWriter, sample: int, target: np.ndarray) -> None:
        decoded.append(sample)
        write(writer, sample, target)

    PixelWriter.write = note  # type: ignore[method-assign]
    batches = []
    with make_resident(data, workers=1, rank=world.rank, world=2) as loader:
        memory = loader._executor._memory
        assert type(memory).__name__ == "GroupMemory"
        for epoch in range(2):
            loader.set_epoch(epoch)
            batches += [images.clone() for images, _ in loader]
            world.wait()  # as a step of DDP waits for all ranks
        return batches, int(memory.ready.sum()), len(decoded)


def test_ranks_share_one_copy(data: Path, tmp_path: Path) -> None:
    """Two processes: batches as of one, each sample decoded by one."""
    path, group = str(data / "train.beton"), str(os.getpid())
    found, ready, decoded = zip(*run_processes(read_as_rank, 2, tmp_path, path, group), strict=True)
    assert ready == (33, 33)
    assert sum(decoded) == 33
    with make_resident(data / "train.beton") as loader:
        whole = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            whole += [images.clone() for images, _ in loader]
    for batch, *shares in zip(whole, *found, strict=True):
        assert torch.equal(torch.cat(shares), batch)
    name = zlib.crc32(f"  here {group}".encode())
    assert not list(Path("/dev/shm").glob(f"fastft-{os.getuid()}-{name:08x}-*"))


def test_evaluating_ranks_hold_their_share(data: Path) -> None:
    sizes = []
    for rank in range(2):
        with make_resident(data / "train.beton", view="eval", rank=rank, world=2) as loader:
            list(loader)
            sizes.append(loader._layout.sizes > 0)
    assert (sizes[0] ^ sizes[1]).all()


def test_ranks_that_evaluate_share_a_store_file(data: Path, tmp_path: Path) -> None:
    """Whatever their share, the file is one and the same."""
    path = tmp_path / "pixels.store"
    options: dict[str, Any] = {"view": "eval", "world": 2, "store_file": str(path)}
    with (
        make_resident(data / "train.beton", rank=0, **options) as zero,
        make_resident(data / "train.beton", rank=1, **options) as one,
    ):
        parts = [pixels_of(each) for each in (zero, one)]
        assert sum(map(len, parts)) == 33
        assert one._executor._memory.ready.all()


def test_too_large_sets_are_refused_with_sums(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(data / "train.beton")
    total = lay_out(source, StoreFormat()).total

    def free(bytes_: int) -> None:
        work = placement._WORK_BYTES + 3 * 8 * 48 * 48 * 3 * 4
        told = FreeMemory(bytes_ + work, "of this container's 1.0 GB")
        monkeypatch.setattr(placement, "free_memory", lambda: told)

    free(total)
    with make_resident(source) as loader:
        # A second store has to leave the first one what it will take.
        with pytest.raises(UsageError, match=r"beside 0\.00 for other data"):
            make_resident(source)
        list(loader)
        free(total)
        make_resident(source).close()
    free(total - 1)
    with pytest.raises(UsageError) as caught:
        make_resident(source)
    text = str(caught.value)
    assert text.startswith(f"{source.path} in memory: 0.00 GB of pixels as rgb, and 0.13 to work")
    assert "expected at most the 0.14 GB of this container's 1.0 GB that are free" in text
    assert text.endswith("take --store yuv420 (0.00 GB) or --loader ffcv")
    make_resident(source, store="yuv420").close()
    free(total // 4)
    with pytest.raises(UsageError, match=r"take --loader ffcv$"):
        make_resident(source)


def test_a_store_file_need_not_fit_into_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda: FreeMemory(0, "of this machine"))
    with make_resident(data / "train.beton", store_file=tmp_path / "pixels") as loader:
        assert len(pixels_of(loader)) == 33


def test_closing_gives_the_memory_back(data: Path) -> None:
    loader = make_resident(data / "train.beton")
    list(loader)
    assert loader._executor._memory.pixels.nbytes > 100_000
    loader.close()
    assert loader._executor._memory.pixels.nbytes == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": "rgba"}, "store: 'rgba', expected one of rgb, yuv420"),
        ({"store_side": -1}, "store side: -1, expected 0 to 65535 px"),
        ({"store_place": "disk"}, "store place: 'disk', expected one of auto, gpu, ram"),
        ({"store_place": "gpu"}, "store place: gpu, but batches go to the cpu, expected ram"),
    ],
)
def test_options(options: dict[str, Any], message: str, data: Path) -> None:
    with pytest.raises(UsageError, match=message):
        make_resident(data / "train.beton", **options)


def test_broken_samples_harm_only_their_batch(data: Path, tmp_path: Path) -> None:
    """Idle threads meet it first, and say nothing."""
    path = tmp_path / "broken.beton"
    name = spoil(data / "train.beton", 20, path)
    with make_resident(path, view="eval") as loader:
        batches = iter(loader)
        for _ in range(2):
            next(batches)
        with pytest.raises(DataError, match=rf"{path}: {name}: "):
            next(batches)
        assert loader._executor.filler.has(np.arange(16))
