"""Sources of a page: files and folders of other commands, recognized by their content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastft.report.read_bench import BENCH, Bench, read_bench
from fastft.report.read_json import Fields, parse_object, read_bytes
from fastft.report.read_proof import (
    EVALUATION,
    Accuracy,
    Evaluation,
    Pixels,
    read_accuracy,
    read_evaluation,
    read_pixels,
)
from fastft.report.read_runs import Experiment, Run, read_experiment, read_run
from fastft.report.read_suite import Suite, read_suite
from fastft.runs.folder import CONFIG, METRICS
from pipelines.errors import DataError, UsageError, one_line

#: Where `fastft evaluate` leaves what it finds of a run.
_OF_RUN = "evaluation"
_EXPECTED = (
    "a folder or JSON of fastft train, bench, compare, sweep, parity or evaluate, or of the "
    "benchmark suites"
)
#: What a page is made of.
Source = Bench | Suite | Run | Experiment | Pixels | Accuracy | Evaluation
#: JSON files of a folder that are looked into.
_MOST_FILES = 200


@dataclass(frozen=True, slots=True)
class Sources:
    """All that was read, by kind, each in the order in which it was named."""

    benches: tuple[Bench, ...] = ()
    suites: tuple[Suite, ...] = ()
    runs: tuple[Run, ...] = ()
    experiments: tuple[Experiment, ...] = ()
    pixels: tuple[Pixels, ...] = ()
    models: tuple[Accuracy, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def all(self) -> tuple[Bench | Suite | Run | Experiment | Pixels | Accuracy | Evaluation, ...]:
        """One after another."""
        return (
            *self.benches, *self.suites, *self.runs, *self.experiments, *self.pixels,
            *self.models, *self.evaluations,
        )  # fmt: skip


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read whatever the paths hold that a page can show.

    Raises:
        UsageError: there is nothing of that at a path.
        DataError: a file cannot be read, or a field in it is missing or of another type.
    """
    paths = list(dict.fromkeys(paths))
    found: list[Source] = []
    for path, name in zip(paths, name_sources(paths), strict=True):
        found += _read_folder(path, name) if path.is_dir() else [_read_named(path, name)]
    return Sources(
        benches=tuple(each for each in found if isinstance(each, Bench)),
        suites=tuple(each for each in found if isinstance(each, Suite)),
        runs=tuple(each for each in found if isinstance(each, Run)),
        experiments=tuple(each for each in found if isinstance(each, Experiment)),
        pixels=tuple(each for each in found if isinstance(each, Pixels)),
        models=tuple(each for each in found if isinstance(each, Accuracy)),
        evaluations=tuple(each for each in found if isinstance(each, Evaluation)),
    )


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


def _read_named(path: Path, name: str) -> Source:
    found = _read_file(path, name)
    if found is None:
        raise UsageError(path, "JSON of nothing that a page shows", _EXPECTED, "name another")
    return found


def _read_folder(folder: Path, name: str) -> list[Source]:
    found: list[Source | None] = []
    if _is_run(folder):
        found += [read_run(folder, name), *(_read_file(p, name) for p in _jsons(folder / _OF_RUN))]
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


def _read_file(path: Path, name: str, suite: str | None = None) -> Source | None:
    """What a JSON file holds; None if nothing that a page shows.

    Args:
        path: the file.
        name: what its source is called.
        suite: what it is called if it is a suite's.
    """
    found = parse_object(read_bytes(path), str(path))
    names = found.names
    if names >= {"config", "environment"} and path.name == CONFIG and _is_run(path.parent):
        return read_run(path.parent, path.absolute().parent.name)
    if _says(found, "kind", BENCH):
        return read_bench(found, name)
    if names >= {"benchmarks", "machine_info"}:
        return read_suite(found, suite or name)
    if _says(found, "format", EVALUATION):
        return read_evaluation(found, name, path)
    if names >= {"variants", "gains"} or names >= {"variants", "best"}:
        return read_experiment(found, name)
    if names >= {"rows", "verdicts", "worst"}:
        return read_pixels(found, name, path)
    if names >= {"findings", "losses"}:
        return read_accuracy(found, name)
    return None


def _says(found: Fields, name: str, value: str) -> bool:
    try:
        return found.text(name) == value
    except DataError:
        return False
