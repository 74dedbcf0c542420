"""The remote input of a conversion: what is fetched first, and what is read where it lies.

A file (a zip, a `.rec`, a table) is fetched whole, and so is a folder of such. A folder of class
folders is listed, and its images are read one by one while they are converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.conversion.inputs import find_kind
from pipelines.errors import DataError
from pipelines.formats.folder import MAX_DEPTH, suffix
from pipelines.remote.address import beside, join, name_of, show
from pipelines.remote.cache import copy_files
from pipelines.remote.faults import Missing
from pipelines.remote.fetching import OnBytes, say_nothing
from pipelines.remote.store import Found, Store
from pipelines.remote.tree import RemoteFolder, grow_tree, has_class_images, read_tree

#: Files that hold many samples, with what may be beside them.
_PACKED = frozenset(".rec .tar .zip .parquet .arrow .csv .tsv .jsonl .ndjson .json".split())
_BESIDE = frozenset(".idx .txt .lst .names .xml .yaml".split())
#: Folders that are listed at once: the listing of one folder comes page by page, one after the
#: other.
_LISTED_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """The input of a conversion, on this machine or read from where it lies.

    Attributes:
        src: a path here: fetched, or an empty folder of the same name.
        listings: the samples, where they are read from where they lie; None: open `src`.
        beside: the address of the folder that `src` lay in, if it is a table, whose images lie
            there; else empty.
    """

    src: Path
    listings: dict[str, RemoteFolder] | None = None
    beside: str = ""


def open_input(
    address: str, work: Path, on_bytes: OnBytes = say_nothing, *, store: Store | None = None
) -> Input:
    """Prepare a remote data set for converting.

    Args:
        address: of a file, or a folder of class folders or of such files.
        work: a folder for what is fetched, which is used again.
        on_bytes: told of the progress.
        store: the address's; None opens one.

    Raises:
        DataError: there is nothing of the kind, or it cannot be had.
        UsageError: a library is missing.
    """
    store = store or Store(address)
    name = name_of(address) or "data"
    found = store.stat(address)
    if not found.is_folder:
        files = [found]
        if name.lower().endswith(".rec"):
            files += _beside(store, address)
        names = [name, *(Path(name).with_suffix(".idx").name for _ in files[1:])]
        src = copy_files(store, files, work / "file", on_bytes, names)[0]
        is_table = find_kind(src) == "table"
        return Input(src=src, beside=address.rpartition("/")[0] if is_table else "")
    files = _find(store, address)
    below = [each.address[len(address.rstrip("/")) + 1 :] for each in files]
    sizes = (each.size or 0 for each in files)
    tree = grow_tree(address, ((n, s) for n, s in zip(_marked(files, below), sizes, strict=True)))
    packed = [n for n, each in zip(below, files, strict=True) if _is_packed(n, each)]
    if not packed or has_class_images(tree):
        folder = work / "listed" / name  # by which an output may be called
        folder.mkdir(parents=True, exist_ok=True)
        return Input(src=folder, listings=read_tree(address, tree, store))
    wanted = {n: each for n, each in zip(below, files, strict=True) if _is_packed(n, each, _BESIDE)}
    _require_safe(address, wanted)
    folder = work / "files" / name
    copy_files(store, list(wanted.values()), folder, on_bytes, list(wanted))
    for path in folder.rglob("*"):  # what an earlier run fetched that is gone by now
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    return Input(src=folder)


def _find(store: Store, address: str) -> list[Found]:
    """All that lies below a folder, and the folders that are known, even if nothing is in them.

    Its folders, or theirs where they are few, as splits are, are listed at once.
    """
    whole = store.children(address)
    with ThreadPoolExecutor(_LISTED_AT_ONCE, thread_name_prefix="list") as executor:
        folders = [each.address for each in whole if each.is_folder]
        if len(folders) < _LISTED_AT_ONCE:
            listed = executor.map(partial(_below, store.children), folders)
            children = [each for found in listed for each in found]
            whole += children
            folders = [each.address for each in children if each.is_folder]
        for found in executor.map(partial(_below, store.find), folders):
            whole += found
    if all(each.is_folder for each in whole):
        raise DataError(show(address), "holds no files", "images or data files")
    return whole


def _below(ask: Callable[[str], list[Found]], folder: str) -> list[Found]:
    try:
        return ask(folder)
    except Missing:  # a folder that was made and never filled
        return []


def _marked(files: Iterable[Found], names: Iterable[str]) -> Iterable[str]:
    """Names, of folders with a slash behind."""
    return (f"{n}/" if each.is_folder else n for each, n in zip(files, names, strict=True))


def _is_packed(name: str, found: Found, more: frozenset[str] = frozenset()) -> bool:
    parts = name.split("/")
    is_hidden = any(part.startswith(".") for part in parts)
    return not found.is_folder and not is_hidden and suffix(name) in _PACKED | more


def _require_safe(address: str, names: Iterable[str]) -> None:
    """Raise DataError unless names can be those of files below a folder here."""
    for name in names:
        parts = name.split("/")
        if len(parts) > MAX_DEPTH or any(not p.isprintable() or len(p) > 200 for p in parts):
            raise DataError(show(join(address, name)), "cannot be a file's name here")


def _beside(store: Store, address: str) -> list[Found]:
    """The `.idx` of a `.rec`, if it is there."""
    if store.scheme.is_web:
        index = beside(address, "").replace(".rec", ".idx")
    else:
        index = address[: -len(".rec")] + ".idx"
    try:
        return [store.stat(index)]
    except Missing:
        return []
