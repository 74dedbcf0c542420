"""The sink that decodes to memory of the host."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.resident.filler import Filler, HostSink, Writers
from pipelines.resident.store import StoreFormat, lay_out
from pipelines.resident.store_memory import PrivateMemory

#: Longer than anything takes: what waits so long has failed.
LONG_S = 10


def some(*samples: int) -> np.ndarray:
    return np.array(samples, np.int64)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def source_of(pictures: list[np.ndarray]) -> Any:
    stored = [
        Stored(MODE_RAW, picture.shape[1], picture.shape[0], picture.tobytes())
        for picture in pictures
    ]
    return SimpleNamespace(
        path=Path("set.beton"),
        stored=stored.__getitem__,
        name="{}.jpg".format,
        heights=np.array([each.height for each in stored], np.int32),
        widths=np.array([each.width for each in stored], np.int32),
    )


def test_samples_land_in_their_places(pool: ThreadPoolExecutor) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (3 + at, 5, 3), np.uint8) for at in range(4)]
    for kind, resampled in (("rgb", 0), ("yuv420", 3)):
        source = source_of(pictures)
        layout = lay_out(source, StoreFormat(kind=kind))
        memory = PrivateMemory(layout)
        sink = HostSink(source, layout, memory)
        filler = Filler(sink, 4, pool, 1)
        filler.ensure(some(0))
        pool.submit(filler.ensure, some(2, 3)).result(LONG_S)  # with a writer of its own
        assert [sink.holds(sample) for sample in range(4)] == [True, False, True, True]
        assert sink.resampled == resampled
        if kind == "rgb":
            for sample in (0, 2, 3):
                kept = memory.pixels[layout.place(sample)]
                assert np.array_equal(kept, pictures[sample].ravel())
        memory.close()


def test_each_thread_has_a_writer_of_its_own(pool: ThreadPoolExecutor) -> None:
    source = source_of([np.zeros((4, 4, 3), np.uint8)])
    writers = Writers(source, lay_out(source, StoreFormat()))
    mine, theirs = writers.own(), pool.submit(writers.own).result(LONG_S)
    assert mine is not theirs
    assert (writers.own(), pool.submit(writers.own).result(LONG_S)) == (mine, theirs)


def test_incomplete_samples_are_not_held() -> None:
    source = source_of([np.zeros((4, 4, 3), np.uint8)])
    layout = lay_out(source, StoreFormat())
    memory = PrivateMemory(layout)
    sink = HostSink(source, layout, memory)
    steps: list[str] = []

    def stored(sample: int) -> Stored:
        assert not sink.holds(sample)
        steps.append("decode")
        raise DataError("0.jpg", "broken")

    memory.reserve = lambda sample: steps.append("reserve")  # type: ignore[method-assign]
    source.stored = stored
    with pytest.raises(DataError, match=r"^0\.jpg: broken"):
        sink.write(0)
    assert steps == ["reserve", "decode"]
    assert not sink.holds(0)
    memory.close()
