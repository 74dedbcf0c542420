"""Settings of `fastft train`, as one frozen dataclass; the only place of their defaults.

`recipes` has other people's sets of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fastft.config.augment import AUGMENT_FIELDS, check_view, make_augment
from fastft.config.checks import choose, defaults, require
from fastft.config.division import DIVISION_FIELDS, make_division
from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError
from pipelines.formats.division import UNDIVIDED, Division
from pipelines.formats.layout import Depth
from pipelines.plan import DECODES, Decode
from pipelines.preprocessing import FILTERS, Filter
from pipelines.sampling import SAMPLERS, Sampler

How = Literal["off", "default", "graph"]
Compile = Literal["auto", "off", "default", "graph"]
Amp = Literal["auto", "bf16", "fp16", "off"]
Decay = Literal["auto", "all", "matrices"]
EvalView = Literal["eval", "eval-square"]
AskedView = Literal["auto", "eval", "eval-square"]
LossReduction = Literal["mean", "sum"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "constant"]
StoreKind = Literal["rgb", "yuv420"]
TrainView = Literal["train", "recordio"]

#: Experiment trackers that a run can be followed in.
TRACKERS = ("tensorboard", "wandb", "mlflow")
LOADER_CHOICES = ("auto", "torchvision", "ffcv", "dali", "resident")
#: Up to 32 px ResNet-18 ends in a single pixel: batch norm cannot learn from one image.
MODEL_PX = (33, 1024)
#: Side of the images of torchvision's models, px.
SIZE_PX = 224
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One fine-tuning run.

    Attributes:
        data: a folder with `train` and `test` or `val`, each a `.beton` or a class folder.
        out: the run folder to make.
        val_split, folds, fold, group_by, split_seed: how data without a split to evaluate on are
            divided, see `pipelines.formats.division.Division`.
        recipe: where the other values come from, see `recipes`; by itself it does nothing.
        arch: a classification model of torchvision's by name, or `timm:` and the name of one of
            timm's, with a tag of its weights or without; `auto` takes the one that `weights` says
            it is of, else resnet18.
        drop_path: how often a whole path is dropped, that of the deepest block so often, the first
            one's never; None: as the model has it.
        weights: `imagenet`, `none`, or a run folder, a checkpoint of ours or a state dict.
        reuse_head: `class=row`: this class's output row begins as the source model's, whose row is
            given by its number or, of a checkpoint of ours, by its class name.
        freeze: nothing (empty), `backbone` (all but the output layer), or `stages:N`, the first N
            from the input.
        unfreeze_epoch: from this epoch on (the first is 0) everything learns; 0: never.
        loader: `auto` takes resident, if the pixels of both splits fit on the GPU beside training;
            else on a GPU dali, if it is installed; else resident, if they fit into half the free
            memory, else ffcv, if the data are .beton files and it is installed, else torchvision.
        store: what the resident loader keeps: `rgb`, or `yuv420` in half the bytes.
        store_side: images whose shorter side is longer are shrunk to it in the store, px; 0 keeps
            sizes.
        store_file: where the resident loader keeps pixels for the next run: `X.store` becomes
            `X.train.store` and `X.eval.store`.
        decode: `exact`, or `scaled`: the inverse DCT shrinks JPEGs by 2, 4 or 8 while what a crop
            shows stays twice the size that the model sees; of torchvision, ffcv, and resident with
            `store_side`.
        apply_exif: whether images of class folders are turned upright as their EXIF says; None: as
            a `.beton` says, of folders no.
        depth: what becomes of their images of more than 8 bits per channel, `clip` or `scale`; None
            likewise, of folders `clip`.
        stock: torchvision's own random transforms and shuffling instead of the plan.
        view: how training images are cut, see `pipelines.plan`.
        augment: `none`, `trivial` or `rand`, which may say how much: rand-n2-m9.
        scale, ratio, hflip, vflip, color_jitter, grayscale, erase, mixup, cutmix, mix_prob,
            mix_switch: see `pipelines.augment.Augment`.
        eval_view: how the others are; `auto` as the model was trained to, which is `eval` of
            torchvision's.
        filter: what images are resized by, `bilinear` or `bicubic`; None: as the model, or the run
            that `weights` is, was trained with: bilinear of torchvision's.
        crop_share: share of the resized shorter side that evaluation shows; None likewise: 0.875.
        size: side of the images that the model sees, px; 0 takes the model's own: 224 of
            torchvision's.
        start_size: side in the first epoch; it grows to `size` over two thirds of them, px; 0 is
            `size` throughout.
        epochs: passes over the training set.
        batch_size: images per step of all processes together; None takes `usual_batch_size`, or
            the whole training set if that is smaller.
        usual_batch_size: what a recipe asks for where the training set is large enough.
        optimizer: `sgd` or `adamw`.
        lr: learning rate at its peak; None takes what suits the optimizer, and whether there are
            weights, see `model.optim`.
        head_lr_factor: the new output layer learns this many times faster; None takes 10 on
            weights, else 1.
        momentum: of SGD.
        weight_decay: of either optimizer.
        decay: what decays: `all` weights, or `matrices` alone, neither biases and norms nor what
            the network names, such as positions; `auto` takes `all` of torchvision's networks and
            `matrices` of timm's.
        layer_decay: each layer learns at so much of the rate of the one behind it; 1: all alike.
        clip_grad: gradients are scaled down to this norm where theirs, of all parameters together,
            is larger; 0: never.
        schedule: `cosine` rises over `warm_up` of the steps and falls to zero; `constant` stays.
        warm_up: share of the steps.
        loss: `mean` or `sum` over the batch.
        label_smoothing: share of the target that goes to all classes alike.
        class_weight: how much a class's loss counts: empty, `balanced`, or like `hotdog=6,*=0.5`,
            where the star is every other class.
        sampler: how often an epoch shows each image, see `pipelines.sampling`: `shuffle` once;
            `balanced` so that all classes come alike, `sqrt` half-way there, `weights` as the data
            say. Evaluation shows each once.
        ema: decay per step of an average of the weights, which is then what is evaluated; 0: none.
        patience: stop after so many epochs without a better score, see `runs.measures`; 0: never.
        amp: `auto` takes bfloat16 where the device computes in it, else float16 on a GPU, else
            float32.
        compile: how full batches are computed: `off` as torch does; `default` by `torch.compile`,
            whose last digits differ; `graph` as one CUDA graph a step; `auto` begins with `off` and
            changes where that earns back what it costs, see `train.compiling`.
        seed: of the plan and of the new layer's weights.
        micro_batch: most images that a process puts through the model at once; a step then adds up
            several. 0: all of its share, or on a GPU as many as fit.
        sync_bn: batch norm over the batch of all processes.
        workers: decoding threads or processes of each process; 0 takes every CPU that it may use.
        device: `auto` takes a GPU if there is one.
        checkpoint_every: how often last.safetensors is written within an epoch: so many steps, or
            a time such as `30s` or `5m`; 0: never. Behind each epoch it always is.
        track: who is told of every row beside the run folder, of TRACKERS; see `runs.trackers`.
        tensorboard: a short form for `track` with `tensorboard`.
        overwrite: replace an earlier run in `out`.
    """

    data: Path
    out: Path
    val_split: float = UNDIVIDED.val_split
    folds: int = UNDIVIDED.folds
    fold: int = UNDIVIDED.fold
    group_by: str = UNDIVIDED.group_by
    split_seed: int = UNDIVIDED.seed
    recipe: str = "standard"
    arch: str = "auto"
    drop_path: float | None = None
    weights: str = "imagenet"
    reuse_head: tuple[str, ...] = ()
    freeze: str = ""
    unfreeze_epoch: int = 0
    loader: str = "auto"
    store: StoreKind = "rgb"
    store_side: int = 0
    store_file: Path | None = None
    decode: Decode = "exact"
    apply_exif: bool | None = None
    depth: Depth | None = None
    stock: bool = False
    view: TrainView = "train"
    augment: str = USUAL.policy
    scale: tuple[float, float] = USUAL.scale
    ratio: tuple[float, float] = USUAL.ratio
    hflip: float = USUAL.hflip
    vflip: float = USUAL.vflip
    color_jitter: tuple[float, ...] = USUAL.color_jitter
    grayscale: float = USUAL.grayscale
    erase: float = USUAL.erase
    mixup: float = USUAL.mixup
    cutmix: float = USUAL.cutmix
    mix_prob: float = USUAL.mix_prob
    mix_switch: float = USUAL.mix_switch
    eval_view: AskedView = "auto"
    filter: Filter | None = None
    crop_share: float | None = None
    size: int = 0
    start_size: int = 0
    epochs: int = 5
    batch_size: int | None = None
    usual_batch_size: int = 128
    optimizer: Optimizer = "sgd"
    lr: float | None = None
    head_lr_factor: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.001
    decay: Decay = "auto"
    layer_decay: float = 1.0
    clip_grad: float = 0.0
    schedule: Schedule = "cosine"
    warm_up: float = 0.1
    loss: LossReduction = "mean"
    label_smoothing: float = 0.0
    class_weight: str = ""
    sampler: Sampler = "shuffle"
    ema: float = 0.0
    patience: int = 0
    amp: Amp = "auto"
    compile: Compile = "auto"
    seed: int = 0
    workers: int = 0
    micro_batch: int = 0
    sync_bn: bool = False
    device: str = "auto"
    # Each takes less than a second, beside the training: under 1 % of it.
    checkpoint_every: str = "60s"
    track: tuple[str, ...] = ()
    tensorboard: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        choose("--loader", self.loader, LOADER_CHOICES)
        choose("--store", self.store, get_args(StoreKind))
        choose("--decode", self.decode, DECODES)
        if self.depth is not None:
            choose("--depth", self.depth, get_args(Depth))
        choose("--view", self.view, get_args(TrainView))
        choose("--eval-view", self.eval_view, get_args(AskedView))
        choose("--decay", self.decay, get_args(Decay))
        if self.filter is not None:
            choose("--filter", self.filter, FILTERS)
        if self.crop_share is not None:
            require("--crop-share", self.crop_share, 0.05, 1)
        if self.drop_path is not None:
            require("--drop-path", self.drop_path, 0, 0.9)
        require("--layer-decay", self.layer_decay, 0.01, 1)
        require("--clip-grad", self.clip_grad, 0, 1e6)
        choose("--optimizer", self.optimizer, get_args(Optimizer))
        choose("--loss", self.loss, get_args(LossReduction))
        choose("--amp", self.amp, get_args(Amp))
        choose("--compile", self.compile, get_args(Compile))
        choose("--schedule", self.schedule, get_args(Schedule))
        choose("--sampler", self.sampler, SAMPLERS)
        require("--store-side", self.store_side, 0, 65535)
        if self.size:
            require("--size", self.size, *MODEL_PX)
        require("--epochs", self.epochs, 1, 100_000)
        require("--unfreeze-epoch", self.unfreeze_epoch, 0, 100_000)
        require("--seed", self.seed, 0, 2**32 - 1)
        require("--workers", self.workers, 0, 1024)
        require("--micro-batch", self.micro_batch, 0, 1 << 20)
        read_interval(self.checkpoint_every)
        for name in self.track:
            choose("--track", name, TRACKERS)
        require("--momentum", self.momentum, 0, 0.9999)
        require("--weight-decay", self.weight_decay, 0, 10)
        require("--warm-up", self.warm_up, 0, 1)
        require("--label-smoothing", self.label_smoothing, 0, 0.9)
        require("--ema", self.ema, 0, 0.99999)
        require("--patience", self.patience, 0, 100_000)
        if self.start_size:
            require("--start-size", self.start_size, MODEL_PX[0], self.size or MODEL_PX[1])
        require("usual_batch_size", self.usual_batch_size, 1, 1 << 20)
        if self.batch_size is not None:
            require("--batch-size", self.batch_size, 1, 1 << 20)
        if self.lr is not None:
            require("--lr", self.lr, 1e-12, 1e6)
        if self.head_lr_factor is not None:
            require("--head-lr-factor", self.head_lr_factor, 0, 1e6)
        self._check_pairs()

    def _check_pairs(self) -> None:
        """Refuse options that do not go together."""
        _ = self.division
        if self.store_options and (self.stock or self.loader not in ("auto", "resident")):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in self.store_options)
            what = "--stock" if self.stock else f"--loader {self.loader}"
            raise UsageError(options, f"with {what}", "--loader resident")
        if self.decode == "scaled":
            self._check_scaled()
        self._check_augment()
        if self.stock and self.loader not in ("auto", "torchvision"):
            raise UsageError("--stock", f"--loader {self.loader}", "--loader torchvision")
        if self.stock and self.view != "train":
            raise UsageError("--stock", f"--view {self.view}", "--view train")
        if self.class_weight == "balanced" and self.sampler in ("balanced", "sqrt"):
            found = f"with --sampler {self.sampler}: classes would be evened out twice"
            raise UsageError("--class-weight balanced", found, "one of them", "leave one out")
        if self.weights == "none" and self.freeze:
            raise UsageError(
                "--freeze",
                f"{self.freeze} with --weights none",
                "weights that are worth keeping",
                "pass --weights imagenet or --weights RUN",
            )
        if self.weights == "none" and self.reuse_head:
            raise UsageError("--reuse-head", "given with --weights none", "weights with a head")
        if self.unfreeze_epoch and not self.freeze:
            raise UsageError("--unfreeze-epoch", "given without --freeze", "--freeze backbone")
        if self.freeze and 0 < self.epochs <= self.unfreeze_epoch:
            found = f"{self.unfreeze_epoch} of {self.epochs} epochs"
            raise UsageError("--unfreeze-epoch", found, "an earlier one, or 0 for never")

    def _check_scaled(self) -> None:
        """Refuse what decodes no image at a part of its size."""
        stores = bool(self.store_options) or self.loader == "resident"
        if self.stock or self.loader == "dali":
            what = "--stock" if self.stock else f"--loader {self.loader}"
            raise UsageError("--decode scaled", f"with {what}", "--loader ffcv or torchvision")
        if stores and not self.store_side:
            found = "with the resident loader, which keeps images at their size"
            raise UsageError("--decode scaled", found, "--store-side, such as 256")

    def _check_augment(self) -> None:
        """Refuse settings of no sense, and those that go unheard."""
        asked = self.augmentation
        check_view(asked, self.view)
        if asked.mixes and self.batch_size == 1:
            raise UsageError("--mixup and --cutmix", "--batch-size 1", "2 or more images to mix")

    @property
    def division(self) -> Division:
        """The split to make of data that come without.

        Raises:
            UsageError: settings out of range.
        """
        return make_division({name: getattr(self, name) for name in DIVISION_FIELDS})

    @property
    def augmentation(self) -> Augment:
        """The settings of augmentation, of which the plan draws.

        Raises:
            UsageError: settings out of range.
        """
        return make_augment({name: getattr(self, field) for name, field in AUGMENT_FIELDS.items()})

    @property
    def store_options(self) -> dict[str, Any]:
        """Options of the resident loader's store, as `make_loader` takes them."""
        options = {name: getattr(self, name) for name in ("store", "store_side", "store_file")}
        usual = defaults(TrainConfig)
        return {name: value for name, value in options.items() if value != getattr(usual, name)}

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers that are told of the run, each once."""
        asked = (*self.track, *(("tensorboard",) if self.tensorboard else ()))
        return tuple(name for name in TRACKERS if name in asked)

    @property
    def pretrained(self) -> bool:
        """Whether the run starts from weights."""
        return self.weights != "none"

    @property
    def judged_view(self) -> EvalView:
        """The view of evaluation, once it is filled in."""
        return "eval" if self.eval_view == "auto" else self.eval_view

    def epoch_size(self, epoch: int) -> int:
        """Side of training images in an epoch, px: multiples of 16 on the way to `size`."""
        growing = -(-2 * self.epochs // 3)
        if not self.start_size or epoch >= growing or self.epochs == 1:
            return self.size
        size = self.start_size + (self.size - self.start_size) * epoch / growing
        return max(self.start_size, min(self.size, 16 * round(size / 16)))


def read_interval(text: str) -> tuple[int, float]:
    """Reads `--checkpoint-every`: steps and seconds, one of which is 0.

    Raises:
        UsageError: it is neither.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "")
    if number.isdecimal() and len(number) < 10:
        return (0, int(number) * _UNITS[unit]) if unit else (int(number), 0.0)
    raise UsageError("--checkpoint-every", repr(text), "steps such as 500, or a time such as 60s")
