"""FFCV as an executor of the plan: `ffcv.Loader` drives a decoder operation of ours.

FFCV's own operations draw their crops, decode by a fast and inexact DCT, ignore what the decoder
says, resize by area and compile anew in every process. Of FFCV there remain its file, its traversal
and its thread that runs ahead; each batch is rendered by `rendering`, whose machine code is cached.
Distance from the reference: none.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.compiling import compiling
from pipelines.errors import UsageError
from pipelines.formats.beton import Index
from pipelines.loaders.base import Loader
from pipelines.plan import DECODES, Plan
from pipelines.rendering.crops import CropRenderer
from pipelines.rendering.renderer import Renderer, Rendering, surfacing
from pipelines.workers import require_thread_room

_TORCH_THREADS, _NUMBA_THREADS = torch.get_num_threads(), numba.get_num_threads()
_TYPED_DICT = numba.typed.Dict
try:
    # FFCV keeps two numbers in one, which its Python code alone reads, and for which numba compiles
    # 5 s in every process.
    numba.typed.Dict = dict
    import ffcv.loader.loader
    from ffcv.pipeline import Compiler, PipelineSpec
    from ffcv.pipeline.operation import Operation
    from ffcv.pipeline.state import State
    from ffcv.traversal_order.base import TraversalOrder
except ImportError as error:
    raise UsageError(
        "loader 'ffcv'",
        f"ffcv cannot be imported ({error})",
        "it beside fastft",
        'pip install "fastft[ffcv]", or take --loader torchvision',
    ) from error
finally:
    numba.typed.Dict = _TYPED_DICT
    # Its import leaves torch and numba with a single thread.
    torch.set_num_threads(_TORCH_THREADS)
    numba.set_num_threads(_NUMBA_THREADS)

#: Batches in FFCV's queue; one more waits to get in, and one is being taken. 2 were no faster.
_AHEAD = 1
#: How often a consumer looks whether FFCV's thread still lives.
_LOOK_S = 1.0


class FfcvLoader(Loader):
    """Executes the plan under `ffcv.Loader`."""

    name = "ffcv"
    decodes = DECODES
    # None has been seen; Pillow may change the order of its two passes again, which costs one.
    stated = (0.05, 1)

    def _begin(self) -> None:
        source = self.source
        if not isinstance(source, Index):
            raise UsageError(
                "loader 'ffcv'",
                f"{source.path} is a class folder",
                "a .beton file",
                "make one by fastft convert, or take --loader torchvision",
            )
        share = len(np.array_split(np.arange(self.batch_size), self.world)[self.rank])
        share += bool(share and self._brings_partners)
        # On a GPU, pixels cross the bus as uint8; they are changed and normalized there.
        on_gpu = self.device.type == "cuda"
        renderer = CropRenderer(
            source,
            self.size,
            None if on_gpu else self._given,
            batch=share,
            workers=self.workers,
            changes=self.augment.changes_pixels and not on_gpu,
            preprocessing=self.preprocessing,
        )
        self._decoder = _PlanDecoder(self.plan, renderer)
        self._order = _PlanOrder(self.plan.order)
        self._driver = _make_driver(source, share, self._decoder, self._order) if share else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """The images that FFCV's way of decoding does not serve."""
        return self._decoder.renderer.known.remarks if self.has_begun else ()

    def _change_size(self, size: int) -> None:
        self._decoder.renderer.set_size(size)

    def _batches(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        batches = self._render(plan, start)
        if self.device.type == "cuda":
            yield from self._to_device(batches, plan, start)
            return
        for images, labels in batches:
            yield images.permute(0, 3, 1, 2), labels

    def _render(
        self, plan: Plan, start: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """Images [B, S, S, 3] in host memory, and labels."""
        shares = list(self._shares(plan, start))
        self._decoder.plan, self._order.visits = plan, np.concatenate([*shares, plan.order[:0]])
        batches = _start(self._driver) if len(self._order.visits) else None
        try:
            for visits in shares:
                labels = self._labels[torch.from_numpy(plan.samples(visits))]
                if batches is None or not len(visits):
                    # a rank's share of a last batch that is smaller than the world
                    dtype = torch.uint8 if self.device.type == "cuda" else self._given
                    empty = torch.empty((0, self.size, self.size, 3), dtype=dtype or torch.uint8)
                    yield empty, labels
                else:
                    yield _take(batches).result(), labels
        finally:
            if batches is not None:
                _stop(batches)

    def _end(self) -> None:
        """End the threads."""
        self._decoder.renderer.close()


class _PlanOrder(TraversalOrder):  # type: ignore[misc]
    """One rank's visits in the plan's order; FFCV calls what it is given for its loader.

    FFCV takes them for samples, and hands them on to our operation alone.
    """

    def __init__(self, visits: NDArray[np.int64]) -> None:
        self.visits = visits

    def __call__(self, loader: Any) -> _PlanOrder:
        return self

    def sample_order(self, epoch: int) -> NDArray[np.int64]:
        """FFCV's count of epochs is not asked: the plan knows its own."""
        return self.visits


class _PlanDecoder(Operation):  # type: ignore[misc]
    """The operation that FFCV calls with each batch's samples.

    The plan is looked up when a batch is due, so that no compiler can take it for a constant. What
    goes wrong is the batch's outcome: an error in FFCV's thread would end it and nobody would know.
    """

    def __init__(self, plan: Plan, renderer: Renderer) -> None:
        super().__init__()
        self.plan, self.renderer = plan, renderer

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, None]:
        """FFCV need allocate nothing: it would make room for the largest image in every row."""
        return previous_state, None

    def generate_code(self) -> Callable[..., Rendering | Exception]:
        def start_rendering(
            batch_indices: NDArray[np.int64], memory: None, metadata: Any, storage_state: Any
        ) -> Rendering | Exception:
            try:
                return self.renderer.submit(self.plan.rows(batch_indices), self.plan)
            except BaseException as error:
                return surfacing(error)

        return start_rendering


class _NoMemory:
    """Takes the place of FFCV's tables of samples and pages: our operation reads by the index.

    They take 2.3 us and several sets for each sample (2 cores, 100,000 samples), and making their
    types turns numba's one type for byte arrays read-only, under which functions are filed.
    """

    def __init__(self, reader: object) -> None:
        pass

    def compile_reader(self) -> None:
        """The reader that operations use."""

    def schedule_epoch(self, batches: object) -> _NoContext:
        """The memory that is held while an epoch lasts."""
        return _NoContext()


class _NoContext:
    state = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def start_batch(self, batch: int) -> None:
        """Called before each batch."""


def _make_driver(
    index: Index, batch_size: int, decoder: _PlanDecoder, order: _PlanOrder
) -> ffcv.loader.loader.Loader:
    image, label = index.fields
    module = ffcv.loader.loader
    compiles, manager = Compiler.is_enabled, module.OSCacheManager
    with compiling(), same_threads() as threads:
        # What our operation calls is compiled and cached; FFCV's compiler begins anew each time.
        Compiler.set_enabled(False)
        module.OSCacheManager = _NoMemory
        try:
            return module.Loader(
                index.file.link,
                batch_size=batch_size,
                num_workers=threads,
                order=order,
                pipelines={image: PipelineSpec(image, decoder=decoder), label: None},
                os_cache=True,
                drop_last=False,
                batches_ahead=_AHEAD,
            )
        finally:
            Compiler.set_enabled(compiles)
            module.OSCacheManager = manager


@contextmanager
def same_threads() -> Iterator[int]:
    """Undo what FFCV does to torch's and numba's threads; gives the number that changes least."""
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        yield min(torch_threads, numba_threads)
    finally:
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)


def _start(driver: ffcv.loader.loader.Loader) -> Any:
    """FFCV's iterator over an epoch, which is a thread."""
    require_thread_room()
    with same_threads() as threads:
        driver.num_workers = threads  # its thread sets torch's number again
        return iter(driver)


def _take(batches: Any) -> Rendering:
    """The next batch; FFCV's own way waits for ever once its thread has died."""
    while True:
        try:
            item = batches.output_queue.get(timeout=_LOOK_S)
        except Empty:
            if not batches.is_alive():
                raise RuntimeError("FFCV's thread has died") from None
            continue
        _, (rendering,) = item
        if isinstance(rendering, Exception):
            raise rendering
        assert isinstance(rendering, Rendering)
        return rendering


def _stop(batches: Any) -> None:
    """End FFCV's thread, which by itself waits for ever for a place in its queue."""
    batches.iter_ixes = iter(())
    batches.close()
    while batches.is_alive() or not batches.output_queue.empty():
        try:
            item = batches.output_queue.get(timeout=0.01)
        except Empty:
            continue
        if item is not None and isinstance(item[1][0], Rendering):
            item[1][0].cancel()
