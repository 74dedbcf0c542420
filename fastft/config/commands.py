"""Settings of each command, as one frozen dataclass; the only place of their defaults.

`ConvertConfig` lives with the conversion in `conversion.run`, `SynthConfig` with `datasets.synth`,
since both serve without the application.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from fastft.config.augment import check_view
from fastft.config.checks import choose, require
from fastft.config.train import MODEL_PX, Amp, StoreKind
from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError
from pipelines.formats.division import Division
from pipelines.formats.splits import split_of
from pipelines.plan import DECODES, Decode
from pipelines.preprocessing import CROP_SHARE, FILTERS, IMAGENET, Filter, Preprocessing

_MOST_SEEDS = 10_000
#: Crops that evaluation may average: the central one, or torchvision's FiveCrop.
_CROPS = ("1", "5")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Judge a trained run by labelled images.

    Attributes:
        run: a run folder (its `best.safetensors` is taken) or a checkpoint.
        data: a folder with splits, a `.beton` or a class folder.
        out: the folder for findings; None takes `evaluation` in the run folder, or here.
        split: of `data`; None takes test or val.
        division: of data without splits; what is set apart is evaluated on, or with `split` the
            other side. None: as the run's own data were divided, if they were.
        flip: average the probabilities of each image and its mirror image.
        vflip: average those of the image upside down, too; with `flip` all four.
        crops: 1; 5 averages the crops at the centre and the four corners.
        n: images in the picture of the highest losses.
        threshold: of several labels, the probability from which on one is told: a number, or `best`
            for each label's own of the run's evaluation; empty is 0.5.
        loader, batch_size, workers, device, amp: as in `fastft train`; None takes what the
            checkpoint was trained with, as far as this machine has it, else what suits it.
    """

    run: Path
    data: Path
    out: Path | None = None
    split: str | None = None
    division: Division | None = None
    flip: bool = False
    vflip: bool = False
    crops: int = 1
    n: int = 24
    threshold: str = ""
    loader: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    device: str | None = None
    amp: str | None = None

    def __post_init__(self) -> None:
        if self.loader is not None:
            choose("--loader", self.loader, ("auto", "torchvision", "ffcv", "dali", "resident"))
        if self.amp is not None:
            choose("--amp", self.amp, get_args(Amp))
        if self.batch_size is not None:
            require("--batch-size", self.batch_size, 1, 1 << 20)
        if self.workers is not None:
            require("--workers", self.workers, 0, 1024)
        require("--n", self.n, 1, 200)
        read_threshold(self.threshold)
        choose("--crops", str(self.crops), _CROPS)


def read_threshold(text: str) -> float | None:
    """Reads `--threshold`: a probability, empty one half; None: each label's own.

    Raises:
        UsageError: it is neither.
    """
    if text == "best":
        return None
    try:
        value = float(text or 0.5)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError("--threshold", repr(text), "a probability such as 0.3, or best")
    return value


#: What stands for standard output where a file is asked for.
STDOUT = Path("-")


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Classify images with a trained run.

    Attributes:
        run: a run folder (its `best.safetensors` is taken) or a checkpoint.
        images: image files, folders of them, or patterns such as `photos/**/*.jpg`.
        sheet: a PNG to draw some of the images with their predictions on.
        csv: a file for all predictions, or `-`. It grows as `FILE.part`, which a command that is
            ended leaves behind.
        json: a file for all predictions with the probabilities of all classes, or `-`.
        skip_done: continue the CSV: leave out the images that have a row in it.
        top: classes to tell of each image, the likeliest first.
        threshold: see EvaluateConfig.
        flip: average the probabilities of each image and its mirror image.
        vflip: average those of the image upside down, too; with `flip` all four.
        crops: 1; 5 averages the crops at the centre and the four corners.
        batch_size: images per forward pass; None takes 16 on a CPU, 256 on a GPU.
        workers: threads that read and decode, and on a CPU run the model; 0 takes every CPU this
            process may use.
        device: `auto` takes a GPU if there is one.
        amp: as in `fastft train`; None takes what the checkpoint was trained with.
    """

    run: Path
    images: tuple[Path, ...]
    sheet: Path | None = None
    csv: Path | None = None
    json: Path | None = None
    skip_done: bool = False
    top: int = 1
    threshold: str = ""
    flip: bool = False
    vflip: bool = False
    crops: int = 1
    batch_size: int | None = None
    workers: int = 0
    device: str = "auto"
    amp: str | None = None

    def __post_init__(self) -> None:
        require("--top", self.top, 1, 100)
        read_threshold(self.threshold)
        choose("--crops", str(self.crops), _CROPS)
        if self.batch_size is not None:
            require("--batch-size", self.batch_size, 1, 1 << 20)
        require("--workers", self.workers, 0, 1024)
        if self.amp is not None:
            choose("--amp", self.amp, get_args(Amp))
        if self.csv == self.json == STDOUT:
            raise UsageError("--csv and --json", "both -", "one of them on standard output")
        if self.skip_done and self.csv in (None, STDOUT):
            raise UsageError(
                "--skip-done", f"--csv {self.csv}" if self.csv else "no --csv", "--csv FILE"
            )
        if self.skip_done and self.json is not None:
            raise UsageError("--skip-done", "--json, which is written whole", "--csv FILE alone")

    @property
    def outputs(self) -> dict[str, Path]:
        """Option -> the file that it asks for."""
        asked = {"--sheet": self.sheet, "--csv": self.csv, "--json": self.json}
        return {option: out for option, out in asked.items() if out is not None and out != STDOUT}

    @property
    def writes_stdout(self) -> bool:
        """Whether standard output is for a program to read."""
        return STDOUT in (self.csv, self.json)


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
        decode: see TrainConfig; `scaled` takes the loaders that decode so.
        filter: that pixels are resized by, one of `pipelines.preprocessing.FILTERS`.
        crop_share: share of the resized shorter side that evaluation shows.
        images: samples to look at, taken evenly from all.
        size: output side, px.
        seed: of the plan.
        augment: what else the plan draws: its operations are looked at by themselves.
        workers: of each loader; 0 takes every CPU this process may use.
        device: `auto` takes a GPU if there is one.
    """

    data: Path
    out: Path = Path("parity")
    loaders: tuple[str, ...] = ()
    stock: bool = False
    reference: Path | None = None
    store: StoreKind = "rgb"
    decode: Decode = "exact"
    filter: Filter = "bilinear"
    crop_share: float = CROP_SHARE
    images: int = 256
    size: int = 224
    seed: int = 0
    augment: Augment = USUAL
    workers: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        choose("--store", self.store, get_args(StoreKind))
        choose("--decode", self.decode, DECODES)
        choose("--filter", self.filter, FILTERS)
        require("--crop-share", self.crop_share, 0.05, 1)
        if self.stock and self.preprocessing != IMAGENET:
            found = "given for another filter or share than the libraries' own"
            raise UsageError("--stock", found, "", "leave it out")
        if self.augment.mixes:
            found = "given: pixels are compared image by image"
            raise UsageError("--mixup and --cutmix", found, "", "leave them out")
        require("--images", self.images, 1, 1 << 20)
        require("--size", self.size, 16, 1024)
        require("--seed", self.seed, 0, 2**32 - 1)
        require("--workers", self.workers, 0, 1024)

    @property
    def preprocessing(self) -> Preprocessing:
        """The form of the images; mean and deviation change no pixels."""
        return Preprocessing(filter=self.filter, crop_share=self.crop_share)


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
        decode: how the loaders decode, see TrainConfig: with `scaled`, each that does so is held
            against torchvision's exact pixels.
        augment: what else is drawn of training images; the stock form draws it itself.
        margin: differences of accuracy below it do not matter, in points.
        lr: learning rate at its peak; None takes what `fastft train` does.
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
    decode: Decode = "exact"
    augment: Augment = USUAL
    margin: float = 1.0
    lr: float | None = None
    weights: str = "warm"
    warm_epochs: int = 10
    amp: Amp = "auto"
    device: str = "auto"
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        choose("--amp", self.amp, get_args(Amp))
        choose("--decode", self.decode, DECODES)
        require("--seeds", self.seeds, 2, _MOST_SEEDS)
        require("--epochs", self.epochs, 1, 100_000)
        require("--warm-epochs", self.warm_epochs, 1, 100_000)
        require("--size", self.size, *MODEL_PX)
        require("--margin", self.margin, 1e-6, 100)
        require("--workers", self.workers, 0, 1024)
        require("--seed", self.seed, 0, 2**32 - 1 - _MOST_SEEDS)
        if self.batch_size is not None:
            require("--batch-size", self.batch_size, 1, 1 << 20)
        if self.lr is not None:
            require("--lr", self.lr, 1e-12, 1e6)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowConfig:
    """One contact sheet.

    Attributes:
        data: a `.beton`, a class folder, or a folder with splits.
        out: the PNG to write.
        split: `train`, `test` or `val`; None takes the training split if `data` has splits.
        classes: names; none takes the first eight.
        n: images per class; None takes 8, or 4 in all (but one of each class) with `augmented`.
        augmented: show what a model will see of a few images instead of the images.
        loader: whose pixels those are.
        view, size, seed: of the plan; size in px.
        epoch: the first one shown.
        augment: what else the plan draws; steps that mix do so elsewhere.
    """

    data: Path
    out: Path = Path("sheet.png")
    split: str | None = None
    classes: tuple[str, ...] = ()
    n: int | None = None
    augmented: bool = False
    loader: str = "torchvision"
    view: str = "train"
    size: int = 224
    epoch: int = 0
    seed: int = 0
    augment: Augment = USUAL

    def __post_init__(self) -> None:
        if self.augment.mixes:
            found = "given: a sheet shows images by themselves"
            raise UsageError("--mixup and --cutmix", found, "", "leave them out")
        if self.split is not None:
            choose("--split", split_of(self.split) or self.split, ("train", "test", "val"))
        if self.n is not None:
            require("--n", self.n, 1, 512)
        choose("--loader", self.loader, ("torchvision", "ffcv", "dali", "resident"))
        choose("--view", self.view, ("train", "recordio", "eval", "eval-square"))
        check_view(self.augment, self.view)
        require("--size", self.size, 16, 1024)
        require("--epoch", self.epoch, 0, 100_000)
        require("--seed", self.seed, 0, 2**32 - 1)
