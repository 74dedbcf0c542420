"""What happens to a file while a loader has it open: an error or the very pixels, never a crash."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import rest
from loader_kinds import KINDS, OF_FOLDERS, alike, by_sample, make_kind
from PIL import Image

from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError
from pipelines.formats.beton import read_index
from pipelines.formats.held_file import HeldFile
from pipelines.formats.layout import MAGIC
from pipelines.formats.source import open_source
from pipelines.loaders import Loader

Tried = Callable[..., None]


@pytest.fixture(scope="module")
def betons(data: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same photos as JPEGs, as raw pixels, and as a file of stock FFCV's, without checksums."""
    folder = tmp_path_factory.mktemp("betons")
    convert(ConvertConfig(src=photos / "train", out=folder / "raw.beton", mode="raw"))
    content = (data / "train.beton").read_bytes()
    (folder / "stock.beton").write_bytes(content.replace(MAGIC, bytes(len(MAGIC)), 1))
    return {
        "jpeg": data / "train.beton",
        "raw": folder / "raw.beton",
        "stock": folder / "stock.beton",
    }


def cut(path: Path) -> None:
    """Everything is gone, as after `> train.beton`."""
    os.truncate(path, 0)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    """Other bytes in the same place, as `cp other.beton train.beton` leaves them."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(np.random.default_rng(0).bytes(size))


def replace(path: Path) -> None:
    """Another file of that name, as conversion leaves one."""
    path.with_name("other").write_bytes(b"other")
    path.with_name("other").rename(path)


HARMLESS: list[Callable[[Path], None]] = [replace, Path.unlink]
#: Each kind meets either form and either harm; torchvision's processes, which take long, one each.
CASES: list[Any] = [
    *((kind, "jpeg", cut_in_half) for kind in KINDS),
    *((kind, "raw", overwrite) for kind in KINDS if kind != "torchvision"),
    *rest(
        ("torchvision", "raw", overwrite),
        *((kind, "jpeg", overwrite) for kind in KINDS),
        *((kind, "raw", cut_in_half) for kind in KINDS),
        *((kind, "stock", harm) for kind in KINDS for harm in (cut_in_half, overwrite)),
        *((kind, stored, cut) for kind in KINDS for stored in ("jpeg", "raw", "stock")),
    ),
]


def name_case(value: Any) -> str:
    return str(getattr(value, "__name__", value))


def meet(
    loader: Loader, harm: Callable[[], object] = lambda: None
) -> tuple[dict[int, np.ndarray], str]:
    """An epoch behind whose first batch harm is done: its pixels, and the error that came."""
    found: dict[int, np.ndarray] = {}
    rows = loader.plan.batches(loader.batch_size)
    try:
        for at, ((images, _), each) in enumerate(zip(loader, rows, strict=True)):
            for sample, image in zip(each.samples.tolist(), images, strict=True):
                found[sample] = image.numpy().copy()
            if at == 0:
                harm()
    except DataError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize(("kind", "stored", "harm"), CASES, ids=name_case)
def test_a_file_harmed_while_read(
    kind: str,
    stored: str,
    harm: Callable[[Path], None],
    betons: dict[str, Path],
    tmp_path: Path,
    tried: Tried,
) -> None:
    """Before anything was read of it, and in the second epoch, when all of it has been checked."""
    path = tmp_path / "train.beton"
    shutil.copyfile(betons[stored], path)
    with make_kind(kind, path, tmp_path, batch_size=3) as loader:
        harm(path)
        for _ in range(2):
            _, error = meet(loader)
            assert error.startswith(f"{path}: ")
            assert "\n" not in error
    shutil.copyfile(betons[stored], path)
    with make_kind(kind, path, tmp_path, batch_size=3) as loader:
        wanted = by_sample(loader)
        if kind == "resident-again":  # which keeps what is asked for again
            loader.set_epoch(1)
            by_sample(loader)
            loader.set_epoch(0)
        if stored == "raw" and kind in ("ffcv", "resident-cut"):
            # These are used where they are mapped: not while the kernel runs, see `_may_use_map`.
            harm(path)
            found, error = meet(loader)
        else:
            found, error = meet(loader, lambda: harm(path))
        if kind.startswith("resident") and kind != "resident-cut":
            assert not error  # all is in memory
            assert alike(found, wanted)
        else:
            assert error.startswith(f"{path}: ")
            assert all(np.array_equal(found[sample], wanted[sample]) for sample in found)
    tried("a .beton cut or overwritten while a loader reads it", 2)


@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        *((kind, HARMLESS[at % 2]) for at, kind in enumerate(KINDS)),
        *rest(*((kind, HARMLESS[1 - at % 2]) for at, kind in enumerate(KINDS))),
    ],
    ids=name_case,
)
def test_replaced_files_are_read_to_their_end(
    kind: str, harm: Callable[[Path], None], betons: dict[str, Path], tmp_path: Path, tried: Tried
) -> None:
    path = tmp_path / "train.beton"
    shutil.copyfile(betons["jpeg"], path)
    with make_kind(kind, path, tmp_path) as loader:
        wanted = by_sample(loader)
        (tmp_path / "pixels.store").unlink(missing_ok=True)
    source = open_source(path)
    harm(path)
    with make_kind(kind, source, tmp_path) as loader:
        assert alike(by_sample(loader), wanted)
    tried("a .beton deleted or replaced while a loader reads it")


def test_changed_files_are_checked_again(
    betons: dict[str, Path], tmp_path: Path, tried: Tried
) -> None:
    path = tmp_path / "train.beton"
    shutil.copyfile(betons["jpeg"], path)
    index = read_index(path)
    content = bytes(index.stored(3).data)
    os.utime(path, ns=(0, 0))  # written to, and nothing changed
    assert bytes(index.stored(3).data) == content
    at = int(index.pointers[3]) + 100
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([content[100] ^ 1]))
    for look in (index.stored, index.check):
        with pytest.raises(DataError, match=f"{index.name(3)}: its bytes have changed"):
            look(3)
    shutil.copyfile(betons["stock"], path)
    index = read_index(path)
    index.stored(3)
    os.utime(path, ns=(0, 0))  # without checksums nobody can tell to what
    for look in (index.stored, index.check):
        with pytest.raises(DataError, match="has been written to since it was opened"):
            look(3)
    tried("a .beton cut or overwritten while a loader reads it", 4)


@pytest.mark.parametrize("end", [-1, 1 << 40])
def test_errors_name_samples_after_names_vanish(
    end: int, betons: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "train.beton"
    shutil.copyfile(betons["jpeg"], path)
    index = read_index(path)
    ends = np.cumsum([len(index.name(sample)) for sample in range(4)], dtype="<i8")
    at = path.read_bytes().index(ends.tobytes())
    with path.open("r+b") as file:
        file.seek(at)
        file.write(np.full(4, end, "<i8").tobytes())
    assert [index.name(sample) for sample in range(4)] == [f"sample {each}" for each in range(4)]


# Class folders.


def shorten(photo: Path) -> None:
    os.truncate(photo, photo.stat().st_size // 2)


def enlarge(photo: Path) -> None:
    Image.new("RGB", (200, 300)).save(photo)


def shrink(photo: Path) -> None:
    Image.new("RGB", (7, 5)).save(photo)


def pipe(photo: Path) -> None:
    photo.unlink()
    os.mkfifo(photo)


def folder(photo: Path) -> None:
    photo.unlink()
    photo.mkdir()


def no_image(photo: Path) -> None:
    photo.write_bytes(b"no image")


#: Every harm, and every kind but one, whose processes take long to start, twice.
PHOTO_CASES: list[Any] = [
    ("torchvision", pipe),
    ("dali", shorten),
    ("dali", enlarge),
    ("resident", shorten),
    ("resident", pipe),
    ("resident-yuv420", Path.unlink),
    ("resident-yuv420", enlarge),
    ("resident-file", enlarge),
    ("resident-file", pipe),
]
_HARMS = (Path.unlink, shorten, enlarge, shrink, pipe, folder, no_image)
PHOTO_CASES += rest(
    *(each for each in itertools.product(OF_FOLDERS, _HARMS) if each not in PHOTO_CASES)
)


@pytest.mark.parametrize(("kind", "harm"), PHOTO_CASES, ids=name_case)
def test_a_photo_harmed_while_read(
    kind: str, harm: Callable[[Path], None], photos: Path, tmp_path: Path, tried: Tried
) -> None:
    """It is named, whichever it is; all others stay as they are."""
    shutil.copytree(photos / "train", tmp_path / "photos")
    with make_kind(kind, tmp_path / "photos", tmp_path) as loader:
        wanted = by_sample(loader)
        (tmp_path / "pixels.store").unlink(missing_ok=True)
    source: Any = open_source(tmp_path / "photos")
    with make_kind(kind, source, tmp_path) as loader:
        photo = tmp_path / "photos" / source.name(20)
        harm(photo)
        _, error = meet(loader)
        assert error.replace(": ", "/", 1).startswith(str(photo)) or error.startswith(f"{photo}: ")
        assert "\n" not in error
        others = np.delete(np.arange(len(source)), 20)
        loader.select(others)
        del wanted[20]
        assert alike(by_sample(loader), wanted)
    tried("a photo of a class folder harmed while a loader reads it")


def test_a_file_is_closed_when_modules_are_gone(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter that ends takes `os` apart before what a program's globals hold."""
    file = HeldFile(data / "train.beton")
    descriptor = file._descriptor
    with monkeypatch.context() as ending:
        ending.setattr("pipelines.formats.held_file.os", None)
        file.__del__()
    file._descriptor = -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
