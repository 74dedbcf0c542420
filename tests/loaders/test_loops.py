"""Loaders in other people's loops: the examples of LOOPS.md, run by the libraries themselves."""

import ast
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import everything, same
from loader_kinds import LONG_S
from loops import EPOCHS, SMALLER, STEPS, TEXT, lay_out, read_examples
from processes import run_program
from rendered import LOADERS, make
from torch.utils.data import IterableDataset, SequentialSampler

from pipelines.errors import UsageError
from pipelines.formats.beton import read_index
from pipelines.loaders.loops import as_dicts

PROGRAM = Path(__file__).parents[1] / "support" / "loops.py"
#: Batches of an epoch of 33 photos.
BATCHES = 5


Run = tuple[dict[str, Any], str]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Each example, run by its library: what its program tells, and all that it says."""
    folder = tmp_path_factory.mktemp("loops")
    names = [name for name in read_examples() if find_spec(name) is not None]
    for name in names:
        (folder / name).mkdir()
        lay_out(name, data, folder / name)
    ended = run_program(PROGRAM, folder, *names, folder=folder, within_s=8 * LONG_S)
    assert ended.returncode == 0, ended.stderr
    said = {name: (folder / name / "stdout").read_text() for name in names}
    return {name: (json.loads(text.splitlines()[-1]), text) for name, text in said.items()}


def run_of(name: str, runs: dict[str, Run]) -> Run:
    if name not in runs:
        pytest.skip(f"{name} is not installed")
    return runs[name]


def test_lightning_trains_and_resumes_within_epochs(runs: dict[str, Run]) -> None:
    found, _ = run_of("lightning", runs)
    assert len(set(found["expected"])) == EPOCHS * STEPS  # epochs differ
    assert found["whole"] == found["expected"]
    stopped = STEPS + 2
    assert found["begun"] + found["rest"] == found["expected"]
    assert len(found["begun"]) == stopped
    assert found["behind"] == found["expected"][STEPS:]
    assert found["overfitted"][:2] == found["overfitted"][2:]
    assert found["warned"] == []


def test_accelerates_processes_have_their_own_share(runs: dict[str, Run]) -> None:
    found, said = run_of("accelerate", runs)
    for rank, expected in zip(found["ranks"], found["expected"], strict=True):
        assert rank["is_itself"]
        assert rank["seen"] == expected
        assert rank["rest"] == expected[STEPS + 2 :]
        assert rank["labels"] == found["labels"]  # both halves make the batch of one process
    assert said.count("of 6 right") == EPOCHS


def test_transformers_trainer_resumes_within_epochs(runs: dict[str, Run]) -> None:
    found, _ = run_of("transformers", runs)
    assert found["whole"] == found["expected"]
    assert found["begun"] + found["rest"] == found["expected"]
    assert len(found["begun"]) == STEPS + 2
    assert 0 <= found["evaluated"]["eval_accuracy"] <= 1


def test_timms_loop_trains(runs: dict[str, Run]) -> None:
    found, said = run_of("timm", runs)
    assert found["seen"] == found["expected"]
    assert (found["right"], said.count("% right")) == (6, EPOCHS)


def test_examples_are_short() -> None:
    examples = read_examples()
    assert TEXT.read_text().count("```python") == len(examples)
    assert all(said in "".join(examples.values()) for said in SMALLER)
    for name, code in examples.items():
        ast.parse(code)
        assert len(code.splitlines()) <= 40, name
        assert max(map(len, code.splitlines())) <= 100, name


@pytest.mark.parametrize("name", LOADERS)
def test_a_loaded_position_outlives_set_epoch(name: str, data: Path) -> None:
    with make(name, data / "train.beton") as loader:
        loader.set_epoch(2)
        whole = everything(loader)
        state = {"seed": 0, "epoch": 2, "consumed": 16}
        loader.load_state_dict(state)
        waiting = iter(loader)  # as Lightning makes it
        loader.sampler.set_epoch(2)
        assert loader.state_dict() == state
        assert same(list(waiting), whole[2:])
        loader.set_epoch(2)
        assert same(everything(loader), whole)
        loader.load_state_dict(state)
        loader.set_epoch(3)
        loader.set_epoch(2)
        assert same(everything(loader), whole)


def test_choosing_samples_forgets_a_loaded_position(data: Path) -> None:
    with make("resident", data / "train.beton", view="eval") as loader:
        for choose in (
            lambda: loader.select(np.arange(9)),
            lambda: loader.set_place("top-left"),
            lambda: loader.set_size(32),
        ):
            loader.load_state_dict({"seed": 0, "epoch": 0, "consumed": 16})
            choose()
            assert loader.state_dict()["consumed"] == 0
            assert len(next(iter(loader))[1]) == 8


def test_a_sampler_has_its_ranks_samples(data: Path) -> None:
    index = read_index(data / "train.beton")
    for rank, view in ((0, "train"), (1, "train"), (1, "eval")):
        with make("resident", index, view=view, rank=rank, world=2, drop_last=True) as loader:
            loader.sampler.set_epoch(1)
            assert loader.plan.epoch == 1
            assert len(loader.sampler) == 16
            labels = torch.cat([answers for _, answers in loader]).tolist()
            assert index.labels[list(loader.sampler)].tolist() == labels
            assert isinstance(loader.sampler, SequentialSampler) == (view == "eval")
            assert loader.batch_sampler is None
            assert (len(loader.dataset), loader.dataset.classes) == (33, index.classes)


def test_dicts_are_the_same_tensors(data: Path) -> None:
    with make("resident", data / "train.beton") as loader:
        batches = as_dicts(loader, labels="target")
        assert (len(batches), len(batches.dataset)) == (BATCHES, 33)
        assert isinstance(batches.dataset, IterableDataset)
        batches.set_epoch(1)
        found = [(each["pixel_values"], each["target"]) for each in batches]
        assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in found)
        assert same(found, everything(loader))
        next(iter(batches))
        state = batches.state_dict()
        assert state == {"seed": 0, "epoch": 1, "consumed": 8}
        batches.load_state_dict(state)
        assert sum(1 for _ in batches) == BATCHES - 1


@pytest.mark.parametrize("taken", range(BATCHES))
def test_states_are_used_as_torchdatas(taken: int, data: Path) -> None:
    """Both give the numbers of the batches that are left, and all of them the time after."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*set_vital", UserWarning)  # torch's own words to it
        theirs = stateful(range(33), batch_size=8)
    expected = states_of(theirs, taken, lambda batch: int(batch[0]) // 8)
    with make("resident", data / "train.beton", view="eval", normalize=False) as loader:
        sums = [int(images.sum()) for images, _ in loader]
        assert len(set(sums)) == BATCHES
        loader.set_epoch(0)
        found = states_of(loader, taken, lambda batch: sums.index(int(batch[0].sum())))
    assert found == expected == [[*range(taken, BATCHES)], [*range(BATCHES)]]


def states_of(loader: Any, taken: int, number: Any) -> list[list[int]]:
    """Two iterations behind a state that was taken within one."""
    if not taken:
        state = loader.state_dict()
    for step, _ in enumerate(loader, 1):
        if step == taken:
            state = loader.state_dict()
        if step == taken + 1:
            break
    loader.load_state_dict(state)
    return [[number(batch) for batch in loader] for _ in range(2)]


def test_the_end_of_an_epoch_gives_nothing(data: Path) -> None:
    """As what is left of it: a loop that tells epochs goes on with the next one."""
    with make("resident", data / "train.beton") as loader:
        whole = everything(loader)
        loader.load_state_dict(loader.state_dict())
        loader.set_epoch(0)
        assert everything(loader) == []
        assert same(everything(loader), whole)


@pytest.mark.parametrize(
    "state",
    [{}, {"seed": 0, "epoch": 0}, {"seed": 0, "epoch": 0, "consumed": 8.0}, {"_num_yielded": 3}],
)
def test_another_loaders_state_is_refused(state: dict[str, Any], data: Path) -> None:
    with (
        make("resident", data / "train.beton") as loader,
        pytest.raises(UsageError, match=r"loader state: holds .*, expected seed, epoch, consumed"),
    ):
        loader.load_state_dict(state)
