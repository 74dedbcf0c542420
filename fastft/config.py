"""What each command does, as one frozen dataclass; defaults live here and nowhere else.

`ConvertConfig` lives with the conversion in `pipelines.convert`, `SynthConfig` with `fastft.synth`,
since both serve without the application.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

from pipelines.errors import UsageError

Amp = Literal["auto", "bf16", "fp16", "off"]
Schedule = Literal["cosine", "constant"]
StoreKind = Literal["rgb", "yuv420"]
#: Up to 32 px ResNet-18 ends in a single pixel: batch norm cannot learn from one image.
_MODEL_PX = (33, 1024)
_MOST_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One fine-tuning run.

    Attributes:
        data: a folder with `train` and `test` or `val`, each a `.beton` or a class folder.
        out: the run folder to make.
        loader: `auto` takes dali on a GPU, if it is installed; else resident, if the pixels fit
            into half the free memory, else ffcv, if the data are .beton files and it is installed,
            else torchvision.
        store: what the resident loader keeps: `rgb`, or `yuv420` in half the bytes.
        store_side: images whose shorter side is longer are shrunk to it in the store, px; 0 keeps
            sizes.
        store_file: where the resident loader keeps pixels for the next run: `X.store` becomes
            `X.train.store` and `X.eval.store`.
        stock: torchvision's own random transforms and shuffling instead of the plan.
        weights: `imagenet`, `none`, or a file: a checkpoint of ours or a resnet18 state dict.
        size: side of the images that the model sees, px.
        epochs: passes over the training set.
        batch_size: images per step; None takes 128, or the whole training set if that is smaller.
        lr: learning rate at its peak; None takes 0.002 on pretrained weights, else 0.01.
        head_lr_factor: the new output layer learns this many times faster; None takes 10 on
            pretrained weights, else 1.
        momentum, weight_decay: of SGD.
        schedule: `cosine` rises over the first tenth and falls to zero; `constant` stays.
        amp: `auto` takes bfloat16 where the device computes in it, else float16 on a GPU, else
            float32.
        seed: of the plan and of the new layer's weights.
        workers: decoding threads or processes; 0 takes every CPU this process may use.
        device: `auto` takes a GPU if there is one.
        overwrite: replace an earlier run in `out`.
    """

    data: Path
    out: Path
    loader: str = "auto"
    store: StoreKind = "rgb"
    store_side: int = 0
    store_file: Path | None = None
    stock: bool = False
    weights: str = "imagenet"
    size: int = 224
    epochs: int = 5
    batch_size: int | None = None
    lr: float | None = None
    head_lr_factor: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.001
    schedule: Schedule = "cosine"
    amp: Amp = "auto"
    seed: int = 0
    workers: int = 0
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        _choose("--loader", self.loader, ("auto", "torchvision", "ffcv", "dali", "resident"))
        _choose("--store", self.store, get_args(StoreKind))
        _require("--store-side", self.store_side, 0, 65535)
        if self.store_options and (self.stock or self.loader not in ("auto", "resident")):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in self.store_options)
            what = "--stock" if self.stock else f"--loader {self.loader}"
            raise UsageError(options, f"with {what}", "--loader resident")
        _choose("--amp", self.amp, get_args(Amp))
        _choose("--schedule", self.schedule, get_args(Schedule))
        _require("--size", self.size, *_MODEL_PX)
        _require("--epochs", self.epochs, 1, 100_000)
        _require("--seed", self.seed, 0, 2**32 - 1)
        _require("--workers", self.workers, 0, 1024)
        _require("--momentum", self.momentum, 0, 0.9999)
        _require("--weight-decay", self.weight_decay, 0, 10)
        if self.batch_size is not None:
            _require("--batch-size", self.batch_size, 1, 1 << 20)
        if self.lr is not None:
            _require("--lr", self.lr, 1e-12, 1e6)
        if self.head_lr_factor is not None:
            _require("--head-lr-factor", self.head_lr_factor, 0, 1e6)
        if self.stock and self.loader not in ("auto", "torchvision"):
            raise UsageError("--stock", f"--loader {self.loader}", "--loader torchvision")

    @property
    def store_options(self) -> dict[str, Any]:
        """What was asked of the resident loader's store, as `make_loader` takes it."""
        options = {name: getattr(self, name) for name in ("store", "store_side", "store_file")}
        usual = defaults(TrainConfig)
        return {name: value for name, value in options.items() if value != getattr(usual, name)}


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Classify images with a trained run.

    Attributes:
        run: a run folder (its `best.pt` is taken) or a checkpoint.
        images: image files, or folders of them.
        sheet: a PNG to draw some of the images with their predictions on.
        csv: a file for all predictions.
        batch_size: images per forward pass.
        device: `auto` takes a GPU if there is one.
    """

    run: Path
    images: tuple[Path, ...]
    sheet: Path | None = None
    csv: Path | None = None
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        _require("--batch-size", self.batch_size, 1, 1 << 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityConfig:
    """One comparison of the loaders' pixels with the reference's.

    Attributes:
        data: a `.beton`, a class folder, or a folder with a training split.
        out: the folder for the table as JSON and the picture.
        loaders: names; none takes every loader that is installed.
        stock: look at the libraries' own pipelines, too.
        reference: what `data` was converted from, if its pixels are the right ones.
        store: what the resident loader keeps, see TrainConfig.
        images: samples to look at, taken evenly from all.
        size: output side, px.
        seed: of the plan.
        workers: of each loader; 0 takes every CPU this process may use.
        device: `auto` takes a GPU if there is one.
    """

    data: Path
    out: Path = Path("parity")
    loaders: tuple[str, ...] = ()
    stock: bool = False
    reference: Path | None = None
    store: StoreKind = "rgb"
    images: int = 256
    size: int = 224
    seed: int = 0
    workers: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        _choose("--store", self.store, get_args(StoreKind))
        _require("--images", self.images, 1, 1 << 20)
        _require("--size", self.size, 16, 1024)
        _require("--seed", self.seed, 0, 2**32 - 1)
        _require("--workers", self.workers, 0, 1024)


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyConfig:
    """One comparison of loaders by the models they train.

    Attributes:
        data: a folder with `train` and `test` or `val`, each a `.beton` or a class folder.
        out: a folder for accuracy.json and accuracy.png; None writes neither.
        loaders: what to compare; empty takes every loader that is installed and reads the data.
            torchvision and its stock form take part in any case.
        seeds: runs per loader.
        epochs: passes over the training set, per run.
        size: side of the images that the model sees, px.
        batch_size: images per step; None takes 64, or the whole training set if that is smaller.
        margin: differences of accuracy below it do not matter, in points.
        lr: learning rate at its peak; None takes 0.005 on weights, else 0.01.
        weights: where runs start: `warm` trains one body first, for all of them; `imagenet`,
            `none`, or a file: a checkpoint of ours or a resnet18 state dict.
        warm_epochs: epochs for that body.
        amp, device: as in `fastft train`.
        workers: decoding threads or processes; 0 takes every CPU this process may use.
        seed: of the first run: of its plan and its new layer's weights; the next take the next.
    """

    data: Path
    out: Path | None = None
    loaders: tuple[str, ...] = ()
    seeds: int = 10
    epochs: int = 1
    size: int = 64
    batch_size: int | None = None
    margin: float = 1.0
    lr: float | None = None
    weights: str = "warm"
    warm_epochs: int = 10
    amp: Amp = "auto"
    device: str = "auto"
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _choose("--amp", self.amp, get_args(Amp))
        _require("--seeds", self.seeds, 2, _MOST_SEEDS)
        _require("--epochs", self.epochs, 1, 100_000)
        _require("--warm-epochs", self.warm_epochs, 1, 100_000)
        _require("--size", self.size, *_MODEL_PX)
        _require("--margin", self.margin, 1e-6, 100)
        _require("--workers", self.workers, 0, 1024)
        _require("--seed", self.seed, 0, 2**32 - 1 - _MOST_SEEDS)
        if self.batch_size is not None:
            _require("--batch-size", self.batch_size, 1, 1 << 20)
        if self.lr is not None:
            _require("--lr", self.lr, 1e-12, 1e6)


def defaults(config: type[Any]) -> Any:
    """The default of each optional field of a config class, as attributes."""
    return SimpleNamespace(
        **{f.name: f.default for f in fields(config) if f.default is not MISSING}
    )


def _choose(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(option, repr(value), f"one of {', '.join(choices)}")


def _require(option: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # also catches NaN
        raise UsageError(option, str(value), f"{least:g} to {most:g}")
