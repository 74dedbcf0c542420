import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from records import JPEG, pack, write_photos, write_rec
from runs import Command
from zips import write_zip

from fastft.datasets.splits import (
    asked_split,
    describe_folders_beside,
    evaluation_split,
    find_splits,
    training_split,
)
from pipelines.conversion.inputs import open_listings
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.source import open_source
from pipelines.formats.splits import WORDS, Layout, read_layout, split_of

#: What people call train and test, or val: beside the fixture's own names.
PAIRS = [
    ("Train", "Test"),
    ("training", "testing"),
    ("TRAINING", "VAL"),
    ("train", "valid"),
    ("Training", "Validation"),
    ("train", "Dev"),
    ("tRain", "eval"),
]


def rename(photos: Path, root: Path, words: Mapping[str, str]) -> Path:
    """The photos with their splits called otherwise, as links to them."""
    root.mkdir()
    for split, word in words.items():
        (root / word).symlink_to(photos / split, target_is_directory=True)
    return root


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def make_both(tmp_path: Path, names: list[str]) -> tuple[Path, Path]:
    """A folder of these files, and a zip of it."""
    return make(tmp_path / "src", *names), write_zip(tmp_path / "src.zip", names)


def zip_links(root: Path, path: Path, below: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for split in root.iterdir():
            for file in sorted(split.resolve().rglob("*.jpg")):
                target.write(file, f"{below}{split.name}/{file.relative_to(split.resolve())}")
    return path


def refusal(src: Path) -> str:
    with pytest.raises(DataError) as caught, open_listings(src):
        pass
    return str(caught.value)


def test_every_word_in_any_case_is_a_split() -> None:
    assert {word: split for split, words in WORDS.items() for word in words} == {
        "train": "train",
        "training": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "dev": "val",
        "eval": "val",
        "test": "test",
        "testing": "test",
    }
    for split, words in WORDS.items():
        for word in words:
            assert {split_of(each) for each in (word, word.upper(), word.title())} == {split}
    assert [split_of(word) for word in ("trains", "tested", "", "a train", "value")] == [None] * 5


@pytest.mark.parametrize(("train", "other"), PAIRS)
def test_splits_are_known_by_any_name(
    train: str, other: str, photos: Path, data: Path, tmp_path: Path
) -> None:
    src = rename(photos, tmp_path / "src", {"train": train, "test": other})
    wanted = {"train.beton": "train.beton", f"{split_of(other)}.beton": "test.beton"}
    sources = [src, zip_links(src, tmp_path / "a.zip"), zip_links(src, tmp_path / "b.zip", "Top/")]
    for number, source in enumerate(sources):
        out = tmp_path / f"out{number}"
        reports = convert(ConvertConfig(src=source, out=out))
        assert [report.remarks for report in reports] == [(), ()]
        assert {path.name for path in out.iterdir()} == set(wanted)
        for name, same in wanted.items():
            assert (out / name).read_bytes() == (data / same).read_bytes()
    assert find_splits(src) == (src / train, src / other)


@pytest.mark.parametrize("other", ["hotdog_Test", "x_Validation", "dev", "X-EVAL"])
def test_records_are_splits_by_any_name(other: str, photos: Path, tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    write_photos(photos / "train", src / "hotdog_Training.rec")
    write_photos(photos / "test", src / f"{other}.REC")
    split = split_of(other.replace("-", "_").split("_")[-1])
    reports = convert(ConvertConfig(src=src, out=out))
    assert [(report.out.name, report.images) for report in reports] == [
        ("train.beton", 33),
        (f"{split}.beton", 6),
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("train val valid", "holds val and valid, expected one folder for val"),
        ("Train train test", "holds Train and train, expected one folder for train"),
        ("train dev Eval test", "holds Eval and dev, expected one folder for val"),
        ("training test testing extra", "holds test and testing, expected one folder for test"),
    ],
)
def test_two_folders_for_one_split_are_refused(names: str, said: str, tmp_path: Path) -> None:
    for source in make_both(tmp_path, [f"{name}/a/1.jpg" for name in names.split()]):
        assert said in refusal(source)
    with pytest.raises(DataError, match=said):
        find_splits(tmp_path / "src")


def test_two_files_for_one_split_are_refused(data: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("train.rec", "x_val.rec", "x_Valid.rec"):
        write_rec(tmp_path / name, [pack(JPEG)])
    assert "holds x_Valid.rec and x_val.rec, expected one file for val" in refusal(tmp_path)
    for name in ("train", "val", "valid"):
        shutil.copy(data / "test.beton", tmp_path / f"{name}.beton")
    with pytest.raises(DataError, match=r"holds val.beton and valid.beton, expected one file"):
        find_splits(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        "cat/1.jpg dog/1.jpg test/1.jpg",
        "cat/1.jpg dev/1.jpg eval/1.jpg",
        "cat/1.jpg Train/1.jpg Truck/1.jpg",
        "bus/1.jpg train/1.jpg test/1.jpg",
        "bus/1.jpg Test/deep/1.jpg",
    ],
)
def test_a_class_may_be_called_like_a_split(names: str, tmp_path: Path) -> None:
    files = names.split()
    for source in make_both(tmp_path, files):
        with open_listings(source) as listings:
            assert [*listings] == [""]
            assert listings[""].classes == tuple(sorted({name.split("/")[0] for name in files}))
    folder = tmp_path / "src"
    assert training_split(folder) == folder
    classes = tuple(path.name for path in folder.iterdir())
    assert evaluation_split(folder, None, classes) == folder


def test_what_folders_are() -> None:
    held = {"train", "Val", "test"}.__contains__
    rows: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
        ("", {}, ()),
        ("cat dog", {}, ()),
        ("train", {"train": "train"}, ()),
        ("extra train Val zoo", {"train": "train", "val": "Val"}, ("extra", "zoo")),
        ("training testing", {"train": "training", "test": "testing"}, ()),
        ("training testing zoo", {}, ()),  # which hold no folders
        ("training test zoo", {"train": "training", "test": "test"}, ("zoo",)),
        ("test zoo", {}, ()),
    ]
    for names, splits, passed_over in rows:
        assert read_layout("x", names.split(), held) == Layout(splits, passed_over), names
    alone = read_layout("x", ["test", "zoo"], held, needs_train=False)
    assert alone == Layout({"test": "test"}, ("zoo",))


def test_folders_beside_splits_are_named(
    photos: Path, data: Path, tmp_path: Path, fastft: Command
) -> None:
    src = rename(photos, tmp_path / "src", {"train": "Train", "test": "val"})
    make(src, "more/a/1.jpg", "extra/a/1.jpg", ".hidden/a/1.jpg", "__MACOSX/a/1.jpg")
    zipped = zip_links(src, tmp_path / "src.zip")
    line = "passed over beside the splits: extra, more (not called train, val or test)\n"
    for source in (src, zipped):
        status, text, err = fastft("convert", source, tmp_path / "out")
        assert (status, err) == (0, "")
        assert text.endswith(line)
        for name, same in (("train", "train"), ("val", "test")):
            wanted = (data / f"{same}.beton").read_bytes()
            assert (tmp_path / "out" / f"{name}.beton").read_bytes() == wanted
    assert describe_folders_beside(src) + "\n" == line
    shutil.copy(tmp_path / "out" / "train.beton", src)
    assert describe_folders_beside(src) == describe_folders_beside(data) == ""
    for number in range(7):
        make(tmp_path / "many", "train/a/1.jpg", f"{number}/a/1.jpg")
    assert "splits: 0, 1, 2, 3, 4 and 2 more (" in describe_folders_beside(tmp_path / "many")


@pytest.mark.usefixtures("undrawn", "shallow")
def test_training_names_folders_beside(photos: Path, tmp_path: Path, fastft: Command) -> None:
    src = rename(photos, tmp_path / "src", {"train": "Training", "test": "Dev"})
    make(src, "extra/a/1.jpg")
    status, text, err = fastft(
        "train",
        "--data",
        src,
        "--out",
        tmp_path / "run",
        "--weights",
        "none",
        "--size",
        40,
        "--epochs",
        1,
        "--arch",
        "shufflenet_v2_x0_5",
        "--loader",
        "torchvision",
        "--device",
        "cpu",
        "--workers",
        1,
    )
    assert status == 0, err
    assert "passed over beside the splits: extra (not called train, val or test)\n" in text
    for split in ("Validation", "dev"):
        status, text, err = fastft(
            "evaluate",
            tmp_path / "run",
            "--data",
            src,
            "--split",
            split,
            "--out",
            tmp_path / "o",
        )
        assert status == 0, err
        assert f"on {src / 'Dev'}: 6 images" in text


@pytest.mark.parametrize(
    ("names", "where", "said"),
    [
        # One level too high.
        ("photos/train/a/1.jpg photos/val/a/1.jpg", "photos", "holds train and val"),
        ("photos/Training/a/1.jpg", "photos", "is no class but holds Training, "),
        ("photos/train/a/1.jpg photos/extra/a/1.jpg", "photos", "holds train, "),
        ("train/train/a/1.jpg train/val/a/1.jpg", "train", "by name no classes but splits"),
        ("train/x/train/a/1.jpg train/x/val/a/1.jpg", "train/x", "is no class but holds train and"),
        # Classes above splits.
        ("a/train/1.jpg a/val/1.jpg b/train/1.jpg b/val/1.jpg", "a", "put the splits above the cl"),
        # One level too low.
        ("1.jpg 2.jpg", "", "if it is a class, name "),
        # No classes within the splits.
        ("Train/1.jpg Val/1.jpg", "Train", "holds no class folders, "),
        ("Testing/a/1.jpg valid/a/1.jpg", "", "has valid, Testing but no train folder"),
    ],
)
def test_classes_that_are_splits_are_refused(
    names: str, where: str, said: str, tmp_path: Path
) -> None:
    src = make(tmp_path / "src", *names.split())
    error = refusal(src)
    assert error.startswith(f"{src / where}: ")
    assert said in error
    if where.startswith(("photos", "train")):
        assert error.endswith(f"; name {src / where} instead")
    if where:
        path = write_zip(tmp_path / "src.zip", [f"up/{name}" for name in names.split()])
        if where == "photos":  # which a zip unwraps
            with open_listings(path) as listings:
                assert listings["train"].classes == ("a",)
        else:
            assert refusal(path).startswith(f"{path}: up/{where}")


def test_splits_are_not_opened_as_classes(tmp_path: Path) -> None:
    make(tmp_path, "a/Test/x/1.jpg", "b/train/x/1.jpg", "b/dev/x/1.jpg", "b/zoo/x/1.jpg")
    for name, first in (("a", "Test"), ("b", "train")):
        with pytest.raises(DataError, match=f"; name {tmp_path / name / first} instead"):
            open_source(tmp_path / name)


def test_training_on_another_level_is_refused(tmp_path: Path, refuses: Callable[..., None]) -> None:
    photos = make(tmp_path / "up" / "photos", "Train/a/1.jpg", "valid/a/1.jpg")
    remedy = f"; name {photos} instead"
    for place in (photos.parent, photos / "Train", photos / "valid"):
        arguments = ("train", "--data", place, "--out", tmp_path / "run", "--weights", "none")
        refuses(str(place), arguments, 1, remedy)
    refuses("show", ("show", photos.parent, "--out", tmp_path / "x.png"), 1, remedy)
    with pytest.raises(DataError, match=f"holds neither splits nor classes; name {photos} instea"):
        evaluation_split(photos.parent, None, ("a", "b"))


@pytest.mark.filterwarnings("ignore:Attempting to set identical")  # a loss of 0, drawn
@pytest.mark.usefixtures("shallow")
def test_one_class_is_warned_of(photos: Path, tmp_path: Path, fastft: Command) -> None:
    one, deep = tmp_path / "one", tmp_path / "deep"
    for split in ("train", "test"):
        name = sorted((photos / split).iterdir())[0].name
        shutil.copytree(photos / split / name, one / split / name)
        shutil.copytree(photos / split, deep / split / "photos")
    status, text, err = fastft("convert", one, tmp_path / "out")
    assert (status, err) == (0, "")
    assert text.endswith(
        f"only one class, {name}: a classifier needs two or more; add one, or name the folder "
        "that holds them all\n"
    )
    assert text.count("only one class") == 1
    status, text, err = fastft("convert", deep / "train", tmp_path / "deep.beton")
    assert (status, err) == (0, "")
    place = deep / "train" / "photos"
    assert text.endswith(f"if its folders cross, disk, ring are the classes, name {place}\n")
    settings = (
        "--weights",
        "none",
        "--size",
        "48",
        "--epochs",
        "1",
        "--loader",
        "resident",
        "--arch",
        "shufflenet_v2_x0_5",
    )
    status, text, err = fastft("train", "--data", one, "--out", tmp_path / "run", *settings)
    assert (status, err) == (0, "")
    assert f"only one class, {name}: nothing to tell apart; put the images" in text


def test_what_is_opened_for_a_word(data: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(data / "train.beton", folder / "Training.beton")
    shutil.copy(data / "test.beton", folder / "validation.beton")
    assert find_splits(folder) == (folder / "Training.beton", folder / "validation.beton")
    assert training_split(folder) == folder / "Training.beton"
    assert evaluation_split(folder, None, ("a",)) == folder / "validation.beton"
    for word in ("val", "Valid", "DEV", "eval"):
        assert asked_split(folder, word) == folder / "validation.beton"
    for word in ("test", "testing", "no"):
        with pytest.raises(UsageError, match=f"has no {word}, expected one of train, val"):
            asked_split(folder, word)
    # Converted training beside folders, and a folder that is neither.
    mixed = rename(photos, tmp_path / "mixed", {"train": "train", "test": "Testing"})
    make(mixed, "run/x")
    shutil.copy(data / "train.beton", mixed)
    assert find_splits(mixed) == (mixed / "train.beton", mixed / "Testing")
    assert evaluation_split(mixed, None, ("a",)) == mixed / "Testing"
