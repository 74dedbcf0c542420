import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from effort import rest
from PIL import Image
from records import pack, write_rec
from shard_jobs import contents, one_pixel, run, run_shards
from zips import DEFLATED, zip_folder

from pipelines.conversion.merge import merge
from pipelines.errors import DataError
from pipelines.formats.beton import read_index
from pipelines.formats.layout import PAGE_BYTES
from pipelines.formats.shards import shard_path

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def mixed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits with photos, broken ones, and images that as pixels need a page and more than one."""
    root = tmp_path_factory.mktemp("mixed") / "mixed"
    shutil.copytree(photos, root)
    # 3.6, 9.2, 3.0, 2.4 MB.
    for split, sides in (("train", (1100, 1750, 1000)), ("test", (900, 40, 30))):
        folders = sorted((root / split).iterdir())
        for folder in (folders[0], folders[-1]):
            for j, side in enumerate(sides):
                image = Image.new("RGB", (side, side), (40 * (folder == folders[0]), 40 * j, 0))
                image.save(folder / f"a{j}.png", compress_level=1)
            (folder / "a1 broken.jpg").write_bytes(b"no image")
    assert 3 * 1750**2 > PAGE_BYTES
    return root


@pytest.fixture(scope="module")
def whole(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What converting `mixed` in one piece leaves."""
    out = tmp_path_factory.mktemp("whole")
    run(mixed, out)
    found = contents(out)
    assert len(found) == 4
    assert read_index(out / "train.beton").page_bytes > PAGE_BYTES
    return found


@pytest.mark.parametrize("of", [1, 3, *rest(5)])
def test_merged_is_what_one_job_writes(
    mixed: Path, whole: dict[str, str], tmp_path: Path, of: int
) -> None:
    run_shards(mixed, tmp_path, of)
    paths = [shard_path(tmp_path / "train.beton", index, of) for index in range(1, of + 1)]
    names, end = [], 0
    for number, path in enumerate(paths, 1):
        index = read_index(path)
        assert index.shard is not None
        assert (index.shard.index, index.shard.of, index.shard.start) == (number, of, end)
        assert set(index.damaged()) == {None}
        assert len(index) + len(index.shard.quarantined) == len(index.shard.part)
        names += [index.name(sample) for sample in range(len(index))]
        end = index.shard.stop
    train, test = merge(tmp_path)
    assert (train.out.name, test.out.name) == ("train.beton", "test.beton")
    assert (train.shards, train.images, len(train.quarantined)) == (of, len(names), 2)
    index = read_index(train.out)
    assert index.shard is None
    assert [index.name(sample) for sample in range(len(index))] == names
    after = contents(tmp_path)
    assert {name: after[name] for name in whole} == whole
    assert len(after) > len(whole)
    merge(tmp_path, remove_shards=True)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize(
    ("kind", "options"),
    [("folder", {}), ("zip", {"mode": "proportion"}), ("rec", {"mode": "jpg", "max_side": 60})],
)
def test_any_source_and_policy(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    options: dict[str, Any],
) -> None:
    src = photos / "train"
    if kind == "zip":
        src = zip_folder(src, tmp_path / "photos.zip", DEFLATED)
    elif kind == "rec":
        files = sorted(src.glob("*/*.jpg"))
        labels = sorted({file.parent for file in files})
        write_rec(
            tmp_path / "photos.rec",
            [
                pack(file.read_bytes(), labels.index(file.parent), key)
                for key, file in enumerate(files)
            ],
        )
        src = tmp_path / "photos.rec"
    out = tmp_path / "out.beton"
    run(src, out, **options)
    expected = out.read_bytes()
    out.unlink()
    run_shards(src, tmp_path / "out", 3, **options)
    monkeypatch.chdir(tmp_path)
    (report,) = merge(Path("out" if options else "."), remove_shards=True)
    assert report.out.resolve() == out
    assert out.read_bytes() == expected
    assert not list(tmp_path.glob("*-of-*"))


def test_a_class_may_miss_from_one_shard(tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out.beton"
    for name in ("a", "b", "c"):
        one_pixel(src / name, "1234")
    (src / "b" / "1.png").write_bytes(b"x" * (src / "b" / "2.png").stat().st_size)
    run_shards(src, out, 6, max_bad="1")
    assert read_index(shard_path(out, 1, 6)).classes == ("a", "b", "c")
    merge(out, remove_shards=True)
    assert read_index(out).labels.tolist() == [0] * 4 + [1] * 3 + [2] * 4
    out.unlink()
    for image in (src / "b").iterdir():
        image.write_bytes(b"x" * (src / "a" / "1.png").stat().st_size)
    run_shards(src, out, 2, max_bad="2")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"out.beton: b: every image is broken, the first \(b/1"):
        merge(out, remove_shards=True)
    assert contents(tmp_path) == before
    with pytest.raises(DataError, match=r"5-of-12.*: every image is broken, .*take fewer shards"):
        run(src, tmp_path / "p", max_bad="3", shard="5/12")


def test_more_shards_than_a_process_may_open(photos: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.beton", tmp_path / "out.beton"
    run(photos / "train", whole)
    run_shards(photos / "train", out, 11)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard)
    )
    try:
        merge(out)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert out.read_bytes() == whole.read_bytes()


def test_the_commands(fastft: Run, mixed: Path, whole: dict[str, str], tmp_path: Path) -> None:
    for index in (1, 2):
        status, text, _ = fastft(
            "convert", mixed, tmp_path, "--shard", f"{index}/2", "--max-bad", 2
        )
        assert status == 0
        assert f"train.{index}-of-2.beton" in text
        assert f"shard {index}/2; with all of them done: fastft merge {tmp_path}" in text
    status, text, _ = fastft("inspect", tmp_path / "test.2-of-2.beton", "--verify")
    assert status == 0
    assert re.search(r"shard .* 2 of 2 .*: images \d+ to 14 of 14", text)
    status, text, _ = fastft("merge", tmp_path, "--remove-shards")
    assert status == 0
    assert re.search(r"shards .* 2 .* 2 ", text)
    assert text.count("left out: ") == 4
    assert contents(tmp_path) == whole
    status, text, _ = fastft("inspect", tmp_path / "test.beton")
    assert "shard" not in text
    for command in ("merge", "convert"):
        status, text, _ = fastft(command, "--help")
        assert f"$ fastft {command}" in text
        assert "--shard" in text
