"""The loader contract, and what every loader shares: the plan, the position in it, the device.

    with make_loader("dali", "data.beton", view="train", batch_size=128, device="cuda") as loader:
        for epoch in range(5):
            loader.set_size(size_of(epoch))  # where images grow as training goes on
            loader.set_epoch(epoch)
            for images, labels in loader: ...

A subclass only says how rows of the plan become pixels.

A loader goes along into other processes. One that a fork inherits has threads and processes of the
parent's, which it leaves alone; it is pickled as what it was made from. Either way it begins anew
where it is first iterated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.augment import USUAL, Augment
from pipelines.errors import UsageError
from pipelines.forks import here, keep_for_good, require_main_guard
from pipelines.formats.source import Source
from pipelines.loaders.arguments import (
    ARGUMENTS,
    check_batches,
    check_kind,
    frequencies_of,
)
from pipelines.loaders.completion import Completion, Transform, make_changes, make_normalizer
from pipelines.loaders.crossing import begin_anew, keep_track, receive
from pipelines.loaders.loops import LikeDataLoader
from pipelines.plan import Decode, Plan, check_place, make_plan
from pipelines.preprocessing import IMAGENET, Preprocessing
from pipelines.sampling import Sampler
from pipelines.transfer import to_device
from pipelines.workers import cpu_count


class Loader(LikeDataLoader):
    """Batches of one view of one source, as a plain iterable.

    Yields `(images, labels)`: images [B, 3, S, S] channels_last on `device`, normalized
    float32, bfloat16 or float16, or uint8 with `normalize=False`; labels int64[B] on `device`,
    or float32[B, C]: where steps are mixed the shares of the classes, and of other tasks targets.
    The data are a function of (seed, epoch, S): call `set_epoch` before each epoch. Leaving an
    epoch early is fine; the next one starts from its beginning. `set_size` changes S between
    epochs, and neither order nor flips, nor the train view's boxes.

    Attributes:
        name: what `make_loader` calls its kind.
        source: the samples.
        view, batch_size, seed, rank, world, drop_last, decode, augment, preprocessing: as given to
            `make_loader`.
        sampling: its `sampler`.
        frequencies: how often samples come; None: each once.
        size: S, px, as given there or to `set_size`.
        device: where batches arrive.
        dtype: of normalized images; None for uint8.
        workers: threads or processes that decode.
        stated: how far from the reference its pixels may be, in levels of 255: the mean over many
            images, and at most. None where there is no such promise.
    """

    name: ClassVar[str]
    #: Ways to decode that it knows.
    decodes: ClassVar[tuple[Decode, ...]] = ("exact",)
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
        decode: Decode = "exact",
        augment: Augment = USUAL,
        transform: Transform | None = None,
        sampler: Sampler = "shuffle",
        preprocessing: Preprocessing = IMAGENET,
        begins: bool = True,
    ) -> None:
        """Make a loader; see `make_loader`.

        Args:
            source to preprocessing: see there.
            begins: whether to take threads, processes and memory now, or with the first iteration:
                so does what came from another process.

        Raises:
            UsageError: arguments that do not go together.
        """
        check_batches(source, batch_size, rank, world, workers, drop_last=drop_last)
        check_kind(self._title, self.decodes, decode, dtype if normalize else None)
        self.source = source
        self.view, self.size, self.batch_size, self.seed = view, size, batch_size, seed
        self.rank, self.world, self.drop_last, self.decode = rank, world, drop_last, decode
        self.device = torch.device(device)
        self.workers, self.augment = workers or cpu_count(), augment
        self.dtype = (dtype or torch.float32) if normalize else None
        self.sampling, self.frequencies = sampler, frequencies_of(source, view, sampler)
        self.preprocessing = preprocessing
        self._completion = Completion(
            source,
            augment,
            transform,
            batch_size=batch_size,
            rank=rank,
            world=world,
            device=self.device,
            dtype=self.dtype,
            preprocessing=preprocessing,
        )
        #: The dtype that `_batches` gives: a caller's own function comes before normalization.
        self._given = None if transform is not None else self.dtype
        #: Rows of this rank's batches at most.
        self._most_rows = -(-batch_size // world) + self._brings_partners
        self._cut_at = "center"
        self._labels = torch.from_numpy(source.columns.answers(source.labels))
        self._normalizer = make_normalizer(size, self.device, self._given, preprocessing)
        self._plan: Plan = self._make_plan(0)
        self._consumed = 0
        self._start = 0
        self._selected: NDArray[np.int64] | None = None
        self._running: Generator[tuple[torch.Tensor, torch.Tensor], None, None] | None = None
        self._closed, self._came = False, not begins
        #: The process whose threads, processes and memory the loader has.
        self._home = here() if begins else None
        if begins:
            self._begin()
        keep_track(self)

    def __reduce__(self) -> tuple[Any, ...]:
        state = self._plan.epoch, self._cut_at, self._selected, self._start, self._closed
        return receive, (type(self), self.source, self._arguments(), state)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.source), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def _enter(self, epoch: int) -> None:
        self._selected = None
        self._plan = self._make_plan(epoch)
        self._consumed = self._start = 0

    def select(self, samples: NDArray[np.int64]) -> None:
        """Let iterations give these samples alone, in this order, until `set_epoch`.

        They come as the current epoch shows them: boxes and flips are functions of (seed, epoch,
        sample), whatever else is asked for. Visits of `plan.order` are taken, too.
        """
        self._enter(self._plan.epoch)
        self._selected, self._plan = samples, replace(self._plan, order=samples)

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
            UsageError: a size out of range, or a loader that is closed; it stays as it was.
        """
        if size == self.size:
            return
        self._require_open()
        self._begin_here()
        plan = self._make_plan(self._plan.epoch, size)
        normalizer = make_normalizer(size, self.device, self._given, self.preprocessing)
        if self._running is not None:
            self._running.close()
        self._change_size(size)
        self.size, self._plan, self._normalizer = size, plan, normalizer
        self._selected = None
        self._consumed = self._start = 0

    def set_place(self, place: str) -> None:
        """Choose where in the resized image evaluation cuts: one of `plan.PLACES`.

        The current epoch starts from its beginning.

        Raises:
            UsageError: no such place, or the view is none of evaluation's.
        """
        check_place(place, self.view)
        self._cut_at = place
        self._enter(self._plan.epoch)

    def render_into(self, tensors: Sequence[torch.Tensor]) -> None:
        """Offer tensors that full batches may be rendered into in turn; only `resident` does so.

        Such a batch is yours until you ask for the next but one, or with more tensors longer. Not
        for those who keep batches.

        Args:
            tensors: two or more [B, 3, S, S], channels_last, on `device`, of the batches' dtype; B
                is this rank's share of a full batch. None takes the offer back.
        """
        self._require_open()
        self._begin_here()
        if not self._completion.copies:  # else what is yielded lies elsewhere
            self._render_into(tensors)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self._require_open()
        require_main_guard()
        self._begin_here()
        home, find_home = here(), here  # a name of its own: modules' go when the interpreter ends
        if self._running is not None:
            self._running.close()  # an iteration that was left without being dropped ends here
        plan, start = self._plan, self._start
        number = start // self.batch_size
        self._start, self._consumed = 0, start
        batches = self._running = self._batches(plan, start)
        try:
            for images, labels in batches:
                self._consumed = min(self._consumed + self.batch_size, len(self.source))
                # Samples that were selected are to be looked at.
                mix = plan.mix(number) if self._selected is None else None
                yield self._completion(images, labels, plan, number, mix)
                number += 1
                self._require_open()
                if home is not here():
                    found = "an iteration that began before this process was forked"
                    raise UsageError(self._title, found, "one of its own", "call iter(loader) here")
        finally:
            if home is find_home():
                batches.close()

    @property
    def has_begun(self) -> bool:
        """Whether it has taken threads or memory once: one from another process, when iterated."""
        return self._home is not None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes for whoever uses the loader, as far as they are known by now."""
        return ()

    def close(self) -> None:
        """Give back threads, processes and memory, and end an iteration that somebody still holds.

        Safe to call twice; of what a process inherited by a fork it ends nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._end_iteration()
        if self._home is here():
            self._end()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _title(self) -> str:
        """The loader's name in errors."""
        return f"loader {self.name!r}"

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError(self._title, "is closed", "an open one", "make another by make_loader")

    def _begin_here(self) -> None:
        """Begin in this process, if the loader has not: it was forked, or the loader is new in it.

        Raises:
            UsageError: this is a fork, and the loader's GPU is its parent's.
            As the subclass's `__init__`.
        """
        if self._home is not here():
            begin_anew(self)

    def _arguments(self) -> dict[str, Any]:
        """The arguments from which another process makes the same loader, beside the source."""
        own = {name: getattr(self, name) for name in ARGUMENTS}
        normalize, transform = self.dtype is not None, self._completion.transform
        return own | {"sampler": self.sampling, "normalize": normalize, "transform": transform}

    @property
    def _brings_partners(self) -> bool:
        """Whether a share begins with another rank's sample, for the next one to be mixed with."""
        return self.augment.mixes and self.world > 1

    def _end_iteration(self) -> None:
        """End what is under way, unless it is the parent's."""
        if self._home is here() and self._running is not None:
            self._running.close()

    def _leave_behind(self) -> None:
        """In a process that was just forked: never end anything of the parent's.

        Nothing that the loader has may be destroyed: that would wait for threads that are not here.
        """
        keep_for_good(*vars(self).values())

    def _begin(self) -> None:  # some begin with the first batch
        """Take threads, processes and memory of this process: once, and again in a fork of it."""

    def _end(self) -> None:  # nothing to do is a fair way to end
        """Give back what `_begin` took, and what came of it; no iteration is left."""

    @abstractmethod
    def _batches(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """Execute `plan` from sample `start` on; closing the generator ends what is in flight."""

    def _change_size(self, size: int) -> None:  # some take it from the plan
        """Get ready for plans of another size; nothing is in flight."""

    def _render_into(self, tensors: Sequence[torch.Tensor]) -> None:  # an offer
        """See `render_into`."""

    def _planned(self) -> tuple[NDArray[np.int32], NDArray[np.int32], Decode]:
        """Widths and heights of the images that are cut, px, and how they are decoded for that."""
        return self.source.widths, self.source.heights, self.decode

    def _make_plan(self, epoch: int, size: int | None = None) -> Plan:
        """Plan an epoch, at the present size if that is None."""
        widths, heights, decode = self._planned()
        return make_plan(
            widths,
            heights,
            view=self.view,
            size=self.size if size is None else size,
            seed=self.seed,
            epoch=epoch,
            decode=decode,
            augment=self.augment,
            place=self._cut_at,
            frequencies=self.frequencies,
            preprocessing=self.preprocessing,
        )

    def _shares(self, plan: Plan, start: int) -> Iterator[NDArray[np.int64]]:
        """This rank's samples, or their visits, a batch at a time."""
        return plan.shares(
            self.batch_size,
            rank=self.rank,
            world=self.world,
            start=start,
            drop_last=self.drop_last,
            partners=self._brings_partners,
        )

    def _to_device(
        self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], plan: Plan, start: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches in host memory to the device, where a GPU executes their operations, too."""
        changes = make_changes(self.device, plan, self._shares(plan, start))
        return to_device(batches, self._normalizer, self.device, changes)
