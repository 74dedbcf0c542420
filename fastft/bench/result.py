"""All that `fastft bench` found, and its JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastft.bench.ceilings import Measured, Recommendation
from fastft.bench.stages import Stage
from fastft.config.bench import BenchConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Facts of the data that are known before anything is measured.

    Attributes:
        split: the `.beton` or class folder that is read.
        files: all of its files.
        images, classes: how many.
        mean_px: pixels of an image.
        mean_bytes, stored_bytes: of what is stored of an image, and of all.
        pixel_bytes: what `resident` keeps of an image.
    """

    split: Path
    files: tuple[Path, ...]
    images: int
    classes: int
    mean_px: int
    mean_bytes: int
    stored_bytes: int
    pixel_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """All that was found.

    Attributes:
        config: with the numbers of workers filled in.
        environment: see `system.environment`.
        data: what was read.
        stages: in the order of the way.
        loaders: a row for each loader and number of workers.
        skipped: loader -> why it is missing.
        recommendation: what to train with.
        seconds: how long it took.
    """

    config: BenchConfig
    environment: dict[str, Any]
    data: Data
    stages: tuple[Stage, ...]
    loaders: tuple[Measured, ...]
    skipped: dict[str, str]
    recommendation: Recommendation
    seconds: float

    @property
    def model_img_per_s(self) -> float | None:
        """What the model can learn."""
        return next(stage.img_per_s for stage in self.stages if stage.name == "model_step")

    @property
    def on_gpu(self) -> bool:
        """Whether the model learns on a GPU."""
        return self.config.device != "cpu"

    def as_json(self) -> dict[str, Any]:
        """The content of bench.json."""
        data, config = self.data, asdict(self.config)
        return {
            "kind": "fastft bench",
            "version": 1,
            "environment": self.environment,
            "config": {k: str(v) if isinstance(v, Path) else v for k, v in config.items()},
            "data": {
                "path": str(self.config.data), "images": data.images, "classes": data.classes,
                "mean_px": data.mean_px, "mean_bytes": data.mean_bytes,
                "stored_bytes": data.stored_bytes,
            },
            "seconds": round(self.seconds, 1),
            "stages": [_rounded(asdict(stage)) for stage in self.stages],
            "loaders": [_rounded(asdict(row)) for row in self.loaders],
            "skipped": [{"loader": k, "reason": v} for k, v in self.skipped.items()],
            "recommendation": asdict(self.recommendation),
        }  # fmt: skip


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Figures without digits that mean nothing."""
    digits = {"cpu_s_per_image": 7, "share_of_ceiling": 3, "import_s": 3, "first_batch_s": 3}
    return {
        name: round(value, digits.get(name, 1)) if isinstance(value, float) else value
        for name, value in row.items()
    }
