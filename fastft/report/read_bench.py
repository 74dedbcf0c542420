"""Results of `fastft bench`: loaders, and the stages that bound them.

Reads its JSON into dataclasses; `loaders` shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastft.report.read_json import Fields
from pipelines.errors import FormatError

BENCH, _BENCH_VERSION = "fastft bench", 1


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the input path alone; without a rate, `note` says why."""

    name: str
    label: str
    img_per_s: float | None
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderRate:
    """One loader with so many workers, and what bounds it.

    Images/s are those of later epochs, of the first, of the first from a cold cache, of training.
    """

    loader: str
    workers: int
    img_per_s: float | None
    first_epoch_img_per_s: float | None
    cold_img_per_s: float | None
    train_img_per_s: float | None
    cpu_s_per_image: float | None
    peak_rss_bytes: float | None
    import_s: float | None
    first_batch_s: float | None
    bytes_per_image: float | None
    binds: str
    ceiling_img_per_s: float | None
    share_of_ceiling: float | None


@dataclass(frozen=True, slots=True)
class Bench:
    """A `bench.json`.

    Attributes:
        name: of the source.
        environment: facts by name.
        data: what it was measured on, in words.
        stages, loaders: what was measured.
        skipped: loader and reason.
        advice, reason: the recommendation.
    """

    name: str
    environment: dict[str, str]
    data: str
    stages: tuple[Stage, ...]
    loaders: tuple[LoaderRate, ...]
    skipped: tuple[tuple[str, str], ...]
    advice: str
    reason: str

    def label(self, stage: str) -> str:
        """What a stage is called."""
        return next((each.label for each in self.stages if each.name == stage), stage)

    @property
    def fastest(self) -> tuple[LoaderRate, ...]:
        """Each loader with the workers it is fastest with, the fastest loader first."""
        best: dict[str, LoaderRate] = {}
        for each in sorted(self.loaders, key=lambda each: -(each.img_per_s or 0.0)):
            best.setdefault(each.loader, each)
        return tuple(best.values())

    @property
    def model_img_per_s(self) -> float | None:
        """What training takes, if a model was tried."""
        return next((each.img_per_s for each in self.stages if each.name == "model_step"), None)


def read_bench(found: Fields, name: str) -> Bench:
    """A `bench.json`.

    Raises:
        FormatError: of another version.
        DataError: a field is missing or of another type.
    """
    if (version := found.count("version")) != _BENCH_VERSION:
        raise FormatError(
            found.where, f"version {version}", str(_BENCH_VERSION), "run fastft bench again"
        )
    advice = found.child("recommendation")
    return Bench(
        name=name,
        environment=found.child("environment").plain(),
        data=_tell_data(found.child("data")),
        stages=tuple(
            Stage(
                row.text("name"), row.text("label"), row.number("img_per_s", least=0),
                row.text("note"),
            )
            for row in found.rows("stages")
        ),
        loaders=tuple(_read_loader(row) for row in found.rows("loaders")),
        skipped=tuple((row.text("loader"), row.text("reason")) for row in found.rows("skipped")),
        advice=advice.text("line", optional=True),
        reason=advice.text("reason", optional=True),
    )  # fmt: skip


def _read_loader(row: Fields) -> LoaderRate:
    return LoaderRate(
        loader=row.text("loader"),
        workers=row.count("workers"),
        img_per_s=row.number("img_per_s", least=0),
        first_epoch_img_per_s=row.number("first_epoch_img_per_s", least=0),
        cold_img_per_s=row.number("cold_img_per_s", least=0),
        train_img_per_s=row.number("train_img_per_s", least=0, optional=True),
        cpu_s_per_image=row.number("cpu_s_per_image", least=0),
        peak_rss_bytes=row.number("peak_rss_bytes", least=0),
        import_s=row.number("import_s", least=0),
        first_batch_s=row.number("first_batch_s", least=0),
        bytes_per_image=row.number("bytes_per_image", least=0),
        binds=row.text("binds", optional=True),
        ceiling_img_per_s=row.number("ceiling_img_per_s", least=0),
        share_of_ceiling=row.number("share_of_ceiling", least=0),
    )


def _tell_data(data: Fields) -> str:
    return (
        f"{data.text('path')}: {data.count('images'):,} images, {data.count('classes'):,} classes, "
        f"mean {data.count('mean_px'):,} px and {data.count('mean_bytes'):,} bytes"
    )
