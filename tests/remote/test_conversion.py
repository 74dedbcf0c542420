"""Conversions with an address at either end: the same bytes, whole or not at all, resumed."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from effort import rest
from objects import QUICK, get_bytes, memory_address, put_bytes, put_tree, store_of
from sites import names
from zips import zip_folder

from fastft.system.signals import Stopped
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, FastftError, UsageError
from pipelines.remote import conversion as module
from pipelines.remote import fetching, uploading
from pipelines.remote.address import show
from pipelines.remote.conversion import convert_remote
from pipelines.remote.faults import StoreError
from pipelines.remote.store import Store

#: For what asks a store for anything that others do not; else S3 has a turn in `./dev soak`.
both_stores = pytest.mark.parametrize("holder", ["memory", "s3"], indirect=True)
either_store = pytest.mark.parametrize("holder", ["memory", *rest("s3")], indirect=True)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def run(src: Path | str, out: Path | str, work: Path, **options: Any) -> list[Any]:
    config = ConvertConfig(src=Path(src), out=Path(out), **options)
    return convert_remote(config, work=work, patience=QUICK)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


@both_stores
def test_remote_folders_convert_alike(
    holder: str, photos: Path, data: Path, work: Path, tmp_path: Path
):
    put_tree(photos, f"{holder}/photos")
    reports = run(f"{holder}/photos", tmp_path / "out", work)
    assert contents(tmp_path / "out") == contents(data)
    assert [(report.split, report.images) for report in reports] == [("train", 33), ("test", 6)]
    assert names(work) == []


@either_store
def test_a_remote_table_finds_its_images(holder: str, photos: Path, work: Path, tmp_path: Path):
    files = sorted(path.relative_to(photos) for path in (photos / "train").rglob("*.jpg"))
    rows = [f"p/{f},{f.parts[1]},{'train' if n % 5 else 'val'}" for n, f in enumerate(files)]
    text = "\n".join(["file,class,set", *rows])
    shutil.copytree(photos, tmp_path / "here" / "p")
    (table := tmp_path / "here" / "t.csv").write_text(text)
    put_tree(photos, f"{holder}/d/p")
    put_bytes(f"{holder}/d/t.csv", text.encode())
    run(table, tmp_path / "local", work)
    run(f"{holder}/d/t.csv", tmp_path / "out", work)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    put_bytes(f"{holder}/d/t.csv", text.replace("p/", "gone/", 1).encode())
    reports = run(f"{holder}/d/t.csv", tmp_path / "less", work, max_bad="1")
    bad = [(report.split, each.name) for report in reports for each in report.quarantined]
    assert bad == [("val", f"gone/{files[0]}")]
    put_bytes(f"{holder}/d/t.csv", text.replace("p/", "../p/", 1).encode())
    with pytest.raises(DataError, match="is no path below the table's folder"):
        run(f"{holder}/d/t.csv", tmp_path / "out", work)


@both_stores
def test_a_zip_converts_alike(holder: str, photos: Path, data: Path, work: Path, tmp_path: Path):
    zipped = zip_folder(photos, tmp_path / "p.zip", zipfile.ZIP_STORED)
    put_bytes(f"{holder}/p.zip", zipped.read_bytes())
    run(f"{holder}/p.zip", tmp_path / "out", work)
    assert contents(tmp_path / "out") == contents(data)
    assert names(work) == []


@either_store
def test_a_remote_output_is_the_local_one(holder: str, photos: Path, data: Path, work: Path):
    reports = run(photos, f"{holder}/data", work)
    for name, content in contents(data).items():
        assert get_bytes(f"{holder}/data/{name}") == content
    assert [show(report.out) for report in reports] == [
        f"{holder}/data/train.beton",
        f"{holder}/data/test.beton",
    ]
    assert names(work) == []


@pytest.mark.parametrize(
    ("out", "wanted"),
    [("x.beton", "x.beton"), ("x", "x.beton"), ("folder", "folder/test.beton")],
)
def test_an_output_without_splits_is_named_as_locally(
    photos: Path, work: Path, tmp_path: Path, out: str, wanted: str
):
    holder = memory_address()
    put_bytes(f"{holder}/folder/other", b"x")
    put_tree(photos / "test", f"{holder}/test")
    run(f"{holder}/test", f"{holder}/{out}", work)
    convert(ConvertConfig(src=photos / "test", out=tmp_path / "x.beton"))
    assert get_bytes(f"{holder}/{wanted}") == (tmp_path / "x.beton").read_bytes()


def test_local_ends_need_no_store(photos: Path, data: Path, work: Path, tmp_path: Path):
    run(photos, tmp_path / "out", work)
    assert contents(tmp_path / "out") == contents(data)
    assert not work.exists()


def test_broken_images_are_listed_beside_the_output(photos: Path, work: Path, tmp_path: Path):
    holder = memory_address()
    put_tree(photos / "test", f"{holder}/photos")
    first = sorted((photos / "test").rglob("*.jpg"))[0].relative_to(photos / "test").as_posix()
    put_bytes(f"{holder}/photos/{first}", b"no image")
    (report,) = run(f"{holder}/photos", f"{holder}/x.beton", work, max_bad="1")
    assert [bad.name for bad in report.quarantined] == [first]
    assert first.encode() in get_bytes(f"{holder}/x.quarantine.json")
    run(photos / "test", f"{holder}/x.beton", work)
    assert not store_of(holder).file_system().exists(f"{holder}/x.quarantine.json")


def test_shards_are_uploaded_under_their_names(photos: Path, work: Path, tmp_path: Path):
    holder = memory_address()
    for shard in ("1/2", "2/2"):
        run(photos, f"{holder}/data", work, shard=shard)
        convert(ConvertConfig(src=photos, out=tmp_path / "out", shard=shard))
    for name, content in contents(tmp_path / "out").items():
        assert get_bytes(f"{holder}/data/{name}") == content


@either_store
@pytest.mark.parametrize("name", ["train.beton", "test.beton"])
def test_what_is_no_beton_is_not_replaced(holder: str, photos: Path, work: Path, name: str):
    put_bytes(f"{holder}/data/{name}", b"my thesis" * 1000)
    with pytest.raises(UsageError, match=f"data/{name}: exists and is no whole .beton"):
        run(photos, f"{holder}/data", work)
    assert get_bytes(f"{holder}/data/{name}") == b"my thesis" * 1000
    assert names(work) == []


@both_stores
def test_a_beton_is_replaced(holder: str, photos: Path, data: Path, work: Path):
    put_bytes(f"{holder}/data/train.beton", (data / "test.beton").read_bytes())
    put_bytes(f"{holder}/data/test.beton", b"")
    run(photos, f"{holder}/data", work)
    assert get_bytes(f"{holder}/data/train.beton") == (data / "train.beton").read_bytes()


@pytest.mark.parametrize(
    ("src", "out", "options", "error", "said"),
    [
        ("{h}/nothing", "x", {}, DataError, "{h}/nothing: no such file or folder"),
        (
            "{h}/photos",
            "{h}/x.beton",
            {},
            UsageError,
            "{h}/x.beton: is one file, expected a folder",
        ),
        ("{h}/photos", "x.beton", {}, UsageError, "for the splits of {h}/photos"),
        ("{h}/photos", "x", {"classes": ("a", "b")}, UsageError, "given for {h}/photos"),
        ("{h}/bad.zip", "x", {}, DataError, "{h}/bad.zip: cannot be read as a zip"),
        ("{h}/notes.txt", "x", {}, DataError, "{h}/notes.txt: is a file"),
        ("{h}/loose", "x", {}, DataError, "{h}/loose: holds no class folders"),
        ("ftp://host/x", "x", {}, UsageError, "begins with ftp"),
        ("{h}/photos", "s3://", {}, UsageError, "names no bucket"),
        ("{p}", "{h}/odd", {}, UsageError, "{h}/odd/train.beton: is a folder"),
        ("{h}/photos", "x", {"image_root": Path("s3://b/x")}, UsageError, "--image-root: s3://b/x"),
        ("{h}/photos/train", "{h}/a", {"shard": "99/99"}, UsageError, "99"),
    ],
)
def test_bad_inputs_are_refused(
    photos: Path,
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    src: str,
    out: str,
    options: dict[str, Any],
    error: type[FastftError],
    said: str,
):
    monkeypatch.chdir(tmp_path)
    holder = memory_address()
    put_tree(photos, f"{holder}/photos")
    put_bytes(f"{holder}/bad.zip", b"PK no zip")
    put_bytes(f"{holder}/notes.txt", b"x")
    put_bytes(f"{holder}/loose/1.jpg", b"x")
    put_bytes(f"{holder}/odd/train.beton/x", b"x")

    def fill(text: str) -> str:
        return text.format(h=holder, p=photos)

    with pytest.raises(error) as caught:
        run(fill(src), fill(out), work, **options)
    assert fill(said) in str(caught.value)
    assert str(work) not in str(caught.value)
    assert not work.exists() or names(work) == []


def test_a_failing_conversion_leaves_nothing(photos: Path, work: Path, tmp_path: Path):
    holder = memory_address()
    put_tree(photos, f"{holder}/photos")
    put_bytes(f"{holder}/photos/train/new/1.jpg", b"no image")
    put_bytes(f"{holder}/photos/test/new/1.jpg", b"no image")
    with pytest.raises(DataError, match="photos/train/new"):
        run(f"{holder}/photos", f"{holder}/data", work)
    assert names(work) == []
    assert not store_of(holder).file_system().exists(f"{holder}/data")


def test_a_folder_of_others_is_left_alone(photos: Path, work: Path):
    work.mkdir()
    (work / "mine").touch()
    run(photos, f"{memory_address()}/data", work)
    assert names(work) == ["mine"]


def test_one_conversion_at_a_time(photos: Path, work: Path, monkeypatch: pytest.MonkeyPatch):
    holder, said = memory_address(), list[str]()

    def again(*_: Any, **__: Any) -> None:
        with pytest.raises(DataError) as caught:
            run(photos, f"{holder}/data", work)
        said.append(str(caught.value))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "convert", again)
    with pytest.raises(KeyboardInterrupt):
        run(photos, f"{holder}/data", work)
    assert "another process is at it" in said[0]
    assert names(work) == []


# --- resuming ----------------------------------------------------------------------------------


def forbid(*_: Any, **__: Any) -> None:
    raise AssertionError("is not to be called")


@either_store
@pytest.mark.parametrize("kill", [Stopped(15), "lost"], ids=["killed", "connection lost"])
def test_an_upload_that_ended_early_goes_on(
    holder: str, photos: Path, data: Path, work: Path, monkeypatch: pytest.MonkeyPatch, kill: Any
):
    real, uploads = uploading.upload_file, list[str]()

    def upload(path: Path, address: str, *arguments: Any, **options: Any) -> None:
        uploads.append(address)
        if len(uploads) == 2:
            raise StoreError(address, "lost", "", "try") if kill == "lost" else kill
        real(path, address, *arguments, **options)

    monkeypatch.setattr(module, "upload_file", upload)
    with pytest.raises((Stopped, StoreError)) as caught:
        run(photos, f"{holder}/data", work)
    if kill == "lost":
        assert f"lost; try; what has come so far is kept in {work}" in str(caught.value)
    monkeypatch.setattr(module, "convert", forbid)
    first, second = run(photos, f"{holder}/data", work, resume=True)
    for name, content in contents(data).items():
        assert get_bytes(f"{holder}/data/{name}") == content
    assert (first.images, first.resumed, sum(first.kept.values())) == (33, 33, 33)
    assert second.split == "test"
    assert first.img_per_s == 0
    assert names(work) == []


@pytest.mark.parametrize("change", ["options", "images", "no resume"])
def test_another_conversion_is_not_resumed(
    photos: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    src, holder = tmp_path / "src", memory_address()
    shutil.copytree(photos, src)

    def stop(*_: Any, **__: Any) -> None:
        raise Stopped(15)

    with monkeypatch.context() as patch:
        patch.setattr(module, "upload_file", stop)
        with pytest.raises(Stopped):
            run(src, f"{holder}/data", work)
    if change == "images":
        extra = sorted((src / "train").rglob("*.jpg"))[0]
        shutil.copy(extra, extra.with_name("zz.jpg"))
    options: dict[str, Any] = {"mode": "raw"} if change == "options" else {}
    run(src, f"{holder}/data", work, resume=change != "no resume", **options)
    convert(ConvertConfig(src=src, out=tmp_path / "out", **options))
    for name, content in contents(tmp_path / "out").items():
        assert get_bytes(f"{holder}/data/{name}") == content


@either_store
def test_a_killed_conversion_is_resumed(
    holder: str, photos: Path, data: Path, work: Path, monkeypatch: pytest.MonkeyPatch
):
    put_tree(photos, f"{holder}/photos")
    real = Store.read

    def die(self: Store, address: str, start: int, stop: int) -> bytes:
        if "/photos/test/" in address:
            raise Stopped(15)
        return real(self, address, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", die)
        with pytest.raises(Stopped):
            run(f"{holder}/photos", f"{holder}/data", work)
    assert names(work) != []
    run(f"{holder}/photos", f"{holder}/data", work, resume=True)
    for name, content in contents(data).items():
        assert get_bytes(f"{holder}/data/{name}") == content
    assert names(work) == []


def test_an_interrupted_fetch_goes_on(
    photos: Path, data: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    holder = memory_address()
    packed = zip_folder(photos, tmp_path / "p.zip", zipfile.ZIP_STORED).read_bytes()
    put_bytes(f"{holder}/p.zip", packed)
    monkeypatch.setattr(fetching, "_RANGE_BYTES", length := len(packed) // 10)
    real, asked = Store.read, list[int]()

    def read(self: Store, address: str, start: int, stop: int) -> bytes:
        asked.append(start)
        if start == failing:
            raise StoreError(address, "the connection failed")
        return real(self, address, start, stop)

    monkeypatch.setattr(Store, "read", read)
    failing = 5 * length
    with pytest.raises(StoreError, match="what has come so far is kept"):
        run(f"{holder}/p.zip", tmp_path / "out", work)
    asked[:], failing = [], -1
    run(f"{holder}/p.zip", tmp_path / "out", work)
    assert min(asked) == 5 * length
    assert contents(tmp_path / "out") == contents(data)


def test_a_local_store_is_written_whole(photos: Path, data: Path, work: Path, tmp_path: Path):
    run(photos, f"file://{tmp_path}/new/data", work)
    assert contents(tmp_path / "new/data") == contents(data)
