import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from effort import choose
from killed_conversions import TASK_IMAGES, converts
from processes import SERVER
from shard_jobs import contents

from pipelines.conversion import run as module
from pipelines.conversion.journal import Entry, _find_left, _unpack
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import UsageError
from pipelines.formats.layout import Note
from pipelines.images.turbojpeg import load_turbojpeg

#: One photo is broken, others become raw pixels.
OPTIONS: dict[str, Any] = {"max_bad": "2", "mode": "proportion"}
Leave = Callable[..., bool]


@pytest.fixture(scope="module")
def spoiled(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits of 33 and 6 photos, of which one is cut short, one has bytes that say nothing."""
    copy = tmp_path_factory.mktemp("spoiled") / "src"
    shutil.copytree(photos, copy)
    broken, _, odd, *_ = sorted((copy / "train").glob("*/*"))  # the second becomes pixels
    broken.write_bytes(broken.read_bytes()[:-300])
    odd.write_bytes(odd.read_bytes()[:-2] + bytes(9) + odd.read_bytes()[-2:])
    return copy


@pytest.fixture
def src(spoiled: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return shutil.copytree(spoiled, tmp_path / "src")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def whole(spoiled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a conversion leaves that nobody kills."""
    out = tmp_path_factory.mktemp("whole")
    run(spoiled, out)
    return contents(out)


@pytest.fixture
def leave(src: Path, out: Path) -> Leave:
    """Converts until the k-th call that changes a disk, and is killed; tells whether it was."""

    def leave(k: int, **options: Any) -> bool:
        reached = SERVER.Value("b", False)
        process = SERVER.Process(
            target=converts, args=(src, out, k, {**OPTIONS, **options}, reached)
        )
        process.start()
        process.join()
        assert process.exitcode == (-9 if reached.value else 0)
        return bool(reached.value)

    return leave


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TASK_IMAGES", TASK_IMAGES)


def run(src: Path, out: Path, **options: Any) -> Any:
    return convert(ConvertConfig(src=src, out=out, **{**OPTIONS, **options}))


def left(out: Path) -> tuple[Path, Path]:
    """The temporary file that a killed conversion has left of the first split, and its journal."""
    (journal,) = out.glob(".train.beton.*.journal")
    return journal.with_suffix(""), journal


@pytest.mark.parametrize("part", range(choose(1, 4)))
def test_killed_anywhere_and_resumed(
    part: int,
    src: Path,
    out: Path,
    whole: dict[str, str],
    leave: Leave,
    tried: Callable[..., None],
) -> None:
    resumed = set()
    for k in range(1 + part, 1000, choose(18, 4)):
        if not leave(k):
            break
        seen = {path: digest for path, digest in contents(out).items() if path[0] != "."}
        assert seen.items() <= whole.items()
        train, _ = run(src, out, resume=True)
        resumed.add(train.resumed)
        assert contents(out) == whole
        shutil.rmtree(out)
        tried("convert killed by kill -9")
    assert k > 40
    assert {0, 33} < resumed


def test_killed_again_and_again(src: Path, out: Path, whole: dict[str, str], leave: Leave) -> None:
    kills = 0
    while leave(12 + choose(8, 1) * kills, resume=True):
        kills += 1
    assert kills > 2
    assert contents(out) == whole


def test_without_resume_it_begins_anew(
    src: Path, out: Path, whole: dict[str, str], leave: Leave
) -> None:
    leave(30)
    assert len(list(out.iterdir())) == 2
    train, _ = run(src, out)
    assert train.resumed == 0
    assert contents(out) == whole


def test_what_is_told_is_the_same(src: Path, out: Path, tmp_path: Path, leave: Leave) -> None:
    leave(40)
    seen: list[tuple[str, int]] = []
    reports = convert(
        ConvertConfig(src=src, out=out, resume=True, **OPTIONS),
        lambda split, done, *_: seen.append((split, done)),
    )
    (train, _), (other, _) = reports, run(src, tmp_path / "whole")
    assert train.resumed
    assert seen[0] == ("train", train.resumed + TASK_IMAGES)
    assert len(train.quarantined) == 1
    assert len(train.warnings) == (load_turbojpeg() is not None)
    for name in ("images", "bytes_in", "bytes_out", "notes", "quarantined", "warnings"):
        assert getattr(train, name) == getattr(other, name), name


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("damage", ["bit", "cut", "more", "journal", "torn", "empty"])
def test_only_what_is_there_is_believed(
    damage: str, src: Path, out: Path, whole: dict[str, str], leave: Leave
) -> None:
    leave(40)
    data, journal = left(out)
    # Just what a process did that was killed now: what it says is there, and a sample more.
    size, entries = data.stat().st_size, journal.stat().st_size
    if damage == "bit":
        flip(data, size // 2)
    elif damage == "cut":
        os.truncate(data, size // 2)
    elif damage == "more":
        with data.open("ab") as file:
            file.write(b"x" * (9 << 20))  # where the next page begins, and what was left free
    elif damage == "journal":
        flip(journal, entries // 2)
    elif damage == "torn":
        os.truncate(journal, entries - 3)
    else:
        os.truncate(journal, 0)
    train, _ = run(src, out, resume=True)
    assert (train.resumed < 20) == (damage in ("bit", "cut", "journal", "empty"))
    assert contents(out) == whole


def test_each_bit_of_an_entry_is_checked(
    src: Path, out: Path, whole: dict[str, str], leave: Leave
) -> None:
    leave(40)
    _, journal = left(out)
    reason = journal.read_bytes().index(b"Premature")  # of the first entry
    flip(journal, reason)
    train, _ = run(src, out, resume=True)
    assert train.resumed == 0
    assert contents(out) == whole


def test_what_comes_behind_damage_counts_again(
    src: Path, out: Path, whole: dict[str, str], leave: Leave
) -> None:
    leave(25)
    data, journal = left(out)
    flip(journal, journal.stat().st_size - 3)
    assert leave(24, resume=True)
    assert left(out) == (data, journal)
    train, _ = run(src, out, resume=True)
    assert train.resumed > 24
    assert contents(out) == whole


@pytest.mark.parametrize("change", ["options", "names", "sizes", "labels"])
def test_another_conversion_is_not_gone_on_with(
    change: str, src: Path, out: Path, leave: Leave
) -> None:
    leave(40)
    before = contents(out)
    options: dict[str, Any] = {}
    victim = sorted((src / "train").glob("*/*"))[5]
    if change == "options":
        options = {"quality": 80}
    elif change == "names":
        victim.rename(victim.with_name("other.jpg"))
    elif change == "sizes":
        victim.write_bytes(victim.read_bytes() + b"more")
    else:
        victim.rename(sorted((src / "train").iterdir())[-1] / victim.name)
    with pytest.raises(
        UsageError, match=r"--resume: what was left of .*train.beton is of other im"
    ):
        run(src, out, resume=True, **options)
    assert contents(out) == before


def test_what_a_living_process_writes_is_left_alone(
    src: Path, out: Path, whole: dict[str, str], leave: Leave
) -> None:
    leave(40)
    data, journal = left(out)
    ((_, held),) = _find_left(out / "train.beton")  # as the process that writes it would
    for resume in (False, True):
        train, _ = run(src, out, resume=resume)
        assert train.resumed == 0
    assert data.exists()
    os.close(held)
    run(src, out)
    assert contents(out) == whole
    assert not journal.exists()


def test_a_link_is_not_followed(src: Path, out: Path, tmp_path: Path, leave: Leave) -> None:
    leave(40)
    data, _ = left(out)
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    train, _ = run(src, out, resume=True)
    assert train.resumed == 0
    assert (tmp_path / "elsewhere").read_bytes() == before
    assert not data.is_symlink()


def test_outputs_whose_names_begin_alike(src: Path, tmp_path: Path) -> None:
    a, b = (tmp_path / f"{'long ' * 10}{name}.beton" for name in "ab")
    reached = SERVER.Value("b", False)
    process = SERVER.Process(target=converts, args=(src / "test", a, 6, OPTIONS, reached))
    process.start()
    process.join()
    assert reached.value
    run(src / "test", b, resume=True)
    assert len(list(tmp_path.glob(".long*"))) == 2
    run(src / "test", a, resume=True)
    assert not list(tmp_path.glob(".long*"))


@pytest.mark.parametrize("reason", ["", "cut short", "Zürich \udcff", "x" * 65535])
def test_entries(reason: str) -> None:
    entry = Entry(None, 0, 65535, 1 << 31, 1 << 31, 1 << 40, Note.REENCODED, reason)
    packed = bytearray(b"..." + entry.pack())
    assert _unpack(packed, 3) == (entry, len(packed))
    assert _unpack(packed[:-1], 3) is None
