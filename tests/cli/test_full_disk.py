"""A full disk under every command that writes: one line that names the file, no harm to others."""

import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import effort
import pytest
from commands import Case, begin, content_of, require_sound
from disturbed import small_disk

from fastft.cli import commands as program
from fastft.runs.metrics import MetricsFile, StepMetrics

Cases = dict[str, Case]
Tried = Callable[..., None]
WRITING = ("synth", "fetch", "show", "train", "evaluate", "predict", "parity", "report")
#: Bytes that a file may have: settings, a first row, a picture, a checkpoint are too many.
LIMITS = dict.fromkeys(WRITING, (700, 2000, 6000, 20000, 100000))
#: What the system says, of a checkpoint in torch's words.
FULL = (
    "cannot be written",
    "file too large",
    "no space left on device",
    "free on the disk",
    "bytes free",
    "gb are free",
)


def _limit(bytes_: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def refused(status: int, err: str, place: Path) -> None:
    assert status == 1, (status, err)
    assert err.count("\n") == 1, err
    # parity converts to a file of its own first.
    assert err.startswith((f"{place}/", f"{place.parent}/tmp/")), err
    assert any(each in err.lower() for each in FULL), err


@pytest.mark.parametrize("name", effort.choose(("show",), WRITING))
def test_files_that_do_not_fit_leave_nothing(
    name: str, cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    failures = 0
    for limit in effort.choose(LIMITS[name][:1], LIMITS[name]):
        folder = tmp_path / str(limit)
        living = begin(cases[name].call(folder / "place"), folder, _limit, limit)
        status, _, err = living.end()
        if status == 0:  # all of it fits
            assert cases[name].is_whole(folder / "place")
            continue
        refused(status, err, folder / "place")
        require_sound(folder / "place")
        failures += 1
        tried(f"{name} on a full disk", 1)
    assert failures


@pytest.mark.parametrize(
    "name", effort.choose(("predict",), ("show", "evaluate", "predict", "report"))
)
def test_what_was_there_before_is_unharmed(
    name: str, cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    arguments = cases[name].call(tmp_path / "place")
    assert begin(arguments, tmp_path).end()[0] == 0
    before = content_of(tmp_path / "place")
    status, _, err = begin(arguments, tmp_path, _limit, 700).end()
    refused(status, err, tmp_path / "place")
    assert content_of(tmp_path / "place") == before
    tried(f"{name} over an old output on a full disk", 1)


def _measures(path: Path) -> None:
    def run() -> int:
        file = MetricsFile(path)
        try:
            for step in range(100):
                file.write(
                    StepMetrics(epoch=0, step=step, loss=1, lr=1, wait_s=1, step_s=1, img_per_s=1)
                )
        finally:
            file.close()
        return 0

    _limit(700)
    program.run = run


def test_metrics_keep_rows_that_fit(tmp_path: Path, tried: Tried) -> None:
    path = tmp_path / "place" / "metrics.jsonl"
    status, _, err = begin(["train"], tmp_path, _measures, path).end()
    refused(status, err, tmp_path / "place")
    assert err.endswith("free some of the disk, then continue with fastft train --resume\n")
    whole = path.read_text().splitlines()[:-1]
    assert len(whole) > 3
    tried("train on a full disk", 1)


def more_cases(cases: Cases) -> Cases:
    """And trainings that write other files, too."""
    train = cases["train"]
    longer = (*train.arguments, "--epochs", "2", "--checkpoint-every", "1")
    stored = (*longer, "--loader", "resident", "--store-file", "OUT.store")
    return {
        **cases,
        "train with a store": replace(train, arguments=stored),
        "train with TensorBoard": replace(train, arguments=(*longer, "--tensorboard")),
    }


SHORT_DISKS = {"train": (3_000,), "predict": (0,)}
LONG_DISKS = (0, 4, 8, 16, 40, 100, 300, 1_000, 1_600, 2_400, 3_600, 6_000, 9_000)


@pytest.mark.parametrize(
    "name",
    effort.choose(
        list(SHORT_DISKS),
        [*WRITING, "train with a store", "train with TensorBoard", "compare", "sweep"],
    ),
)
def test_a_disk_that_is_full_is_told(name: str, cases: Cases, tmp_path: Path, tried: Tried) -> None:
    case, failures = more_cases(cases)[name], 0
    for kib in effort.choose(SHORT_DISKS.get(name, ()), LONG_DISKS):
        folder = tmp_path / str(kib)
        folder.mkdir()
        with small_disk(folder / "place", f"{max(kib, 4)}k") as place:
            if not kib:  # all of it is taken
                with (place / "other.csv").open("wb", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(b"\n" * 1024)
            status, _, err = begin(case.call(place), folder).end()
            require_sound(place)
            if status:
                refused(status, err, place)
                failures += 1
                tried(f"{name} on a full disk", 1)
            else:
                assert case.is_whole(place), kib
    assert failures
