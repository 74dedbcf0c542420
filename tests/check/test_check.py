"""The whole command: each finding made to happen, told in JSON, tables and pictures."""

import io
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import long
from PIL import Image, ImageOps
from rich.console import Console
from runs import Command
from zips import STORED, zip_folder

from fastft.check.result import FORMAT, KINDS, Check, Member, Pair
from fastft.check.run import run_check
from fastft.check.section import check_section
from fastft.config.check import CheckConfig
from fastft.report.sources import read_sources
from fastft.results.read import check, parse_object
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError

FILES = ("check.json", "duplicates.png", "leaks.png", "odd.png")


def look(data: Path, out: Path, **options: Any) -> Check:
    return run_check(CheckConfig(data=data, out=out, **options), Console(quiet=True))


def findings(found: Check) -> dict[str, list[tuple[str, str, str]]]:
    kinds: dict[str, list[tuple[str, str, str]]] = {}
    for each in found.odd:
        kinds.setdefault(each.kind, []).append((each.split, each.name, each.said))
    return kinds


def read(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def is_gray(file: Path) -> bool:
    with Image.open(file) as image:
        return image.mode == "L"


def jpeg(image: Image.Image, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", **{"quality": 80, **options})
    return target.getvalue()


@pytest.fixture(scope="module")
def clean(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 3 classes in colour."""
    data = tmp_path_factory.mktemp("clean") / "data"
    shutil.copytree(photos, data)
    gray = [file for file in data.rglob("*.jpg") if is_gray(file)]
    for file in gray:
        file.unlink()
    assert len(list(data.rglob("*.jpg"))) == 39 - len(gray)
    return data


@pytest.fixture(scope="module")
def tainted(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, and what is wrong with data."""
    data = tmp_path_factory.mktemp("tainted") / "data"
    shutil.copytree(clean, data)
    train = {folder.name: sorted(folder.iterdir()) for folder in sorted((data / "train").iterdir())}
    first, second, _ = train
    seen = [read(file) for file in train[first]]
    test, own = data / "test" / first, data / "train" / first
    shutil.copy(train[first][0], test / "x_same.jpg")
    (test / "x_shrunk.jpg").write_bytes(jpeg(seen[1].resize((72, 56))))
    ImageOps.mirror(seen[2]).save(test / "x_mirrored.png")
    (data / "train" / second / "x_relabelled.jpg").write_bytes(jpeg(seen[3]))
    shutil.copy(train[first][4], own / "x_again.jpg")
    (own / "x_cut.jpg").write_bytes(train[first][5].read_bytes()[:1200])
    (own / "x_empty.jpg").write_bytes(b"")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(train[second][0]).transpose(Image.Transpose.ROTATE_90)
    (data / "test" / second / "x_turned.jpg").write_bytes(jpeg(turned, exif=exif))
    noise = np.random.default_rng(0)

    def any_pixels(width: int, height: int) -> Image.Image:
        return Image.fromarray(noise.integers(0, 256, (height, width, 3), np.uint8))

    (own / "x_tiny.jpg").write_bytes(jpeg(any_pixels(30, 90)))
    (own / "x_long.jpg").write_bytes(jpeg(any_pixels(400, 60)))
    (own / "x_huge.jpg").write_bytes(jpeg(any_pixels(400, 300)))
    (own / "x_gray.jpg").write_bytes(jpeg(any_pixels(80, 80).convert("L")))
    Image.new("RGB", (70, 70), "red").save(own / "x_red.png")
    deep = noise.integers(0, 65536, (80, 80)).astype(np.uint16)
    Image.fromarray(deep).save(own / "x_deep.png")
    return data


@pytest.fixture(scope="module")
def found(tainted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Check, Path]:
    out = tmp_path_factory.mktemp("found") / "check"
    return look(tainted, out, size=128), out


def test_odd_images_are_named(found: tuple[Check, Path], tainted: Path) -> None:
    first, second, _ = sorted(folder.name for folder in (tainted / "train").iterdir())
    kinds = findings(found[0])
    cut = kinds["broken"].pop(0)
    assert cut[:2] == ("train", f"{first}/x_cut.jpg")
    assert "remature" in cut[2] or "truncated" in cut[2]
    assert kinds == {
        "broken": [("train", f"{first}/x_empty.jpg", "the file is empty")],
        "tiny": [("train", f"{first}/x_tiny.jpg", "30 x 90 px")],
        "huge": [("train", f"{first}/x_huge.jpg", "400 x 300 px")],
        "long": [("train", f"{first}/x_long.jpg", "400 x 60 px")],
        "turned": [("test", f"{second}/x_turned.jpg", "orientation 6")],
        "gray": [
            ("train", f"{first}/x_deep.png", "no colour"),
            ("train", f"{first}/x_gray.jpg", "no colour"),
        ],
        "deep": [("train", f"{first}/x_deep.png", "over 8 bits")],
        "constant": [("train", f"{first}/x_red.png", "one colour")],
    }
    assert found[0].counts == {
        "broken": 2,
        "doubtful": 0,
        "tiny": 1,
        "huge": 1,
        "long": 1,
        "turned": 1,
        "gray": 2,
        "deep": 1,
        "constant": 1,
    }


def test_copies_are_leaks_or_conflicts_or_neither(found: tuple[Check, Path], tainted: Path) -> None:
    first, second, _ = sorted(folder.name for folder in (tainted / "train").iterdir())
    told = {
        group.members[1].name: (
            group.leak,
            group.conflict,
            group.members[0].split,
            group.members[1].split,
            group.pairs[0].exact,
            group.pairs[0].mirrored,
        )
        for group in found[0].groups
    }
    assert told == {
        f"{first}/x_same.jpg": (True, False, "train", "test", True, False),
        f"{first}/x_shrunk.jpg": (True, False, "train", "test", False, False),
        f"{first}/x_mirrored.png": (True, False, "train", "test", False, True),
        f"{second}/x_relabelled.jpg": (False, True, "train", "train", False, False),
        f"{first}/x_again.jpg": (False, False, "train", "train", True, False),
        f"{second}/x_turned.jpg": (True, False, "train", "test", False, False),
    }
    assert (found[0].leaked, found[0].conflicts) == (4, 1)
    assert [(row.name, row.images, row.broken, row.copied) for row in found[0].splits] == [
        ("train", 41, 2, 0),
        ("test", 10, 0, 4),
    ]
    group = next(each for each in found[0].groups if each.members[1].name.endswith("x_same.jpg"))
    assert group.members[1] == Member("test", first, f"{first}/x_same.jpg", *_size(group.members))
    assert group.pairs == (Pair(0, 1, True, False, 0, 0.0),)
    assert found[0].verdict[0].startswith("leak: 4 of 10 images of test (40 %) are copies")


def _size(members: tuple[Member, ...]) -> tuple[int, int]:
    return members[0].width, members[0].height


def test_json_is_read_back(found: tuple[Check, Path], tainted: Path) -> None:
    content = (found[1] / "check.json").read_bytes()
    assert json.loads(content)["format"] == FORMAT
    told = check(Check, parse_object(content, "check.json"), "check.json")
    assert told == found[0]
    assert set(json.loads(content)) == {
        "format",
        "version",
        "config",
        "environment",
        "seconds",
        "data",
        "verified",
        "images",
        "splits",
        "classes",
        "odd",
        "counts",
        "groups",
        "imbalance",
        "leaked",
        "conflicts",
        "remarks",
        "verdict",
    }
    assert told.images == 51
    assert told.data == str(tainted)
    assert list(told.counts) == list(KINDS)


@pytest.mark.parametrize("field", ["pairs", "images"])
def test_json_that_contradicts_itself_is_refused(field: str, found: tuple[Check, Path]) -> None:
    content = json.loads((found[1] / "check.json").read_text())
    if field == "pairs":
        content["groups"][0]["pairs"][0]["second"] = 2
    else:
        content["classes"][0]["images"].append(1)
    with pytest.raises(DataError, match=r"check\.json"):
        check(Check, content, "check.json")


def test_sheets_show_what_was_found(found: tuple[Check, Path]) -> None:
    assert tuple(sorted(path.name for path in found[1].iterdir())) == FILES
    sizes = {name: read(found[1] / name).size for name in FILES[1:]}
    # Pairs: three in a row, each of two slots of 150 px. Odd images: a band for each kind.
    assert [sizes[name][0] for name in FILES[1:]] == [760, 1040, 760]
    rows = {name: np.asarray(read(found[1] / name).convert("L")) for name in FILES[1:]}
    for name, bands in (("leaks.png", 1), ("duplicates.png", 2), ("odd.png", 7)):
        is_rule = (rows[name][:, 20:740] == 0xDD).all(1)
        assert is_rule.sum() == bands, name


def test_classes_are_counted(found: tuple[Check, Path]) -> None:
    rows = found[0].classes
    assert [(row.images, row.few, row.missing) for row in rows] == [
        ((20, 5), False, ()),
        ((11, 3), True, ()),
        ((10, 2), True, ()),
    ]
    assert found[0].imbalance == 2.0


def test_workers_change_nothing(
    found: tuple[Check, Path], tainted: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    again = look(tainted, tmp_path / "check", size=128, workers=1)
    request.getfixturevalue("undrawn")  # from here on
    other = look(tainted, tmp_path / "other", size=128, workers=5)
    plain: Any = {"config": {}, "environment": {}, "seconds": 0.0}
    assert replace(again, **plain) == replace(found[0], **plain) == replace(other, **plain)
    for name in FILES[1:]:
        assert (tmp_path / "check" / name).read_bytes() == (found[1] / name).read_bytes()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["betons", "beton", "zip"])
def test_other_formats_give_the_same_findings(
    kind: str, tainted: Path, found: tuple[Check, Path], tmp_path: Path
) -> None:
    data, folder = tmp_path / "data", tainted
    if kind == "beton":
        data, folder = tmp_path / "data.beton", tainted / "train"
    if kind == "zip":
        data = zip_folder(tainted, tmp_path / "data.zip", STORED)
    else:
        convert(ConvertConfig(src=folder, out=data, max_bad="5"))
    wanted = found[0] if folder == tainted else look(folder, tmp_path / "wanted", size=128)
    told = look(data, tmp_path / "check", size=128)
    # Findings that a .beton no longer has: broken images are left out, deep ones clipped to white.
    gone = () if kind == "zip" else ("broken", "deep", "gray", "constant")
    for each in set(KINDS) - set(gone):
        assert findings(told).get(each) == findings(wanted).get(each), each
    assert [group.members for group in told.groups] == [group.members for group in wanted.groups]
    assert (told.leaked, told.conflicts) == (wanted.leaked, wanted.conflicts)
    assert told.images == wanted.images - (0 if kind == "zip" else 2)


@pytest.mark.usefixtures("undrawn")
def test_strict_fails_for_leaks_and_conflicts(
    tainted: Path, clean: Path, fastft: Command, tmp_path: Path
) -> None:
    few = ("--max-sheet", 1)
    status, text, _ = fastft("check", tainted, "--out", tmp_path / "a", "--strict", *few)
    assert status == 1
    assert "leak: 4 of 10 images of test" in text
    assert str(tmp_path / "a" / "check.json") in text
    assert fastft("check", tainted, "--out", tmp_path / "b", *few)[0] == 0
    # Two labels alone.
    assert fastft("check", tainted / "train", "--out", tmp_path / "c", "--strict", *few)[0] == 1
    assert fastft("check", clean, "--out", tmp_path / "d", "--size", 64, "--strict")[0] == 0
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["check.json"]


@pytest.mark.usefixtures("undrawn")
def test_a_new_check_replaces_an_old_one(tainted: Path, clean: Path, tmp_path: Path) -> None:
    look(tainted, tmp_path / "check", max_sheet=2)
    assert len(list((tmp_path / "check").iterdir())) == 4
    told = look(clean, tmp_path / "check", size=128)
    assert [path.name for path in (tmp_path / "check").iterdir()] == ["check.json"]
    assert told.groups == ()
    assert told.verdict == ("few images: " + ", ".join(row.name for row in told.classes),)


@pytest.mark.usefixtures("undrawn")
def test_classes_in_one_split_are_reported(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "data")
    names = sorted(folder.name for folder in (photos / "train").iterdir())
    shutil.move(tmp_path / "data" / "test" / names[0], tmp_path / "data" / "test" / "zebra")
    found = look(tmp_path / "data", tmp_path / "check")
    missing = {row.name: row.missing for row in found.classes}
    assert missing == {names[0]: ("test",), names[1]: (), names[2]: (), "zebra": ("train",)}
    assert f"not in every split: {names[0]}, zebra" in found.verdict


@pytest.mark.usefixtures("undrawn")
def test_files_unlike_all_others_are_told(photos: Path, tmp_path: Path) -> None:
    names = sorted(folder.name for folder in (photos / "train").iterdir())
    shutil.copytree(photos / "train", tmp_path / "data")
    for file in (tmp_path / "data" / names[0]).iterdir():
        read(file).resize((300, 260)).save(file.with_suffix(".png"))
        file.unlink()
    found = look(tmp_path / "data", tmp_path / "check")
    unlike = {row.name: row.unlike for row in found.classes}
    assert unlike[names[0]] == ("PNG files, others hardly any", "larger than others")
    assert unlike[names[1]] == ("JPEG files, others hardly any",) or unlike[names[1]] == ()
    assert any(each.startswith(f"shortcut: {names[0]} is") for each in found.verdict)


def test_sections_of_a_page_hold_all_tables(found: tuple[Check, Path]) -> None:
    section = check_section([("check", found[0], None)])
    assert section is not None
    titles = [getattr(block, "title", "") for block in section.blocks]
    assert titles == ["Splits", "Copies", "Images out of the ordinary", "Classes"]
    assert section.keys[0].figure == "4"
    assert section.lead[0].startswith("leak: 4 of 10")


@long
def test_real_photos(hymenoptera: Path, tmp_path: Path) -> None:
    found = look(hymenoptera, tmp_path / "check", quick=True)
    assert (found.images, found.leaked, found.conflicts, found.groups) == (398, 0, 0, ())
    gray = [name for _, name, _ in findings(found)["gray"]]
    assert gray == ["ants/imageNotFound.gif", "bees/290082189_f66cb80bfc.jpg"]


def test_pages_recognize_a_check(found: tuple[Check, Path]) -> None:
    (source,) = read_sources([found[1]])
    assert (source.kind, source.parts[0]) == ("check", found[0])
    assert source.parts[1].title == "Copies across splits"


def test_interrupted_checks_leave_nothing(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("scan.look_at", "run.find_copies", "run.write_whole"):
        with monkeypatch.context() as patch:
            patch.setattr(f"fastft.check.{place}", interrupt)
            with pytest.raises(KeyboardInterrupt):
                look(clean, tmp_path / "check")
        assert list(tmp_path.iterdir()) == []


def test_any_name_is_told_in_one_line(clean: Path, fastft: Command, tmp_path: Path) -> None:
    names = ("[bold]x", "line\nbreak", "$a$ <i>", "\udcff")
    for name in names:
        shutil.copytree(next((clean / "train").iterdir()), tmp_path / "data" / name)
    status, text, _ = fastft("check", tmp_path / "data", "--out", tmp_path / "check")
    assert status == 0
    assert "[bold]x" in text
    assert "line\\nbreak" in text
    found = json.loads((tmp_path / "check" / "check.json").read_text())
    assert {row["name"] for row in found["classes"]} == set(names)
    content = (tmp_path / "check" / "check.json").read_bytes()
    assert check(Check, parse_object(content, "x"), "x").conflicts == found["conflicts"] > 0


def test_all_broken_is_told(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    for at in range(3):
        (tmp_path / "data" / "a" / f"{at}.jpg").write_text("no photo")
    found = look(tmp_path / "data", tmp_path / "check")
    assert found.counts["broken"] == 3
    assert asdict(found)["groups"] == ()
