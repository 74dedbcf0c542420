"""Hostile files that one command leaves for another: journals, markers, findings, states."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import odd_states
import safetensors.torch
import torch
from effort import choose
from hostile import TEXT_TOKENS, Number, Target
from hostile_beton import jpegs
from pages import WRITERS

from fastft.datasets.fetch import FetchConfig, _find_unpacked, _Marker
from fastft.datasets.part import Part
from fastft.datasets.synth import MARKER as SYNTH_MARKER
from fastft.datasets.synth import SPLITS, WRITER, _first_foreign
from fastft.datasets.unpack import MARKER
from fastft.model.weights import load_weights
from fastft.report.page import write_report
from pipelines.conversion import run as converting
from pipelines.conversion.report import Report
from pipelines.conversion.run import ConvertConfig, Progress, convert
from pipelines.errors import DataError, UsageError

_URL = "http://example.org/a.zip"


class Conversion:
    """One that was left in its middle: its journal, its data, and what comes of it in the end."""

    def __init__(self) -> None:
        self.journal = self.data = b""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "x.beton"

            def keep(split: str, done: int, *_: object) -> None:
                if done == 3:
                    (journal,) = out.parent.glob(".x.beton.*.journal")
                    self.journal = journal.read_bytes()
                    self.data = journal.with_suffix("").read_bytes()

            usual = converting._TASK_IMAGES
            converting._TASK_IMAGES = 1
            try:
                convert_photos(out, keep)
            finally:
                converting._TASK_IMAGES = usual
            self.whole = out.read_bytes()


@functools.cache
def conversion() -> Conversion:
    return Conversion()


def convert_photos(out: Path, on_progress: Progress | None = None, **options: Any) -> Report:
    """Convert three photos and what is none, which are beside the output."""
    for number, image in enumerate((*jpegs()[:3], b"no image")):
        path = out.parent / "src" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    config = ConvertConfig(src=out.parent / "src", out=out, workers=1, max_bad="1", **options)
    (report,) = convert(config, on_progress)
    return report


def read_journal(path: Path) -> None:
    """Go on with a conversion as the journal says: whatever that is, the same comes of it."""
    found = path.read_bytes()
    path.with_suffix("").write_bytes(conversion().data)
    out = path.with_name("x.beton")
    try:
        report = convert_photos(out, resume=True)
    except UsageError as error:
        if error.where != "--resume":  # which says that it is of another conversion
            raise
    else:
        assert out.read_bytes() == conversion().whole
        assert found != conversion().journal or report.resumed == 3


def read_marker(path: Path) -> None:
    """Look for a data set in a folder that says of itself where it is from."""
    (path.parent / "1.jpg").touch()
    _find_unpacked(FetchConfig(source=_URL, out=path.parents[1]))


def read_marker_in_its_folder(path: Path) -> None:
    folder = path.parent / "set"
    folder.mkdir(exist_ok=True)
    (folder / MARKER).write_bytes(path.read_bytes())
    read_marker(folder / MARKER)


def marker_seeds() -> list[bytes]:
    marker = _Marker(_URL, "example.org/a.zip", "ab" * 20, "cd" * 32, 2)
    return [json.dumps({name: getattr(marker, name) for name in _Marker.__slots__}).encode()]


def read_sidecar(path: Path) -> None:
    """Take up a download that broke off."""
    target = path.with_name(path.name.removesuffix(".part.json"))
    path.with_suffix("").write_bytes(b"half of it")
    with Part(target, "example.org/a.zip", lambda stage, done, total: None) as part:
        assert part.size <= 10
        assert isinstance(part.validator, str)
        assert part.total is None or part.total >= part.size


def read_synth_marker(path: Path) -> None:
    """Ask whether a folder may be replaced."""
    photo = path.parent / SPLITS[0] / "a" / "0000.jpg"
    photo.parent.mkdir(parents=True, exist_ok=True)
    photo.touch()
    _first_foreign(path.parent)


def synth_seeds() -> list[bytes]:
    counts = dict.fromkeys(SPLITS, 3)
    return [json.dumps({"writer": WRITER, "classes": ["a", "b"], "counts": counts}).encode()]


def page_seeds() -> list[bytes]:
    """In an ordinary run of the kinds that are soon drawn; `test_page` reads and draws all."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in choose(("pixels", "sweep"), [each for each in WRITERS if each != "run"]):
            found += [p.read_bytes() for p in WRITERS[name](Path(folder) / name).glob("*.json")]
    return found


def read_page(path: Path) -> None:
    """Make a page of it."""
    write_report([path], path.with_name("report.html"))


def weights_seeds() -> list[bytes]:
    state = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}
    found = [safetensors.torch.save(state)]
    for content in (state, {"state_dict": state}, {"module.a": torch.ones(2, dtype=torch.half)}):
        target = io.BytesIO()
        torch.save(content, target, _use_new_zipfile_serialization=len(found) != 2)
        found.append(target.getvalue())
    return found


def read_weights(path: Path) -> None:
    found = load_weights(str(path), "resnet18")
    assert found is not None
    for name, tensor in found.state.items():
        torch.empty_like(tensor).copy_(tensor)
        assert isinstance(name, str)


def read_states(path: Path) -> None:
    """A checkpoint of an earlier version, changed as the bytes say, and a step from it.

    If a file of today can say the same, that first.
    """
    content, kind = odd_states.changed_by(path.read_bytes())
    try:
        today = odd_states.write(path.parent / "today", content)
    except (TypeError, AttributeError, KeyError, ValueError):
        today = None
    refused = None
    if today is not None:
        try:
            odd_states.go_on(today.parent, kind)
        except DataError as error:
            refused = error
    odd_states.write_old(path.parent, content)
    odd_states.go_on(path.parent, kind)
    if refused is not None:
        raise refused


_EDITS = tuple(np.random.default_rng(3).bytes(3) for _ in range(97))
LEFT = (
    Target(
        name="journal",
        group="conversions left half done",
        file=".x.beton.0.journal",
        read=read_journal,
        seeds=lambda: [conversion().journal],
        heals=True,
    ),
    Target(
        name="marker",
        group="settings and reports",
        file="marker.json",
        seeds=marker_seeds,
        read=read_marker_in_its_folder,
        tokens=TEXT_TOKENS,
        heals=True,
    ),
    Target(
        name="sidecar",
        group="settings and reports",
        file="a.zip.part.json",
        read=read_sidecar,
        seeds=lambda: [b'{"origin": "example.org/a.zip", "validator": "\\"v\\"", "total": 99}\n'],
        tokens=TEXT_TOKENS,
    ),
    Target(
        name="synth-marker",
        group="settings and reports",
        file=SYNTH_MARKER,
        heals=True,
        read=read_synth_marker,
        seeds=synth_seeds,
        tokens=TEXT_TOKENS,
    ),
    Target(
        name="page",
        group="settings and reports",
        file="x.json",
        read=read_page,
        seeds=page_seeds,
        tokens=TEXT_TOKENS,
    ),
    Target(
        name="weights",
        group="checkpoints",
        file="w",
        read=read_weights,
        seeds=weights_seeds,
        numbers=lambda content: [Number(0, 8)] if content[8:9] == b"{" else [],
        tokens=(b"K", b"X", b"}", b"]", b"t", b"R", b"q\0", b"\x85", b"storage", b"F64", b"["),
    ),
    Target(
        name="states",
        group="checkpoints",
        file="edits.bin",
        read=read_states,
        heals=True,
        seeds=lambda: [b"\0", b"\1"],
        tokens=_EDITS,
    ),
)
