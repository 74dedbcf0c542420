"""The photos that all parts read, drawn and converted here: as the tutorial has them, and many."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.gpu.task import Found, Task, answer
from fastft.datasets.synth import SynthConfig, write_synth
from pipelines.conversion.run import ConvertConfig, convert

#: The tutorial's: of each of two classes 1,000 photos to learn from, 400 to test, of some size.
PHOTOS, TEST_PHOTOS, MEAN_SIZE = 1000, 400, (400, 300)
_FEW = 8, 4, (120, 90)
#: Each is drawn once and there so many times under other names, as drawing is slow; it is read and
#: decoded each time.
ALIKE = 4
#: How often each training photo is in the set that loaders are measured on: epochs of 10,000.
TIMES = 5


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Make `photos`, `data` and `many` of the task."""
    per_class, test, size = (PHOTOS, TEST_PHOTOS, MEAN_SIZE) if task.on_gpu else _FEW
    photos, data, many = Path(task.photos), Path(task.data), Path(task.many)
    found: dict[str, float] = {"photos": 2 * per_class, "times": TIMES, "drawn_once_for": ALIKE}
    last = time.perf_counter()

    def done(what: str) -> None:
        nonlocal last
        now = time.perf_counter()
        found[what], last = now - last, now

    write_synth(
        SynthConfig(
            out=photos,
            classes=2,
            per_class=per_class // ALIKE,
            test_per_class=test // ALIKE,
            size=size,
        )
    )
    for split in ("train", "test"):
        for file, name in _copies(photos / split, range(1, ALIKE)):
            os.link(file, photos / split / name)
    done("draw_s")
    convert(ConvertConfig(src=photos, out=data))
    done("convert_s")
    links = many.with_name(f"{many.name}-links")
    for file, name in _copies(photos / "train", range(TIMES)):
        (links / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(file, links / name)
    many.mkdir()
    convert(ConvertConfig(src=links, out=many / "train.beton", verify=False))
    os.link(data / "test.beton", many / "test.beton")
    shutil.rmtree(links)
    done("many_s")
    yield found


def _copies(root: Path, numbers: Iterable[int]) -> Iterator[tuple[Path, str]]:
    """Each file of class folders with some other names for it, below `root`."""
    for file in sorted(root.glob("*/*")):
        for number in numbers:
            yield file, f"{file.parent.name}/{file.stem}-{number}{file.suffix}"
