import os
import shutil
import zipfile
from pathlib import Path

import pytest
from effort import choose
from zips import DEFLATED, STORED, failure, read_all, write_zip, zip_folder

from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.archive import ZipFolder, open_archive
from pipelines.formats.beton import read_index
from pipelines.formats.folder import read_folder, read_splits


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("below", ["", "top/", "two/tops/"])
def test_a_zip_converts_as_the_folder_does(
    odd: Path, odd_beton: Path, tmp_path: Path, method: int, below: str
) -> None:
    path = zip_folder(odd, tmp_path / "odd.zip", method, below)
    for workers in (1, 3):
        (report,) = convert(ConvertConfig(src=path, out=tmp_path / "o.beton", workers=workers))
        assert (tmp_path / "o.beton").read_bytes() == odd_beton.read_bytes()
    assert report.bytes_in == sum(f.stat().st_size for f in odd.rglob("*") if f.is_file())


@pytest.mark.parametrize("below", ["", "hotdog/"])
def test_splits_in_a_zip_convert_as_folders_do(
    photos: Path, data: Path, tmp_path: Path, below: str
) -> None:
    path = zip_folder(photos, tmp_path / "photos.ZIP", DEFLATED, below)
    with zipfile.ZipFile(path, "a") as target:
        target.writestr(f"__MACOSX/{below}train/._1.jpg", b"x")
        target.writestr("._1.jpg", b"x")
        target.writestr(".DS_Store", b"x")
        target.writestr("readme.txt", b"x")
    reports = convert(ConvertConfig(src=path, out=tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["test.beton", "train.beton"]
    for report in reports:
        assert report.out.read_bytes() == (data / report.out.name).read_bytes()
    with pytest.raises(UsageError, match="is one file"):
        convert(ConvertConfig(src=path, out=tmp_path / "out.beton"))


def test_an_output_folder_gets_the_zips_name(odd: Path, tmp_path: Path) -> None:
    path = zip_folder(odd, tmp_path / "some.photos.zip", STORED)
    convert(ConvertConfig(src=path, out=tmp_path))
    assert len(read_index(tmp_path / "some.photos.beton")) == sum(1 for _ in odd.glob("*/*"))


def test_zips_list_exactly_like_folders(tmp_path: Path) -> None:
    names = "b/2.jpg b/10.JPG b/sub/1.png b/sub-x/1.jpg b/a.webp a/z.jpeg C/1.bmp a/sub/deep/3.jpg"
    names += " b/sub/deep/2.jpg"
    junk = "a/notes.txt a/x.TXT a/none a/.hidden/1.jpg a/.hidden/2.jpg a/._z.jpeg .git/1.jpg 1.jpg"
    path = write_zip(tmp_path / "x.zip", [*names.split(), *junk.split(), "é/ü.jpg", "日/本.jpg"])
    with zipfile.ZipFile(path) as opened:
        opened.extractall(tmp_path / "x")
    folder = read_folder(tmp_path / "x")
    assert read_all(path) == {name: name.encode() for name in folder.names}
    with open_archive(path) as listings:
        listing = listings[""]
        assert listing.classes == folder.classes
        assert listing.names == folder.names
        assert listing.labels.tolist() == folder.labels.tolist()
        assert listing.ignored == folder.ignored == {".txt": 2, "dot files": 2, "no suffix": 1}
        assert [listing.size_bytes(i) for i in range(len(folder))] == [
            folder.size_bytes(i) for i in range(len(folder))
        ]
        assert listing.where("a/1") == f"{path}: a/1"


@pytest.mark.parametrize(
    ("names", "prefix", "classes"),
    [
        (["a/1.jpg", "b/1.jpg"], "", ("a", "b")),
        (["x/a/1.jpg", "x/b/1.jpg"], "x/", ("a", "b")),
        (["x/y/a/1.jpg", "x/y/b/1.jpg", "x/y/1.txt"], "x/y/", ("a", "b")),
        (["x/a/1.jpg", "__MACOSX/x/a/._1.jpg", ".x/b/1.jpg"], "x/", ("a",)),
        (["x/a/1.jpg", "readme.md"], "x/", ("a",)),
        (["x/a/1.jpg", "x/b/1.jpg", "1.jpg"], "x/", ("a", "b")),
        (["x/a/1.jpg", "y/b/1.jpg", "y/2.jpg"], "", ("x", "y")),
        (["x/train/a/1.jpg", "x/1.jpg"], "x/train/", ("a",)),
        (["x/1.jpg"], "", ("x",)),
        (["./x/1.jpg", "./"], "", ("x",)),
        (["x/a/.1.jpg", "x/a/1.jpg", "x/.2.jpg"], "x/", ("a",)),
        (["x/train/a/1.jpg"], "x/train/", ("a",)),
        (["train/a/1.jpg"], "train/", ("a",)),
        (["x/y/train/a/1.jpg", "x/y/val/a/2.jpg"], "x/y/train/", ("a",)),
    ],
)
def test_where_the_classes_are(
    tmp_path: Path, names: list[str], prefix: str, classes: tuple[str, ...]
) -> None:
    with open_archive(write_zip(tmp_path / "x.zip", names)) as listings:
        first = next(iter(listings.values()))
        assert (first.prefix, first.classes) == (prefix, classes)


@pytest.mark.parametrize(
    ("names", "where", "found"),
    [
        ([], "", "holds no class folders"),
        (["1.jpg"], "", "put the images into one folder per class"),
        (["a/1.jpg", "b/x.txt"], ": b", "holds no images"),
        (["a/1.jpg", "b/"], ": b", "holds no images"),
        (["x/a/1.jpg", "x/b/x.txt"], ": x/b", "holds no images"),
        (["x/train/a/1.jpg", "x/test/b/1.jpg"], ": x/test/", "no class a and the additional"),
        (["x/train/1.jpg"], ": x/train/", "put the images into one folder per class"),
        (["x/a/1.jpg", "x/1.jpg"], ": x", "is the only folder, with images and folders"),
        (["test/a/1.jpg"], "", "has test but no train folder"),
        (["x/test/a/1.jpg", "x/val/a/1.jpg"], ": x/", "has val, test but no train folder"),
        (["a/../../b/1.jpg"], "", "has a member named 'a/../../b/1.jpg', expected plain relative"),
        (["../a/1.jpg"], "", "has a member named '../a/1.jpg'"),
        (["__MACOSX/../../a/1.jpg"], "", "has a member named"),
        (["/a/1.jpg"], "", "has a member named '/a/1.jpg'"),
        (["a//1.jpg"], "", "has a member named 'a//1.jpg'"),
        (["a/./1.jpg"], "", "has a member named 'a/./1.jpg'"),
        (["a\\1.jpg"], "", "has a member named 'a\\\\1.jpg'"),
        (["C:\\a/1.jpg"], "", "has a member named"),
        (["a/b" * 200 + ".jpg"], "", "has a member named"),
        (["."], "", "has a member named '.'"),
        (["a/1.jpg", "a/1.jpg/2.jpg"], ": a/1.jpg/2.jpg", "lies in a/1.jpg, which is a file"),
        (["a/1.jpg/2.jpg", "a/1.jpg"], ": a/1.jpg", "is there twice"),
        (["a/1.jpg", "a/1.jpg/"], ": a/1.jpg/", "lies in a/1.jpg, which is a file"),
    ],
)
def test_a_wrong_layout_is_named(tmp_path: Path, names: list[str], where: str, found: str) -> None:
    path = write_zip(tmp_path / "x.zip", names)
    error = failure(path)
    assert error.where == f"{path}{where}"
    assert found in str(error)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/1.jpg", b"one")
        target.writestr("a/1.jpg", b"two")
    assert "x.zip: a/1.jpg: is there twice" in str(failure(path))


def test_a_name_is_not_cut_at_a_nul(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", ["a/1.jpg/evil"])
    path.write_bytes(path.read_bytes().replace(b"a/1.jpg/evil", b"a/1.jpg\0evil"))
    assert "has a member named 'a/1.jpg\\x00evil'" in str(failure(path))


def test_names_without_utf8_follow_zipfile(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"aXb/1.jpg": b"photo"})
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\x81b"))
    assert read_all(path) == {"aüb/1.jpg": b"photo"}


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    assert "no such file" in str(failure(tmp_path / "none.zip"))
    (tmp_path / "x.zip").write_bytes(b"no zip")
    assert "cannot be read as a zip (File is not a zip file)" in str(failure(tmp_path / "x.zip"))


def test_broken_members_count_as_broken_images(photos: Path, tmp_path: Path) -> None:
    path = zip_folder(photos / "test", tmp_path / "x.zip", STORED)
    content, name = path.read_bytes(), read_folder(photos / "test").names[-1]
    image = (photos / "test" / name).read_bytes()
    path.write_bytes(content.replace(image, bytes(len(image))))
    (report,) = convert(ConvertConfig(src=path, out=tmp_path / "o", max_bad="1"))
    assert [(bad.name, bad.reason) for bad in report.quarantined] == [
        (name, "has other bytes than those that were zipped (CRC-32)")
    ]
    assert len(read_index(tmp_path / "o.beton")) == 5
    with pytest.raises(DataError, match=f"x.zip: {name}: .*expected at most 0 broken"):
        convert(ConvertConfig(src=path, out=tmp_path / "p", max_bad="0"))
    assert not (tmp_path / "p.beton").exists()
    shutil.copytree(photos / "test", tmp_path / "copy")
    for file in (tmp_path / "copy" / name).parent.iterdir():
        file.write_bytes(b"rubbish")
    path = zip_folder(tmp_path / "copy", path, STORED, "top/")
    with pytest.raises(DataError, match=f"x.zip: top/{Path(name).parent}: every image is broken"):
        convert(ConvertConfig(src=path, out=tmp_path / "p", max_bad="2"))


def test_real_photos_convert_from_a_zip(hymenoptera: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    jpegs = sorted(hymenoptera.glob("*/*/*.jpg"))[:: choose(16, 1)]
    for file in (*jpegs, *hymenoptera.glob("*/*/*.gif")):
        place = photos / file.relative_to(hymenoptera)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    path = zip_folder(photos, tmp_path / "x.zip", DEFLATED, "hymenoptera/")
    folders = read_splits(photos)
    for report in convert(ConvertConfig(src=path, out=tmp_path / "out")):
        index, folder = read_index(report.out), folders[report.split]
        assert [index.name(i) for i in range(len(index))] == list(folder.names)
        for sample in range(len(index)):
            if not folder.names[sample].endswith(".gif"):
                assert bytes(index.stored(sample).data) == folder.read(sample)


def test_a_listing_prints_short(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", ["a/1.jpg"])
    with open_archive(path) as listings:
        assert isinstance(listings[""], ZipFolder)
        assert "ZipInfo" not in repr(listings[""])
