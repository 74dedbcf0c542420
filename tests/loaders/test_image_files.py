"""Image files to pixels as evaluation cuts them: the reference's, whatever the files are."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import DataError
from pipelines.formats.encode import EncodePolicy, Encoder, decode, read_stored
from pipelines.formats.layout import MODE_RAW, Preparation
from pipelines.loaders import image_files
from pipelines.loaders.image_files import FileRenderer, gather
from pipelines.plan import PLACES, make_plan
from pipelines.preprocessing import FILTERS, IMAGENET, Filter, Preprocessing
from pipelines.reference import cut, normalize

SIZE = 40
CPU = torch.device("cpu")


@contextmanager
def renderer(paths: list[Path], **options: Any) -> Iterator[FileRenderer]:
    usual = {"view": "eval", "size": SIZE, "batch": len(paths), "workers": 1, "dtype": None}
    files = FileRenderer([*map(str, paths)], **{**usual, **options})
    try:
        yield files
    finally:
        files.close()


def wanted(path: Path, place: str = "center", apply_exif: bool = False, **plan: Any) -> Any:
    """uint8[S, S, 3] by the reference."""
    encoder = Encoder(EncodePolicy(verify=False, apply_exif=apply_exif))
    stored = read_stored(str(path), encoder, 0)
    sides: Any = np.array([[stored.width], [stored.height]], np.int32)
    made = make_plan(*sides, **{"view": "eval", "size": SIZE, **plan}, place=place)
    rows = made.rows(made.order)
    shrink = 1 if stored.mode == MODE_RAW else int(rows.shrinks[0])
    return np.asarray(cut(decode(stored, "", shrink), rows, 0, shrink))


def pixels_of(files: FileRenderer) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = files.cut(range(len(files.paths))).pixels.numpy()
    return found


@pytest.mark.parametrize("crops", [1, 5])
@pytest.mark.parametrize("view", ["eval", "eval-square"])
def test_odd_files_are_the_references(view: str, crops: int, odd: Path) -> None:
    paths = [path for path in sorted(odd.rglob("*.*")) if path.is_file()]
    with renderer(paths, view=view, crops=crops) as files:
        found = files.cut(range(len(paths)))
    whole = [paths[number] for number in found.numbers]
    assert len(whole) > 20
    assert {path.name for path in paths if path not in whole} == {
        paths[number].name for number in found.broken
    }
    for at, place in enumerate(PLACES[:crops]):
        for row, path in enumerate(whole):
            reference = wanted(path, place, view=view)
            np.testing.assert_array_equal(found.pixels[at, row], reference, path.name)


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("crops", [1, 5])
def test_pixels_follow_the_model(crops: int, filter_: Filter, photos: Path) -> None:
    paths = sorted((photos / "test").rglob("*.jpg"))
    form = Preprocessing(filter=filter_, crop_share=0.7, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    with renderer(paths, preprocessing=form, dtype=torch.float32, crops=crops) as files:
        found = pixels_of(files)
    for at, place in enumerate(PLACES[:crops]):
        for row, path in enumerate(paths):
            reference = normalize(wanted(path, place, preprocessing=form), form)
            np.testing.assert_allclose(found[at, row], reference, atol=1e-5)


def test_photos_are_turned_as_asked(odd: Path) -> None:
    lying = [path for path in (odd / "jpegs").iterdir() if "exif" in path.name]
    assert lying
    with renderer(lying, preparation=Preparation(apply_exif=True)) as files:
        for row, path in enumerate(lying):
            reference = wanted(path, apply_exif=True)
            np.testing.assert_array_equal(pixels_of(files)[0, row], reference)


@pytest.mark.parametrize("crops", [1, 5])
def test_scaled_decoding_is_the_references(crops: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 255, (50, 70, 3), np.uint8)).resize((500, 370))
    noise.save(tmp_path / "a.jpg")
    noise.save(tmp_path / "b.png")  # which cannot be
    paths = [tmp_path / "a.jpg", tmp_path / "b.png"]
    with renderer(paths, decode="scaled", crops=crops) as files:
        found = pixels_of(files)
    for at, place in enumerate(PLACES[:crops]):
        for row, path in enumerate(paths):
            np.testing.assert_array_equal(found[at, row], wanted(path, place, decode="scaled"))
    assert not np.array_equal(wanted(paths[0], decode="scaled"), wanted(paths[0]))


def test_broken_files_cost_no_other(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "test", tmp_path / "photos")
    paths = sorted((tmp_path / "photos").rglob("*.jpg"))
    content = paths[1].read_bytes()
    at = len(content) * 2 // 3
    paths[1].write_bytes(
        content[:at] + bytes(each ^ 0x5A for each in content[at:-2]) + content[-2:]
    )
    paths[3].write_bytes(paths[3].read_bytes()[:-400])
    paths[5].unlink()
    with renderer(paths) as files:
        found = files.cut(range(6))
    assert found.numbers == (0, 2, 4)
    assert sorted(found.broken) == [1, 3, 5]
    for number, error in found.broken.items():
        assert isinstance(error, DataError)
        assert error.where == str(paths[number])
    for row, number in enumerate(found.numbers):
        np.testing.assert_array_equal(found.pixels[0, row], wanted(paths[number]))


def test_memory_is_bounded_by_groups(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for path in sorted((photos / "test").rglob("*.jpg")):
        paths.append(tmp_path / f"{path.parent.name}-{path.stem}.png")
        Image.open(path).save(paths[-1])
    held: list[int] = []
    real = FileRenderer._cut_group

    def spy(self: FileRenderer, group: dict[int, Any], *rest: Any) -> Any:
        held.append(len(group))
        return real(self, group, *rest)

    monkeypatch.setattr(FileRenderer, "_cut_group", spy)
    monkeypatch.setattr(image_files, "_HELD_BYTES", 30_000)  # of two such images
    with renderer(paths) as files:
        found = pixels_of(files)
    assert held == [2, 2, 2]
    for row, path in enumerate(paths):
        np.testing.assert_array_equal(found[0, row], wanted(path))


@pytest.mark.parametrize("crops", [1, 5])
def test_gathered_batches_hold_every_file_once(crops: int, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "test", tmp_path / "photos")
    paths = sorted((tmp_path / "photos").rglob("*.jpg"))
    paths[0].write_text("text")
    paths[5].write_text("text")
    with renderer(paths, crops=crops, batch=1) as files:
        whole = {number: files.cut([number]).pixels for number in (1, 2, 3, 4)}
        cuts = (files.cut([number]) for number in range(6))
        how = {"device": CPU, "dtype": torch.float32, "preprocessing": IMAGENET}
        batches = list(gather(cuts, batch=2, **how))
    assert [batch.numbers for batch in batches] == [(1, 2), (3, 4), ()]
    assert [sorted(batch.broken) for batch in batches] == [[0], [], [5]]
    for batch in batches:
        assert batch.pixels.shape[:2] == (crops, len(batch.numbers))
        for row, number in enumerate(batch.numbers):
            reference = normalize(whole[number][:, 0].numpy())
            np.testing.assert_allclose(batch.pixels[:, row], reference, atol=1e-5)
    for view in batches[0].views:
        assert view.shape == (2, 3, SIZE, SIZE)
        assert view.is_contiguous(memory_format=torch.channels_last)


def test_nothing_gathered_of_nothing() -> None:
    none = gather(iter(()), batch=3, device=CPU, dtype=None, preprocessing=IMAGENET)
    assert list(none) == []
