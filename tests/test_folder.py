from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from pipelines.errors import DataError
from pipelines.folder import read_folder, read_splits


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_order_and_labels_are_torchvisions(tmp_path: Path) -> None:
    make(tmp_path, "b/2.jpg", "b/10.JPG", "b/sub/1.png", "b/sub-x/1.jpg", "b/a.webp", "a/z.jpeg")
    make(tmp_path, "A/1.bmp", "a/sub/deep/3.jpg", "a/notes.txt", "b/sub/deep/2.jpg")
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


def test_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert read_folder(tmp_path).names == ("a/1.jpg",)


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
