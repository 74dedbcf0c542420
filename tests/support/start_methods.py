"""Loaders in other processes: of each kind, unused, used, in the middle of an epoch.

    python tests/support/start_methods.py DATA FOLDER PLACE:METHOD,... KIND...

PLACE is `DataLoader`, `Process` or `os.fork`; METHOD is how its processes are started, and the
first of them how all others are. Prints JSON: what became of each loader in each place, the rest of
the epochs that were begun before, and an epoch here.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from effort import choose
from loader_kinds import LONG_S, make_kind
from torch.utils.data import DataLoader, IterableDataset

from pipelines.loaders import Loader

STATES = ("unused", "used", "middle")
#: Those that start processes.
STARTING = ("torchvision", "stock")
#: Those that a `Process` is not given that is no fork, as it takes seconds to load their libraries.
LEFT_OUT = choose((*STARTING, "ffcv"), STARTING[1:])
#: Iterations that are under way.
MIDDLE: dict[str, Iterator[Any]] = {}
#: What the child of `os.fork` ends with.
STATUS = 7


def look(loader: Iterable[Any]) -> str:
    """An epoch's number of images and their checksum, or the error."""
    count = checksum = 0
    try:
        for images, labels in loader:
            count += len(labels)
            checksum = zlib.crc32(images.contiguous().numpy(), checksum)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{count} images, {checksum}"


def end_after(limit_s: int) -> None:
    """What waits for ever says where, and ends."""
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(limit_s)


def look_at(loaders: dict[str, Loader]) -> dict[str, str]:
    """The same of several, by name, in another process than the one that made them."""
    end_after(4 * LONG_S)
    # So long torch waits, in a fork, for a worker that is its parent's. In the parent, where a busy
    # machine needs longer, workers that are not waited for would be left to the next fork.
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2
    return {name: look(loader) for name, loader in loaders.items()}


class Several(IterableDataset):  # type: ignore[type-arg]
    """What a DataLoader's worker iterates."""

    def __init__(self, loaders: dict[str, Loader]) -> None:
        self.loaders = loaders

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from look_at(self.loaders).items()


def in_data_loader(loaders: dict[str, Loader], method: str, file: Path) -> dict[str, str]:
    return dict(
        DataLoader(
            Several(loaders),
            batch_size=None,
            num_workers=1,
            timeout=4 * LONG_S,
            multiprocessing_context=method,
        )
    )


def tell(loaders: dict[str, Loader], file: Path) -> None:
    """What a process does: it writes what it finds, and leaves the loaders open."""
    file.write_text(json.dumps(look_at(loaders)))


def in_process(loaders: dict[str, Loader], method: str, file: Path) -> dict[str, str]:
    process: Any = multiprocessing.get_context(method).Process(target=tell, args=(loaders, file))  # type: ignore[attr-defined]
    process.start()
    process.join()
    return read(file, process.exitcode)


def in_fork(loaders: dict[str, Loader], method: str, file: Path) -> dict[str, str]:
    """The child ends as a program does, by its last line, in the middle of epochs."""
    child = os.fork()
    if child == 0:
        tell(loaders, file)
        held = {f"{name}:held": look(each) for name, each in MIDDLE.items()}
        file.write_text(json.dumps(json.loads(file.read_text()) | held))
        MIDDLE.clear()
        for name, loader in loaders.items():
            MIDDLE[name] = iter(loader)
            next(MIDDLE[name])
        sys.exit(STATUS)
    return read(file, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - STATUS)


def read(file: Path, status: int | None) -> dict[str, str]:
    if status or not file.exists():
        return {"error": f"ended with status {status}"}
    found: dict[str, str] = json.loads(file.read_text())
    file.unlink()
    return found


def make(data: Path, folder: Path, kinds: list[str], forks: bool) -> dict[str, Loader]:
    """Loaders in every state; those whose threads are about to begin come last."""
    loaders = {}
    for state in ("middle", "used", "unused"):
        for kind in kinds:
            if forks or kind not in STARTING or state == "unused":
                place = folder / f"{kind}-{state}"
                place.mkdir()
                options = {"normalize": True} if kind == "stock" else {}
                loader = make_kind(kind, data, place, workers=1, **options)
                loaders[f"{kind}:{state}"] = loader
                if state == "used":
                    list(loader)
                elif state == "middle":
                    MIDDLE[f"{kind}:{state}"] = iter(loader)
                    next(MIDDLE[f"{kind}:{state}"])
    return loaders


def main() -> None:
    data, folder, asked, *kinds = sys.argv[1:]
    places = [place.split(":") for place in asked.split(",")]
    multiprocessing.set_start_method(places[0][1], force=True)
    # Several are started, and each would import this for seconds.
    multiprocessing.set_forkserver_preload(["loader_kinds", "pipelines.loaders.torchvision_loader"])
    forks = places[0][1] == "fork"
    end_after(5 * LONG_S)
    loaders = make(Path(data), Path(folder), kinds, forks)
    found: dict[str, Any] = {}
    few = {
        name: loader
        for name, loader in loaders.items()
        if forks or name.split(":")[0] not in LEFT_OUT
    }
    for place, method in places:
        look_in = {"DataLoader": in_data_loader, "Process": in_process, "os.fork": in_fork}[place]
        tried = loaders if place == "DataLoader" else few
        found[f"{place}:{method}"] = look_in(tried, method, Path(folder) / "found")
    found["rest"] = {name: sum(len(labels) for _, labels in MIDDLE[name]) for name in MIDDLE}
    found["here"] = {
        name: look(each) for name, each in loaders.items() if forks or name != "stock:unused"
    }
    for loader in loaders.values():
        loader.close()
    found["closed"] = {name: look(each) for name, each in loaders.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
