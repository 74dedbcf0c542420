"""Our loaders as contenders: epoch after epoch, and held against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from pipelines.loaders import Loader


@dataclass(frozen=True, slots=True)
class Fidelity:
    """One batch against the reference's, in levels of 255.

    Attributes:
        mean, most: of the pixels' differences.
        stated: what the loader promises of both; None where it promises nothing.
        in_order: whether the labels are the plan's.
    """

    mean: float
    most: int
    stated: tuple[float, int] | None
    in_order: bool

    @property
    def is_kept(self) -> bool:
        """Whether it is what was promised."""
        near = self.stated is None or (self.mean <= self.stated[0] and self.most <= self.stated[1])
        return near and self.in_order


class Ours:
    """A loader's batches without end; the loader is made when the first one is asked for."""

    def __init__(
        self, loader: str, data: Path, batch_size: int, cores: int, size: int, **options: Any
    ) -> None:
        """Remember what to open.

        Args:
            loader: its name.
            data: what it reads.
            batch_size, cores, size: as in `peers`.
            options: of `make_loader`, beside these.
        """
        from pipelines.loaders import make_loader

        self._make = partial(
            make_loader, loader, data, batch_size=batch_size, workers=cores, size=size, **options
        )
        self._loader: Loader | None = None
        self._batches = self._read()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        return next(self._batches)

    def close(self) -> None:
        """Leave the epoch and close the loader."""
        self._batches.close()
        self._loader = None

    def fidelity(self) -> Fidelity:
        """Read to the end of the epoch; compare the next one's first batch with the reference."""
        import numpy as np

        from fastft.parity.distance import Differences
        from pipelines.preprocessing import MEAN, STD
        from pipelines.reference import render_batch

        if self._loader is None:
            next(self._batches)
        assert self._loader is not None
        loader, epoch = self._loader, self._loader.plan.epoch
        images, labels = next(batch for batch in self._batches if loader.plan.epoch > epoch)
        rows = loader.plan.rows(loader.plan.order[: len(labels)])
        wanted = render_batch([loader.source.stored(int(sample)) for sample in rows.samples], rows)
        scaled = images.permute(0, 2, 3, 1).float().numpy() * np.float32(STD) + np.float32(MEAN)
        differences = Differences()
        differences.add(np.rint(scaled * 255).clip(0, 255).astype(np.uint8), wanted)
        distance = differences.distance()
        in_order = labels.tolist() == loader.source.labels[rows.samples].tolist()
        return Fidelity(distance.mean, distance.most, loader.stated, in_order)

    def _read(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        with self._make() as loader:
            self._loader = loader
            for epoch in count():
                loader.set_epoch(epoch)
                yield from loader
