"""Conversions that end before their end: by kill -9, SIGTERM, Ctrl-C."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbed import (
    OPTIONS,
    Moments,
    end,
    hidden,
    is_pythons_own,
    make_long,
    start,
    visible,
)
from effort import choose, scale
from killed_conversions import merges
from processes import SERVER
from shard_jobs import contents, run_shards

from fastft.system.signals import Stopped
from pipelines.conversion.merge import merge
from pipelines.conversion.run import ConvertConfig, convert

Tried = Callable[..., None]


@pytest.fixture(scope="module")
def src(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits of photos that take some tenths of a second to convert."""
    return make_long(photos, tmp_path_factory.mktemp("long") / "src", choose(8, 40))


@pytest.fixture(scope="module")
def moments(src: Path, tmp_path_factory: pytest.TempPathFactory) -> Moments:
    """Random ones of its conversion."""
    return Moments(src, tmp_path_factory.mktemp("whole") / "out", seed=7)


def resume(src: Path, out: Path) -> None:
    """By the options that it was begun with."""
    convert(ConvertConfig(src=src, out=out, max_side=60, max_bad="1", workers=2, resume=True))


def test_killed_at_random_moments_and_resumed(
    src: Path, moments: Moments, tmp_path: Path, tried: Tried
) -> None:
    kills, wanted = 0, scale(1, 60)
    for number in range(wanted + 1):
        out, status = tmp_path / str(number), -1
        while status:
            if kills == wanted:
                resume(src, out)
                break
            process = start("convert", src, out, *OPTIONS, "--resume")
            moments.send(signal.SIGKILL, process, out)
            status, _, err = end(process)
            assert status in (0, -signal.SIGKILL), err
            kills += status != 0
            # A file is there whole, or not at all.
            assert visible(out).items() <= moments.whole.items()
        assert contents(out) == moments.whole
        shutil.rmtree(out)
        if kills == wanted:
            break
    tried("convert killed by kill -9", kills)
    assert kills == wanted


@pytest.mark.parametrize(
    "number",
    choose([signal.SIGINT, signal.SIGTERM], [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]),
)
def test_asked_to_end_at_random_moments(
    number: signal.Signals, src: Path, moments: Moments, tmp_path: Path, tried: Tried
) -> None:
    stopped, wanted = 0, scale(1, 20)
    for _ in range(5 * wanted):
        out = tmp_path / "out"
        process = start("convert", src, out, *OPTIONS)
        moments.send(number, process, out)
        status, _, err = end(process)
        assert visible(out).items() <= moments.whole.items()
        if is_pythons_own(err):
            assert not hidden(out)
        elif status:
            stopped += 1
            # One that ends before it has begun to hear signals ends of the signal itself.
            assert status in (128 + number, -number)
            told = "fastft: interrupted\n" if number == signal.SIGINT else ""
            # CPython dies of Ctrl-C at its very end, after all was said, if the exception passed
            # through code that a library had run (`unhandled_keyboard_interrupt`).
            assert err == told or (err == "" and status == -number)
            if number == signal.SIGINT:
                assert hidden(out) == set()
            else:  # as of one that was killed
                journals = {name for name in hidden(out) if name.endswith(".journal")}
                data = {name.removesuffix(".journal") for name in journals}
                assert hidden(out) - journals <= data
                resume(src, out)
                assert contents(out) == moments.whole
        else:
            assert contents(out) == moments.whole
        shutil.rmtree(out, ignore_errors=True)
        if stopped == wanted:
            break
    tried(f"convert ended by {number.name}", stopped)
    assert stopped == wanted


@pytest.mark.parametrize(
    ("ending", "stays"),
    [(Stopped(signal.SIGTERM), True), (KeyboardInterrupt(), False), (OSError("bad disk"), False)],
)
def test_errors_leave_nothing_to_resume(
    ending: BaseException, stays: bool, photos: Path, tmp_path: Path, tried: Tried
) -> None:
    def end_in_test(split: str, *_: int) -> None:
        if split == "test":
            raise ending

    out = tmp_path / "out"
    with pytest.raises(type(ending)):
        convert(ConvertConfig(src=photos, out=out), end_in_test)
    tried("convert ended in the middle")
    assert visible(out) == {}
    assert len(hidden(out)) == 4 * stays
    convert(ConvertConfig(src=photos, out=tmp_path / "whole"))
    train, test = convert(ConvertConfig(src=photos, out=out, resume=True))
    assert (train.resumed, test.resumed) == ((33, 6) if stays else (0, 0))
    assert contents(out) == contents(tmp_path / "whole")


def test_a_killed_merge_leaves_nothing_for_ever(photos: Path, tmp_path: Path, tried: Tried) -> None:
    out = tmp_path / "out"
    run_shards(photos, out, 2)
    shards = contents(out)
    merge(out)
    whole = contents(out)
    left, k = 0, 0
    while True:
        k += choose(12, 1)
        for name in whole.keys() - shards.keys():
            (out / name).unlink(missing_ok=True)
        reached = SERVER.Value("b", False)
        process = SERVER.Process(target=merges, args=(out, k, reached))
        process.start()
        process.join()
        if not reached.value:
            break
        assert process.exitcode == -signal.SIGKILL
        tried("merge killed by kill -9")
        assert visible(out).items() <= whole.items()
        left += bool(hidden(out))
        merge(out)
        assert contents(out) == whole
    assert process.exitcode == 0
    assert left > 1
    assert contents(out) == whole
    assert os.listdir(tmp_path) == ["out"]
