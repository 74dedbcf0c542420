"""Whether each loader's batches stay what they are until a slow caller has read them.

A loader that copies, decodes and renders beside its caller can hand out memory that it, its library
or torch's allocator writes to again before the caller's kernels have read it. Nothing fails then:
some images are others, and only where the caller is slow. So an epoch is read by slow callers, and
each image's checksum compared with what a caller finds who waits for the GPU before and after:

- `slow`: the caller's stream sleeps before it reads a batch, which has been dropped by then;
- `at once`: it reads without any wait of the host, so that a missing wait of the device shows;
- `held`: some batches are kept and read late, which shows a buffer that is handed out again.

A CPU has no streams: there only the last one is of use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch.nn import functional

from bench.gpu.pixels import set_dali_options
from bench.gpu.task import Found, Task, answer, wait
from pipelines.loaders import Loader, make_loader

Batch = tuple[torch.Tensor, torch.Tensor]
#: How long the caller's stream sleeps before each batch: 15 ms at 2 GHz, a large batch's rendering
#: and more. The other loop takes as long on an H100 (reasoned, not measured).
_SLEEP_CYCLES = 30_000_000
_PRODUCTS, _PRODUCT_SIDE = 60, 4096
#: Batches that a caller keeps who reads them late.
_HELD = 4
#: An image is also summed up as the means of so many squares a side: a line of another photo's
#: pixels moves the means of some squares by levels, another rounding within the decoder does not.
_SQUARES, _ROUNDING_LEVELS = 14, 1.0
#: A level in normalized values, for the mean of the three channels.
_LEVEL = 1 / (255 * 0.226)
_MULTIPLIER, _INCREMENT = 6_364_136_223_846_793_005, 1_442_695_040_888_963_407

#: Contender -> its loader, what it is asked for, options of DALI's decoder.
CONTENDERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "torchvision": ("torchvision", {}, {}),
    "ffcv": ("ffcv", {}, {}),
    "resident rgb, on the GPU": ("resident", {"store_place": "gpu"}, {}),
    "resident yuv420, on the GPU": ("resident", {"store_place": "gpu", "store": "yuv420"}, {}),
    "resident rgb, in RAM": ("resident", {"store_place": "ram"}, {}),
    "resident yuv420, in RAM": ("resident", {"store_place": "ram", "store": "yuv420"}, {}),
    "resident rgb, on the GPU, into two tensors of the caller's": (
        "resident",
        {"store_place": "gpu"},
        {},
    ),
    "dali": ("dali", {}, {}),
    # Last, as it sets options for what is left of the process.
    "dali, all JPEGs in hardware": ("dali", {}, {"hw_decoder_load": 1.0}),
}
VARIANTS = tuple(CONTENDERS)
#: Those that mean nothing without a GPU, or something else.
_OF_A_GPU = ("on the GPU", "in hardware")
#: Batches that nobody may keep: see `Loader.render_into`.
_INTO = "of the caller's"
#: Outputs: DALI's float32 lies in DALI's own memory, and bfloat16 is a kernel's of ours.
_UINT8, _FLOAT32, _BFLOAT16 = "uint8", "float32", "bfloat16"
_BATCH, _FEW = 128, 8


class Epochs(Protocol):
    """A loader, as far as it is needed here."""

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next iteration gives."""

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True, slots=True)
class Sums:
    """Batches summed up.

    Attributes:
        images: int64[N], a checksum of each image's bytes and where they are.
        squares: float32[N, 3, n, n], means of each image's squares.
        labels: int64[N].
        level: of a pixel, in the images' values.
    """

    images: torch.Tensor
    squares: torch.Tensor
    labels: torch.Tensor
    level: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of an epoch from the right one.

    Attributes:
        images: how many have another checksum; all, if there are more or fewer.
        labels: likewise.
        levels: by how much any image's squares are others, at most.
    """

    images: int
    labels: int
    levels: float


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Epochs of one contender for each of its outputs; `failed` if any batch was another."""
    name, options, decoder = CONTENDERS[task.variant]
    if not task.on_gpu:
        if any(sign in task.variant for sign in _OF_A_GPU):
            yield {"skipped": "of a GPU alone", "outputs": {}}
            return
        options = {key: value for key, value in options.items() if key != "store_place"}
    if decoder:
        set_dali_options(**decoder)
    found: dict[str, Any] = {"outputs": {}}
    corrupt: list[str] = []
    for output in outputs_of(name, on_gpu=task.on_gpu):
        dtype = None if output == _UINT8 else getattr(torch, output)
        with make_loader(
            name,
            f"{task.data}/test.beton",
            size=task.size,
            device=task.device,
            batch_size=_BATCH if task.on_gpu else _FEW,
            workers=task.workers,
            dtype=dtype,
            normalize=dtype is not None,
            **options,
        ) as loader:
            passes = look_at(task.variant, loader, dtype or torch.uint8)
        wrong = find_corrupt(passes, exact=is_exact(name, task.device))
        found["outputs"][output] = {
            "images": len(loader.source),
            "corrupt": wrong,
            "passes": {which: asdict(each) for which, each in passes.items()},
        }
        corrupt += [f"{output}, {which}" for which in wrong]
        if corrupt:
            found["failed"] = f"batches were others when they were read: {'; '.join(corrupt)}"
        yield found


def outputs_of(loader: str, *, on_gpu: bool) -> tuple[str, ...]:
    """The outputs of a loader: one for each way that its batches' memory comes about."""
    if not on_gpu:
        return _UINT8, _FLOAT32
    return (_UINT8, _FLOAT32, _BFLOAT16) if loader == "dali" else (_UINT8, _BFLOAT16)


def is_exact(loader: str, device: str) -> bool:
    """Whether a loader must give the same bits each time.

    On a GPU DALI shares each batch out to the chip's JPEG decoders, the GPU's cores and the CPU's,
    which round differently; who gets what may be another from epoch to epoch.
    """
    return loader != "dali" or device == "cpu"


def find_corrupt(passes: dict[str, Difference], *, exact: bool) -> list[str]:
    """The passes that saw other images or labels than there are."""
    return [
        which
        for which, each in passes.items()
        if each.labels or not each.levels <= _ROUNDING_LEVELS or (exact and each.images)
    ]


def look_at(contender: str, loader: Loader, dtype: torch.dtype) -> dict[str, Difference]:
    """Read two epochs of a contender's loader, see `look`."""
    into = _INTO in contender
    if into:
        shape = loader.batch_size, 3, loader.size, loader.size
        layout = torch.channels_last
        loader.render_into(
            [
                torch.empty(shape, dtype=dtype, device=loader.device, memory_format=layout)
                for _ in range(2)
            ]
        )
    return look(loader, loader.device, keeps=not into)


def look(loader: Epochs, device: torch.device, *, keeps: bool = True) -> dict[str, Difference]:
    """Read two epochs by slow callers, then as they are; gives the difference of each reading.

    Args:
        loader: what is read.
        device: where its batches are.
        keeps: whether batches may be kept.

    The first reading is a loader's very first epoch, in which `resident` decodes.
    """
    readings = _ON_GPU if device.type == "cuda" else _ON_CPU
    found = {}
    for epoch, all_ in enumerate(readings):
        names = [name for name in all_ if keeps or name != "held"]
        seen = []
        for name in names:
            loader.set_epoch(epoch)
            seen.append(_READINGS[name](loader, device))
        loader.set_epoch(epoch)
        true = read_waiting(loader, device)
        for number, (name, sums) in enumerate(zip(names, seen, strict=True), 1):
            found[f"epoch {epoch}, reading {number}, {name}"] = differ(sums, true)
    return found


def read_slowly(loader: Iterable[Batch], device: torch.device) -> Sums:
    """Queue a sleep before each batch is read, and drop the batch while the stream still sleeps."""
    found = []
    for images, labels in loader:
        delay(device)
        found.append(sum_up(images, labels))
        del images, labels
    return _join(found, device)


def read_at_once(loader: Iterable[Batch], device: torch.device) -> Sums:
    """Queue the reading of each batch as it comes; the host waits for nothing."""
    return _join([sum_up(*batch) for batch in loader], device)


def read_late(loader: Iterable[Batch], device: torch.device) -> Sums:
    """Keep some batches, and read each only when more have come."""
    found, held = [], deque[Batch]()
    for batch in loader:
        held.append(batch)
        if len(held) > _HELD:
            found.append(sum_up(*held.popleft()))
    found += [sum_up(*batch) for batch in held]
    return _join(found, device)


def read_waiting(loader: Iterable[Batch], device: torch.device) -> Sums:
    """Read each batch as it is: the device is waited for before and after."""
    found = []
    for images, labels in loader:
        wait(device)
        found.append(sum_up(images, labels))
        wait(device)
    return _join(found, device)


_READINGS: dict[str, Callable[[Iterable[Batch], torch.device], Sums]] = {
    "slow": read_slowly,
    "at once": read_at_once,
    "held": read_late,
}
#: The readings of each epoch.
_ON_GPU = (("slow", "at once", "held", "slow"), ("slow", "held"))
_ON_CPU = (("held", "held"), ("held",))


def delay(device: torch.device) -> None:
    """Let the current stream sleep; the host goes on."""
    if device.type != "cuda":
        return
    sleep: Callable[[int], None] | None = getattr(torch.cuda, "_sleep", None)
    if sleep is not None:
        sleep(_SLEEP_CYCLES)
        return
    factor = torch.ones(_PRODUCT_SIDE, _PRODUCT_SIDE, dtype=torch.bfloat16, device=device)
    product = torch.empty_like(factor)
    for _ in range(_PRODUCTS):
        torch.mm(factor, factor, out=product)


def sum_up(images: torch.Tensor, labels: torch.Tensor) -> Sums:
    """Sums of a batch [B, 3, S, S], channels_last, queued on the current stream."""
    count = len(images)
    numbers = _as_numbers(images.permute(0, 2, 3, 1).contiguous()).view(count, -1)
    pattern = _pattern(numbers.shape[1], images.device)
    side = min(_SQUARES, images.shape[-1])
    squares = functional.adaptive_avg_pool2d(images.float(), side)
    level = 1.0 if images.dtype == torch.uint8 else _LEVEL
    return Sums((numbers.long() * pattern).sum(1), squares, labels.clone(), level)


def differ(found: Sums, true: Sums) -> Difference:
    """Compare two readings of an epoch."""
    if found.images.shape != true.images.shape or found.labels.shape != true.labels.shape:
        return Difference(len(true.images), len(true.labels), float("inf"))
    apart = (found.squares - true.squares).abs()
    return Difference(
        int((found.images != true.images).sum()),
        int((found.labels != true.labels).sum()),
        float(apart.max()) / true.level if apart.numel() else 0.0,
    )


def _join(found: list[Sums], device: torch.device) -> Sums:
    """All of an epoch, in the host's memory."""
    wait(device)
    return Sums(
        torch.cat([each.images.cpu() for each in found]),
        torch.cat([each.squares.cpu() for each in found]),
        torch.cat([each.labels.cpu() for each in found]),
        found[0].level,
    )


def _as_numbers(images: torch.Tensor) -> torch.Tensor:
    """The same bytes as integers."""
    as_integers = {4: torch.int32, 2: torch.int16, 1: torch.uint8}
    return images.view(as_integers[images.element_size()])


@cache
def _pattern(count: int, device: torch.device) -> torch.Tensor:
    """int64[count], what each number is multiplied by: any, but each another, and odd."""
    steps = torch.arange(count, dtype=torch.int64, device=device)
    mixed = steps * _MULTIPLIER + _INCREMENT  # modulo 2**64, as Knuth's generator for MMIX
    return (mixed ^ (mixed >> 29)) * _MULTIPLIER | 1
