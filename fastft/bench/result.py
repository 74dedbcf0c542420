"""All that `fastft bench` found: written as its JSON, and read back from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Stage:
    """The rate of one stage alone.

    Attributes:
        name: what `ceilings` knows it by.
        label: what people call it; those of cores end with them, behind a comma.
        img_per_s: None where there is no such stage here; the note then says why.
        note: what was measured.
    """

    name: str
    label: str
    img_per_s: float | None
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One loader with one number of workers.

    Attributes:
        loader, workers: which.
        img_per_s: of later epochs, the data in the page cache.
        first_epoch_img_per_s: from making the loader on.
        cold_img_per_s: of a first epoch from storage; None where that was not measured.
        train_img_per_s: of training with it, from the second epoch on.
        cpu_s_per_image: of all cores and processes, in later epochs.
        peak_rss_bytes: of all processes; what they share counts in each.
        import_s: of all libraries that it needs.
        first_batch_s: from making the loader on.
        bytes_per_image: what is read of an image in each later epoch: what is stored, or of
            `resident` the pixels in memory.
        binds, ceiling_img_per_s: the stage that bounds it, and what that allows, if it is known.
        share_of_ceiling: how much of it is reached; None if it is not known.
    """

    loader: str
    workers: int
    img_per_s: float
    first_epoch_img_per_s: float
    cold_img_per_s: float | None
    train_img_per_s: float
    cpu_s_per_image: float
    peak_rss_bytes: int
    import_s: float
    first_batch_s: float
    bytes_per_image: int
    binds: str
    ceiling_img_per_s: float | None
    share_of_ceiling: float | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The loader to train with, and why.

    Attributes:
        loader, workers: which.
        line: what to do, and how fast that is.
        reason: why.
    """

    loader: str
    workers: int
    line: str
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A loader that is missing, and why."""

    loader: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The data that were read: path, number of images and classes, their mean size."""

    path: str
    images: int
    classes: int
    mean_px: int
    mean_bytes: int
    stored_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """The content of a `bench.json`.

    Attributes:
        environment: see `system.environment`.
        config: with the numbers of workers filled in.
        data: what was read.
        seconds: how long it took.
        stages: in the order of the way.
        loaders: a row for each loader and number of workers.
        skipped: those that are missing.
        recommendation: what to train with.
        kind, version: what tells it from other JSON.
    """

    kind: Literal["fastft bench"] = "fastft bench"
    version: Literal[1] = 1
    environment: dict[str, Any]
    config: dict[str, Any]
    data: Data
    seconds: float
    stages: tuple[Stage, ...]
    loaders: tuple[Measured, ...]
    skipped: tuple[Skipped, ...]
    recommendation: Recommendation

    @property
    def model_img_per_s(self) -> float | None:
        """The images/s that the model can learn."""
        return next((each.img_per_s for each in self.stages if each.name == "model_step"), None)

    @property
    def on_gpu(self) -> bool:
        """Whether the model learns on a GPU."""
        return bool(self.config.get("device", "cpu") != "cpu")

    @property
    def fastest(self) -> tuple[Measured, ...]:
        """Each loader with its recommended row, else its fastest; the fastest loader first."""
        best: dict[str, Measured] = {}
        for row in sorted(self.loaders, key=lambda row: (self.is_best(row), row.img_per_s)):
            best[row.loader] = row
        return tuple(sorted(best.values(), key=lambda row: -row.img_per_s))

    def is_best(self, row: Measured) -> bool:
        """Whether a row is the recommended one."""
        named = self.recommendation
        return (row.loader, row.workers) == (named.loader, named.workers)

    def label(self, stage: str) -> str:
        """The label of a stage."""
        return next((each.label for each in self.stages if each.name == stage), stage)

    def as_json(self) -> dict[str, Any]:
        """The values of bench.json, without digits that mean nothing."""
        found = asdict(self)
        return found | {
            "seconds": round(self.seconds, 1),
            "stages": [_rounded(row) for row in found["stages"]],
            "loaders": [_rounded(row) for row in found["loaders"]],
        }


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    digits = {"cpu_s_per_image": 7, "share_of_ceiling": 3, "import_s": 3, "first_batch_s": 3}
    return {
        name: round(value, digits.get(name, 1)) if isinstance(value, float) else value
        for name, value in row.items()
    }
