"""Files that stand for gigabytes are refused by what they say, before memory is taken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run_program

PROGRAM = Path(__file__).parents[1] / "support" / "hostile_bombs.py"
_REFUSED = {
    "JPEG of 60000x60000": "60000 x 60000 px is more than 178,956,970 pixels",
    "JPEG of 60000x60000 in a folder": "60000 x 60000 px is more than 178,956,970 pixels",
    "PNG of 60000x60000": "60000 x 60000 px is more than 178,956,970 pixels (268,435,456 are",
    "PNG of 60000x60000 in a folder": "60000 x 60000 px is more than 178,956,970 pixels",
    "zip of zeros": "declares 1,073,741,824 bytes in 1,0",
    "zip of a hole": "declares 1,610,612,736 bytes, more than 1,431,655,760",
    "photo of a terabyte": "is 1,099,511,627,776 bytes long, more than 1,431,655,760",
    "photo of a terabyte as a source": "is 1,099,511,627,776 bytes long, more than 1,431,655,760",
    "pipe as a photo": "is no plain file",
    "pipe as a source": "is no plain file",
    "device as a photo": "is no plain file",
    "device as a source": "is no plain file",
    "record of 2 gigabytes": "2,147,483,620 bytes, more than 1,431,655,760",
    "index of a terabyte": "1,099,511,627,776 bytes for 1 records",
    "settings of a terabyte": "more than 262,144 bytes",
    "weights that inflate": "data.pkl is compressed",
    "weights that clear a gigabyte": "it asks for memory of its own",
    "checkpoint of a network of gigabytes": "has 77 numbers, expected the 644,812,894 of a regnet",
    "checkpoint of a million classes": "no classifier.1.weight, expected the tensors of a squeezen",
    "checkpoint of images of 100,000 px": "holds a wrong 'size': 100000",
    "tar of a terabyte": "unpacks to more than 1,073,741,824 bytes",
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What `hostile_bombs` says, which has 300 MB."""
    folder = tmp_path_factory.mktemp("bombs")
    ended = run_program(PROGRAM, folder, folder=folder, within_s=200)
    assert not ended.returncode, ended.stderr[-3000:]
    return json.loads(ended.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", _REFUSED)
def test_what_stands_for_gigabytes_is_refused(
    name: str, outcome: dict[str, object], tried: Callable[..., None]
) -> None:
    said = outcome["said"]
    assert isinstance(said, dict)
    assert said.keys() == _REFUSED.keys()
    assert _REFUSED[name] in said[name]
    tried("files that stand for gigabytes refused")


def test_no_memory_is_taken_for_it(outcome: dict[str, object]) -> None:
    assert isinstance(outcome["taken_bytes"], int)
    assert outcome["taken_bytes"] < 100 << 20
