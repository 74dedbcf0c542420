import io
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastft.cli import commands
from fastft.datasets import export_data as exporting
from fastft.datasets.export_data import MARKER, ExportConfig, export_data
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, FastftError, UsageError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.columns import NONE, ColumnNames, Columns
from pipelines.formats.folder import read_folder
from pipelines.formats.layout import EXTRA, MODE_JPG, MODE_RAW, About, Stored


def make_jpeg(level: int) -> Stored:
    target = io.BytesIO()
    Image.new("RGB", (9, 7), (level, 0, 0)).save(target, "JPEG")
    return Stored(MODE_JPG, 9, 7, target.getvalue())


def write_beton(
    path: Path,
    names: Sequence[str],
    classes: tuple[str, ...] = ("a", "b"),
    columns: Columns = NONE,
    raw: Sequence[int] = (),
) -> Index:
    """A file whose samples bear these names; they are of the classes in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with BetonWriter(path, len(names)) as writer:
        for number, name in enumerate(names):
            stored = make_jpeg(number)
            if number in raw:
                stored = Stored(MODE_RAW, 4, 5, np.random.default_rng(number).bytes(60))
            label = number % len(classes) if columns.task == "classes" else 0
            writer.append(stored, label, name, zlib.crc32(stored.data))
        writer.finish(About(classes=classes, columns=columns))
        writer.publish()
    return read_index(path)


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a folder but the marker."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and file.name != MARKER
    }


def export(file: Path, out: Path, **options: object) -> dict[str, bytes]:
    export_data(ExportConfig(file=file, out=out, **options))
    return tree(out)


def samples_of(index: Index) -> list[tuple[str, int, bytes]]:
    """Class, mode and bytes of each sample."""
    found = [(index.classes[index.labels[i]], index.stored(i)) for i in range(len(index))]
    return [(name, stored.mode, bytes(stored.data)) for name, stored in found]


# Contents of an export.


def test_folders_come_back_byte_for_byte(photos: Path, tmp_path: Path) -> None:
    convert(ConvertConfig(src=photos, out=tmp_path / "data"))
    found = export(tmp_path / "data", tmp_path / "out")
    wanted = tree(photos)
    del wanted["synth.json"]
    assert found == wanted


def test_odd_images_survive_the_round_trip(odd_beton: Path, tmp_path: Path) -> None:
    export(odd_beton, tmp_path / "out")
    convert(ConvertConfig(src=tmp_path / "out", out=tmp_path / "again.beton"))
    first, again = read_index(odd_beton), read_index(tmp_path / "again.beton")
    assert (first.modes == MODE_RAW).any()
    assert first.classes == again.classes
    assert sorted(samples_of(first)) == sorted(samples_of(again))


@pytest.mark.parametrize("raw", [(), (0, 3)])
def test_raw_pixels_become_png(tmp_path: Path, raw: tuple[int, ...]) -> None:
    names = ["a/x.bmp", "b/y.jpg", "a/z", "b/sub/w.webp"]
    index = write_beton(tmp_path / "x.beton", names, raw=raw)
    found = export(tmp_path / "x.beton", tmp_path / "out")
    suffixes = [".png" if i in raw else ".jpg" for i in range(4)]
    paths = [os.path.splitext(each)[0] + s for each, s in zip(names, suffixes, strict=True)]
    assert set(found) == set(paths)
    for sample, path in enumerate(paths):
        if sample in raw:
            with Image.open(io.BytesIO(found[path])) as image:
                assert image.format == "PNG"
                assert image.tobytes() == index.stored(sample).data
        else:
            assert found[path] == index.stored(sample).data


def test_a_file_of_stock_ffcv_has_numbered_images(tmp_path: Path) -> None:
    write_beton(tmp_path / "x.beton", ["a/1.jpg", "b/2.jpg", "a/3.jpg"], classes=("0", "1"))
    content = bytearray((tmp_path / "x.beton").read_bytes())
    at = content.index(b"fastft-x")
    content[at : at + EXTRA.itemsize] = bytes(EXTRA.itemsize)  # as stock FFCV leaves it
    (tmp_path / "x.beton").write_bytes(content)
    assert not read_index(tmp_path / "x.beton").has_names
    found = export(tmp_path / "x.beton", tmp_path / "out")
    assert sorted(found) == ["0/000001.jpg", "0/000003.jpg", "1/000002.jpg"]


def test_one_split_is_written_straight(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_beton(tmp_path / "data" / f"{split}.beton", [f"a/{split}.jpg", "b/x.jpg"])
    assert set(export(tmp_path / "data", tmp_path / "all")) == {
        "train/a/train.jpg",
        "train/b/x.jpg",
        "val/a/val.jpg",
        "val/b/x.jpg",
    }
    found = export(tmp_path / "data", tmp_path / "one", split="validation")
    assert set(found) == {"a/val.jpg", "b/x.jpg"}


def test_names_from_tables_stay_below_their_class(tmp_path: Path) -> None:
    names = ["photos/1.jpg", "/data/photos/2.jpg", "../3.jpg"]
    write_beton(tmp_path / "x.beton", names)
    assert set(export(tmp_path / "x.beton", tmp_path / "out")) == {
        "a/photos/1.jpg",
        "b/data/photos/2.jpg",
        "a/3.jpg",
    }


@pytest.mark.parametrize(
    ("task", "targets", "classes", "rows"),
    [
        (
            "labels",
            [[1, 0, 1], [0, 0, 0], [0, 1, 0]],
            ("c", "d", "e"),
            [{"labels": ["c", "e"]}, {"labels": []}, {"labels": ["d"]}],
        ),
        (
            "number",
            [[0.1], [-2.5], [3e30]],
            ("age",),
            [{"label": 0.1}, {"label": -2.5}, {"label": 3e30}],
        ),
    ],
)
def test_labels_and_numbers_become_a_table(
    tmp_path: Path, task: str, targets: list, classes: tuple[str, ...], rows: list[dict]
) -> None:
    columns = Columns(
        task=task,
        targets=np.array(targets, np.float32),
        weights=np.array([0.5, 1, 2], np.float32),
        groups=np.array([1, 2, 1], np.uint64),
    )
    index = write_beton(tmp_path / "x.beton", ["1.jpg", "s/2.jpg", "../1.JPG"], classes, columns)
    found = export(tmp_path / "x.beton", tmp_path / "out")
    lines = [json.loads(line) for line in found.pop("labels.jsonl").splitlines()]
    paths = [line.pop("path") for line in lines]
    assert paths == ["images/1.jpg", "images/s/2.jpg", "images/1_2.JPG"]
    assert [line.pop("weight") for line in lines] == [0.5, 1, 2]
    groups = [line.pop("group") for line in lines]
    assert groups[0] == groups[2] != groups[1]
    assert lines == rows
    assert found["images/s/2.jpg"] == index.stored(1).data
    src, names = tmp_path / "out" / "labels.jsonl", ColumnNames(task=task)
    convert(ConvertConfig(src=src, out=tmp_path / "y.beton", names=names))
    again = read_index(tmp_path / "y.beton")
    assert again.columns.task == task
    assert again.columns.targets is not None
    assert again.columns.targets.tolist() == np.array(targets, np.float32).tolist()
    assert [again.stored(i).data for i in range(3)] == [index.stored(i).data for i in range(3)]
    if task == "labels":
        assert again.classes == classes


def test_what_converting_would_change_is_noted(tmp_path: Path) -> None:
    index = write_beton(tmp_path / "x.beton", ["x.jpg", "y.jpg"], classes=("b/c", "a"))
    result = export_data(ExportConfig(file=index.path, out=tmp_path / "out"))
    assert result.notes == (
        "the folder of class 'b/c' is called 'b_c'",
        "converted again, classes are numbered in the order of their names, another than now",
    )
    weights = Columns(weights=np.ones(2, np.float32))
    index = write_beton(tmp_path / "y.beton", ["x.jpg", "y.jpg"], columns=weights)
    result = export_data(ExportConfig(file=index.path, out=tmp_path / "out2"))
    assert result.notes == ("class folders do not say weights and groups",)


# Whole, or not at all.


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    index, out = write_beton(tmp_path / "x.beton", ["a/1.jpg", "b/2.jpg"]), tmp_path / "out"
    first = export(index.path, out)
    with pytest.raises(DataError, match=r"not empty, expected a new or empty one; .*--overwrite"):
        export(index.path, out)
    write_beton(tmp_path / "x.beton", ["a/3.jpg", "b/4.jpg"])
    assert set(export(index.path, out, overwrite=True)) == {"a/3.jpg", "b/4.jpg"} != set(first)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("change", ["add", "link", "folder", "marker", "grow", "remove"])
def test_only_an_export_as_it_was_is_replaced(tmp_path: Path, change: str) -> None:
    index, out = write_beton(tmp_path / "x.beton", ["a/1.jpg", "b/2.jpg"]), tmp_path / "out"
    export(index.path, out)
    {
        "add": lambda: (out / "a" / "mine.jpg").touch(),
        "link": lambda: (out / "a" / "mine").symlink_to(tmp_path),
        "folder": lambda: (out / "mine").mkdir(),
        "marker": lambda: (out / MARKER).write_text("[" * 9999),
        "grow": lambda: (out / "a" / "1.jpg").write_bytes(bytes(9)),
        "remove": lambda: (out / MARKER).unlink(),
    }[change]()
    before = tree(out)
    with pytest.raises(DataError, match="holds what fastft export-data did not write"):
        export(index.path, out, overwrite=True)
    assert tree(out) == before


def test_a_damaged_sample_leaves_nothing(tmp_path: Path) -> None:
    names = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(200)]
    index = write_beton(tmp_path / "x.beton", names)
    content = bytearray(index.path.read_bytes())
    content[int(index.pointers[150]) + 20] ^= 1
    index.path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.beton: a/150.jpg: its bytes have changed"):
        export(index.path, tmp_path / "new" / "out")
    assert [*(tmp_path / "new").iterdir()] == []


def test_a_full_disk_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_beton(tmp_path / "x.beton", ["a/1.jpg", "b/2.jpg"])
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="10 bytes free on its disk"):
        export(index.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, out = write_beton(tmp_path / "x.beton", ["a/1.jpg", "b/2.jpg"]), tmp_path / "s" / "out"

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_write_one", fail)
    with pytest.raises(DataError, match=r"out: no space left on device, expected a folder"):
        export(index.path, out)
    assert [*(tmp_path / "s").iterdir()] == []


# Bad input.


@pytest.mark.parametrize(
    ("files", "name", "split", "said"),
    [
        ([], "none.beton", "", "none.beton: no such file, expected a .beton file"),
        ([], ".", "", "holds no .beton, expected train, val, test.beton|holds no .beton"),
        (["x.beton"], ".", "", "holds x.beton, of no split by its name.*name .*x.beton"),
        (["train.beton", "training.beton"], ".", "", "expected one file for train"),
        (["train.beton"], ".", "test", "--split: .* has no test, expected one of train"),
        (["train.beton"], ".", "fold", "--split: .* has no fold"),
        (["x.beton"], "x.beton", "train", "--split: given with the file"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, files: list[str], name: str, split: str, said: str
) -> None:
    for file in files:
        write_beton(tmp_path / "data" / file, ["a/1.jpg", "b/2.jpg"])
    (tmp_path / "data").mkdir(exist_ok=True)
    with pytest.raises(FastftError, match=said) as caught:
        export(tmp_path / "data" / name, tmp_path / "out", split=split)
    assert isinstance(caught.value, UsageError) is said.startswith("--split")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("file", "file: a file, expected a folder or nothing"),
        ("full", "full: a folder that is not empty"),
        ("file/in", "in: (not a directory|file exists), expected a folder that can be written"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, out: str, said: str) -> None:
    index = write_beton(tmp_path / "x.beton", ["a/1.jpg", "b/2.jpg"])
    (tmp_path / "file").touch()
    (tmp_path / "full" / "x").mkdir(parents=True)
    with pytest.raises(DataError, match=said):
        export(index.path, tmp_path / out)


# Hostile names.


def test_hostile_names_stay_in_the_folder(tmp_path: Path) -> None:
    names = [
        "../../x.jpg",
        "/etc/x.jpg",
        "a/../../x.jpg",
        "nul\0.jpg",
        "a\\..\\x.jpg",
        "",
        ".",
        "..",
        ".hidden.jpg",
        "x" * 5000 + ".jpg",
        "d/" * 3000 + "x.jpg",
        "\udcff.jpg",
        "é" * 300,
        "con\n.jpg",
        "x.jpg/y.jpg",
        "X.JPG",
        "e\u0301.jpg",
        "\u00e9.jpg",
    ]
    index = write_beton(tmp_path / "x.beton", names, classes=("..",))
    found = export(index.path, tmp_path / "deep" / "out")
    assert len(found) == len(names)
    assert [*(tmp_path / "deep").iterdir()] == [tmp_path / "deep" / "out"]
    assert sorted(found.values()) == sorted(index.stored(i).data for i in range(len(names)))
    assert len(read_folder(tmp_path / "deep" / "out")) == len(names)


# The command.


def test_the_command_says_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        write_beton(
            tmp_path / "data" / f"{split}.beton", ["b/1.jpg", "a/2.jpg"], ("b", "a"), raw=[1]
        )
    command = ["fastft", "export-data", str(tmp_path / "data"), str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", command)
    assert commands.run() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{tmp_path / 'out'}: 2 train, 2 val, 2 of them PNG, 0.0 MB, ")
    assert said[1].startswith("converted again, classes are numbered in the order of their names")
    with pytest.raises(DataError, match="a folder that is not empty"):
        commands.run()
    monkeypatch.setattr("sys.argv", [*command, "--overwrite"])
    assert commands.run() == 0
