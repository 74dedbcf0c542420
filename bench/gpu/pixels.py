"""Distance of each loader's pixels from the reference's on this GPU; the share of decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu.task import Found, Task, answer
from fastft.parity.pixels import compare
from pipelines.formats.source import open_source
from pipelines.loaders import make_loader

_IMAGES, _FEW_IMAGES = 96, 6
#: Contender -> its loader and what it is asked for.
_CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "torchvision": ("torchvision", {}),
    "ffcv": ("ffcv", {}),
    "resident": ("resident", {"store_place": "gpu"}),
    "resident, pixels in RAM": ("resident", {"store_place": "ram"}),
    "resident yuv420": ("resident", {"store_place": "gpu", "store": "yuv420"}),
    # Last, as it sets DALI's options for what is left of the process.
    "dali": ("dali", {}),
    "dali, plain upsampling": ("dali", {}),
}
VARIANTS = tuple(_CONTENDERS)
_PLAIN = "dali, plain upsampling"


def main(arguments: list[str]) -> None:
    """See `task.answer`."""
    answer(measure, arguments)


def measure(task: Task) -> Iterator[Found]:
    """Distances of one contender, stage by stage."""
    name, options = _CONTENDERS[task.variant]
    if not task.on_gpu and "store_place" in options:
        options = {**options, "store_place": "ram"}
    if task.variant == _PLAIN:
        set_dali_options(jpeg_fancy_upsampling=False)
    found = compare(
        open_source(Path(task.data) / "train.beton"),
        {task.variant: partial(make_loader, name, **options)},
        images=_IMAGES if task.on_gpu else _FEW_IMAGES,
        size=task.size,
        device=task.device,
        workers=task.workers,
    )
    yield {
        "images": found.images,
        "rows": [asdict(row) for row in found.rows],
        "verdicts": [asdict(verdict) for verdict in found.verdicts],
    }


def set_dali_options(**options: Any) -> None:
    """Give DALI's decoder other options, for what is left of this process."""
    from pipelines.loaders.dali_loader import DaliLoader

    DaliLoader.decode_options = {**DaliLoader.decode_options, **options}
