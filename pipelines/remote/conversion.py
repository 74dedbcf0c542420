"""`convert` where its input, its output or both lie in a store.

Outputs are written to a working folder on this machine, and put where they are to be when all of
them are whole. The folder stays when the process is killed or a transfer fails: the same command
fetches no byte twice and, with `--resume`, converts and uploads what is left. Other errors remove
it, as Ctrl-C does, and so does success.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.atomic import write_whole
from pipelines.conversion.division import divide_listings
from pipelines.conversion.inputs import Listing, hash_labels, open_listings
from pipelines.conversion.outputs import name_outputs, quarantine_path
from pipelines.conversion.report import Report
from pipelines.conversion.run import ConvertConfig, Progress, convert
from pipelines.errors import DataError, FastftError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.shards import Quarantined, parse_shard
from pipelines.remote.address import join, name_of, remote_address, show
from pipelines.remote.cache import held
from pipelines.remote.faults import Missing, StoreError
from pipelines.remote.fetching import OnBytes, say_nothing
from pipelines.remote.rows import read_rows
from pipelines.remote.source import Input, open_input
from pipelines.remote.store import PATIENT, Patience, Store
from pipelines.remote.uploading import require_replaceable, require_writable, upload_file
from pipelines.workers import cpu_count

#: Threads where images are read one by one from where they lie: an object takes 30 ms to come,
#: during which a thread does nothing.
_READERS = 32
#: The identity of a finished conversion, in a file beside its outputs.
_FINISHED = "finished.json"


def convert_remote(
    config: ConvertConfig,
    on_progress: Progress | None = None,
    on_bytes: OnBytes = say_nothing,
    *,
    work: Path | None = None,
    patience: Patience = PATIENT,
) -> list[Report]:
    """Convert a data set, either end of which may be an address; see `conversion.run.convert`.

    Args:
        config: `src`, `out` or both may be addresses, as `Path` has made of them.
        on_progress: told of the conversion.
        on_bytes: told of what is fetched and uploaded.
        work: the folder for what is on its way; None takes one below the user's cache.
        patience: how often a store is asked again.

    Returns:
        The reports of `convert`; `out` of a remote output is its address, for `address.show`.

    Raises:
        DataError: as `convert`; a store does not hand out or take what it should.
        UsageError: as `convert`; an address is none, or a library is missing.
    """
    src, out = remote_address(config.src), remote_address(config.out)
    if config.image_root is not None and (root := remote_address(config.image_root)):
        raise UsageError("--image-root", show(root), "a local folder", "copy it first")
    if src is None and out is None:
        return convert(config, on_progress)
    stores = {end: Store(end, patience) for end in (src, out) if end is not None}
    if out is not None:
        require_writable(stores[out], out)
    with _working((work or _usual_work()) / _name(config), config) as folder, _naming() as names:
        given = Input(src=config.src)
        if src is not None:
            given = open_input(src, folder, on_bytes, store=stores[src])
            names[given.src] = show(src)
        with _open(config, given, stores.get(src or "")) as listings:
            is_read_there = given.listings is not None or bool(given.beside)
            if is_read_there and not config.workers:
                config = replace(config, workers=max(_READERS, cpu_count()))
            here = replace(config, src=given.src)
            if out is None:
                return convert(here, on_progress, nullcontext(listings))
            plan = _plan(here, out, folder / "out", listings, stores[out])
            here = replace(here, out=plan.out)
            names.update((file, show(address)) for file, address in plan.addresses.items())
            reports = _finished(here, listings, plan) if config.resume else None
            if reports is None:
                (plan.folder / _FINISHED).unlink(missing_ok=True)
                reports = convert(here, on_progress, nullcontext(listings))
                text = {"conversion": _identify(here, listings)}
                write_whole(plan.folder / _FINISHED, json.dumps(text) + "\n")
        for report in reports:
            _upload(report, plan.addresses[report.out], on_bytes, stores[out])
            report.out = Path(plan.addresses[report.out])
    return reports


@dataclass(frozen=True, slots=True)
class _Plan:
    """The outputs of a conversion on their way.

    Attributes:
        folder: they lie there until they are uploaded.
        out: what is to be the conversion's output there.
        addresses: file -> where it is to be.
    """

    folder: Path
    out: Path
    addresses: Mapping[Path, str]


def _usual_work() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "fastft" / "remote"


def _name(config: ConvertConfig) -> str:
    """The name of a conversion's working folder, the same each time."""
    ends = [remote_address(end) or str(end.absolute()) for end in (config.src, config.out)]
    ends.append(config.shard)
    return hashlib.sha256("\0".join(ends).encode("utf-8", "surrogateescape")).hexdigest()[:16]


@contextmanager
def _naming() -> Iterator[dict[Path, str]]:
    """Errors of this block name addresses, not the files here that stand for them.

    Yields:
        What to call each of these, to be filled.
    """
    names: dict[Path, str] = {}
    try:
        yield names
    except FastftError as error:
        parts = [error.where, error.found, error.expected, error.remedy]
        told = parts
        # The longest first: one may begin as another does.
        for path, name in sorted(names.items(), key=lambda item: -len(str(item[0]))):
            told = [part.replace(str(path), name) for part in told]
        if told == parts:
            raise
        raise type(error)(*told) from error


@contextmanager
def _working(folder: Path, config: ConvertConfig) -> Iterator[Path]:
    """The working folder of a conversion, this process's alone; see the file's head."""
    with held(folder, waits=False):
        os.chmod(folder, 0o700)
        if not config.resume:
            shutil.rmtree(folder / "out", ignore_errors=True)
        try:
            yield folder
        except StoreError as error:
            if not any(path.is_file() for path in folder.rglob("*")):
                shutil.rmtree(folder, ignore_errors=True)
                raise
            remedy = f"{error.remedy}; " if error.remedy else ""
            remedy += f"what has come so far is kept in {folder}, for the same command --resume"
            raise StoreError(error.where, error.found, error.expected, remedy) from error
        except (Exception, KeyboardInterrupt, GeneratorExit):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _open(config: ConvertConfig, given: Input, store: Store | None) -> Iterator[dict[str, Listing]]:
    """The listings of the input; a table's images are read from its store, if it is of one."""
    opened: AbstractContextManager[dict[str, Listing]]
    if given.listings is None:
        opened = open_listings(
            given.src, config.classes, names=config.names, image_root=config.image_root
        )
    else:
        if config.classes:
            found, expected = f"given for {show(config.src)}", "data whose labels are numbers"
            raise UsageError("--classes", found, expected, "leave it out")
        opened = nullcontext(dict(given.listings))
    with opened as listings:
        if store is not None and given.beside:
            listings = read_rows(listings, given.beside, store)
        yield listings


def _plan(
    config: ConvertConfig, out: str, folder: Path, listings: Mapping[str, Listing], store: Store
) -> _Plan:
    """Name the outputs as `convert` will, and see that they may be put where they are to be.

    Raises:
        UsageError: they may not.
    """
    splits, _ = divide_listings(config.src, dict(listings), config.division)
    name = name_of(out) or "data"
    if "" not in splits and name.endswith(".beton"):
        found, expected = "is one file", f"a folder for the splits of {show(config.src)}"
        raise UsageError(show(out), found, expected, "name a folder")
    here, base = folder / name, out.rstrip("/")
    is_folder = "" not in splits
    if not is_folder and not name.endswith(".beton"):
        is_folder = _is_folder(store, out)
        base += "" if is_folder else ".beton"
        here = here if is_folder else folder / f"{name}.beton"
    (here if is_folder else folder).mkdir(parents=True, exist_ok=True)
    shard = parse_shard(config.shard)
    outputs = name_outputs(config.src, here, splits, shard).values()
    merged = name_outputs(config.src, here, splits).values()
    addresses = {}
    for file in (*outputs, *merged):  # of shards what they are to be merged to, too
        address = join(base, file.name)
        if not is_folder:
            address = join(base.rpartition("/")[0], file.name)
        require_replaceable(store, address)
        addresses[file] = address
    return _Plan(folder, here, addresses)


def _is_folder(store: Store, address: str) -> bool:
    try:
        return store.stat(address).is_folder
    except Missing:
        return False


def _upload(report: Report, address: str, on_bytes: OnBytes, store: Store) -> None:
    """Put one output where it is to be, behind the list of what it leaves out."""
    listed, there = quarantine_path(report.out), _quarantine_address(address)
    if listed.exists():
        upload_file(listed, there, on_bytes, store=store)
    upload_file(report.out, address, on_bytes, store=store)
    if not listed.exists():
        store.remove(there)  # an earlier conversion's


def _quarantine_address(address: str) -> str:
    holder, _, name = address.rpartition("/")
    return f"{holder}/{quarantine_path(Path(name)).name}"


def _identify(config: ConvertConfig, listings: Mapping[str, Listing]) -> str:
    """A hash of what is converted and how, as far as it can be seen without reading images."""
    settings = asdict(replace(config, workers=0, resume=False, src=Path(), out=Path()))
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    for split, listing in listings.items():
        sizes = np.fromiter(map(listing.size_bytes, range(len(listing))), "<i8", len(listing))
        names = "\0".join((split, *listing.classes, "", *listing.names))
        digest.update(names.encode("utf-8", "surrogateescape") + sizes.tobytes())
        digest.update(hash_labels(listing))
    return digest.hexdigest()


def _finished(
    config: ConvertConfig, listings: Mapping[str, Listing], plan: _Plan
) -> list[Report] | None:
    """The reports of a conversion that an earlier process had done; None if it had not."""
    try:
        told = json.loads((plan.folder / _FINISHED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("conversion") != _identify(config, listings):
        return None
    splits, said = divide_listings(config.src, dict(listings), config.division)
    outputs = name_outputs(config.src, plan.out, splits, parse_shard(config.shard))
    try:
        reports = [_report(split, outputs[split], listing) for split, listing in splits.items()]
    except (DataError, OSError):
        return None
    reports[0].remarks = (*said, *reports[0].remarks)
    return reports


def _report(split: str, out: Path, listing: Listing) -> Report:
    """The report of a conversion, from its `.beton` and the list beside it.

    Raises:
        DataError: it is not whole.
    """
    index = read_index(out)
    report = Report(split, out, index.classes, ignored=listing.ignored)
    report.images, report.bytes_out = len(index), out.stat().st_size
    report.kept = Counter(index.labels.tolist())
    report.quarantined = _quarantined(out)
    report.doubtful = [Quarantined(index.name(n), why) for n, why in index.doubtful.items()]
    report.warnings = [Quarantined(index.name(n), why) for n, why in index.odd.items()]
    report.resumed = report.images + len(report.quarantined)
    report.seconds = 1e-9  # nothing was left to do
    return report


def _quarantined(out: Path) -> list[Quarantined]:
    with suppress(OSError, ValueError, RecursionError):
        rows = json.loads(quarantine_path(out).read_text(encoding="utf-8"))
        if isinstance(rows, list):
            return [
                Quarantined(str(row.get("name")), str(row.get("reason")))
                for row in rows
                if isinstance(row, dict) and not row.get("kept")
            ]
    return []
