"""States of checkpoints that are sealed and whole, and yet not what a run can go on from."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from old_checkpoints import pack_old, save_old
from rich.console import Console
from torch import nn

from fastft.config.checks import plain
from fastft.config.train import TrainConfig
from fastft.model.optim import WeightAverage, make_optimizer, unpack_optimizer
from fastft.runs.checkpoint import Checkpoint, save_checkpoint
from fastft.runs.folder import LAST, OLD
from fastft.runs.metrics import EpochMetrics
from fastft.train.distributed import ALONE
from fastft.train.resume import read_run, require_fit
from fastft.train.run_state import RunState
from fastft.train.step_log import Sums
from pipelines.errors import DataError

BATCH, IMAGES = 4, 10
Change = Callable[[dict[str, Any]], None]


class Trained:
    """A network of a few numbers after a step, and all that a checkpoint says of it."""

    def __init__(self, kind: str, amp: str = "off") -> None:
        torch.manual_seed(0)
        self.config = TrainConfig(
            data=Path("data"), out=Path("run"), weights="none", optimizer=kind, lr=0.1,  # type: ignore[arg-type]
            head_lr_factor=2.0, batch_size=BATCH, epochs=3, ema=0.9, amp=amp, size=64,  # type: ignore[arg-type]
        )  # fmt: skip
        self.model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(3, 2))
        self.optimizer = make_optimizer(
            self.model, self.model[2], optimizer=self.config.optimizer, lr=0.1, head_lr_factor=2.0,
            momentum=self.config.momentum, weight_decay=self.config.weight_decay,
        )  # fmt: skip
        self.average = WeightAverage(self.model, 0.9)
        self.scaler = torch.amp.GradScaler("cpu", enabled=amp == "fp16")
        self.learn()

    def learn(self) -> None:
        loss = self.model(torch.ones(2, 3, 4, 4)).sum()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.average.update(self.model)

    def restore(self, checkpoint: Checkpoint, state: RunState, path: Path) -> None:
        """As `Trainer.restore`, and a step from there."""
        require_fit(
            checkpoint, state, model=self.model, optimizer=self.optimizer, scaler=self.scaler,
            has_average=True, batch_size=BATCH, path=path,
        )  # fmt: skip
        self.model.load_state_dict(checkpoint.model)
        unpack_optimizer(self.optimizer, checkpoint.optimizer)
        if checkpoint.scaler:
            self.scaler.load_state_dict(dict(checkpoint.scaler))
        assert checkpoint.ema is not None
        self.average.restore(checkpoint.ema, state.averaged)
        self.learn()
        assert all(torch.isfinite(each).all() for each in self.model.state_dict().values())

    def content(self) -> dict[str, Any]:
        """The parts of a checkpoint in its second epoch after two steps."""
        same = {"images": IMAGES, "classes": ["x", "y"], "labels": "ab" * 32, "content": "cd" * 32}
        row = EpochMetrics(
            epoch=0, size=64, train_loss=1.5, train_accuracy=0.5, eval_loss=float("inf"),
            eval_accuracy=0.5, img_per_s=9.5, wait_s=0.1, train_s=1, eval_s=0.5,
        )  # fmt: skip
        state = RunState(
            data={"train": same, "eval": same}, how={"loader": "resident", "gpu": None}, epoch=1,
            consumed=2 * BATCH, sums=Sums(2, 8, 4, 9.5, 0.1, 1.0), rows=[row], best=(0.5, -1.0),
            averaged=1, metrics_bytes=0, seconds=9.5,
        )  # fmt: skip
        return copy.deepcopy({
            "model": self.model.state_dict(), "arch": "squeezenet1_1", "classes": ("x", "y"),
            "size": 64, "view": "eval", "epoch": 1, "accuracy": 0.5, "config": plain(self.config),
            "optimizer": pack_old(self.optimizer), "scaler": self.scaler.state_dict(),
            "ema": self.average.model.state_dict(), "progress": state.pack(),
        })  # fmt: skip


@functools.cache
def content_of(kind: str, amp: str = "off") -> dict[str, Any]:
    return Trained(kind, amp).content()


def write(folder: Path, content: dict[str, Any]) -> Path:
    """The parts as a LAST.

    Raises:
        TypeError, AttributeError or KeyError: no safetensors file can hold them.
    """
    parts = dict(content)
    if "state" in content["optimizer"]:
        parts["optimizer"] = {
            f"{number}/{name}": tensor
            for number, state in content["optimizer"]["state"].items()
            for name, tensor in state.items()
        }
    for part in ("model", "ema", "optimizer"):
        tensors = {} if parts[part] is None else parts[part]
        for name, tensor in tensors.items():
            if type(name) is not str or not tensor.is_contiguous() or tensor.is_meta:
                raise TypeError(name)
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / LAST, Checkpoint(**parts))
    return folder / LAST


def write_old(folder: Path, content: dict[str, Any]) -> Path:
    """The parts as an earlier version had them, whatever they are."""
    return save_old(folder / OLD[LAST], content)


def go_on(folder: Path, kind: str, amp: str = "off") -> Trained:
    """What `train --resume` does with a folder's last checkpoint, up to its first step.

    Returns:
        What has been learnt behind that step.

    Raises:
        DataError: it does not come to that.
    """
    run = read_run(folder, {}, ALONE, Console(quiet=True))
    assert run.checkpoint is not None
    assert run.state is not None
    assert run.path is not None
    trained = Trained(kind, amp)
    trained.config = replace(trained.config, out=folder)
    try:
        trained.restore(run.checkpoint, run.state, run.path)
    except DataError:
        assert _told(trained.content()) == _told_of(kind, amp), "something was loaded"
        raise
    return trained


def _told(content: dict[str, Any]) -> list[str]:
    return [str(content[part]) for part in ("model", "optimizer", "scaler", "ema")]


_told_of = functools.cache(lambda kind, amp: _told(content_of(kind, amp)))


def put(value: Any, *way: Any) -> Change:
    """Puts a value there, or what a function makes of the one that is there."""

    def change(content: dict[str, Any]) -> None:
        at: Any = content
        for step in way[:-1]:
            at = at[step]
        at[way[-1]] = value(at[way[-1]]) if callable(value) else value

    return change


def drop(*way: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        at: Any = content
        for step in way[:-1]:
            at = at[step]
        del at[way[-1]]

    return change


def at_epoch(epoch: int, is_done: bool) -> Change:
    """Stands at an epoch, with the rows of those before it."""

    def change(content: dict[str, Any]) -> None:
        progress = content["progress"]
        rows = [{**progress["rows"][0], "epoch": number} for number in range(epoch)]
        content["progress"] = {**progress, "epoch": epoch, "rows": rows, "is_done": is_done}

    return change


def nest(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def itself() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


class Armed:
    """What is read as a state dict whose methods are numbers."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def __reduce__(self) -> Any:
        methods = ("items", "values", "keys", "get", "copy", "_metadata")
        return OrderedDict, (), dict.fromkeys(methods, 5), None, iter(self._state.items())


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """As many numbers, of which one is stored."""
    return torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape)


def overlapping(tensor: torch.Tensor) -> torch.Tensor:
    """As many numbers, of which some lie upon each other, though enough are stored."""
    return torch.zeros(tensor.numel()).as_strided(tensor.shape, (1,) * tensor.ndim)


def not_a_number(tensor: torch.Tensor) -> torch.Tensor:
    found = tensor.clone()
    found.view(-1)[-1] = float("nan")
    return found


_S, _P = ("optimizer", "state"), ("progress",)
_FIRST = (*_S, 0, "momentum_buffer")
NAN, INF = float("nan"), float("inf")
#: By the optimizer that it is of: what is changed, and what the message says.
ODD: dict[str, list[tuple[Change, str]]] = {
    "sgd": [
        (put({}, "model"), "wrong 'model': no 0.weight"),
                (put(3, "model", "0.weight"), "a int for '0.weight'"),
        (put(torch.zeros(3), "model", 7), "a name that is a int"),
        (drop("model", "0.weight"), "no 0.weight"),
        (put(torch.zeros(1), "model", "more"), "an additional more"),
        (put(torch.zeros(2, 2), "model", "0.weight"), "of shape [2, 2] instead of [4, 3, 2, 2]"),
        (put(lambda t: t.double(), "model", "0.weight"), "of torch.float64 instead of"),
        (put(lambda t: t.to(torch.complex64), "model", "0.weight"), "kind torch.complex64"),
        (put(lambda t: t.to_sparse(), "model", "0.weight"), "torch.sparse_coo on cpu at"),
        (put(lambda t: t.to("meta"), "model", "0.weight"), "on meta at '0.weight'"),
        (put(not_a_number, "model", "0.weight"), "NaN or infinity at '0.weight'"),
        (put(lambda t: t - INF, "model", "1.running_var"), "NaN or infinity"),
        (put(spread, "model", "0.weight"), "larger than what is stored of it at '0.weight'"),
        (put(torch.zeros(1).expand(1 << 40), "model", "0.bias"), "larger than what is stored"),
        (put(None, "ema"), "wrong 'ema': no 0.weight"),
        (put({0: 1, 1: 2, 2: 3, 3: 4}, *_S, 0), "a name that is a int in 'optimizer.state.0'"),
        (put(dict.fromkeys("abcd"), *_S, 0), "4 states of parameter 0"),
        (put(1 << 70, "config", "lr"), "a number of many digits"),
        (put(dict.fromkeys(range(9), "x" * (1 << 21)), *_P), "more text than any run's"),
        (put(7, "ema"), "holds a int for 'ema'"),
        (put(not_a_number, "ema", "2.bias"), "NaN or infinity at 'ema/2.bias'"),
        (put(torch.zeros(9), "ema", "2.bias"), "wrong 'ema': 2.bias of shape [9] instead of [2]"),
        (put({}, "optimizer"), "wrong 'optimizer': no 0/momentum_buffer"),
        (put("x", "optimizer"), "holds a str for 'optimizer'"),
        (put(itself(), *_S), "a list for 'optimizer.state'"),
        (put(nest(200), *_S, 9), "a list for 'optimizer.state.9'"),
                (put({}, *_S), "no 0/momentum_buffer"),
        (drop(*_S, 4), "no 4/momentum_buffer"),
        (put({"momentum_buffer": torch.zeros(2)}, *_S, -1), "an additional -1/momentum_buffer"),
        (put({"x": torch.zeros(2)}, *_S, 6), "an additional 6/x"),
        (put(3, *_S, 0), "a int for 'optimizer.state.0'"),
        (put({"step": 1}, *_S, 0), "a int for 'optimizer/0/step'"),
        (put(torch.zeros(2), *_S, 0, "more"), "an additional 0/more"),
        (put("x", *_FIRST), "a str for 'optimizer/0/momentum_buffer'"),
        (put(torch.zeros(1), *_FIRST), "of shape [1] instead of [4, 3, 2, 2]"),
        (put(lambda t: t.half(), *_FIRST), "of torch.float16 instead of torch.float32"),
        (put(not_a_number, *_FIRST), "NaN or infinity at 'optimizer/0/momentum_buffer'"),
        (put(spread, *_FIRST), "larger than what is stored of it"),
        (put({"scale": 2.0}, "scaler"), "wrong 'scaler': scale, expected scale, growth_factor"),
        (put("x", "scaler"), "wrong 'scaler': 'x'"),
        (put((), "classes"), "wrong 'classes': a list"),
        (put(("x", 3), "classes"), "wrong 'classes.1': 3"),
        (put(1 << 40, "size"), "wrong 'size': 1099511627776"),
        (put(True, "size"), "wrong 'size': True"),
        (put(-1, "epoch"), "wrong 'epoch': -1"),
        (put(NAN, "accuracy"), "wrong 'accuracy': nan"),
        (put("train", "view"), "wrong 'view': 'train'"),
        (put("r" * 9999, "arch"), "wrong 'arch': 'rrr"),
        (put(itself(), "config", "lr"), "holds Circular reference"),
        (put(nest(200), "config", "lr"), "wrong 'config': lr: a list, expected a number"),
        (put(1, "config", 3), "wrong 'config': a setting '3'"),
        (put("x", "config", "epochs"), "wrong 'config': epochs: 'x', expected a whole number"),
        (put(0, "config", "epochs"), "wrong 'config': --epochs: 0, expected 1 to 100000"),
        (put(1, "config", "odd"), "wrong 'config': a setting 'odd'"),
        (drop("config", "data"), "wrong 'config': "),
        (put([], *_P), "wrong 'progress': a list"),
        (put(nest(200), *_P, "how"), "wrong 'how': a list"),
        (put(1, *_P, 3), "an unexpected keyword argument '3'"),
        (put(torch.zeros(1), *_P, "how"), "holds Object of type Tensor"),
        (drop(*_P, "data"), "missing 1 required"),
        (drop(*_P, "sums"), "run stood ('sums')"),
        (put(1, *_P, "more"), "more"),
        (put({}, *_P, "data"), "data do not tell train from others"),
        (put("x", *_P, "data", "eval"), "data do not tell eval from others"),
        (drop(*_P, "data", "eval", "images"), "data do not tell eval from others"),
        (put("x", *_P, "data", "train", "images"), "data do not tell train"),
        (put([3], *_P, "data", "train", "classes"), "data do not tell train"),
        (put([], *_P, "how", "loader"), "wrong 'how.loader.str': a list"),
        (put(-1, *_P, "epoch"), "wrong 'epoch': -1"),
        (put(0, *_P, "epoch"), "epoch is 0, with rows of other epochs"),
        (put(1 << 62, *_P, "epoch"), "with rows of other epochs"),
        (put("1", *_P, "epoch"), "wrong 'epoch': '1'"),
        (put(True, *_P, "epoch"), "wrong 'epoch': True"),
        (at_epoch(3, False), "does not say where its run stood (epoch 3 of 3)"),
        (at_epoch(4, True), "does not say where its run stood (epoch 4 of 3)"),
        (at_epoch(0, True), "does not say where its run stood (epoch 0 of 3)"),
        (put(-8, *_P, "consumed"), "wrong 'consumed': -8"),
        (put(9, *_P, "consumed"), "wrong 'progress': 9 of 10 images after 2 steps"),
        (put(1 << 40, *_P, "consumed"), "of 10 images after 2 steps"),
        (put(0, *_P, "consumed"), "consumed is 0 after 2 steps"),
        (put("x", *_P, "sums", "loss"), "wrong 'loss': 'x'"),
        (put(-1, *_P, "sums", "samples"), "wrong 'samples': -1"),
        (put([], *_P, "rows"), "epoch is 1, with rows of other epochs"),
        (put(lambda rows: [*rows, dict(rows[0])], *_P, "rows"), "with rows of other epochs"),
        (put(5, *_P, "rows", 0, "epoch"), "with rows of other epochs"),
        (put("x", *_P, "rows", 0, "eval_loss"), "wrong 'eval_loss': 'x'"),
        (put([0.5], *_P, "best"), "wrong 'best.1': a list"),
        (put(["1", "2"], *_P, "best"), "wrong 'best.0': '1'"),
        (put(1, *_P, "best_epoch"), "best_epoch is 1 of 1"),
        (put(-1, *_P, "averaged"), "wrong 'averaged': -1"),
        (put(-1, *_P, "metrics_bytes"), "wrong 'metrics_bytes': -1"),
        (put(NAN, *_P, "seconds"), "wrong 'seconds': nan"),
        (put(INF, *_P, "seconds"), "wrong 'seconds': inf"),
        (put(1, *_P, "is_done"), "wrong 'is_done': 1"),
        (put(1, *_P, "compiled"), "wrong 'compiled': 1"),
        (put("fast", *_P, "compiled"), "wrong 'compiled': 'fast'"),
    ],
    "adamw": [
        (put(lambda t: -t - 1, *_S, 0, "exp_avg_sq"), "exp_avg_sq below zero"),
        (put(torch.tensor(-1.0), *_S, 0, "step"), "step below zero"),
        (put(torch.tensor([1.0, 2.0]), *_S, 0, "step"), "step of shape [2] instead of []"),
        (put(torch.tensor(1), *_S, 0, "step"), "step of torch.int64 instead of torch.float32"),
        (put(torch.tensor(NAN), *_S, 0, "step"), "NaN or infinity at 'optimizer/0/step'"),
        (put(3.0, *_S, 0, "step"), "a float for 'optimizer/0/step'"),
        (drop(*_S, 0, "step"), "wrong 'optimizer': no 0/step"),
        (put({}, *_S, 0), "wrong 'optimizer': no 0/step"),
    ],
}  # fmt: skip
#: With float16, whose scaler has a state.
ODD_SCALERS: list[tuple[Change, str]] = [
    (put(value, "scaler", name), said)
    for name, value, said in (
        ("scale", 0.0, "scale 0.0"), ("scale", NAN, "scale nan"), ("scale", "x", "scale 'x'"),
        ("scale", INF, "scale inf"), ("growth_factor", 0.5, "growth_factor 0.5"),
        ("backoff_factor", 2.0, "backoff_factor 2.0"), ("growth_interval", 2.5, "2.5"),
        ("growth_interval", 0, "growth_interval 0"), ("_growth_tracker", -1, "_growth_tracker -1"),
        ("more", 1, "more, expected scale"),
    )
] + [(drop("scaler", "scale"), "expected scale, growth_factor")]  # fmt: skip


def changed_by(edits: bytes) -> tuple[dict[str, Any], str]:
    """The parts of a checkpoint, changed in a place for each of some bytes, and its optimizer."""
    kind = ("sgd", "adamw")[edits[0] % 2 if edits else 0]
    content = copy.deepcopy(content_of(kind))
    for at in range(1, min(len(edits) - 2, 24), 3):
        places = list(_places(content))
        inside, name = places[(edits[at] << 8 | edits[at + 1]) % len(places)]
        kinds = len(_VALUES) + len(_MADE)
        chosen = edits[at + 2] % (kinds + 2)
        old = inside[name]
        if chosen < len(_VALUES):
            inside[name] = _VALUES[chosen]
        elif chosen < kinds and isinstance(old, torch.Tensor) and old.is_floating_point():
            inside[name] = _MADE[chosen - len(_VALUES)](old)
        elif chosen == kinds and isinstance(inside, dict) and inside is not content:
            del inside[name]
        elif isinstance(inside, dict) and inside is not content:
            inside["more"] = old
    if not isinstance(content["classes"], (list, tuple)):  # of which a list is made on writing
        content["classes"] = (content["classes"],)
    return content, kind


def _places(inside: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """All that is in a container, and in those within it."""
    pairs = inside.items() if isinstance(inside, dict) else enumerate(inside)
    for name, each in list(pairs):
        if not isinstance(inside, tuple):
            yield inside, name
        if isinstance(each, dict | list) and depth < 6:
            yield from _places(each, depth + 1)


_VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 10, 1 << 31, (1 << 63) - 1, 1 << 70, 0.5, -0.5, 1e308, NAN, INF, True, False, None,
    "", "x", "a\n\x1b[31m", "x" * 5000, [], {}, [1], {"a": 1}, {1: 2}, (), (0.9, 0.999),
    nest(20), nest(40), torch.zeros(()), torch.zeros(2, 2), torch.zeros(0), torch.ones(1 << 12),
)  # fmt: skip
_MADE: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    spread, overlapping, not_a_number, torch.neg, torch.Tensor.double, torch.Tensor.half,
    torch.Tensor.flatten, torch.Tensor.bool, lambda t: t - INF, lambda t: t * 1e30,
)  # fmt: skip
