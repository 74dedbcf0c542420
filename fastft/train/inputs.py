"""A run's input: both splits and the loaders that read them, which several runs may share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from fastft.config.train import LOADER_CHOICES, TrainConfig
from fastft.datasets.division import open_sides
from fastft.datasets.splits import fastest_loader, find_splits, pick_batch_size
from fastft.model.tasks import find_goal, require_same_task, require_variety
from fastft.system.environment import pick_amp, pick_device
from fastft.train.distributed import ALONE, World
from pipelines.augment import USUAL
from pipelines.errors import DataError, UsageError
from pipelines.formats.source import Source, open_source
from pipelines.loaders import Loader, make_loader
from pipelines.preprocessing import IMAGENET, Preprocessing


@dataclass(frozen=True, slots=True)
class Inputs:
    """Splits and loaders of a run.

    Attributes:
        train, evaluation: the loaders of both splits.
        device: where batches arrive.
        amp_dtype: what autocast computes in; None for float32.
        world: the processes that share them.
        preprocessing: the form of the images.
    """

    train: Loader
    evaluation: Loader
    device: torch.device
    amp_dtype: torch.dtype | None
    world: World = ALONE
    preprocessing: Preprocessing = IMAGENET

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.train.source.classes


def open_sources(config: TrainConfig) -> tuple[Source, Source]:
    """The training and the evaluation split.

    Raises:
        DataError: they cannot be read, differ in their task, their classes or in how they are
            prepared, or hold nothing to learn or to judge by.
        UsageError: a `.beton` is prepared otherwise than was asked for, or settings of the loss
            that do not suit the data.
    """
    if config.division:
        train, evaluation = open_sides(
            config.data, config.division, apply_exif=config.apply_exif, depth=config.depth
        )
    else:
        train_path, eval_path = find_splits(config.data)
        train = open_source(train_path, apply_exif=config.apply_exif, depth=config.depth)
        evaluation = open_like(train, eval_path)
    # Settings that the task does not take are refused before anything is opened.
    find_goal(train).make_loss(config, train, torch.device("cpu"))
    require_variety(evaluation)
    return train, evaluation


def open_like(train: Source, path: Path) -> Source:
    """The evaluation split of a training split: a class folder is prepared alike.

    Raises:
        DataError: it cannot be read, is of another task, has other classes, or is a `.beton` that
            is prepared otherwise.
    """
    how = asdict(train.preparation) if path.is_dir() else {}
    task = train.columns.task
    if path.is_dir() and task != "classes":
        require_same_task(open_source(path), task, f"{train.path} does")
    evaluation = open_source(path, train.classes, **how)
    require_same_task(evaluation, task, f"{train.path} does")
    if evaluation.preparation != train.preparation:
        raise DataError(
            path,
            f"was converted with {evaluation.preparation}",
            f"{train.preparation}, as {train.path} is",
            "convert both alike",
        )
    return evaluation


def resolve_inputs(
    config: TrainConfig, sources: Sequence[Source], world: World = ALONE
) -> TrainConfig:
    """Fill in loader and batch size, which depend on the data and on what is installed.

    All processes get the same: `resident` if there is room in each of them, else what suits the
    first one that has none.

    Raises:
        UsageError: the batch is larger than the training split; no such device.
    """
    batch_size = pick_batch_size(config.batch_size, config.usual_batch_size, sources[0])
    loader = config.loader
    if loader == "auto":
        if config.store_options:
            loader = "resident"
        elif config.stock:
            loader = "torchvision"
        else:
            device = pick_device(config.device) if world.size == 1 else world.device
            share = -(-batch_size // world.size)
            loader = fastest_loader(
                sources, device, batch=share, size=config.size, decode=config.decode
            )
        all_ = world.gather([LOADER_CHOICES.index(loader)])
        chosen = (LOADER_CHOICES[int(number)] for (number,) in all_)
        loader = next((each for each in chosen if each != "resident"), "resident")
    if config.stock and world.size > 1:
        raise UsageError(
            "--stock", f"with {world.size} processes", "one: it follows no plan to share", ""
        )
    return replace(config, loader=loader, batch_size=batch_size)


@contextmanager
def open_inputs(
    config: TrainConfig,
    sources: Sequence[Source],
    world: World | None = None,
    preprocessing: Preprocessing = IMAGENET,
    epochs: int | None = None,
) -> Iterator[Inputs]:
    """Open the loaders of a config that `resolve_inputs` has filled in.

    Args:
        config: what to open.
        sources: of both splits.
        world: who shares each batch; None: nobody.
        preprocessing: the form that the model wants its images in.
        epochs: how many they are opened for; None: nobody knows.

    Raises:
        UsageError: a library that is not installed, or pixels that fit into no memory.
        DataError: data that cannot be read.
    """
    if world is None:
        world = replace(ALONE, device=pick_device(config.device))
    amp_dtype = pick_amp(config.amp, world.device)
    with ExitStack() as stack:
        make = partial(
            _make_loader, config, amp_dtype, world, preprocessing=preprocessing, epochs=epochs
        )
        train, evaluation = (
            stack.enter_context(make(source, view))
            for source, view in zip(sources, (config.view, config.judged_view), strict=True)
        )
        yield Inputs(train, evaluation, world.device, amp_dtype, world, preprocessing)


def _make_loader(
    config: TrainConfig,
    amp_dtype: torch.dtype | None,
    world: World,
    source: Source,
    view: str,
    *,
    preprocessing: Preprocessing,
    epochs: int | None,
) -> Loader:
    assert config.batch_size is not None
    is_training = view == config.view
    # Evaluation is the same for all; only training differs between plan and stock.
    name = "stock" if config.stock and is_training else config.loader
    options = config.store_options
    if config.store_file is not None:  # one each for training and evaluation
        split = "train" if is_training else "eval"
        options["store_file"] = config.store_file.with_suffix(f".{split}{config.store_file.suffix}")
    if name == "resident":
        options["epochs"] = epochs
        if world.size > 1:
            options["store_least"] = world.least
    return make_loader(
        name,
        source,
        view=view,
        size=config.size,
        batch_size=config.batch_size,
        seed=config.seed,
        # On a GPU the model's first layer would make this cast; half the bytes are written.
        device=world.device,
        dtype=amp_dtype if world.device.type == "cuda" else None,
        workers=config.workers or world.cpus,
        rank=world.rank,
        world=world.size,
        decode=config.decode,
        augment=config.augmentation if is_training else USUAL,
        sampler=config.sampler if is_training else "shuffle",
        preprocessing=preprocessing,
        **options,
    )


def check_store_file(config: TrainConfig) -> None:
    """Refuse a folder as a store's file.

    Raises:
        UsageError: it is one.
    """
    store_file = config.store_file
    if store_file is not None and store_file.is_dir():
        expected = f"a file to make, for instance {store_file / 'pixels.store'}"
        raise UsageError("--store-file", f"{store_file} is a folder", expected)
