"""Loaders in other people's loops: the attributes that these read off a DataLoader, and states.

Lightning, accelerate, Hugging Face's Trainer and timm take any iterable with a length. What else
they touch of it is here, and nothing that they do not touch; LOOPS.md shows each of them at work.

Sources: `_set_sampler_epoch` of lightning.fabric.utilities.data, `_is_dataloader_shuffled` of
lightning.pytorch.utilities.data, `_Stateful` of lightning.fabric.utilities.types; `num_examples`
and `_run_epoch` of transformers.Trainer, `skip_first_batches` of accelerate; timm's train.py;
torchdata.stateful_dataloader.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from torch.utils.data import Sampler as TorchSampler

from pipelines.errors import UsageError
from pipelines.formats.source import Source
from pipelines.loaders.arguments import check_state
from pipelines.plan import SHUFFLED, Plan

_STATE = ("seed", "epoch", "consumed")


class LikeDataLoader(ABC):
    """The side of a loader that other people's loops see.

    Attributes:
        batch_sampler: None, as of a DataLoader that is given whole batches: Lightning asks for it.
        mixup_enabled: False: no collate function mixes, so that timm's script asks its `Mixup`.
    """

    source: Source
    view: str
    batch_size: int
    seed: int
    rank: int
    world: int
    drop_last: bool
    batch_sampler: ClassVar[None] = None
    mixup_enabled: ClassVar[bool] = False
    _plan: Plan
    #: Samples of the epoch that all ranks together have handed out.
    _consumed: int
    #: Those that the next iteration leaves out, as a state that was loaded says.
    _start: int

    @property
    def plan(self) -> Plan:
        """The plan of the current epoch."""
        return self._plan

    @property
    def dataset(self) -> Source:
        """The samples: their number, `classes` and `labels`."""
        return self.source

    @property
    def sampler(self) -> PlanSampler:
        """This rank's samples as the plan orders them; its `set_epoch` is the loader's.

        It is made anew each time, so that a loader that is dropped ends at once.
        """
        return PlanSampler(self) if self.view in SHUFFLED else FileOrder(self)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration runs, from its beginning.

        A position within this epoch that `load_state_dict` has set, and nobody has iterated from,
        stays: loops load a state first, and call this as they begin the epoch.
        """
        if not self._start or epoch != self._plan.epoch:
            self._enter(epoch)

    def state_dict(self) -> dict[str, int]:
        """The position: seed, epoch, samples handed out over all ranks together.

        Within an iteration the batch that was given last counts as handed out, and nothing that is
        read ahead does.
        """
        return {"seed": self.seed, "epoch": self._plan.epoch, "consumed": self._consumed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue where `state` was taken: the next iteration starts behind what was consumed.

        It gives nothing if that was the whole epoch. The one after it is a whole epoch again.

        Raises:
            UsageError: the state is another kind's, of another seed, or consumed a broken number
                of samples.
        """
        if not all(type(state.get(name)) is int for name in _STATE):
            found = f"holds {', '.join(map(str, state)) or 'nothing'}"
            raise UsageError("loader state", f"{found:.200}", f"{', '.join(_STATE)}, as integers")
        check_state(state, self.seed, self.batch_size, len(self.source))
        self._enter(state["epoch"])
        self._consumed = self._start = state["consumed"]

    @abstractmethod
    def __len__(self) -> int:
        """Batches per epoch."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of the current epoch."""

    @abstractmethod
    def _enter(self, epoch: int) -> None:
        """Plan an epoch, to be run from its beginning."""


class PlanSampler(TorchSampler[int]):
    """The numbers of one rank's samples, in the order in which the current epoch shows them."""

    def __init__(self, loader: LikeDataLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[int]:
        loader, plan = self._loader, self._loader.plan
        for visits in plan.shares(
            loader.batch_size, rank=loader.rank, world=loader.world, drop_last=loader.drop_last
        ):
            yield from plan.samples(visits).tolist()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def set_epoch(self, epoch: int) -> None:
        """Choose the loader's epoch, see `LikeDataLoader.set_epoch`."""
        self._loader.set_epoch(epoch)


class FileOrder(PlanSampler, SequentialSampler):
    """The same of a view that shuffles nothing, as torch calls it."""


class DictLoader(DataLoader[Any]):
    """Batches of a loader as dicts, for loops that want these, and a DataLoader.

    accelerate skips batches of a DataLoader alone, when Hugging Face's Trainer resumes. It makes
    another one of `dataset` then, which must give whole batches.
    """

    def __init__(self, loader: LikeDataLoader, names: tuple[str, str]) -> None:
        super().__init__(_Dicts(loader, names), batch_size=None)
        self._batches = loader

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """See `LikeDataLoader.set_epoch`."""
        self._batches.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """See `LikeDataLoader.state_dict`."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """See `LikeDataLoader.load_state_dict`."""
        self._batches.load_state_dict(state)


def as_dicts(
    loader: LikeDataLoader, *, images: str = "pixel_values", labels: str = "labels"
) -> DictLoader:
    """Batches of a loader as dicts, in this process, without a copy.

    Args:
        loader: it stays yours to close.
        images, labels: keys; as Hugging Face's image classifiers name what they take.
    """
    return DictLoader(loader, (images, labels))


class _Dicts(IterableDataset[dict[str, torch.Tensor]]):
    """One item is a whole batch; the length is the number of samples, which Trainers count."""

    def __init__(self, loader: LikeDataLoader, names: tuple[str, str]) -> None:
        self._loader, self._names = loader, names

    def __len__(self) -> int:
        return len(self._loader.source)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self._loader:
            yield dict(zip(self._names, batch, strict=True))
