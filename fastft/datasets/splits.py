"""The splits of a data folder, and the loaders that can read them here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import Index
from pipelines.formats.folder import find_layout, list_folders, require_folder
from pipelines.formats.shards import find_shards
from pipelines.formats.source import Source
from pipelines.formats.splits import (
    EVAL_SPLITS,
    SPLITS,
    describe_passed_over,
    name_splits,
    split_of,
)
from pipelines.loaders import LOADERS
from pipelines.memory import free_memory
from pipelines.plan import Decode
from pipelines.resident.placement import gpu_room
from pipelines.resident.store import StoreFormat, lay_out

#: Libraries beside torch that a loader needs.
_NEEDS = {"ffcv": "ffcv", "dali": "nvidia.dali"}
#: The remedy for data that have no split to evaluate on.
_DIVIDE = "pass --val-split 0.2 to set a fifth of each class apart"
#: How much of the free memory pixels may take without being asked for: others want some, too.
_RESIDENT_SHARE = 0.5


def find_splits(data: Path) -> tuple[Path, Path]:
    """The training and the evaluation split in a data folder.

    Raises:
        DataError: it is no folder or lacks one of them.
    """
    if not data.is_dir():
        found = "is a file" if data.exists() else "no such folder"
        remedy = "see fastft convert"
        if data.suffix == ".beton" and data.exists():
            around = present_splits(data.parent).values()
            remedy = (
                f"name {data.parent} instead" if len(around) > 1 and data in around else _DIVIDE
            )
        raise DataError(data, found, "a folder with train and test or val", remedy)
    present = present_splits(data)
    evaluation = next((present[split] for split in EVAL_SPLITS if split in present), None)
    if "train" not in present or evaluation is None:
        found = f"has {', '.join(present)}" if present else "has neither train nor test nor val"
        remedy = _find_level(data) or "see fastft convert"
        if training_split(data) != data or (not present and find_layout(data).splits == {}):
            remedy = _find_level(data) or (_DIVIDE if list_folders(data) or present else remedy)
        if shards := sorted(find_shards(data).keys() & set(SPLITS) - present.keys()):
            found += f" but shards of {', '.join(shards)}"
            remedy = f"run fastft merge {data}"
        expected = "train and test or val, each a .beton or a class folder"
        raise DataError(data, found, expected, remedy)
    return present["train"], evaluation


def present_splits(data: Path) -> dict[str, Path]:
    """Split -> its `.beton` in a folder, else the folder that is called so; training first.

    Raises:
        DataError: two of them are the same split, or the folder cannot be read.
    """
    if not data.is_dir():
        return {}
    require_folder(data)
    folders = name_splits(data, list_folders(data))
    present = {**{split: data / name for split, name in folders.items()}, **_find_betons(data)}
    return {split: present[split] for split in ("train", *EVAL_SPLITS) if split in present}


def describe_folders_beside(data: Path) -> str:
    """A line on the folders beside a training split that is a folder; empty if there are none."""
    train = training_split(data)
    if train == data or not train.is_dir():
        return ""
    return describe_passed_over([name for name in list_folders(data) if not split_of(name)])


def require_two_classes(source: Source) -> None:
    """Raise DataError if there is nothing to tell apart.

    Raises:
        DataError: a data set of one class.
    """
    if len(source.classes) == 1:
        raise DataError(
            source.path,
            f"has only one class, {source.classes[0]}",
            "two or more to tell apart",
            "put the images of each class into a folder of its own",
        )


def pick_batch_size(asked: int | None, usual: int, source: Source) -> int:
    """The batch size that was asked for, or the usual one, or all samples if they are fewer.

    Raises:
        UsageError: a larger batch was asked for than there are samples.
    """
    if asked is None:
        return min(usual, len(source))
    if asked > len(source):
        raise UsageError(
            "--batch-size",
            f"{asked} for the {len(source)} images of {source.path}",
            f"at most {len(source)}",
            "take a smaller batch",
        )
    return asked


def training_split(data: Path) -> Path:
    """The training split of a folder that has one, else `data` itself.

    Raises:
        DataError: two things in it are the training split.
    """
    if not data.is_dir():
        return data
    if beton := _find_betons(data).get("train"):
        return beton
    return data / find_layout(data).splits.get("train", "")


def evaluation_split(data: Path, split: str | None, classes: tuple[str, ...]) -> Path:
    """Finds the split of `data` to evaluate on, or takes `data` itself.

    Args:
        data: a folder with splits, a `.beton` or a class folder.
        split: the split's name, or another word for it; None takes test or val.
        classes: of the model. A folder of just these folders holds classes, even if one of them
            is called like a split.

    Raises:
        UsageError: there is no such split.
        DataError: there is nothing, or a training split alone.
    """
    if not data.exists():
        raise DataError(data, "no such file or folder", "splits, a .beton or class folders")
    if split is not None:
        return asked_split(data, split)
    if data.is_file() or set(list_folders(data)) == {*classes}:
        return data
    present = present_splits(data)
    if not find_layout(data, needs_train=False).splits:  # what is called so is a class
        present = _find_betons(data)
    for name in EVAL_SPLITS:
        if name in present:
            return present[name]
    if training_split(data) != data:
        raise DataError(
            data,
            "has a training split alone",
            "test or val",
            "pass --split train to see how well the run fits what it was trained on",
        )
    if inner := _find_inner(data):
        raise DataError(data, "holds neither splits nor classes", "", f"name {inner} instead")
    return data


def asked_split(data: Path, split: str) -> Path:
    """The split of `data` that `--split` names, by any word for it.

    Raises:
        UsageError: there is no such split.
        DataError: two things in `data` are the same split.
    """
    if data.is_file():
        raise UsageError("--split", f"given with the file {data}", "a folder with splits")
    present = present_splits(data)
    name = split_of(split)
    if name not in present:
        expected = f"one of {', '.join(present)}" if present else "a folder with splits"
        raise UsageError("--split", f"{data} has no {split}", expected)
    return present[name]


def usable_loaders(sources: Sequence[Source]) -> tuple[str, ...]:
    """The loaders that execute the plan, are installed and can read these sources."""
    stored = all(isinstance(source, Index) for source in sources)
    return tuple(
        name
        for name in LOADERS
        if name != "stock"
        and (name not in _NEEDS or _is_installed(_NEEDS[name]))
        and (stored or name != "ffcv")
    )


def fastest_loader(
    sources: Sequence[Source],
    device: torch.device,
    *,
    batch: int,
    size: int,
    is_read_once: bool = False,
    decode: Decode = "exact",
) -> str:
    """The loader that `auto` takes; README has the figures behind it, none of which is of a GPU.

    Args:
        sources: all that will be read at the same time.
        device: where batches go.
        batch: images of a batch of this process.
        size: their side, px.
        is_read_once: whether there is one epoch alone, for which no pixels need be kept: a GPU that
            can decode is better at that than the CPUs that fill `resident`'s store.
        decode: `scaled` leaves those that can decode so.
    """
    usable = usable_loaders(sources)
    if decode == "scaled":
        return "ffcv" if "ffcv" in usable else "torchvision"
    pixels = sum(lay_out(source, StoreFormat()).total for source in sources)
    if device.type == "cuda":
        if is_read_once and "dali" in usable:
            return "dali"
        if pixels <= gpu_room(device, batch=batch, size=size).for_pixels:
            return "resident"
        if "dali" in usable:
            return "dali"
    if pixels <= _RESIDENT_SHARE * free_memory().bytes:
        return "resident"
    return "ffcv" if "ffcv" in usable else "torchvision"


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _find_betons(data: Path) -> dict[str, Path]:
    """Split -> its `.beton` in a folder.

    Raises:
        DataError: two of them are the same split.
    """
    names = sorted(path.name for path in data.glob("*.beton") if path.exists())
    betons = name_splits(data, names, "file", lambda name: name.removesuffix(".beton"))
    return {split: data / name for split, name in betons.items()}


def _find_level(data: Path) -> str:
    """A hint at splits above or below `data`, in words; or empty."""
    around = Path(os.path.abspath(data)).parent
    if split_of(os.path.basename(os.path.abspath(data))):
        with suppress(DataError):  # of a folder that is not the one asked for
            if "train" in present_splits(around):
                return f"name {around} instead"
    inner = _find_inner(data)
    return f"name {inner} instead" if inner else ""


def _find_inner(data: Path) -> Path | None:
    """The only folder in `data`, if that holds splits."""
    folders = list_folders(data)
    with suppress(DataError):
        if len(folders) == 1 and "train" in present_splits(data / folders[0]):
            return data / folders[0]
    return None
