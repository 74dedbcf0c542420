"""The loader contract, and what every loader shares: the plan, the position in it, the device.

    with make_loader("dali", "data.beton", view="train", batch_size=128, device="cuda") as loader:
        for epoch in range(5):
            loader.set_size(size_of(epoch))  # where images grow as training goes on
            loader.set_epoch(epoch)
            for images, labels in loader: ...

A subclass only says how rows of the plan become pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.plan import Plan, Rows, make_plan
from pipelines.reference import MEAN, STD
from pipelines.source import Source
from pipelines.transfer import Normalizer, to_device
from pipelines.workers import cpu_count

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Loader(ABC):
    """Batches of one view of one source, as a plain iterable.

    Yields `(images, labels)`: images [B, 3, S, S] channels_last on `device`, normalized
    float32, bfloat16 or float16, or uint8 with `normalize=False`; labels int64[B] on `device`.
    The data are a function of (seed, epoch, S): call `set_epoch` before each epoch. Leaving an
    epoch early is fine; the next one starts from its beginning. `set_size` changes S between
    epochs, and neither order nor flips, nor the train view's boxes.

    Attributes:
        source: the samples.
        view, batch_size, seed, rank, world, drop_last: as given to `make_loader`.
        size: S, px, as given there or to `set_size`.
        device: where batches arrive.
        dtype: of normalized images; None for uint8.
        workers: threads or processes that decode.
        stated: how far from the reference its pixels may be, in levels of 255: the mean over many
            images, and at most. None where there is no such promise.
    """

    stated: tuple[float, int] | None = None

    def __init__(
        self,
        source: Source,
        *,
        view: str,
        size: int,
        batch_size: int,
        seed: int,
        device: str | torch.device,
        dtype: torch.dtype | None,
        normalize: bool,
        workers: int,
        rank: int,
        world: int,
        drop_last: bool,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world or workers < 0:
            found = f"{batch_size}, {rank} of {world}, {workers}"
            raise UsageError("batch size, rank, workers", found, "a positive batch, rank < world")
        if drop_last and batch_size > len(source):
            raise UsageError(
                "batch size", f"{batch_size} for the {len(source)} samples of {source.path}",
                f"at most {len(source)} when the last batch is dropped", "take a smaller batch",
            )  # fmt: skip
        if normalize and dtype is not None and dtype not in _DTYPES:
            raise UsageError("dtype", str(dtype), "float32, bfloat16 or float16")
        self.source = source
        self.view, self.size, self.batch_size, self.seed = view, size, batch_size, seed
        self.rank, self.world, self.drop_last = rank, world, drop_last
        self.device = torch.device(device)
        self.workers = workers or cpu_count()
        self.dtype = (dtype or torch.float32) if normalize else None
        self._labels = torch.from_numpy(source.labels)
        self._normalizer = self._make_normalizer(size)
        self._plan: Plan = self._make_plan(0)
        self._consumed = 0
        self._start = 0
        self._running: Generator[tuple[torch.Tensor, torch.Tensor], None, None] | None = None

    @property
    def plan(self) -> Plan:
        """The plan of the current epoch."""
        return self._plan

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.source), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration runs, from its beginning."""
        self._plan = self._make_plan(epoch)
        self._consumed = self._start = 0

    def select(self, samples: NDArray[np.int64]) -> None:
        """Let iterations give these samples alone, in this order, until `set_epoch`.

        They come as the current epoch shows them: boxes and flips are functions of (seed, epoch,
        sample), whatever else is asked for.
        """
        self.set_epoch(self._plan.epoch)
        self._plan = replace(self._plan, order=samples)

    def set_size(self, size: int) -> None:
        """Choose the side S of the images that the next iteration gives, px; between epochs.

        Before `set_epoch` or after it is the same: the current epoch is planned anew and starts
        from its beginning. So call it before `load_state_dict`, whose state knows of no size. An
        iteration that was left without being dropped ends here. The size that is there already
        changes nothing at all.

        What was decoded stays, threads and worker processes too; memory for batches of the old size
        is given back. What was settled by the first size, such as where the pixels of `resident`
        go, stays settled: make the loader with the largest.

        Raises:
            UsageError: a size out of range; the loader stays as it was.
        """
        if size == self.size:
            return
        plan, normalizer = self._make_plan(self._plan.epoch, size), self._make_normalizer(size)
        if self._running is not None:
            self._running.close()
        self._change_size(size)
        self.size, self._plan, self._normalizer = size, plan, normalizer
        self._consumed = self._start = 0

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands: seed, epoch, samples handed out over all ranks together."""
        return {"seed": self.seed, "epoch": self._plan.epoch, "consumed": self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken: the next iteration starts behind what was consumed.

        Raises:
            UsageError: the state is of another seed, or consumed a broken number of samples.
        """
        consumed = state["consumed"]
        whole = consumed % self.batch_size == 0 or consumed == len(self.source)
        if state["seed"] != self.seed or not whole or not 0 <= consumed <= len(self.source):
            found = f"seed {state['seed']}, {consumed} samples consumed"
            expected = f"seed {self.seed} and whole batches of {self.batch_size}"
            raise UsageError("loader state", found, expected)
        self.set_epoch(state["epoch"])
        self._consumed = self._start = consumed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self._running is not None:
            self._running.close()  # an iteration that was left without being dropped ends here
        plan, start = self._plan, self._start
        self._start, self._consumed = 0, start
        batches = self._running = self._batches(plan, start)
        try:
            for images, labels in batches:
                self._consumed = min(self._consumed + self.batch_size, len(self.source))
                yield images, labels
        finally:
            batches.close()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What somebody who uses the loader would want to know, as far as it is known by now."""
        return ()

    def close(self) -> None:  # noqa: B027 - nothing to do is a fair way to close
        """Give back threads, processes and memory; safe to call twice."""

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def _batches(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """Execute `plan` from sample `start` on; closing the generator ends what is in flight."""

    def _change_size(self, size: int) -> None:  # noqa: B027 - some take it from the plan
        """Get ready for plans of another size; nothing is in flight."""

    def _make_plan(self, epoch: int, size: int | None = None) -> Plan:
        """Plan an epoch, at the present size if that is None."""
        return make_plan(
            self.source.widths, self.source.heights, view=self.view,
            size=self.size if size is None else size, seed=self.seed, epoch=epoch,
        )  # fmt: skip

    def _make_normalizer(self, size: int) -> Normalizer:
        return Normalizer(size, MEAN, STD, device=self.device, dtype=self.dtype)

    def _rows(self, plan: Plan, start: int) -> Iterator[Rows]:
        """This rank's rows, a batch at a time."""
        return map(plan.rows, self._shares(plan, start))

    def _shares(self, plan: Plan, start: int) -> Iterator[NDArray[np.int64]]:
        """This rank's samples, a batch at a time."""
        return plan.shares(
            self.batch_size, rank=self.rank, world=self.world, start=start, drop_last=self.drop_last
        )

    def _to_device(
        self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return to_device(batches, self._normalizer, self.device)
