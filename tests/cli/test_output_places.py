"""Outputs where nothing can be written: one line that names the place, and nothing else changes."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import effort
import pytest
from commands import Case, begin, content_of

Cases = dict[str, Case]
Tried = Callable[..., None]
WRITING = (
    "synth",
    "fetch",
    "show",
    "check",
    "train",
    "evaluate",
    "predict",
    "parity",
    "report",
    "compare",
    "sweep",
    "bench",
)
#: Of capset(2), version 3.
_CAPABILITIES = 0x20080522


def _ordinary() -> None:
    """Let go of what lets root write everywhere; who is somebody else has none of it."""
    head = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    assert ctypes.CDLL(None).capset(head, (ctypes.c_uint32 * 6)()) == 0


def a_file(place: Path, out: str) -> str:
    (place / out).write_text("precious")
    return out


def through_a_file(place: Path, out: str) -> str:
    (place / "file").write_text("precious")
    return f"file/{out}"


def a_dangling_link_to_nowhere(place: Path, out: str) -> str:
    (place / out).symlink_to(place / "file" / "none")
    (place / "file").write_text("precious")
    return out


def read_only(place: Path, out: str) -> str:
    (place / "kept").write_text("precious")
    place.chmod(0o555)
    return out


FAULTS = {
    "is a file": a_file,
    "through a file": through_a_file,
    "is a link that leads nowhere": a_dangling_link_to_nowhere,
    "is read-only": read_only,
}
#: Its output is a file, which a link may lead to nowhere, since that is replaced.
FILES = ("show", "predict", "report")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *(("synth", fault) for fault in FAULTS),
        ("predict", "is a link that leads nowhere"),
        *effort.rest(
            *((name, fault) for name in WRITING[1:] for fault in FAULTS if name != "predict"),
            *(("predict", fault) for fault in FAULTS if "link" not in fault),
        ),
    ],
)
def test_a_place_that_cannot_be_written_is_named(
    name: str, fault: str, cases: Cases, tmp_path: Path, tried: Tried
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    case = cases[name]
    out = place / FAULTS[fault](place, case.out)
    if fault == "is a file" and name in ("show", "predict"):
        return  # what they replace
    before = content_of(tmp_path / "place")
    arguments = [each.replace("OUT", str(out)) for each in case.arguments]
    status, _, err = begin(arguments, tmp_path, _ordinary).end()
    place.chmod(0o755)
    if status == 0:
        assert fault == "is a link that leads nowhere", err
        assert name in FILES
        return
    assert status in (1, 2), (status, err)
    assert err.count("\n") == 1, err
    assert str(place) in err, err
    assert content_of(tmp_path / "place") == before
    tried("an output that cannot be made")
