import glob
import os
import shutil
import socket
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from effort import choose
from records import pack, write_rec
from runs import Command
from torchvision.datasets import ImageFolder

from fastft.evaluate.listing import list_images
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError
from pipelines.formats.folder import read_folder, read_splits
from pipelines.formats.source import open_source


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_order_and_labels_are_torchvisions(tmp_path: Path) -> None:
    make(tmp_path, "b/2.jpg", "b/10.JPG", "b/sub/1.png", "b/sub-x/1.jpg", "b/a.webp", "a/z.jpeg")
    make(tmp_path, "C/1.bmp", "a/sub/deep/3.jpg", "a/notes.txt", "b/sub/deep/2.jpg")
    folder = read_folder(tmp_path)
    theirs = ImageFolder(str(tmp_path))
    assert list(folder.classes) == theirs.classes
    ours = [(folder.path(i), int(folder.labels[i])) for i in range(len(folder))]
    assert ours == theirs.samples


def test_gif_counts_and_dot_files_do_not(tmp_path: Path) -> None:
    make(tmp_path, "a/1.gif", "a/._1.jpg", "a/.DS_Store", "a/readme.md", ".git/x.jpg")
    folder = read_folder(tmp_path)
    assert folder.names == ("a/1.gif",)
    assert folder.ignored == {".md": 1, "dot files": 2}


#: What macOS and Windows leave among photos: notes named like them, previews, settings.
JUNK = (
    ".DS_Store",
    "._.DS_Store",
    "a/.DS_Store",
    "a/._1.jpg",
    "a/.1.jpg",
    "a/Thumbs.db",
    "a/desktop.ini",
    "b/.AppleDouble/1.jpg",
    "b/.thumbnails/1.jpg",
    "__MACOSX/._a",
    "__MACOSX/a/._1.jpg",
    "__MACOSX/a/1.jpg",
    "b/@eaDir.txt",
    "b/1.jpg:Zone.Identifier",
)


def test_what_systems_leave_among_photos_is_no_photo(
    photos: Path, tmp_path: Path, tried: Callable[..., None]
) -> None:
    clean, strewn = tmp_path / "clean", tmp_path / "strewn"
    images = sorted((photos / "train").rglob("*.jpg"))
    for name, image in zip(("a/1.jpg", "a/2.jpg", "b/1.jpg"), images, strict=False):
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, clean / name)
    shutil.copytree(clean, strewn)
    make(strewn, *JUNK)
    for folder in (clean, strewn):
        with zipfile.ZipFile(tmp_path / f"{folder.name}.zip", "w") as target:
            for file in sorted(folder.rglob("*")):
                target.write(file, file.relative_to(folder))
    converted = set()
    for source in (clean, strewn, tmp_path / "clean.zip", tmp_path / "strewn.zip"):
        (report,) = convert(ConvertConfig(src=source, out=tmp_path / "out.beton", max_bad="0"))
        converted.add(report.out.read_bytes())
        assert sum(report.ignored.values()) == (0 if "clean" in source.name else 9)
    assert len(converted) == 1
    assert open_source(strewn).fingerprint() == open_source(clean).fingerprint()
    assert open_source(strewn).classes == ("a", "b")
    found = [str(path.relative_to(strewn)) for path in list_images([strewn / "a", strewn / "b"])]
    assert found == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    tried("files that systems leave among photos", len(JUNK))


def link(place: Path, target: object) -> None:
    place.symlink_to(str(target), target_is_directory=True)


def test_links_that_lead_back_end(tmp_path: Path, tried: Callable[..., None]) -> None:
    root = make(tmp_path / "all" / "train", "a/1.jpg", "a/deep/2.jpg", "b/3.jpg")
    plain = read_folder(root).names
    for place, target in {
        "self": "self",
        "here": ".",
        "up": "..",
        "top": root,
        "above": tmp_path,
        "all": "/",
        "deep/back": "..",
        "deep/again": root / "a" / "deep",
        "one": "two",
        "two": "one",
    }.items():
        link(root / "a" / place, target)
    assert read_folder(root).names == plain
    assert [path.name for path in list_images([root / "a"])] == ["1.jpg", "2.jpg"]
    tried("links that lead back", 10)


def test_linked_folders_are_read_like_torchvision(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "a/1.jpg", "c/4.jpg")
    make(tmp_path / "others", "cats/2.jpg", "cats/deep/3.jpg", "more/5.jpg")
    link(root / "b", tmp_path / "others" / "cats")
    link(root / "c" / "more", tmp_path / "others" / "more")
    (root / "a" / "again.jpg").symlink_to("1.jpg")
    folder, theirs = read_folder(root), ImageFolder(str(root))
    assert list(folder.classes) == theirs.classes
    ours = [(folder.path(i), int(folder.labels[i])) for i in range(len(folder))]
    assert ours == theirs.samples
    assert len(ours) == 6


def test_links_to_each_other_have_an_end(tmp_path: Path, tried: Callable[..., None]) -> None:
    """Among n folders that link to each other there are n! ways; two links have 2**40 for `**`."""
    count = choose(9, 60)
    for at in range(count):
        make(tmp_path, f"a/{at}/1.jpg")
        for other in range(count):
            link(tmp_path / "a" / str(at) / f"to{other}", f"../{other}")
    with pytest.raises(DataError, match="links lead to more than 10,000 folders"):
        read_folder(tmp_path)
    for pattern in ("**/*.jpg", "a/**", "**/1.jpg", "*/**/**/*.jpg"):
        found = list_images([tmp_path / pattern])
        assert len({path.resolve() for path in found}) == len(found) == count
    tried("links that lead to each other", count * count)


def test_patterns_match_as_they_do_in_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(), "a/1.jpg", "a/b/2.jpg", "a/b/c/3.jpg", "[x]/b/4.jpg", "5.jpg", ".a/b/6.jpg")
    patterns = (
        "**/*.jpg",
        "a/**/*.jpg",
        "**/b/*.jpg",
        "*/**/?.jpg",
        "**/b/**/*.jpg",
        "a/**/c/*",
        "[[]x]/**/*.jpg",
        f"{tmp_path}/**/*.jpg",
        "a/**",
        "**",
        "./**/*.jpg",
    )
    for pattern in patterns:
        wanted = {Path(path) for path in glob_files(pattern)}
        assert wanted
        assert set(list_images([Path(pattern)])) == wanted, pattern


def glob_files(pattern: str) -> list[str]:
    return [path for path in glob.glob(pattern, recursive=True) if path.endswith(".jpg")]


SPECIAL = {
    "pipe.jpg": ("is no plain file", lambda path: os.mkfifo(path)),
    "socket.jpg": ("No such device or address", lambda path: bind(path)),
    "zeros.jpg": ("is no plain file", lambda path: path.symlink_to("/dev/zero")),
    "terminal.jpg": ("is no plain file", lambda path: path.symlink_to("/dev/null")),
    "nothing.jpg": ("No such file or directory", lambda path: path.symlink_to("nowhere")),
    "itself.jpg": ("Too many levels of symbolic links", lambda path: path.symlink_to(path.name)),
    "through.jpg": ("Not a directory", lambda path: path.symlink_to("1.jpg/2.jpg")),
    "process.jpg": ("", lambda path: path.symlink_to("/proc/self/mem")),
}


def bind(path: Path) -> None:
    here = os.open(path.parent, os.O_PATH)
    try:  # an address is at most 108 bytes long
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


@pytest.mark.parametrize("name", SPECIAL)
def test_special_files_are_named_without_waiting(
    name: str, run: Path, photos: Path, tmp_path: Path, fastft: Command, tried: Callable[..., None]
) -> None:
    reason, place = SPECIAL[name]
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    shutil.copy(next((photos / "train").rglob("*.jpg")), folder / "1.jpg")
    place(folder / name)
    (report,) = convert(ConvertConfig(src=folder.parent, out=tmp_path / "x.beton", max_bad="1"))
    ((left_out, why),) = [(bad.name, bad.reason) for bad in report.quarantined]
    assert left_out == f"a/{name}"
    assert reason in why
    assert why
    with pytest.raises(DataError) as caught:
        open_source(folder.parent)
    assert caught.value.where == str(folder / name)
    status, _, err = fastft("predict", run, folder)
    assert status == 1
    assert err == "1 of 2 images: left out, since they cannot be read\n"
    tried("pipes, devices and dangling links among photos", 3)


def test_nobody_waits_for_a_piped_archive(
    tmp_path: Path, refuses: Callable[..., str], tried: Callable[..., None]
) -> None:
    (tmp_path / "split").mkdir()
    write_rec(tmp_path / "y.rec", [pack(b"x")])
    for name in ("x.zip", "x.rec", "y.idx", "split/train.rec"):
        os.mkfifo(tmp_path / name)
    for source in ("x.zip", "x.rec", "y.rec", "split"):
        arguments = ("convert", tmp_path / source, tmp_path / "out")
        said = refuses(source, arguments, 1, str(tmp_path))
        assert ": is no plain file, expected" in said
    tried("archives that are pipes", 4)


def test_folders_lie_only_so_deep(tmp_path: Path, tried: Callable[..., None]) -> None:
    """A walk that calls itself for each folder ends with Python's patience, not with a line."""
    try:
        for depth in (99, 101, 1200):
            place = os.path.join(tmp_path, "a", *["d"] * depth)
            subprocess.run(["mkdir", "-p", place], check=True)
            with open(os.path.join(place, "1.jpg"), "wb") as file:
                file.write(b"x")
            if depth == 99:
                assert read_folder(tmp_path).names == (f"a/{'d/' * 99}1.jpg",)
        with pytest.raises(DataError, match="lies more than 100 folders deep"):
            read_folder(tmp_path)
        found = list_images([tmp_path / "a"])
        assert [str(path).count("/d") for path in found] == [99, 101, 1200]
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)
    tried("folders too deep", 1)


def test_splits_share_the_training_classes(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/2.jpg")
    folders = read_splits(tmp_path)
    assert list(folders) == ["train", "val"]
    assert folders["val"].classes == ("a", "b")


@pytest.mark.parametrize(
    ("names", "where", "found"),
    [
        ((), "", "holds no class folders"),
        (("1.jpg",), "", "move the images into one folder per class"),
        (("a/1.jpg", "b/x.txt"), "b", "holds no images"),
        (("train/a/1.jpg", "test/b/1.jpg"), "test", "has no class a and the additional class b"),
        (("test/a/1.jpg",), "", "has test but no train folder"),
    ],
)
def test_a_wrong_layout_is_named(
    tmp_path: Path, names: tuple[str, ...], where: str, found: str
) -> None:
    make(tmp_path, *names)
    with pytest.raises(DataError) as caught:
        _ = read_splits(tmp_path) or read_folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / where}: ")
    assert found in str(caught.value)


def test_no_folder_or_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(DataError, match="is a file"):
        read_folder(make(tmp_path, "f") / "f")
