"""Settings of `fastft bench` and of each of its processes; the only place of their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from fastft.config.augment import check_view
from fastft.config.checks import choose, require
from fastft.config.train import MODEL_PX, Amp
from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError
from pipelines.plan import DECODES, Decode

#: From the yardstick on, in the order of README.
CONTENDERS = ("stock", "torchvision", "ffcv", "dali", "resident")
_VIEWS = ("train", "recordio", "eval", "eval-square")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """One look at where the time goes.

    Attributes:
        data: a `.beton`, a class folder, or a folder with splits, of which the training split.
        out: the folder for bench.json and bench.png.
        loaders: names; none takes all. `stock` is torchvision's own DataLoader and transforms.
        workers: how many threads or processes, one measurement of each loader for each number; 0
            is every CPU this process may use.
        view: how images are cut, see `pipelines.plan`.
        size: side of the images that the model sees, px.
        batch_size: images of a batch; of a smaller set, all of them.
        decode: `exact`, or `scaled`, see TrainConfig; `stock` knows no other than `exact`.
        augment: what else is drawn of images; `stock` draws it itself.
        seconds: each loader is measured for so long once its first epoch is over.
        cold: look also at what is not in the page cache.
        arch: the model to hold the loaders against.
        amp: what it computes in, see TrainConfig.
        device: `auto` takes a GPU if there is one.
        seed: of the plan.
    """

    data: Path
    out: Path = Path("bench")
    loaders: tuple[str, ...] = ()
    workers: tuple[int, ...] = (0,)
    view: str = "train"
    size: int = 224
    batch_size: int = 64
    decode: Decode = "exact"
    augment: Augment = USUAL
    seconds: float = 5.0
    cold: bool = True
    arch: str = "resnet18"
    amp: Amp = "auto"
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.loaders:
            choose("--loaders", name, CONTENDERS)
        if not self.workers:
            raise UsageError("--workers", "nothing", "numbers such as 1,2,4")
        for count in self.workers:
            require("--workers", count, 0, 1024)
        choose("--view", self.view, _VIEWS)
        choose("--decode", self.decode, DECODES)
        choose("--amp", self.amp, get_args(Amp))
        check_view(self.augment, self.view)
        require("--size", self.size, *MODEL_PX)
        require("--batch-size", self.batch_size, 1, 1 << 20)
        require("--seconds", self.seconds, 0.1, 600)
        require("--seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The task of one measuring process, as JSON on its command line.

    Attributes:
        loader: its name; empty for the stages.
        data: a `.beton` or a class folder.
        workers: threads or processes.
        view, size, batch_size, decode, augment, seconds, arch, amp, device, seed: as in
            BenchConfig.
        cold: only read the first epoch; or look also at what is not in the page cache.
    """

    loader: str
    data: str
    workers: int
    view: str
    size: int
    batch_size: int
    decode: Decode
    augment: Augment
    seconds: float
    arch: str
    amp: str
    device: str
    seed: int
    cold: bool
