"""Continuing a run: what is read, what may have changed since, what is refused."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from fastft.config.checks import defaults
from fastft.config.recipes import as_settings, read_plain, without_place
from fastft.config.train import TrainConfig
from fastft.model.classifier import require_arch
from fastft.model.fitting import find_misfit, find_misfit_of_optimizer, find_misfit_of_scaler
from fastft.runs.checkpoint import Checkpoint, load_last
from fastft.runs.folder import CONFIG, LAST, find_lasts, remove_leavings
from fastft.train.distributed import World
from fastft.train.run_state import RunState, unpack_state
from pipelines.errors import DataError, UsageError, one_line

#: Settings that say where and how fast, not what comes out, to the bit or to its last digits.
_FREE = frozenset(
    {
        "data",
        "out",
        "loader",
        "store_file",
        "workers",
        "device",
        "micro_batch",
        "tensorboard",
        "track",
        "checkpoint_every",
        "overwrite",
        "compile",
    }
)
#: What a run fills in itself; its own value is not one that was asked for.
_FILLED_IN = {
    "arch": "auto",
    "size": 0,
    "eval_view": "auto",
    "loader": "auto",
    "batch_size": None,
    "lr": None,
    "head_lr_factor": None,
}


@dataclass(frozen=True, slots=True)
class Continued:
    """A run that goes on.

    Attributes:
        config: its settings.
        checkpoint: its weights and optimizer; None if it had not come to save any.
        state: where it stands.
        path: the file that says so.
    """

    config: TrainConfig
    checkpoint: Checkpoint | None
    state: RunState | None
    path: Path | None = None


def holds_run(out: Path) -> bool:
    """Whether a run was begun in this folder."""
    return any((out / name).is_file() for name in (CONFIG, *find_lasts(out)))


def read_run(out: Path, given: Mapping[str, Any], world: World, console: Console) -> Continued:
    """Read the run in a folder, of which rank 0 alone needs to have it.

    Args:
        out: the run folder.
        given: settings that were asked for, by field of `TrainConfig`.
        world: the processes that continue it.
        console: where it is said that a damaged checkpoint was passed over.

    Raises:
        DataError: there is no run, or none of its checkpoints can be read.
        UsageError: what was asked for is another run, with what differs.
    """
    content = _read(out, console) if world.is_main else {}
    if world.size > 1:
        content = _share(content, world)
    path = Path(content.pop("path", out / CONFIG))
    if "settings" in content:  # it was begun, and has not come to its first checkpoint
        saved, arch = as_settings(content["settings"], path), ""
        checkpoint, state = None, None
    else:
        checkpoint = Checkpoint(**content)
        if checkpoint.progress is None:
            found = "does not say where its run stood"
            raise DataError(path, found, f"a {LAST} of this version", "")
        state = unpack_state(checkpoint.progress, path)
        saved = _read_settings(checkpoint, state, out, path)
        arch = checkpoint.arch
    _require_same(given, saved, arch, out)
    kept = {name: value for name, value in given.items() if name in _FREE}
    config = TrainConfig(**{**saved, **kept, "out": out})
    return Continued(config, checkpoint, state, path)


def require_fit(
    checkpoint: Checkpoint,
    state: RunState,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    has_average: bool,
    batch_size: int,
    path: Path,
) -> None:
    """Refuse a checkpoint whose parts are not those of this run, before any of them is loaded.

    Args:
        checkpoint, state: what was read.
        model, optimizer, scaler: made from the run's settings.
        has_average: whether they ask for an average of the weights.
        batch_size: images per step of all processes.
        path: the file.

    Raises:
        DataError: with the first part that does not fit.
    """
    own, images = model.state_dict(), state.data["train"]["images"]
    remembers = isinstance(optimizer, torch.optim.AdamW) or optimizer.defaults["momentum"] > 0
    # float16's scaler leaves steps out.
    has_stepped = remembers and state.epoch + state.sums.steps > 0 and not scaler.is_enabled()
    position = ""
    if state.consumed != min(state.sums.steps * batch_size, images):
        position = f"{state.consumed} of {images} images after {state.sums.steps} steps"
    average = find_misfit(checkpoint.ema or {}, own) if has_average else ""
    if checkpoint.ema is not None and not has_average:
        average = "an average, where none was asked for"
    for part, odd in (
        ("model", find_misfit(checkpoint.model, own)),
        ("ema", average),
        (
            "optimizer",
            find_misfit_of_optimizer(checkpoint.optimizer, optimizer, has_stepped=has_stepped),
        ),
        ("scaler", find_misfit_of_scaler(checkpoint.scaler)),
        ("progress", position),
    ):
        if odd:
            found = f"holds a wrong {part!r}: {odd}"
            raise DataError(path, found, f"the states of a {checkpoint.arch}", "train again")


def note_changes(begun: Mapping[str, Any], now: Mapping[str, Any], console: Console) -> None:
    """Say where the numbers will no longer be the same to the bit."""
    changed = [
        f"{name} {_said(begun.get(name))}, now {_said(value)}"
        for name, value in now.items()
        if begun.get(name) != value
    ]
    if changed:
        console.print(
            one_line(f"not to the bit what it would have been: begun with {'; '.join(changed)}"),
            markup=False,
        )


def _read_settings(
    checkpoint: Checkpoint, state: RunState, out: Path, path: Path
) -> dict[str, Any]:
    """The settings in a checkpoint.

    Raises:
        DataError: they are none, not those of where it says that its run stood, or there is no
            such network.
    """
    try:
        saved = as_settings(without_place(checkpoint.config), path)
        begun = TrainConfig(**{**saved, "out": out})
    except (TypeError, UsageError) as error:
        found = f"holds a wrong 'config': {str(error).removeprefix(f'{path}: '):.300}"
        raise DataError(path, found, "a run's settings", "train again") from error
    require_arch(checkpoint.model, checkpoint.arch, path)
    wanted = begun.epochs if state.is_done else begun.epochs - 1
    if state.epoch > wanted or (state.is_done and not state.epoch):
        found = f"does not say where its run stood (epoch {state.epoch} of {begun.epochs})"
        raise DataError(path, found, f"a {LAST} of this version", "train again")
    return saved


def _read(out: Path, console: Console) -> dict[str, Any]:
    """A checkpoint's fields and the file that holds them, or the settings of a run without one."""
    if not out.is_dir() or not holds_run(out):
        found = "holds no run" if out.is_dir() else "no such folder"
        raise DataError(out, found, "a run of fastft train", "check --resume")
    remove_leavings(out)
    if any((out / name).exists() for name in find_lasts(out)):
        checkpoint, path, remark = load_last(out)
        if remark:
            console.print(remark, markup=False)
        fields = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
        return {**fields, "path": str(path)}
    return {"settings": read_plain(out / CONFIG)}


def _share(content: Mapping[str, Any], world: World) -> dict[str, Any]:
    """Rank 0's content, in every process."""
    box = io.BytesIO()
    if world.is_main:
        torch.save(dict(content), box)
    shared = world.share(box.getvalue() if world.is_main else None)
    return dict(torch.load(io.BytesIO(shared), weights_only=True))


def _require_same(given: Mapping[str, Any], saved: Mapping[str, Any], arch: str, out: Path) -> None:
    """Refuse settings that would make it another run."""
    usual = defaults(TrainConfig)
    for name, value in given.items():
        if name in _FREE or (name in _FILLED_IN and value == _FILLED_IN[name]):
            continue
        # A setting that an earlier version did not know had the value that is now its default.
        begun = arch if name == "arch" and arch else saved.get(name, getattr(usual, name, None))
        same = list(value) == list(begun or ()) if isinstance(value, tuple) else value == begun
        if not same:
            remedy = "leave it out, or train anew into another --out"
            if name == "epochs":  # its learning rate was to end there
                remedy = (
                    f"leave it out; to train further on its weights: fastft train --data "
                    f"{saved.get('data', 'DATA')} --weights {out} --epochs {value} --out NEW"
                )
            raise UsageError(
                f"--{name.replace('_', '-')}",
                f"{_said(value)}, and {out} was begun with {_said(begun)}",
                "the same",
                remedy,
            )


def _said(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
