import errno
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
from records import pack, write_rec
from shard_jobs import contents, run, run_shards

from fastft.datasets.splits import find_splits
from pipelines.conversion import outputs
from pipelines.conversion.merge import merge
from pipelines.errors import DataError, FastftError, UsageError
from pipelines.formats import beton_writer
from pipelines.formats.beton import read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.layout import MODE_RAW, About, Stored
from pipelines.formats.shards import Shard, shard_path


@pytest.fixture
def shards(photos: Path, tmp_path: Path) -> Path:
    """A folder with three shards of each of two splits."""
    run_shards(photos, tmp_path / "data", 3)
    return tmp_path / "data"


def refusal(out: Path, kind: type[FastftError] = DataError) -> str:
    """The one line that `merge` refuses with; nothing may change."""
    folder = out if out.is_dir() else out.parent
    before = contents(folder)
    with pytest.raises(kind) as caught:
        merge(out, remove_shards=True)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before
    return str(caught.value)


def test_a_missing_shard_is_named(shards: Path, photos: Path) -> None:
    (shards / "test.2-of-3.beton").unlink()
    assert re.search(
        r"data: lacks test.2-of-3.beton, expected all 3 shards; run .* --shard 2/3", refusal(shards)
    )
    (shards / "test.1-of-3.beton").unlink()
    assert re.search(r"lacks test.1-of-3.beton, test.2-of-3.beton, expected", refusal(shards))
    (shards / "test.3-of-3.beton").unlink()
    assert re.search(
        r"lacks test.1-of-3.beton, test.2-of-3.beton, test.3-of-3.beton, expected", refusal(shards)
    )
    run(photos / "train", shards / "many.beton", shard="7/9")
    assert re.search(
        r"many.1-of-9.beton, many.2-\S+ many.3-of-9.beton and 5 more, expected",
        refusal(shards / "many"),
    )


def test_shards_of_several_conversions_are_refused(shards: Path, photos: Path) -> None:
    run(photos, shards, shard="1/2")
    assert re.search(
        "data: holds shards of 2 and of 3 for test.beton, expected those of one", refusal(shards)
    )
    for split in ("train", "test"):
        (shards / f"{split}.1-of-2.beton").unlink()
    run(photos, shards, shard="2/3", quality=80)
    assert re.search(
        r"2-of-3.beton: was converted with quality 80, expected 95 as \S+1-of-3.beton",
        refusal(shards),
    )
    run(photos, shards, shard="2/3", verify=False)
    assert re.search("was converted with verify False, expected True", refusal(shards))
    run(photos, shards, shard="2/3")
    merge(shards)


@pytest.mark.parametrize("change", ["more", "longer", "renamed"])
def test_shards_of_other_images_are_refused(photos: Path, tmp_path: Path, change: str) -> None:
    src, out = tmp_path / "src", tmp_path / "data"
    shutil.copytree(photos, src)
    run_shards(src, out, 2)
    victim = sorted(src.glob("test/*/*.jpg"))[-1]  # that shard 1/2 of train has nothing to do with
    if change == "more":
        shutil.copy(victim, victim.with_name("zz.jpg"))
    elif change == "longer":
        victim.write_bytes(victim.read_bytes() + b"\0")
    else:
        victim.rename(victim.with_name("zz.jpg"))
    run(src, out, shard="1/2")
    assert re.search(
        r"is of other images or sizes of them, expected those of \S+.beton; convert all",
        refusal(out),
    )


def test_other_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    files = sorted((photos / "test").glob("*/*.jpg"))
    rec = tmp_path / "a.rec"
    write_rec(rec, [pack(file.read_bytes(), key % 2, key) for key, file in enumerate(files)])
    out = tmp_path / "out" / "a.beton"
    run(rec, out, shard="1/2", classes=("cat", "dog"))
    run(rec, out, shard="2/2", classes=("cat", "cow"))
    assert re.search(
        r"2-of-2.beton: its class 1 is 'cow', expected 'dog' as in a.1-of-2.beton; ", refusal(out)
    )


def test_a_shard_of_another_name_is_refused(shards: Path) -> None:
    shutil.copy(shards / "train.1-of-3.beton", shards / "train.2-of-3.beton")
    assert re.search(
        "train.2-of-3.beton: holds shard 1 of 3, expected shard 2 of 3; ", refusal(shards)
    )
    shutil.copy(shards / "test.2-of-3.beton", shards / "train.2-of-3.beton")
    assert re.search(
        "train.2-of-3.beton: holds a part of test, expected one of train; ", refusal(shards)
    )
    shutil.copy(shards / "test.1-of-3.beton", shards / "train.1-of-3.beton")
    assert re.search(
        "train.1-of-3.beton: holds a part of test, expected test.1-of-3.beton as its na",
        refusal(shards),
    )


@pytest.mark.parametrize(
    ("of", "quality", "message"),
    [
        (2, 95, "data: holds 2 shards of test and 3 of train, expected those of one conversion"),
        (3, 80, "train.1-of-3.beton: was converted with quality 95, expected 80 as test.1-of-3"),
    ],
)
def test_splits_of_unlike_shards_are_refused(
    shards: Path, photos: Path, tmp_path: Path, of: int, quality: int, message: str
) -> None:
    run_shards(photos, tmp_path / "other", of, quality=quality)
    for path in shards.glob("test.*"):
        path.unlink()
    for path in (tmp_path / "other").glob("test.*"):
        path.rename(shards / path.name)
    assert re.search(message, refusal(shards))


def test_a_damaged_shard_is_named(shards: Path) -> None:
    path = shards / "train.3-of-3.beton"
    good, index = path.read_bytes(), read_index(path)
    again = "; rerun fastft convert with --shard 3/3$"
    names_changed = "its class or source names have changed"
    damages = [
        (int(index.pointers[4]) + 30, re.escape(f": {index.name(4)}: its bytes have changed")),
        (good.index(os.fsencode(index.name(2))) + 1, f": {names_changed}"),
        (good.index(b'"listing": "') + 20, f": {names_changed}"),
    ]
    del index  # a mapped file may not become shorter
    path.write_bytes(good[:-100])
    assert re.search(f"train.3-of-3.beton: .*{again}", refusal(shards))
    path.write_bytes(good[: len(good) // 2])
    assert re.search(f"train.3-of-3.beton: cut short at .*{again}", refusal(shards))
    path.write_bytes(b"")
    assert re.search(f"train.3-of-3.beton: 0 bytes long.*{again}", refusal(shards))
    for at, message in damages:
        changed = bytearray(good)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert re.search(f"train.3-of-3.beton{message}.*{again}", refusal(shards))
    path.write_bytes(good)
    merge(shards)
    shutil.copy(shards / "train.beton", path)
    assert re.search(
        f"train.3-of-3.beton: is no shard, expected shard 3-of-3{again}", refusal(shards)
    )


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"start": 3, "stop": 4}, "holds 1 images from number 3 on, expected 1 from number 2 on"),
        ({"start": 1, "stop": 4}, "holds 1 images from number 1 on, expected 3 from number 2 on"),
        ({"stop": 4}, "holds 1 images from number 2 on, expected 2 from number 2 on"),
        ({"samples": 4}, "ends at image 3, expected 4"),
        ({}, ""),
    ],
)
def test_shards_with_gaps_between_them_are_refused(
    tmp_path: Path, second: dict[str, int], message: str
) -> None:
    every = {"of": 2, "split": "", "splits": ("",), "listing": "x", "policy": {}}
    for values in ({"index": 1, "start": 0, "stop": 2}, {"index": 2, "start": 2, "stop": 3}):
        values = {"samples": second.get("samples", 4 if second else 3), **values}
        shard = Shard(**every, **{**values, **(second if values["index"] == 2 else {})})
        with BetonWriter(shard_path(tmp_path / "a.beton", shard.index, 2), 2) as writer:
            for i in range(3 - shard.index):
                writer.append(Stored(MODE_RAW, 1, 1, b"abc"), 0, f"c/{i}", zlib.crc32(b"abc"))
            writer.finish(About(classes=("c",), shard=shard and shard.to_json()))
            writer.publish()
    if message:
        assert re.search(f"a.2-of-2.beton: {message}", refusal(tmp_path / "a.beton"))
    else:
        merge(tmp_path / "a.beton")
        assert len(read_index(tmp_path / "a.beton")) == 3


def test_what_is_not_to_be_merged(shards: Path, photos: Path, tmp_path: Path) -> None:
    assert re.search(
        "is shard 1 of 3, expected what was given",
        refusal(shards / "train.1-of-3.beton", UsageError),
    )
    assert re.search(
        "is one of train, test, expected their folder; ",
        refusal(shards / "train.beton", UsageError),
    )
    assert re.search(
        r"data/x: has no shards, expected x.1-of-N.beton and so on; make", refusal(shards / "x")
    )
    assert re.search("photos: has no shards, expected train.1-of-N.beton", refusal(photos))
    with pytest.raises(DataError, match="no/where: has no shards"):
        merge(tmp_path / "no" / "where")
    (shards / "test.beton").write_text("years of work")
    assert re.search(
        "test.beton: exists and is no whole .beton, expected a new name",
        refusal(shards, UsageError),
    )
    (shards / "test.beton").unlink()
    (shards / "test.beton").mkdir()
    assert re.search("test.beton: is a folder", refusal(shards, UsageError))


@pytest.mark.parametrize("failing", ["pwrite", "fsync", "disk_usage", "make_locked"])
def test_a_full_disk_leaves_the_shards_alone(
    shards: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "disk_usage":
        usage = shutil.disk_usage(shards)._replace(free=1000)
        monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: usage)
        assert re.search(
            "data: 1,000 bytes free on its disk, expected [0-9,]+ for the images' bytes",
            refusal(shards),
        )
    elif failing == "make_locked":
        monkeypatch.setattr("pipelines.atomic.make_locked", full)
        assert re.search(
            "train.beton: no space left on device, expected a folder to write in", refusal(shards)
        )
    else:
        monkeypatch.setattr(beton_writer.os, failing, full)
        assert re.search(
            "train.beton: no space left on device while writing; nothing was left", refusal(shards)
        )


def test_shards_are_removed_after_all_else(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    for module, name in ((os, "replace"), (os, "fsync"), (Path, "unlink")):
        real = getattr(module, name)

        def note(*arguments: Any, real: Any = real, name: str = name, **options: Any) -> Any:
            done.append((name, str(arguments[-1])))
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, note)
    merge(shards, remove_shards=True)
    monkeypatch.undo()
    shard_removed = [i for i, (_, path) in enumerate(done) if "-of-3." in path]
    assert len(shard_removed) == 12  # six shards, and where their lists would be
    others = [i for i, (name, path) in enumerate(done) if name in ("replace", "fsync")]
    assert len(others) >= 6
    assert max(others) < min(shard_removed)
    assert sorted(os.listdir(shards)) == ["test.beton", "train.beton"]


def test_a_shard_that_changes_while_merging_is_noticed(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BetonWriter.__init__

    def replacing(writer: BetonWriter, path: Path, *arguments: Any) -> None:
        shutil.copy(shards / "test.1-of-3.beton", shards / "test.3-of-3.beton")
        real(writer, path, *arguments)

    monkeypatch.setattr(BetonWriter, "__init__", replacing)
    with pytest.raises(DataError, match=r"test.3-of-3.beton: has changed, .*; run fastft merge ag"):
        merge(shards)
    assert not list(shards.glob("t????.beton"))
    assert not list(shards.glob(".*"))


def test_shards_alone_are_no_split(shards: Path, data: Path) -> None:
    with pytest.raises(DataError, match=r"neither .* but shards of test, train, .*; run fastft me"):
        find_splits(shards)
    shutil.copy(data / "test.beton", shards)
    with pytest.raises(DataError, match=rf"has test but shards of train, .* fastft merge {shards}"):
        find_splits(shards)
    merge(shards)
    assert find_splits(shards) == (shards / "train.beton", shards / "test.beton")
