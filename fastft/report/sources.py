"""Sources of a page: files and folders of other commands, recognized by their content.

Each kind is read by the room that wrote it, and laid out by its section.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastft.bench.plots import bench_section
from fastft.bench.result import Bench
from fastft.bench.suites import read_suite, suites_section
from fastft.check.result import FORMAT as CHECK_FORMAT
from fastft.check.result import Check
from fastft.check.section import check_section
from fastft.evaluate.label_result import LABEL_FORMAT, LabelEvaluation
from fastft.evaluate.label_section import label_section
from fastft.evaluate.number_result import NUMBER_FORMAT, NumberEvaluation
from fastft.evaluate.number_section import number_section
from fastft.evaluate.result import FORMAT, Evaluation
from fastft.evaluate.section import evaluation_section
from fastft.experiments.plots import experiments_section
from fastft.experiments.results import Comparison, Sweep
from fastft.parity.equivalence import AccuracyResult
from fastft.parity.model_section import accuracy_section
from fastft.parity.pixel_plots import pixel_section
from fastft.parity.result import Pixels
from fastft.results.read import check, flatten, parse_object, read_bytes
from fastft.results.tables import Picture, Section
from fastft.runs.folder import CONFIG, METRICS
from fastft.runs.result import read_run
from fastft.runs.section import runs_section
from pipelines.errors import DataError, UsageError, one_line

#: Where `fastft evaluate` leaves what it finds of a run.
_OF_RUN = "evaluation"
_EXPECTED = (
    "a folder or JSON of fastft train, bench, compare, sweep, parity, evaluate or check, or of the "
    "benchmark suites"
)
#: JSON files of a folder that are looked into.
_MOST_FILES = 200
#: A picture beside a JSON is taken into the page up to this size.
_MOST_PICTURE_BYTES = 4 * 2**20
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_SIDE_PX = 20_000
#: The sections of a page in their order, by the kind of their sources. Each takes tuples of a
#: source's name and of what was read of it.
SECTIONS: Mapping[str, Callable[[Sequence[Any]], Section | None]] = {
    "bench": bench_section,
    "suite": suites_section,
    "pixels": pixel_section,
    "models": accuracy_section,
    "run": runs_section,
    "experiment": experiments_section,
    "evaluation": evaluation_section,
    "check": check_section,
    "labels": label_section,
    "number": number_section,
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder that was read.

    Attributes:
        kind: of SECTIONS.
        name: what the page calls it.
        parts: what its section takes of it, behind its name.
        environment: what it ran on, facts by name.
    """

    kind: str
    name: str
    parts: tuple[Any, ...]
    environment: dict[str, str]


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Read whatever the paths hold that a page can show.

    Raises:
        UsageError: there is nothing of that at a path.
        DataError: a file cannot be read, or a field in it is missing or of another type.
    """
    paths = list(dict.fromkeys(paths))
    found: list[Source] = []
    for path, name in zip(paths, name_sources(paths), strict=True):
        found += _read_folder(path, name) if path.is_dir() else [_read_named(path, name)]
    return found


def name_sources(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; of a file without its suffix."""
    whole = [path.resolve() for path in paths]
    parts = [(path.with_suffix("") if path.is_file() else path).parts for path in whole]
    names = []
    for own in parts:
        others = [each for each in parts if each != own]
        length = 1
        while length < len(own) and any(each[-length:] == own[-length:] for each in others):
            length += 1
        names.append(one_line("/".join(own[-length:])))
    return names


def read_png(path: Path, title: str) -> Picture | None:
    """A picture for the page; None where there is none, or none that the page would take.

    The picture adds to the figures and is not needed.
    """
    try:
        content = read_bytes(path, _MOST_PICTURE_BYTES)
    except DataError:
        return None
    if not content.startswith(_PNG) or len(content) < 24 or content[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", content[16:24])
    if not (0 < width <= _MOST_SIDE_PX and 0 < height <= _MOST_SIDE_PX):
        return None
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Picture(title, uri, width, height)


def _read_named(path: Path, name: str) -> Source:
    found = _read_file(path, name)
    if found is None:
        raise UsageError(path, "JSON of nothing that a page shows", _EXPECTED, "name another")
    return found


def _read_folder(folder: Path, name: str) -> list[Source]:
    found: list[Source | None] = []
    if _is_run(folder):
        found += [_read_run(folder, name), *(_read_file(p, name) for p in _jsons(folder / _OF_RUN))]
    else:
        files = _jsons(folder)
        # Several suites in a folder are told apart by their files.
        found += [_read_file(p, name, p.stem if len(files) > 1 else name) for p in files]
    known = [each for each in found if each is not None]
    if not known:
        holds = "holds nothing that a page shows" if any(folder.iterdir()) else "an empty folder"
        raise UsageError(folder, holds, _EXPECTED, "name another")
    return known


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / METRICS).is_file()


def _jsons(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))[:_MOST_FILES]


def _read_run(folder: Path, name: str) -> Source:
    run = read_run(folder)
    return Source("run", name, (run,), flatten(run.settings.environment))


def _read_file(path: Path, name: str, suite: str | None = None) -> Source | None:
    """The source in a JSON file; None if it is nothing that a page shows.

    Args:
        path: the file.
        name: what its source is called.
        suite: what it is called if it is a suite's.
    """
    found, where = parse_object(read_bytes(path), str(path)), str(path)
    names = found.keys()
    if names >= {"config", "environment"} and path.name == CONFIG and _is_run(path.parent):
        return _read_run(path.parent, path.absolute().parent.name)
    if names >= {"benchmarks", "machine_info"}:
        parts = read_suite(found, where)
        return Source("suite", suite or name, parts, _machine(parts[0]["machine_info"]))
    kinds: tuple[tuple[bool, str, type, str], ...] = (
        (found.get("kind") == "fastft bench", "bench", Bench, ""),
        (found.get("format") == FORMAT, "evaluation", Evaluation, "top_losses.png"),
        (found.get("format") == CHECK_FORMAT, "check", Check, "leaks.png"),
        (found.get("format") == LABEL_FORMAT, "labels", LabelEvaluation, "top_losses.png"),
        (found.get("format") == NUMBER_FORMAT, "number", NumberEvaluation, "scatter.png"),
        (names >= {"variants", "gains"}, "experiment", Comparison, ""),
        (names >= {"variants", "best"}, "experiment", Sweep, ""),
        (names >= {"rows", "verdicts", "worst"}, "pixels", Pixels, "pixels.png"),
        (names >= {"findings", "losses"}, "models", AccuracyResult, ""),
    )
    for is_it, kind, result, picture in kinds:
        if is_it:
            read: Any = check(result, found, where)
            beside = (read_png(path.with_name(picture), _TITLES[picture]),) if picture else ()
            return Source(kind, name, (read, *beside), flatten(read.environment))
    return None


_TITLES = {
    "leaks.png": "Copies across splits",
    "top_losses.png": "Highest losses",
    "scatter.png": "What was predicted against the truth",
    "pixels.png": "Where the pixels differ most",
}


def _machine(found: Mapping[str, Any]) -> dict[str, str]:
    """A suite's machine, in the words of the other commands."""
    facts = {key.removeprefix("versions."): value for key, value in flatten(found).items()}
    if "cores" in facts:
        facts["cpus"] = facts.pop("cores")
    return facts
