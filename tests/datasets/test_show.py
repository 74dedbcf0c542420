"""What is on a contact sheet, pixel by pixel; what its picture shows of that."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from effort import rest
from loader_kinds import require_library
from matplotlib.font_manager import fontManager
from PIL import Image

from fastft.cli.show import show
from fastft.config.commands import ShowConfig
from fastft.datasets.contact_sheet import Lettering, draw_sheet
from fastft.datasets.show import EPOCHS, Cell, Sheet, choose, fit, make_sheet
from pipelines.augment import Augment
from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import NONE
from pipelines.formats.encode import decode
from pipelines.formats.source import open_source
from pipelines.loaders import make_loader
from pipelines.plan import make_plan
from pipelines.reference import render

# As in test_loaders.
TOLERANCE = {"torchvision": (0, 0), "ffcv": (0, 0), "dali": (0.25, 32), "resident": (0, 0)}
WHITE_RED_RED = [(255, 255, 255), (0xD5, 0x5E, 0x00), (0xD5, 0x5E, 0x00)]


def sheet_of(data: Path, **options: Any) -> Sheet:
    return make_sheet(ShowConfig(data=data, **options))


def cells_of(sheet: Sheet) -> list[Cell]:
    return [cell for band in sheet.bands for row in band.rows for cell in row]


def picks(labels: list[int], count: int, classes: str, n: int) -> dict[str, tuple[list[int], str]]:
    names = tuple("abcdefghij"[:count])
    source: Any = SimpleNamespace(labels=np.array(labels), classes=names, columns=NONE)
    return {c.name: (c.samples.tolist(), c.which) for c in choose(source, tuple(classes), n)}


def test_first_of_each_class_last_of_last() -> None:
    labels = [2, 0, 1, 0, 1, 2, 1, 0, 2, 1]  # a: 1 3 7, b: 2 4 6 9, c: 0 5 8
    found = picks(labels, 3, "", 2)
    assert found == {"a": ([1, 3], "first"), "b": ([2, 4], "first"), "c": ([5, 8], "last")}
    # In the order asked for, so that it is the last one asked for whose last ones come.
    asked = picks(labels, 3, "cb", 3)
    assert list(asked.items()) == [("c", ([0, 5, 8], "")), ("b", ([4, 6, 9], "last"))]
    assert picks(labels, 3, "b", 1) == picks(labels, 3, "bb", 1) == {"b": ([2], "first")}
    assert picks(labels, 3, "ab", 99) == {"a": ([1, 3, 7], ""), "b": ([2, 4, 6, 9], "")}
    found = picks([0, 0, 7, 7, 8, 9], 10, "", 1)
    assert list(found) == list("abcdefgh"), "eight, even where there are more"
    assert (found["a"], found["b"], found["h"]) == (([0], "first"), ([], ""), ([3], "last"))
    with pytest.raises(UsageError, match="no image of d, e"):
        picks([0, 9], 10, "de", 1)


def test_a_plain_sheet(photos: Path, data: Path) -> None:
    source = open_source(data / "train.beton")
    sheet = sheet_of(data)
    assert tuple(band.name for band in sheet.bands) == source.classes
    notes = [band.note.removeprefix("11 images, the ") for band in sheet.bands]
    assert notes == ["first 8", "first 8", "last 8"]
    wanted = [*range(8), *range(11, 19), *range(25, 33)]
    assert [[len(row) for row in band.rows] for band in sheet.bands] == [[8]] * 3
    for sample, cell in zip(wanted, cells_of(sheet), strict=True):
        image = decode(source.stored(sample))
        size = f"{image.width} × {image.height}"  # noqa: RUF001
        assert cell.lines == (source.name(sample).split("/")[-1], size)
        assert np.array_equal(cell.pixels, fit(image, 150, 150))
    assert "33 images, 3 classes" in sheet.note
    assert [[len(row) for row in b.rows] for b in sheet_of(data, n=10).bands] == [[8, 2]] * 3
    assert [c.lines for c in cells_of(sheet_of(photos))] == [c.lines for c in cells_of(sheet)]
    test = sheet_of(photos, split="test")
    assert (test.title, test.bands[2].note) == (str(photos / "test"), "2 images")
    assert sheet_of(data / "test.beton", n=1).title == str(data / "test.beton")


def test_images_keep_their_shape_and_their_pixels(odd: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(fit(image, 150, 99), pixels.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(fit(image, 60, 40), pixels)
    averages = pixels.reshape(20, 2, 30, 2, 3).mean((1, 3))
    assert np.abs(np.asarray(fit(image, 30, 30)) - averages).mean() < 25, "no pixels left out"
    shapes = {cell.lines[0]: cell.pixels.shape[:2] for cell in cells_of(sheet_of(odd, n=99))}
    found = [shapes[f"{name}.jpg"] for name in ("5000x20", "1x37", "1x1")]
    assert found == [(1, 150), (148, 4), (150, 150)]


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("resident", "train"),
        ("torchvision", "eval"),
        ("resident", "recordio"),
        *rest(*((name, "eval") for name in TOLERANCE if name != "torchvision")),
        *rest(*((name, "train") for name in TOLERANCE if name != "resident")),
        *rest(("resident", "eval-square")),
    ],
)
def test_crops_are_what_training_sees(name: str, view: str, odd_beton: Path) -> None:
    require_library(name)
    source = open_source(odd_beton)
    # More samples than a loader is asked for at once, and none of the first epochs.
    options: Any = {"loader": name, "view": view, "size": 64, "epoch": 3, "seed": 5}
    sheet = sheet_of(odd_beton, augmented=True, n=6, **options)
    samples = [*range(6), *range(len(source) - 6, len(source))]
    sides: Any = (source.widths, source.heights)
    count = EPOCHS if view in ("train", "recordio") else 1
    plans = [make_plan(*sides, view=view, size=64, seed=5, epoch=3 + at) for at in range(count)]
    cells, apart, flipped = iter(cells_of(sheet)), [], 0
    for sample in samples:
        stored, original = source.stored(sample), next(cells)
        shrunk = np.array(original.pixels.shape[:2]) / (stored.height, stored.width)
        for at, plan in enumerate(plans):
            cell, rows = next(cells), plan.rows(np.array([sample]))
            wanted = render(stored, rows, 0)
            own = cell.pixels[::3, ::3]
            assert np.array_equal(cell.pixels, own.repeat(3, 0).repeat(3, 1))
            apart.append(np.abs(own.astype(int) - wanted))
            flipped += bool(rows.flips[0])
            assert ("flipped" in cell.lines[0], cell.epoch) == (rows.flips[0], at)
            assert cell.lines[0].startswith(f"epoch {3 + at}" if count > 1 else view)
            assert original.boxes[at] == pytest.approx(rows.boxes[0] * [*shrunk, *shrunk])
    assert (np.array([np.mean(apart), np.max(apart)]) <= TOLERANCE[name]).all()
    assert flipped in range(20, 53) if count > 1 else not flipped


def test_operations_are_told_below_crops(data: Path) -> None:
    asked = Augment(policy="trivial", vflip=0.5, erase=0.5)
    sheet = sheet_of(data, augmented=True, augment=asked, n=1)
    assert sheet.note.endswith("seed 0; trivial, vflip 0.5, erase 0.5")
    source = open_source(data / "train.beton")
    cells = [cell for cell in cells_of(sheet) if cell.epoch is not None]
    said = {word for cell in cells for line in cell.lines[2:] for word in line.split(", ")}
    assert {"upside down"} < said
    assert any(word.startswith("erase ") for word in said)
    plan = make_plan(
        source.widths, source.heights, view="train", size=224, epoch=cells[0].epoch, augment=asked
    )
    first = int(np.flatnonzero(source.labels == 0)[0])
    rows = plan.rows(np.array([first]))
    assert rows.operations is not None
    assert " ".join(cells[0].lines[2:]) == ", ".join(rows.operations.describe(0))


def test_an_augmented_sheet_is_small(data: Path, photos: Path) -> None:
    def shape(**options: Any) -> list[list[int]]:
        sheet = sheet_of(photos, augmented=True, size=32, **options)
        return [[len(row) for row in band.rows] for band in sheet.bands]

    one, two, _ = open_source(data / "test.beton").classes
    assert shape() == [[7]] * 3
    assert shape(classes=(one, two)) == [[7, 7]] * 2
    assert shape(classes=(one,)) == [[7] * 4]
    assert shape(classes=(one,), view="eval") == [[6, 2]]
    assert sheet_of(data, n=1).bands[2].note == "11 images, the last"
    assert len(cells_of(sheet_of(data, augmented=True, size=300, view="eval"))[1].pixels) == 224


def drawn(sheet: Sheet, out: Path) -> np.ndarray:
    draw_sheet(sheet, out)
    with Image.open(out) as image:
        return np.asarray(image.convert("RGB"))


def at_which_place(picture: np.ndarray, pixels: np.ndarray) -> tuple[int, int]:
    """Bottom and left of the only place where a picture has these very pixels."""
    height, width = pixels.shape[:2]
    (found,) = [
        (top + height, left)
        for top, left in np.argwhere((picture == pixels[0, 0]).all(2)).tolist()
        if np.array_equal(picture[top : top + height, left : left + width], pixels)
    ]
    return found


@pytest.mark.parametrize("augmented", [False, True])
def test_the_picture_has_each_cells_pixels(data: Path, tmp_path: Path, augmented: bool) -> None:
    sheet = sheet_of(data, augmented=augmented, size=48, n=1 if augmented else 2)
    picture = drawn(sheet, tmp_path / "new" / "sheet.png")
    rows = []
    for band in sheet.bands:
        for row in band.rows:
            # All but the originals that boxes are drawn on.
            places = [at_which_place(picture, cell.pixels) for cell in row if cell.boxes is None]
            bottoms, lefts = zip(*places, strict=True)
            assert len(set(bottoms)) == 1, "they stand on one shelf"
            assert (np.diff(lefts) > row[-1].pixels.shape[1] * (1 if augmented else 0.3)).all()
            rows.append(bottoms[0])
    assert rows == sorted(rows)
    width = max(760, lefts[-1] + row[-1].pixels.shape[1] + 20)
    assert picture.shape[:2] == (rows[-1] + 50, width), "two lines and the margin, no waste"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_boxes_are_drawn_where_crops_are_cut(data: Path, tmp_path: Path) -> None:
    sheet = sheet_of(data, augmented=True, view="eval", size=64, n=1)
    plain, crop = cells_of(sheet)[:2]
    picture = drawn(sheet, tmp_path / "sheet.png").astype(int)
    bottom, side = at_which_place(picture, crop.pixels)
    assert (picture[bottom - 9, [side - 4, side - 3, side - 1]] == WHITE_RED_RED).all()
    assert (picture[[bottom + 3, bottom + 2, bottom], side + 9] == WHITE_RED_RED).all()
    height, width = plain.pixels.shape[:2]
    framed = picture[bottom - height : bottom, 20 : 20 + width]
    colored = np.abs(framed - WHITE_RED_RED[1]).max(2) < 40
    lines, columns = np.nonzero(colored.sum(1) > 20)[0], np.nonzero(colored.sum(0) > 20)[0]
    top, left, tall, wide = plain.boxes[0]
    edges = np.array([lines.min(), lines.max(), columns.min(), columns.max()])
    assert np.abs(edges - (top, top + tall, left, left + wide)).max() <= 2


def write_classes(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / name / f"{name[:99]}.png")


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    names = ("$x_$", "$\\frac{", "犬", "🌭\u200d🌭", "\n", "ﷺ العربية", "ȩ̷̛", "w" * 250)
    names += (os.fsdecode(b"\xff"),)
    write_classes(tmp_path / "odd $", names)
    sheet = sheet_of(tmp_path / "odd $", classes=names)
    assert tuple(band.name for band in sheet.bands) == names
    ink = (drawn(sheet, tmp_path / "sheet.png") < 200).any((0, 2))
    assert ink.nonzero()[0].max() < len(ink) - 19, "nothing reaches into the margin"


def test_what_no_font_has_is_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    brought = [entry for entry in fontManager.ttflist if entry.name[:4] in ("STIX", "Last")]
    manager = SimpleNamespace(ttflist=brought)
    monkeypatch.setattr("fastft.datasets.contact_sheet.fontManager", manager)
    lettering = Lettering(["\u2317", "犬\n$"])
    assert lettering.clean("\u2317 犬\n$") == "\u2317 \u25a1\u25a1$"
    assert lettering.families == ["DejaVu Sans", "STIXGeneral"]


def test_errors_say_what_is_wrong(data: Path, photos: Path, tmp_path: Path) -> None:
    rows: list[tuple[Path, dict[str, Any], str]] = [
        (data, {"classes": ("cat",)}, "--classes: 'cat', expected names out of cross, disk, ring"),
        (data, {"split": "val"}, f"--split: {data} has no val, expected one of train, test"),
        (data / "test.beton", {"split": "test"}, "expected a folder with splits"),
        (data, {"split": "all"}, "--split: 'all', expected one of train, test, val"),
        (data, {"n": 0}, "--n: 0, expected 1 to 512"),
        (data, {"out": tmp_path}, f"--out: {tmp_path} is a folder, expected a file"),
        (data, {"out": data / "train.beton"}, "is the data"),
        (data, {"loader": "stock"}, "--loader: 'stock', expected one of torchvision"),
        (data, {"view": "native"}, "--view: 'native', expected one of train"),
        (photos, {"augmented": True, "loader": "ffcv"}, "loader 'ffcv': "),
    ]
    for path, options, message in rows:
        with pytest.raises(UsageError, match=re.escape(message)):
            sheet_of(path, **options)
    with pytest.raises(DataError, match="no such file"):
        sheet_of(tmp_path / "no", split="test")


def test_long_sheets_and_long_lists(tmp_path: Path) -> None:
    names = tuple(f"c{label:02}" for label in range(65))
    write_classes(tmp_path, names)
    sheet = sheet_of(tmp_path)
    assert (len(sheet.bands), sheet.left_out) == (8, 57)
    assert "65 classes, 57 of them not shown" in sheet.note
    assert len(sheet_of(tmp_path, classes=names[:64]).bands) == 64
    with pytest.raises(UsageError, match="--n: makes 65 rows of images, expected at most 64"):
        sheet_of(tmp_path, classes=names)
    with pytest.raises(UsageError, match=r"c18, c19 and 45 more$"):
        sheet_of(tmp_path, classes=("x",))


def test_a_broken_image_is_named(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "test", tmp_path / "cut")
    victim = sorted((tmp_path / "cut").rglob("*.jpg"))[1]
    victim.write_bytes(victim.read_bytes()[:1500])
    for augmented in (False, True):
        with pytest.raises(DataError, match=victim.name):
            sheet_of(tmp_path / "cut", augmented=augmented, n=2)


def test_nothing_is_left_of_a_failure(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    sheet = sheet_of(data, n=1)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/sheet\.png: .*, expected a file to write"):
        draw_sheet(sheet, tmp_path / "file" / "sheet.png")
    out = tmp_path / "sheet.png"
    out.write_text("old")

    def full(figure: Any, path: Path) -> None:
        path.write_text("half")
        raise DataError(path, "disk full")

    monkeypatch.setattr("fastft.datasets.contact_sheet.save_figure", full)
    with pytest.raises(DataError, match=f"^{out}: disk full"):
        draw_sheet(sheet, out)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"file": "", "sheet.png": "old"}


def test_the_command(data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def run(*arguments: object) -> None:
        app = typer.Typer()
        app.command()(show)
        app([str(each) for each in arguments], standalone_mode=False)

    monkeypatch.chdir(tmp_path)
    run(data)
    assert capsys.readouterr().out == "sheet.png\n"
    with Image.open("sheet.png", formats=["PNG"]) as image:
        assert (750 < image.width < 1400, 300 < image.height < 900) == (True, True)
    run(data, "--augmented", "--size", 32, "--n", 1, "--out", "crops [red].png")
    assert capsys.readouterr().out == "crops [red].png\n"
    with pytest.raises(UsageError, match="--view: given without --augmented"):
        run(data, "--view", "eval")
    with pytest.raises(UsageError, match="'dog', expected names out of"):
        run(data, "--classes", f"{open_source(data / 'test.beton').classes[0]},dog")
    write_classes(tmp_path / "many", "0123456789")
    run("many")
    assert capsys.readouterr().out.startswith("2 more classes are left out; --classes picks")
    run("--help")
    assert "fastft show data" in capsys.readouterr().out


def test_chosen_samples_come_alone_until_the_next_epoch(data: Path) -> None:
    with make_loader(
        "torchvision", data / "train.beton", size=16, batch_size=8, normalize=False, workers=1
    ) as loader:
        loader.set_epoch(2)
        order = loader.plan.order
        whole = dict(zip(order.tolist(), torch.cat([images for images, _ in loader]), strict=True))
        chosen = order[[20, 3, 31]]
        loader.select(chosen)
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert torch.equal(images, torch.stack([whole[sample] for sample in chosen.tolist()]))
        assert torch.equal(labels, torch.from_numpy(loader.source.labels[chosen]))
        loader.set_epoch(2)
        assert sum(len(labels) for _, labels in loader) == len(order)
