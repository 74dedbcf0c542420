"""Leaving a loader open: the program ends as it would without it, at once and with nothing left."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from effort import choose
from loader_exits import OWN, ROOMS_MB, WAYS
from loader_kinds import KINDS, LIBRARIES, LONG_S
from whole_programs import run_whole

#: The status is also the command line's, see `fastft.cli.main.main`.
NO_MEMORY = ("memoryerror", "cannot allocate memory", "can't start new thread", "out of memory")
Tried = Callable[..., None]


#: In an ordinary run those that have once gone wrong, of few libraries.
SHORT = ("torchvision:hold", "dali:hold", "dali:starve")


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of each program, by kind and way; nothing is left of any."""
    every = [f"{kind}:{way}" for kind in KINDS for way in WAYS]
    cases = [
        case
        for case in choose(list(SHORT), every)
        if find_spec(LIBRARIES.get(case.split(":")[0], "torch").split(".")[0])
    ]
    path, folder = (
        Path(__file__).parents[1] / "support" / "loader_exits.py",
        tmp_path_factory.mktemp("exits"),
    )
    within_s = LONG_S * (len(cases) + 1)
    ended = run_whole(path, data / "train.beton", folder, *cases, folder=folder, within_s=within_s)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    assert list(found) == cases
    for case, each in found.items():
        assert not each["processes"], (case, each)
        assert not each["shared"], (case, each)
    return found


def test_programs_end_despite_open_loaders(found: dict[str, dict[str, Any]], tried: Tried) -> None:
    """Its own exit status, no word of the loader's, no process, no name in /dev/shm, no hang."""
    for case, each in found.items():
        way = case.split(":")[1]
        if way == "starve":
            continue
        assert each["status"] == WAYS[way][1], (case, each)
        if way == "raises":
            assert each["said"].endswith(f"ValueError: {OWN}\n"), (case, each)
            assert each["said"].count("Traceback") == 1, (case, each)
        else:
            assert each["said"] == "", (case, each)
        tried("a program left with a loader open")


def test_loaders_recover_from_lack_of_memory(
    found: dict[str, dict[str, Any]], tried: Tried
) -> None:
    for case, each in found.items():
        if not case.endswith(":starve"):
            continue
        assert each["status"] == 0, (case, each)
        *starved, enough = json.loads(each["said"])
        assert enough == "33 images", (case, each)
        assert starved[0] != enough
        for said in starved:
            assert said == enough or any(words in said.lower() for words in NO_MEMORY), (case, said)
        tried("an epoch without enough memory", len(ROOMS_MB) - 1)
