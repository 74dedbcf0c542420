"""What holds however long it goes on: results are exact, and nothing is held that is not needed."""

import gc
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from effort import SOAK_H, choose, long, rest
from held import Held, growth
from load import KINDS, Pace, Together, break_sample, run_loaders
from load_leaks import run_leaking
from load_trainings import run_trainings
from processes import SERVER

from fastft.datasets.synth import SynthConfig, write_synth
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.loaders import make_loader

#: In an ordinary run nothing: a file or thread that is leaked every 50 epochs is one more behind
#: the 64 that lie between its thirds. In a long one a library may start one by and by.
NOTHING = Held(0, 0, 0, 0, 0)
MOST = choose(NOTHING, Held(0, 1, 1, 0, 1))
#: KB that allocators and libraries take by and by, in an ordinary run and in a long one, and what
#: an epoch may leave of them.
SHORT_KB, LONG_KB, EPOCH_KB = 1536, 8192, 1.0
#: Of trainings, whose steps are larger and whose files are drawn and written by others.
TRAINING_KB, TRAINING_EPOCH_KB = choose(12_000, 24_000), 8.0
#: Of a process, beside the time that it is given.
LIMIT_S = max(200.0, SOAK_H * 3600)
#: Each takes its share of a soak.
KINDS_OF_WORK = len(KINDS) + 1
SHORT = Pace(points=6, warm_up=2, epochs=16, seconds=0, plans=3)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 small photos to train with and 4 to evaluate, as photos/ and as data/."""
    out = tmp_path_factory.mktemp("few")
    sizes = {"classes": 2, "per_class": 7, "test_per_class": 2, "size": (48, 36)}
    write_synth(SynthConfig(out=out / "photos", **sizes))
    convert(ConvertConfig(src=out / "photos", out=out / "data"))
    return out


def pace_of(short: Pace, parts: int) -> Pace:
    """That pace, or the same work for a kind's share of the hours that there are."""
    points, warm_up, seconds = 60, 6, SOAK_H * 3600 / KINDS_OF_WORK
    each_s = seconds / parts / (points + warm_up)
    return choose(short, Pace(points=points, warm_up=warm_up, epochs=1, seconds=each_s, plans=9))


def together(work: Callable[..., None], size: int, folder: Path, *more: Any) -> Any:
    """What `work(rank, ...)` answers in each of so many processes."""
    with_others = Together(SERVER, size)
    processes = [
        SERVER.Process(target=work, args=(rank, *more, with_others)) for rank in range(size)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(LIMIT_S)
            assert process.exitcode == 0, f"exit status {process.exitcode}"
    finally:
        for process in processes:
            end_all(process)
    answers = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    failed = "".join(answer.get("failed", "") for answer in answers)
    assert not failed, failed
    return answers


def end_all(process: Any) -> None:
    """End a process, and the workers that it would leave behind."""
    try:
        family = psutil.Process(process.pid).children(recursive=True) if process.pid else []
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def grown_in(
    answers: list[dict[str, Any]],
    base_kb: int = choose(SHORT_KB, LONG_KB),
    epoch_kb: float = EPOCH_KB,
    most: Held = MOST,
) -> dict[str, dict[str, Any]]:
    """By part and process, what has grown there."""
    grown = {}
    for rank, answer in enumerate(answers):
        epochs = answer["epochs"] / len(answer["points"])
        most = replace(most, memory=int(base_kb + epoch_kb * epochs))
        for part, points in answer["points"].items():
            grown[f"{part}, process {rank}"] = growth([Held(*point) for point in points], most)
    return {name: found for name, found in grown.items() if found}


def library_of(loader: str) -> str:
    return {"dali": "nvidia.dali", "ffcv": "ffcv"}.get(loader, "torchvision")


def is_here(loader: str) -> bool:
    library = library_of(loader)
    return find_spec(library.split(".")[0]) is not None and find_spec(library) is not None


#: In an ordinary run threads of ours; what all kinds give is held against the plan by test_loaders,
#: test_set_size and test_loader_faults.
@pytest.mark.parametrize(
    "kind", ["resident", *rest(*(kind for kind in KINDS if kind != "resident"))]
)
def test_loaders(kind: str, few: Path, tmp_path: Path, tried: Callable[..., None]) -> None:
    what = KINDS[kind]
    if not is_here(what.loader):
        pytest.skip(f"{library_of(what.loader)} is not installed")
    good = few / "photos" / "train" if what.of_folder else few / "data" / "train.beton"
    answers = together(
        run_loaders,
        what.world,
        tmp_path,
        kind,
        good,
        tmp_path,
        pace_of(SHORT, parts=2),
        str(os.getpid()),
    )
    tried("epochs under load", sum(answer["epochs"] for answer in answers))
    assert grown_in(answers) == {}


def test_trainings(few: Path, tmp_path: Path, tried: Callable[..., None]) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    break_sample(few / "data" / "train.beton", bad / "train.beton")
    shutil.copy(few / "data" / "test.beton", bad)
    loaders = [each for each in ("resident", "ffcv", "torchvision", "dali") if is_here(each)]
    short = Pace(points=6, warm_up=2, epochs=1, seconds=0, plans=0)
    (answer,) = together(
        run_trainings,
        1,
        tmp_path,
        few / "data",
        bad,
        tmp_path,
        pace_of(short, parts=1),
        choose(loaders[:1], loaders),
    )
    tried("epochs under load", answer["epochs"])
    assert grown_in([answer], TRAINING_KB, TRAINING_EPOCH_KB) == {}


@long  # it puts the tests above to the proof, as the next one does what they compare by
def test_what_leaks_is_found(few: Path, tmp_path: Path, tried: Callable[..., None]) -> None:
    """Of a batch's memory in each epoch, and of one file, thread and so on in 50 of them."""
    answers = together(
        run_leaking, 1, tmp_path, few / "data" / "train.beton", tmp_path, SHORT, str(os.getpid())
    )
    tried("epochs under load", answers[0]["epochs"])
    grown = grown_in(answers, SHORT_KB, most=NOTHING)
    names = {each.name for each in fields(Held)}
    assert {part: set(found) for part, found in grown.items()} == {
        "stay, process 0": names,
        "come and go, process 0": names,
    }


def test_growth_is_told_from_noise() -> None:
    draw = Random(1)

    def points(kb_per_point: float) -> list[Held]:
        return [
            Held(int(400_000 + draw.uniform(-900, 900) + at * kb_per_point), 9, 5, 1, 0)
            for at in range(60)
        ]

    most = Held(2000, 0, 0, 0, 0)
    assert growth(points(0), most) == {}
    assert set(growth(points(100), most)) == {"memory"}
    odd = points(0)
    odd[-3] = Held(900_000, 40, 40, 3, 7)  # something that was under way
    assert growth(odd, most) == {}


def native_threads() -> int:
    return psutil.Process().num_threads()


def test_dali_frees_threads_despite_held_batches(few: Path, tmp_path: Path) -> None:
    """Of a loader that is closed: an iteration, or the error that ended the last one."""
    if not is_here("dali"):
        pytest.skip("nvidia.dali is not installed")
    bad = tmp_path / "bad.beton"
    break_sample(few / "data" / "train.beton", bad)
    options: dict[str, Any] = {"size": 33, "batch_size": 4, "workers": 2}
    with make_loader("dali", few / "data" / "train.beton", **options) as loader:
        list(loader)  # what the library starts once stays
    before = native_threads()
    loader = make_loader("dali", few / "data" / "train.beton", **options)
    batches = iter(loader)
    next(batches)
    assert native_threads() > before
    loader.close()
    assert ends_at(before)
    with pytest.raises(UsageError, match="is closed"):
        next(batches)
    broken = make_loader("dali", bad, **options)
    with pytest.raises(DataError):
        list(broken)
    broken.close()
    assert ends_at(before)


def ends_at(threads: int) -> bool:
    """Whether there are no more than that, as soon as those have ended that are about to."""
    gives_up_s = time.monotonic() + 60
    while native_threads() > threads and time.monotonic() < gives_up_s:
        gc.collect(0)
    return native_threads() <= threads
