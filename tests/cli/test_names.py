"""Names that somebody's file system allows: through every command, into every file, onto one line.

What is printed of a name is printable and no line of its own; what is written is the name itself.
"""

import csv
import json
import os
import shutil
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from effort import scale
from records import pack, write_rec
from rendered import LOADERS, check_pixels
from runs import Command
from tiny import make_tiny

from pipelines.conversion.inputs import open_listings
from pipelines.errors import one_line
from pipelines.formats.beton import read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.folder import find_clash, read_folder
from pipelines.formats.layout import MODE_RAW, About, Stored

#: What each is made to break: normalization, direction, width, word splitting, options, quoting,
#: formats, markup, patterns, lines and terminals, encodings, limits, formulas and pages, shells.
ODD = (
    "nai\u0308ve",
    "\u5e7f\u5dde caf\u00e9",
    "\u05e9\u05dc\u05d5\u05dd\u202egpj",
    "\U0001f525\U0001f469\u200d\U0001f52c",
    " two  words ",
    "-rf",
    "--help",
    "'\"`$(id)",
    "100%s%d%(n)s{0}",
    "[bold]",
    "[",
    "[0-9]*?",
    "line\nbreak\r\t\x1b[31m\x07",
    "Icon\r",
    "\udcff\udcfe",
    "x" * 255,
    "\U0001f525" * 63,
    "$a$ <i>&amp;",
    "~#=;|",
    "back\\slash",
    "\u2028\x7f\x85",
)


def some_names(count: int, seed: int) -> Iterator[str]:
    """Names of letters from all of Unicode and of bytes that are none, 255 bytes at most."""
    random = Random(seed)
    ranges = (
        (1, 0x7F),
        (0x80, 0x2FF),
        (0x300, 0x36F),
        (0x600, 0x6FF),
        (0x2000, 0x206F),
        (0xDC80, 0xDCFF),
        (0xFE00, 0xFFFD),
        (0x1F300, 0x1FAFF),
    )
    for _ in range(count):
        letters = (
            chr(random.randint(*random.choice(ranges))) for _ in range(random.randint(1, 80))
        )
        name = os.fsencode("".join(letters).replace("/", "\0").replace("\0", "")).lstrip(b".")
        yield os.fsdecode(name[:250]) or "_"


def distinct(names: Iterator[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if not find_clash([*found, name]):
            found.append(name)
    return found


NAMES = distinct(iter((*ODD, *some_names(scale(4, 600), 5))))


def file_name(name: str, suffix: str = ".jpg") -> str:
    """A file called like a class; `[/red]` is markup that closes nothing."""
    if name == "[":
        return f"red]{suffix}"
    while len(os.fsencode(name + suffix)) > 255:
        name = name[:-1]
    return name + suffix


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is as odd itself."""
    path = tmp_path_factory.mktemp("names") / "[" / "b] \nd\udcff \x1b[1m\U0001f525 %s"
    path.mkdir(parents=True)
    return path


@pytest.fixture(scope="module")
def named(photos: Path, place: Path) -> Path:
    """A class of every name, with one photo in train/ and one in test/."""
    images = sorted((photos / "train").rglob("*.jpg"))
    for split in ("train", "test"):
        for at, name in enumerate(NAMES):
            folder = place / "photos" / split / name
            folder.mkdir(parents=True)
            shutil.copy(images[at % len(images)], folder / file_name(name))
    return place / "photos"


@pytest.fixture
def says(fastft: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that does well; what it says is printable, a name no line of its own."""
    monkeypatch.setenv("COLUMNS", "5000")  # tables need break no name

    def call(*arguments: object) -> str:
        status, out, err = fastft(*arguments)
        assert not status, ascii(err)
        assert not {c for c in out + err if not c.isprintable()} - {"\n"}
        assert not [line for line in (out + err).splitlines() if line.startswith(("break", "d\\"))]
        return out

    return call


@pytest.mark.usefixtures("undrawn")
def test_commands_take_any_name(
    named: Path,
    place: Path,
    says: Callable[..., str],
    tried: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for pictures that take a second each: `test_scores` draws such names."""
    monkeypatch.setattr("fastft.evaluate.plots.draw_sheet", lambda _: b"")
    make_tiny(monkeypatch)
    data, run = place / "data", place / "run"
    says("synth", place / "synth", "--classes", 2, "--per-class", 2, "--size", "40x40")
    says("convert", named, data)
    for shard in ("1/2", "2/2"):
        assert "fastft merge" in says("convert", named, place / "parts", "--shard", shard)
    says("merge", place / "parts")
    for split in ("train", "test"):
        whole = (data / f"{split}.beton").read_bytes()
        assert (place / "parts" / f"{split}.beton").read_bytes() == whole
        index = read_index(data / f"{split}.beton")
        assert index.classes == tuple(sorted(NAMES))
        assert {index.name(at) for at in range(len(index))} == {
            f"{name}/{file_name(name)}" for name in NAMES
        }
    said = says("inspect", data / "train.beton", "--verify")
    assert [name for name in NAMES if one_line(name) not in said] == []
    says("show", data, "--out", place / "sheet.png")
    small = (
        "--weights",
        "none",
        "--arch",
        "shufflenet_v2_x0_5",
        "--size",
        40,
        "--epochs",
        1,
        "--batch-size",
        16,
        "--loader",
        "torchvision",
        "--workers",
        1,
    )
    says("train", "--data", data, "--out", run, *small)
    says("evaluate", run, "--data", data)
    with open(run / "evaluation" / "predictions.csv", newline="", encoding="utf-8") as file:
        found = {(row["name"], row["truth"]) for row in csv.DictReader(file)}
    assert found == {(in_text(f"{name}/{file_name(name)}"), in_text(name)) for name in NAMES}
    says("report", run, "--out", place / "report.html")
    outputs = [place / f"p.{kind}" for kind in ("csv", "json", "png")]
    says(
        "predict",
        run,
        named / "test",
        "--csv",
        outputs[0],
        "--json",
        outputs[1],
        "--sheet",
        outputs[2],
    )
    paths = {named / "test" / name / file_name(name) for name in NAMES}
    assert {Path(row["path"]) for row in json.loads(outputs[1].read_text())} == paths
    with outputs[0].open(newline="", encoding="utf-8") as file:
        assert {row["path"] for row in csv.DictReader(file)} == {in_text(str(p)) for p in paths}
    for name in (ODD[2], ODD[12]):
        says("predict", run, named / "test" / name / file_name(name))
    tried("odd names through every command", len(NAMES))


def in_text(name: str) -> str:
    """A name as a UTF-8 file can hold it."""
    return name.encode("utf-8", "backslashreplace").decode()


def test_odd_file_names_are_predicted(
    run: Path,
    photos: Path,
    tmp_path: Path,
    says: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    image = next((photos / "test").rglob("*.jpg"))
    names = ["-rf.jpg", "[0-9]*?.jpg", "[bold].jpg", "--csv.jpg"]
    for name in names:
        shutil.copy(image, name)
    said = says("predict", run, "--", *names)
    assert all(name in said for name in names)


def test_what_is_said_fits_into_any_encoding(
    data: Path, tmp_path: Path, says: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "\U0001f525\u05e9.beton"
    shutil.copy(data / "test.beton", file)
    with open(tmp_path / "said", "w", encoding="ascii") as said:
        monkeypatch.setattr("sys.stdout", said)
        says("inspect", file)
    assert "\\U0001f525\\u05e9.beton" in (tmp_path / "said").read_text(encoding="ascii")


def test_a_zip_has_the_names_of_its_folder(
    named: Path, place: Path, tmp_path: Path, says: Callable[..., str], tried: Callable[..., None]
) -> None:
    path, folder = place / "photos\x1b[7m.zip", tmp_path / "photos"
    kept = [name for name in NAMES if "\\" not in name and in_text(name) == name]
    with zipfile.ZipFile(path, "w") as target:
        for name in sorted(kept, key=lambda name: zlib.crc32(os.fsencode(name))):
            target.write(named / "train" / name / file_name(name), f"{name}/{file_name(name)}")
            shutil.copytree(named / "train" / name, folder / name)
    says("convert", path, place / "zip.beton")
    says("convert", folder, place / "folder.beton")
    assert (place / "zip.beton").read_bytes() == (place / "folder.beton").read_bytes()
    tried("odd names in zips", len(kept))


def test_records_get_the_names_that_are_given(
    named: Path, place: Path, says: Callable[..., str], tried: Callable[..., None]
) -> None:
    names = [name for name in NAMES if "," not in name and name == name.strip()]
    images = [(named / "train" / name / file_name(name)).read_bytes() for name in names]
    write_rec(place / "[x].rec", [pack(image, label) for label, image in enumerate(images)])
    says("convert", place / "[x].rec", place / "rec.beton", f"--classes={','.join(names)}")
    assert read_index(place / "rec.beton").classes == tuple(names)
    tried("odd names as --classes", len(names))


@pytest.mark.parametrize("name", LOADERS)
def test_loaders_read_any_name(
    name: str, named: Path, place: Path, says: Callable[..., str]
) -> None:
    out = place / f"{name}\n\x1b[7m.beton"
    says("convert", named / "train", out)
    for source in (out, named / "train"):
        if name != "ffcv" or source == out:
            check_pixels(name, source, "eval", size=40, batch_size=16, workers=1)


@pytest.mark.parametrize(
    ("one", "other", "say"),
    [
        ("Cat", "cat", repr),
        ("caf\u00e9", "cafe\u0301", ascii),
        ("\u00c5ngstr\u00f6m", "a\u030angstro\u0308m", repr),
        ("STRASSE", "stra\u00dfe", repr),
        ("\u03a3\u03a3", "\u03c3\u03c2", repr),
        ("\u1fb3\u0301", "\u03ac\u03b9", repr),  # the iota below a letter becomes one beside it
    ],
)
def test_classes_that_are_one_elsewhere_are_refused(
    one: str,
    other: str,
    say: Callable[[str], str],
    photos: Path,
    tmp_path: Path,
    fastft: Command,
    tried: Callable[..., None],
) -> None:
    image = next(photos.rglob("*.jpg"))

    def make(root: Path, *names: str) -> Path:
        for name in names:
            (root / name).mkdir(parents=True)
            shutil.copy(image, root / name / "1.jpg")
        return root

    def refused(status: int, *arguments: object) -> str:
        found, _, err = fastft(*arguments)
        assert found == status, ascii(err)
        assert err.count("\n") == 1
        assert say(one) in err
        assert say(other) in err
        assert "one name on other file systems" in err
        return err

    try:
        folder = make(tmp_path / "folder", one, other, "third")
    except FileExistsError:
        pytest.skip("this file system takes the two for one")
    splits = make(tmp_path / "splits" / "train", one, "third").parent
    make(splits / "test", other, "third")
    out = tmp_path / "out.beton"
    for source, where in ((folder, folder), (splits, splits / "test")):
        assert refused(1, "convert", source, out).startswith(f"{where}: ")
        path = tmp_path / f"{source.name}.zip"
        with zipfile.ZipFile(path, "w") as target:
            for file in source.rglob("*.jpg"):
                target.write(file, file.relative_to(source))
        assert refused(1, "convert", path, out).startswith(f"{path}: ")
    refused(1, "train", "--data", splits, "--out", tmp_path / "run", "--weights", "none")
    rec = tmp_path / "x.rec"
    write_rec(rec, [pack(image.read_bytes(), label) for label in range(2)])
    assert refused(2, "convert", rec, out, f"--classes={one},{other}").startswith("--classes: ")
    assert not out.exists()
    tried("class names that are one elsewhere", 6)


def test_outputs_may_have_the_longest_names(
    photos: Path,
    tmp_path: Path,
    says: Callable[..., str],
    refuses: Callable[..., None],
    tried: Callable[..., None],
) -> None:
    for letter, bytes_each in (("x", 1), ("\U0001f525", 4)):
        longest = letter * (255 // bytes_each)
        says("synth", tmp_path / longest, "--classes", 2, "--per-class", 2, "--size", "40x40")
        # Of the list of what was left out, which must be written behind the photos.
        fits = letter * ((255 - len(".quarantine.json")) // bytes_each)
        says("convert", photos / "test", tmp_path / f"{fits}.beton")
        before = sorted(os.listdir(tmp_path))
        for name in (f"{fits}{letter}.beton", f"{longest}.beton"):
            arguments = ("convert", photos / "test", tmp_path / name)
            refuses(name, arguments, 1, "ile name too long")
        assert sorted(os.listdir(tmp_path)) == before
    tried("names of 255 bytes", 8)


def test_names_that_only_look_alike_are_kept() -> None:
    assert find_clash(["cat", "cats", "c at", "c\u0430t", "k\u00e4t", "kat", "cat "]) == ""
    assert find_clash(["cat", "cat"]) == ""  # of two splits


def test_files_of_others_may_have_such_classes(
    tmp_path: Path, says: Callable[..., str], read_by_stock_ffcv: Callable[..., object]
) -> None:
    classes = ("Cat", "cat", "[/red]", "a/b")
    with BetonWriter(tmp_path / "x.beton", 4) as writer:
        for label in range(4):
            content = bytes([label * 20]) * 48
            writer.append(Stored(MODE_RAW, 4, 4, content), label, f"{label}", zlib.crc32(content))
        writer.finish(About(classes=classes))
        writer.publish()
    assert read_index(tmp_path / "x.beton").classes == classes
    assert "[/red]" in says("inspect", tmp_path / "x.beton", "--verify")
    check_pixels("torchvision", tmp_path / "x.beton", "eval")


def test_names_keep_their_unicode_form(named: Path) -> None:
    """No reader composes or decomposes: the path that it gives must open the file."""
    folder = read_folder(named / "train")
    assert {os.fsencode(name) for name in folder.classes} == set(map(os.fsencode, NAMES))
    assert any(unicodedata.normalize("NFC", name) != name for name in folder.classes)
    assert all(len(folder.read(sample)) for sample in range(len(folder)))
    with open_listings(named) as listings:
        assert listings["train"].names == folder.names
