"""What FFCV does to a process, undone; what numba compiles, compiled once on a machine."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from effort import SOAK_H
from processes import run_program

from pipelines.errors import UsageError
from pipelines.formats.layout import MAGIC
from pipelines.loaders import make_loader

ffcv_loader = pytest.importorskip(
    "pipelines.loaders.ffcv_loader", reason="ffcv is not installed", exc_type=UsageError
)


def test_class_folders_are_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"a class folder, expected a \.beton file; make one by"):
        make_loader("ffcv", photos / "train")


_CACHED = """
import sys, torch, numba
torch.set_num_threads(2)
before = torch.get_num_threads(), numba.get_num_threads()
from pipelines import make_loader
from pipelines.kernels import cpu
with make_loader("ffcv", sys.argv[1], size=32, batch_size=8, workers=2) as loader:
    for _ in loader:
        pass
assert (torch.get_num_threads(), numba.get_num_threads()) == before
stats = cpu.render_rows.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_the_second_process_compiles_nothing(data: Path, tmp_path: Path) -> None:
    """Nor does it change the threads of torch and numba."""
    program = tmp_path / "program.py"
    program.write_text(_CACHED)
    # To compile anew takes long: in an ordinary run this process has been the first one.
    with make_loader("ffcv", data / "train.beton", size=32, batch_size=8, workers=2) as loader:
        list(loader)
    ended = run_program(program, data / "train.beton", folder=tmp_path, within_s=200)
    assert (ended.returncode, ended.stdout.split()) == (0, ["1", "0"]), ended.stderr


def test_the_first_process_compiles(data: Path, tmp_path: Path, tried: Callable[..., None]) -> None:
    if not SOAK_H:
        pytest.skip("to compile anew takes long: part of ./dev soak")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for counts in (["0", "1"], ["1", "0"]):
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _CACHED, str(data / "train.beton")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert not ended.returncode, ended.stderr
        assert ended.stdout.split() == counts
    tried("kernels compiled anew")


def test_numbas_types_stay_what_they_are(data: Path) -> None:
    """FFCV makes the one for arrays of bytes read-only, under which functions are filed."""
    bytes_type = numba.types.uint8[::1]
    with make_loader("ffcv", data / "train.beton", size=32, batch_size=8, workers=2) as loader:
        assert bytes_type.mutable
        list(loader)
    assert numba.typeof(np.zeros(2, np.uint8)) == bytes_type
    assert numba.typed.Dict is not dict


def test_no_tables_are_made_of_samples(data: Path) -> None:
    """FFCV's take a kilobyte for each; whoever uses it beside us has them still."""
    from ffcv.loader import loader as module

    with make_loader("ffcv", data / "train.beton", size=32, batch_size=8, workers=2) as loader:
        assert isinstance(loader, ffcv_loader.FfcvLoader)
        assert isinstance(loader._driver.memory_manager, ffcv_loader._NoMemory)
    assert module.OSCacheManager.__module__ == "ffcv.memory_managers.os_cache"


def ffcv_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if "Epoch" in type(each).__name__]


def test_an_early_exit_leaves_no_thread_of_ffcvs(data: Path) -> None:
    with make_loader("ffcv", data / "train.beton", size=32, batch_size=4, workers=2) as loader:
        for step, _ in enumerate(loader):
            assert ffcv_threads()
            if step == 1:
                break
        else:
            pytest.fail("the loop should have been left")
        loader.set_epoch(1)
        batches = iter(loader)
        next(batches)
        batches.close()
        assert not ffcv_threads()


def test_an_error_in_ffcvs_thread_reaches_the_caller(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_loader("ffcv", data / "train.beton", size=32, batch_size=8, workers=2) as loader:

        def fail(*arguments: object) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(loader._decoder.renderer, "submit", fail)
        with pytest.raises(MemoryError, match="no room"):
            list(loader)
        monkeypatch.undo()
        assert len(list(loader)) == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_ffcv_thread_is_an_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffcv_loader, "_LOOK_S", 0.01)
    with make_loader("ffcv", data / "train.beton", size=32, batch_size=8, workers=2) as loader:

        def die(*arguments: object) -> None:
            raise MemoryError

        monkeypatch.setattr(ffcv_loader._NoContext, "start_batch", die)  # beyond our operation
        with pytest.raises(RuntimeError, match="FFCV's thread has died"):
            list(loader)


def test_dropped_batches_return_their_memory(data: Path) -> None:
    with make_loader("ffcv", data / "train.beton", size=32, batch_size=4, workers=2) as loader:
        addresses = set()
        for epoch in range(6):
            loader.set_epoch(epoch)
            for images, _ in loader:
                addresses.add(images.untyped_storage().data_ptr())
        # 54 batches, of which at most four are in use at a time, and one is being dropped.
        assert len(addresses) <= 5
        view = next(iter(loader))[0][1, 0]
        kept = view.clone()
        for _ in loader:
            pass
        assert torch.equal(view, kept)  # a view of a batch keeps all of it


def test_stock_files_of_any_field_names(data: Path, tmp_path: Path) -> None:
    content = bytearray((data / "test.beton").read_bytes())
    at = content.index(b"image\0")
    content[at : at + 6] = b"photo\0"
    at = content.index(MAGIC)
    content[at : at + len(MAGIC)] = bytes(len(MAGIC))  # nothing says any more that it is ours
    (tmp_path / "photo.beton").write_bytes(content)
    loaders = (
        make_loader("ffcv", path, size=32)
        for path in (
            data / "test.beton",
            tmp_path / "photo.beton",
        )
    )
    ((a, _),), ((b, _),) = (list(loader) for loader in loaders)
    assert torch.equal(a, b)
    assert np.isfinite(a.numpy()).all()
