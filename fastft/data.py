"""What commands ask of a data folder: its splits, and which loaders can read them here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from pipelines.beton import Index
from pipelines.errors import DataError, UsageError
from pipelines.folder import EVAL_SPLITS
from pipelines.loaders import LOADERS
from pipelines.memory import free_memory
from pipelines.shards import find_shards
from pipelines.source import Source
from pipelines.store import StoreFormat, lay_out

#: Libraries beside torch that a loader needs.
_NEEDS = {"ffcv": "ffcv", "dali": "nvidia.dali"}
#: How much of the free memory pixels may take without being asked for: others want some, too.
_RESIDENT_SHARE = 0.5


def find_splits(data: Path) -> tuple[Path, Path]:
    """The training and the evaluation split in a data folder.

    Raises:
        DataError: it is no folder or lacks one of them.
    """
    if not data.is_dir():
        found = "is a file" if data.exists() else "no such folder"
        raise DataError(data, found, "a folder with train and test or val", "see fastft convert")
    present: dict[str, Path] = {}
    for split in ("train", *EVAL_SPLITS):
        for path in (data / f"{split}.beton", data / split):
            if path.exists():
                present.setdefault(split, path)
    evaluation = next((present[split] for split in EVAL_SPLITS if split in present), None)
    if "train" not in present or evaluation is None:
        found = f"has {', '.join(present)}" if present else "has neither train nor test nor val"
        remedy = "see fastft convert"
        if shards := sorted(find_shards(data).keys() & {"train", *EVAL_SPLITS} - present.keys()):
            found += f" but shards of {', '.join(shards)}"
            remedy = f"run fastft merge {data}"
        expected = "train and test or val, each a .beton or a class folder"
        raise DataError(data, found, expected, remedy)
    return present["train"], evaluation


def pick_batch_size(asked: int | None, usual: int, source: Source) -> int:
    """What was asked for, or the usual size, or all samples if they are fewer.

    Raises:
        UsageError: a larger batch was asked for than there are samples.
    """
    if asked is None:
        return min(usual, len(source))
    if asked > len(source):
        raise UsageError(
            "--batch-size", f"{asked} for the {len(source)} images of {source.path}",
            f"at most {len(source)}", "take a smaller batch",
        )  # fmt: skip
    return asked


def training_split(data: Path) -> Path:
    """The training split of a folder that has one, else `data` itself."""
    return next((path for path in (data / "train.beton", data / "train") if path.exists()), data)


def evaluation_split(data: Path, split: str | None, classes: tuple[str, ...]) -> Path:
    """What there is to evaluate on in `data`: a split of it, or `data` itself.

    Args:
        data: a folder with splits, a `.beton` or a class folder.
        split: the split's name; None takes test or val.
        classes: of the model. A folder of just these folders holds classes, even if one of them
            is called like a split.

    Raises:
        UsageError: there is no such split.
        DataError: there is nothing, or a training split alone.
    """
    if not data.exists():
        raise DataError(data, "no such file or folder", "splits, a .beton or class folders")
    if split is not None and data.is_file():
        raise UsageError("--split", f"given with the file {data}", "a folder with splits")
    if split is None and (
        data.is_file() or {path.name for path in data.iterdir() if path.is_dir()} == {*classes}
    ):
        return data
    for name in EVAL_SPLITS if split is None else (split,):
        for path in (data / f"{name}.beton", data / name):
            if path.exists():
                return path
    if split is not None:
        raise UsageError("--split", f"{data} has no {split}", f"{data / split} or the like")
    if training_split(data) != data:
        raise DataError(
            data, "has a training split alone", "test or val",
            "pass --split train to see how well the run fits what it was trained on",
        )  # fmt: skip
    return data


def usable_loaders(sources: Sequence[Source]) -> tuple[str, ...]:
    """The loaders that execute the plan, are installed and can read these sources."""
    stored = all(isinstance(source, Index) for source in sources)
    return tuple(
        name for name in LOADERS
        if name != "stock"
        and (name not in _NEEDS or _is_installed(_NEEDS[name]))
        and (stored or name != "ffcv")
    )  # fmt: skip


def fastest_loader(sources: Sequence[Source], device: torch.device) -> str:
    """The loader that `auto` takes; README has the figures behind it.

    On a GPU that is not yet `resident`, whose kernel has run on none.
    """
    usable = usable_loaders(sources)
    if device.type == "cuda" and "dali" in usable:
        return "dali"
    pixels = sum(lay_out(source, StoreFormat()).total for source in sources)
    if pixels <= _RESIDENT_SHARE * free_memory().bytes:
        return "resident"
    return "ffcv" if "ffcv" in usable else "torchvision"


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
