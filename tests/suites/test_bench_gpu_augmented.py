"""The parts of `bench.gpu` on augmentation, without a GPU: operations alone, loaders with them."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from interpreted import make_changing

from bench.gpu import __main__ as command
from bench.gpu import augmented, changing
from bench.gpu.rows import ROWS
from bench.gpu.task import Found, Task
from pipelines.operations import draw_operations
from pipelines.reference import change as define

needs_dali = pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI")


@pytest.fixture(scope="module")
def task(data: Path) -> Task:
    return replace(
        command.make_task(data, rehearse=True),
        data=str(data),
        many=str(data),
        trained=(4,),
        seconds=0.001,
        workers=1,
    )


@pytest.fixture
def interpreted(
    triton_kernels: tuple[ModuleType, str],
    load_kernels: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if triton_kernels[1] != "cpu":
        pytest.skip("a rehearsal is interpreted")
    kernels = make_changing("cpu", load_kernels)
    monkeypatch.setattr("pipelines.changing.on_gpu.changing", kernels)
    monkeypatch.setenv("TRITON_INTERPRET", "")  # what a rehearsal sets is taken back
    monkeypatch.setattr(changing, "copy_rates", lambda task: {"within_device": 1e9})


def whole(found: Iterable[Found]) -> tuple[int, Found]:
    """How often something was found, and all of it."""
    steps = [json.loads(json.dumps(each)) for each in found]
    return len(steps), steps[-1]


def test_operations_alone_are_timed_and_checked(task: Task, interpreted: None) -> None:
    task = replace(task, rounds=1)
    count, found = whole(changing.measure(task))
    assert [row["asked"] for row in found["rows"]] == list(changing.ASKED)
    assert count == len(changing.ASKED) * (task.rounds + 1)
    for row in found["rows"]:
        assert len(row["img_per_s"]) == task.rounds
        assert row["bytes_per_image"] == row["passes"] * 2 * 8 * 8 * 3 > 0
        assert row["whole"]["passed"]
        assert row["operation"]["passed"]
    shown = [*ROWS["changing"]({"": found})]
    assert [goal for *_, goal in shown] == ["the definition's pixels"] * 3


def test_wrong_pixels_are_found(
    task: Task, interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the last operation is found, too, behind which nothing hides it."""
    work = changing.prepare("jitter", 2, 8, torch.device("cpu"))
    assert changing.check(work)["operation"]["passed"]
    last = work.operations.codes[0, -1]

    def define_last_wrong(image: np.ndarray, operations: Any, row: int) -> np.ndarray:
        wrong = 2 * (operations.codes[row, -1] == last)
        return np.asarray(define(image, operations, row) ^ np.uint8(wrong))

    monkeypatch.setattr(changing, "define", define_last_wrong)
    found = changing.check(work)
    assert not found["operation"]["passed"]
    assert not found["whole"]["passed"]
    assert found["operation"]["most"] >= 2


@pytest.mark.parametrize(("asked", "passes"), [("trivial, erase", False), ("rand", True)])
def test_steps_behind_a_level_may_be_many(asked: str, passes: bool) -> None:
    """A few values that are far off: of one operation, or of two, one behind the other."""
    random = np.random.default_rng(0)
    before = random.integers(0, 256, (4, 24, 24, 3), np.uint8)
    augment, here = changing.ASKED[asked], {"seed": 0, "epoch": 0, "size": 24}
    operations = draw_operations(augment, samples=np.arange(4), **here)
    after = changing.define_rows(before, operations)
    assert changing.compare(before, after, operations)["passed"]
    after[0, 0, 0] ^= 16
    found = changing.compare(before, after, operations)
    assert (found["most"], found["passed"]) == (16, passes)


@pytest.mark.parametrize("loader", ["resident", pytest.param("dali", marks=needs_dali)])
def test_loaders_are_timed_in_turn_and_checked(loader: str, task: Task) -> None:
    count, found = whole(augmented.measure(replace(task, variant=loader)))
    contenders = found["contenders"]
    assert list(contenders) == list(augmented.ASKED)
    assert count == len(contenders) * task.rounds + len(contenders) - 1
    for name, each in contenders.items():
        assert [one["img_per_s"] > 0 for one in each["rounds"]] == [True] * task.rounds
        if name != augmented.NOTHING:
            assert each["check"]["passed"], name
    shown = [*ROWS["augmented"]({loader: found})]
    assert len(shown) == len(contenders)


def test_rounds_are_in_turn(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def batches(name: str) -> Iterator[str]:
        while True:
            yield name

    def take_turn(source: Iterator[str], steps: int, task: Task) -> dict[str, float]:
        seen.append(f"{next(source)} {steps}")
        return {"img_per_s": 400.0, "cores": 1.0}

    names = iter(augmented.ASKED)
    monkeypatch.setattr(augmented, "_open", lambda *_: batches(next(names)))
    monkeypatch.setattr(augmented, "_take_turn", take_turn)
    monkeypatch.setattr(augmented, "check", lambda task: [("rand", {"passed": True})])
    *_, last = augmented.measure(replace(task, seconds=0.05, rounds=2))
    # The first turn tells how many steps take so long: 0.05 s of 400 images/s, 4 at a time.
    assert seen == ["nothing asked 2", *[f"{name} 5" for name in augmented.ASKED] * 2]
    assert last["contenders"]["rand"]["check"] == {"passed": True}


def test_wrong_mixes_are_found(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = augmented.mix_batch

    def mix_wrong(*given: Any, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = mix(*given, **how)
        return images + 0.05, labels

    asked = {"mixup": augmented.ASKED["mixup"]}
    monkeypatch.setattr(augmented, "ASKED", asked)
    monkeypatch.setattr(augmented, "mix_batch", mix_wrong)
    found = dict(augmented.check(replace(task, variant="resident")))
    assert not found["mixup"]["passed"]
    assert 2 < found["mixup"]["most"] < 4
