import json
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_jobs import contents, one_pixel, run, run_shards

from pipelines.conversion.merge import merge
from pipelines.conversion.run import ConvertConfig
from pipelines.errors import DataError, FormatError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.layout import MODE_RAW, About, Stored
from pipelines.formats.shards import Quarantined, Shard, cut, parse_shard, read_shard

Run = Callable[..., tuple[int, str, str]]


def test_what_shard_may_ask_for() -> None:
    assert [parse_shard(text) for text in ("1/1", "2/8", "999/999", "")] == [
        (1, 1),
        (2, 8),
        (999, 999),
        None,
    ]
    for text in ("0/4", "5/4", "a/b", "4", "1/", "/4", "-1/4", "1/4/4", "1.0/4", "01/4", "٢/٤"):
        with pytest.raises(UsageError, match=r"--shard: '.*', expected i/n with i from 1 to n"):
            ConvertConfig(src=Path("a"), out=Path("b"), shard=text)


def test_a_cut_is_even_and_leaves_nothing_out() -> None:
    rng = np.random.default_rng(3)
    for sizes in (
        rng.integers(1, 1000, 200),
        np.zeros(40, np.int64),
        np.array([5]),
        np.array([0, 9, 0, 0]),
        np.array([1 << 61, 1, 1, 1 << 61]),
        np.repeat([1, 10**6, 1], 30),
    ):
        for of in {1, 2, 3, len(sizes) // 2, len(sizes) - 1, len(sizes)} - {0}:
            if of <= len(sizes):
                starts = cut(sizes.astype(np.int64), of)
                assert (starts[0], starts[-1], len(starts)) == (0, len(sizes), of + 1)
                assert (np.diff(starts) >= 1).all()
    even = cut(np.array([100] * 40), 8)
    assert even.tolist() == list(range(0, 41, 5))
    sizes = rng.integers(1, 1000, 200)
    parts = [sizes[a:b].sum() for a, b in zip(cut(sizes, 8), cut(sizes, 8)[1:], strict=False)]
    assert np.abs(np.array(parts) - sizes.sum() / 8).max() <= sizes.max()


def test_an_unsharded_file_is_as_it_always_was(tmp_path: Path) -> None:
    """The hash is of what was written before there were shards."""
    with BetonWriter(tmp_path / "a.beton", 4) as writer:
        for i in range(3):
            data = bytes(range(30 * (i + 1)))
            name = f"{'cd'[i % 2]}/ä{i}\udcff.png"
            writer.append(Stored(MODE_RAW, 10 * (i + 1), 1, data), i % 2, name, zlib.crc32(data))
        writer.finish(About(classes=("c", "d")))
        writer.publish()
    assert contents(tmp_path) == {
        "a.beton": "a47ed32be344b11f3e4e59d4dad5ffc45186eb70ab4c5dd804b00a5b52a42a68"
    }


def test_more_shards_than_images(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="7 shards for the 6 images of test, expected at most 6"):
        run(photos, tmp_path / "out", shard="1/7")
    assert not (tmp_path / "out").exists()
    run_shards(photos / "test", tmp_path / "out", 6)
    (report,) = merge(tmp_path / "out")
    assert report.images == report.shards == 6


def test_concurrent_jobs_share_a_new_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "data"
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda i: run(photos, out, shard=f"{i}/4"), range(1, 5)))
    run(photos, tmp_path / "alone", shard="3/4")
    for name in ("train.3-of-4.beton", "test.3-of-4.beton"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert len(list(out.glob("*.beton"))) == 8
    merge(out)


def test_max_bad_holds_per_shard(tmp_path: Path) -> None:
    one_pixel(tmp_path / "src" / "a", "123456789x")
    for name in "34":
        size = (tmp_path / "src" / "a" / f"{name}.png").stat().st_size
        (tmp_path / "src" / "a" / f"{name}.png").write_bytes(b"x" * size)
    run(tmp_path / "src", tmp_path / "o", max_bad="20%")
    with pytest.raises(DataError, match=r"a/4.png.*number 2.*expected at most 1 broken"):
        run(tmp_path / "src", tmp_path / "p", max_bad="20%", shard="1/2")
    run(tmp_path / "src", tmp_path / "p", max_bad="20%", shard="2/2")
    assert sorted(os.listdir(tmp_path)) == ["o.beton", "o.quarantine.json", "p.2-of-2.beton", "src"]


GOOD = Shard(
    index=2,
    of=3,
    split="",
    splits=("",),
    start=1,
    stop=3,
    samples=4,
    listing="ab",
    policy={"mode": "raw"},
    quarantined=(Quarantined("c/x\udcff", "cut short"),),
)


def test_what_a_shard_says_is_checked(tmp_path: Path) -> None:
    assert read_shard(json.loads(json.dumps(GOOD.to_json()))) == GOOD
    wrong: list[dict[str, Any]] = [
        {"index": 4},
        {"index": 0},
        {"index": "2"},
        {"of": 3.0},
        {"start": 3},
        {"start": -1},
        {"stop": 5},
        {"samples": True},
        {"split": "train"},
        {"listing": 7},
        {"policy": []},
        {"splits": None},
        {"quarantined": [{"name": "x"}]},
        {"quarantined": [7]},
        {"more": 1},
        {"quarantined": [{"name": 1, "reason": "x"}]},
    ]
    for change in wrong:
        with pytest.raises((TypeError, ValueError, KeyError)):
            read_shard({**GOOD.to_json(), **change})
    path = tmp_path / "a.beton"
    with BetonWriter(path, 1) as writer:
        writer.append(Stored(MODE_RAW, 1, 1, b"abc"), 0, "c/1", zlib.crc32(b"abc"))
        object.__setattr__(GOOD, "of", 0)
        writer.finish(About(classes=("c",), shard=GOOD.to_json()))
        object.__setattr__(GOOD, "of", 3)
        writer.publish()
    with pytest.raises(FormatError, match="names cannot be read"):
        read_index(path)
