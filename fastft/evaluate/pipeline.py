"""Image files through a model: read, decoded and cut by threads, in batches, in order.

On a CPU decoding and the model want the same cores. Each thread there takes a batch from its files
to its outputs, and computes by itself: nobody waits for anybody, neither at the end of a layer nor
at the end of a batch, and a core that another program takes delays one batch alone. With a GPU,
threads decode ahead of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastft.model.tasks import Goal, goal_of
from fastft.runs.checkpoint import Checkpoint
from fastft.train.evaluate import average, classify
from pipelines.errors import DataError
from pipelines.formats.encode import EncodePolicy, Encoder, decode, read_stored
from pipelines.loaders.image_files import Cut, FileRenderer, gather
from pipelines.workers import cpu_count, in_order, make_threads

#: Images of a batch. On a CPU as many as stay in its caches; a GPU wants to be filled.
CPU_BATCH, GPU_BATCH = 16, 256
#: Files that a thread cuts before others are asked, where a GPU computes.
_AT_ONCE = 16
#: Batches that a GPU has been given and nobody has read yet.
_IN_FLIGHT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The way in which images go through a model.

    Attributes:
        device: where it is.
        amp_dtype: what autocast computes in; None for float32.
        batch_size: images per forward pass at most.
        workers: threads.
        flip, vflip, crops: views whose probabilities are averaged, see `PredictConfig`.
    """

    device: torch.device
    amp_dtype: torch.dtype | None
    batch_size: int
    workers: int
    flip: bool = False
    vflip: bool = False
    crops: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's word on a batch.

    Attributes:
        numbers: places of the files that are whole.
        rows: probabilities [B, C], or numbers [B, 1], of these.
        broken: the error of each other file, by its place.
    """

    numbers: tuple[int, ...]
    rows: NDArray[Any]
    broken: Mapping[int, DataError]


def answer(
    paths: Sequence[str], checkpoint: Checkpoint, model: nn.Module, setting: Setting
) -> Generator[Answer, None, None]:
    """Ask a model about image files, in their order.

    Closing the generator ends the threads; what they have not begun is never begun.

    Args:
        paths: the files.
        checkpoint: what the model is.
        model: on `setting.device`; one with a true attribute `takes_whole_images` is given
            uint8[1, H, W, 3] RGB.
        setting: how.
    """
    if not paths:
        return
    asked = _Asked(checkpoint, model.eval(), setting)
    if getattr(model, "takes_whole_images", False):
        yield from _answer_whole(paths, asked)
        return
    on_gpu = setting.device.type == "cuda"
    step = min(_AT_ONCE, setting.batch_size) if on_gpu else setting.batch_size
    files = FileRenderer(
        paths,
        view=checkpoint.view,
        size=checkpoint.size,
        batch=step,
        workers=setting.workers,
        dtype=None if on_gpu else torch.float32,
        crops=setting.crops,
        decode=checkpoint.decode,
        preparation=checkpoint.prepared,
        preprocessing=checkpoint.preprocessed,
    )
    parts = [range(at, min(at + step, len(paths))) for at in range(0, len(paths), step)]
    with closing(files):
        if on_gpu:
            tasks: Iterator[Callable[[], Any]] = (partial(files.cut, part) for part in parts)
            ahead = 2 * (setting.workers + setting.batch_size // step)
            yield from _answer_on_gpu(in_order(files.threads, tasks, ahead), asked)
            return
        own = _OwnThreads(setting.workers, len(parts))
        tasks = (partial(own.run, lambda part: asked.read(files.cut(part)), part) for part in parts)
        with own:
            yield from in_order(files.threads, tasks, 2 * setting.workers)


class _Asked:
    """A model with all that its outputs mean; for several threads at once."""

    def __init__(self, checkpoint: Checkpoint, model: nn.Module, setting: Setting) -> None:
        self.checkpoint, self.model, self.setting = checkpoint, model, setting
        self.goal: Goal = goal_of(checkpoint.outputs)

    @torch.inference_mode()
    def run(self, cut: Cut) -> torch.Tensor:
        """Outputs [B, C] for the mean over all views, on the device."""
        setting = self.setting
        how: dict[str, Any] = {"flip": setting.flip, "vflip": setting.vflip, "goal": self.goal}
        outputs = [classify(self.model, each, setting.amp_dtype, **how)[0] for each in cut.views]
        return average(outputs, self.goal)

    def read(self, cut: Cut) -> Answer:
        """Run the model, and wait for what it says."""
        rows: NDArray[Any] = np.empty((0, len(self.checkpoint.classes)), np.float32)
        if cut.numbers:
            rows = self.goal.read(self.run(cut))
        return Answer(cut.numbers, rows, cut.broken)


class _OwnThreads:
    """Threads of ours that compute by themselves, instead of by torch's threads together."""

    def __init__(self, workers: int, tasks: int) -> None:
        # Of fewer batches than cores each gets more than one.
        self._each = max(1, cpu_count() // max(1, min(workers, tasks)))
        self._local, self._before = threading.local(), torch.get_num_threads()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self._before)  # of threads that begin later

    def run(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call something in a thread of ours."""
        if not getattr(self._local, "is_set", False):
            torch.set_num_threads(min(self._each, self._before))  # of this thread
            self._local.is_set = True
        return call(*arguments)


def _answer_on_gpu(cuts: Iterator[Cut], asked: _Asked) -> Iterator[Answer]:
    """Keep a GPU busy: it has the next batch before the last one's outputs are read."""
    setting, checkpoint = asked.setting, asked.checkpoint
    batches = gather(
        cuts,
        batch=setting.batch_size,
        device=setting.device,
        # As in training: the model's first layer would make this cast.
        dtype=setting.amp_dtype or torch.float32,
        preprocessing=checkpoint.preprocessed,
    )
    fetch = _Fetching(setting.device)
    waiting: deque[tuple[Cut, Any]] = deque()
    for cut in batches:
        waiting.append((cut, fetch.begin(asked.run(cut)) if cut.numbers else None))
        if len(waiting) >= _IN_FLIGHT:
            yield _end(waiting.popleft(), fetch, asked)
    while waiting:
        yield _end(waiting.popleft(), fetch, asked)


def _end(begun: tuple[Cut, Any], fetch: _Fetching, asked: _Asked) -> Answer:
    cut, outputs = begun
    if outputs is None:
        return asked.read(cut)
    return Answer(cut.numbers, fetch.end(outputs, asked.goal), cut.broken)


class _Fetching:
    """Outputs from a GPU to the host, without waiting for what it has been given since."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def begin(self, outputs: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Take note of when they will be there."""
        made = None
        if self._stream is not None:
            made = torch.cuda.Event()  # type: ignore[no-untyped-call]
            made.record()
        return outputs, made

    def end(self, begun: tuple[torch.Tensor, Any], goal: Goal) -> NDArray[Any]:
        """Wait for them alone, and read them."""
        outputs, made = begun
        with torch.cuda.stream(self._stream):  # None changes nothing
            if made is not None:
                made.synchronize()
            return goal.read(outputs)


class _Whole(nn.Module):
    """A model of whole images as one of [B, 3, H, W], so that they can be mirrored alike."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32[1, C] for uint8[1, 3, H, W]."""
        logits: torch.Tensor = self._model(images.permute(0, 2, 3, 1).contiguous())
        return logits


def _answer_whole(paths: Sequence[str], asked: _Asked) -> Iterator[Answer]:
    """Decode each image whole; the model does all else with it, one after the other."""
    checkpoint, setting = asked.checkpoint, asked.setting
    encoder = Encoder(EncodePolicy(verify=False, **asdict(checkpoint.prepared)))
    whole = _Asked(checkpoint, _Whole(asked.model), setting)

    def look(number: int) -> NDArray[np.uint8] | DataError:
        try:
            return np.array(decode(read_stored(paths[number], encoder, number), paths[number]))
        except DataError as error:
            return error

    with make_threads(setting.workers, "fastft-decode") as threads:
        tasks = (partial(look, number) for number in range(len(paths)))
        found = enumerate(in_order(threads, tasks, setting.workers))
        while some := list(islice(found, setting.batch_size)):
            broken = {number: each for number, each in some if isinstance(each, DataError)}
            rows = [
                whole.read(_as_cut(number, each, setting.device)).rows
                for number, each in some
                if not isinstance(each, DataError)
            ]
            numbers = tuple(number for number, _ in some if number not in broken)
            yield Answer(numbers, np.concatenate(rows) if rows else np.empty((0, 0)), broken)


def _as_cut(number: int, pixels: NDArray[np.uint8], device: torch.device) -> Cut:
    return Cut((number,), torch.from_numpy(pixels).to(device)[None, None], {})
