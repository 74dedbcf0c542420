"""Compiled kernels on disk: each process finds what belongs to its types, however many write."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from numba import float32, uint8

from pipelines.kernels.compiled import _Files, entry

HERE = ((uint8[::1],), "a processor", "sources")
THERE = ((float32[::1],), "a processor", "sources")


def files(folder: Path, stamp: str = "now") -> Any:
    return _Files(str(folder), "module.kernel-1.py311", stamp)


def test_processes_that_save_at_once_keep_their_own(tmp_path: Path) -> None:
    one, other = files(tmp_path), files(tmp_path)
    begins = one._open_for_write

    @contextmanager
    def save_between(path: str) -> Iterator[IO[bytes]]:
        with begins(path) as file:
            if path.endswith(".nbc"):
                other.save(THERE, "floats")
            yield file

    one._open_for_write = save_between
    other._load_index = dict  # as numba's own files would read it before anything was saved
    one.save(HERE, "bytes")
    assert files(tmp_path).load(HERE) == "bytes"
    assert files(tmp_path).load(THERE) == "floats"


def test_changed_sources_leave_nothing_old(tmp_path: Path) -> None:
    files(tmp_path).save(HERE, "old")
    files(tmp_path).save(THERE, "old")
    changed = (*HERE[:2], "other sources")
    assert files(tmp_path).load(changed) is None
    assert files(tmp_path, "later").load(HERE) is None
    files(tmp_path).save(changed, "new")
    assert files(tmp_path).load(changed) == "new"
    assert files(tmp_path).load(HERE) is None
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("spoil", ["nothing", "half", "another's"])
def test_a_spoiled_file_counts_as_none(tmp_path: Path, spoil: str) -> None:
    kept = files(tmp_path)
    kept.save(HERE, "bytes")
    (path,) = tmp_path.iterdir()
    if spoil == "another's":
        kept.save(THERE, "floats")
        (other,) = set(tmp_path.iterdir()) - {path}
        other.replace(path)
    else:
        path.write_bytes(path.read_bytes()[: 20 if spoil == "half" else 0])
    assert kept.load(HERE) is None


def test_a_full_disk_only_compiles_again(tmp_path: Path) -> None:
    kept = files(tmp_path / "nowhere")
    kept.save(HERE, "bytes")
    assert kept.load(HERE) is None


def _add_one(values: Any) -> int:
    values[0] += 1
    return int(values[0])


def test_types_compiled_before_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import numpy as np
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    caplog.set_level(logging.INFO)
    for dtype in (np.uint8, np.int16):
        first = entry(_add_one)
        assert first(np.zeros(1, dtype)) == 1
        assert sum(first.stats.cache_hits.values()) == 0
        assert caplog.messages == ["compiling _add_one"]
        caplog.clear()
        again = entry(_add_one)
        assert again(np.zeros(1, dtype)) == 1
        assert sum(again.stats.cache_hits.values()) == 1
        assert caplog.messages == []
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
