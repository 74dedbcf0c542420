"""Conclusions from the rates of stages and loaders: what binds, and which loader to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastft.bench.result import Measured, Recommendation
from fastft.config.checks import defaults
from fastft.config.train import TrainConfig
from fastft.results.numbers import count
from fastft.train.bottleneck import Bottleneck

#: What binds where pixels are made by the GPU, of which no stage is measured alone.
GPU = "gpu"
#: Those that need least come first: nothing more, memory, another library.
_SIMPLEST = ("torchvision", "resident", "ffcv", "dali", "stock")
#: Trainings that differ by less take equally long.
_TIE = 1.05
#: Epochs of the fine-tuning that a loader is recommended for.
EPOCHS: int = defaults(TrainConfig).epochs

#: Stage -> images/s, None where there is no such stage.
Rates = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The bound of a loader from its second epoch on.

    Attributes:
        binds: the stage that it is bound by most, or GPU.
        img_per_s: None if that is not known.
    """

    binds: str
    img_per_s: float | None


def find_ceiling(loader: str, workers: int, rates: Rates, *, cores: int, on_gpu: bool) -> Ceiling:
    """The rate that its stages allow a loader from its second epoch on.

    An image takes its decoding and its kernel one after the other on a core; reading and the copy
    to a GPU go on beside them.

    Args:
        loader: its name.
        workers: how many cores it takes, as far as there are so many.
        rates: of all stages.
        cores: that there are.
        on_gpu: whether batches go there.
    """
    if on_gpu and loader in ("dali", "resident"):
        return Ceiling(GPU, None)
    busy = min(workers, cores)
    seconds = {}
    for stage in ("kernel",) if loader == "resident" else ("decode", "kernel"):
        if rate := _on_cores(stage, rates, busy, cores):
            seconds[f"{stage}_{'one_core' if busy == 1 else 'all_cores'}"] = 1 / rate
    found = [(1 / sum(seconds.values()), max(seconds, key=seconds.__getitem__))]
    if loader != "resident":
        beside = ("read_warm", "copy_to_device")
        found += [(rate, stage) for stage in beside if (rate := rates[stage])]
    img_per_s, binds = min(found)
    return Ceiling(binds, img_per_s)


def _on_cores(stage: str, rates: Rates, busy: int, cores: int) -> float | None:
    """A stage's rate on some of the cores, on a straight line from one to all of them."""
    one, all_ = rates[f"{stage}_one_core"], rates[f"{stage}_all_cores"]
    if not one or not all_:
        return None
    return one if cores == 1 else one + (all_ - one) * (busy - 1) / (cores - 1)


def training_rate(img_per_s: float, model_img_per_s: float | None, *, shares_cores: bool) -> float:
    """Images/s of a training whose loader alone, and whose model alone, can do so much."""
    if model_img_per_s is None:
        return img_per_s
    found = _pair(img_per_s, model_img_per_s, shares_cores)
    return model_img_per_s * (1 - found.input_share)


def training_seconds(
    row: Measured, images: int, model_img_per_s: float | None, *, shares_cores: bool
) -> float:
    """The seconds of a training of EPOCHS, imports and the first epoch's start included."""
    first, later = (
        training_rate(rate, model_img_per_s, shares_cores=shares_cores)
        for rate in (row.first_epoch_img_per_s, row.img_per_s)
    )
    return row.import_s + images / first + (EPOCHS - 1) * images / later


def recommend(
    rows: Sequence[Measured], images: int, model_img_per_s: float | None, *, shares_cores: bool
) -> Recommendation:
    """The loader with which a fine-tuning ends first; of those that end together, the simplest.

    Args:
        rows: at least one.
        images: of an epoch.
        model_img_per_s: what the model can learn; None if that is not known.
        shares_cores: whether it learns on the loader's cores.
    """
    seconds = {
        (row.loader, row.workers): training_seconds(
            row, images, model_img_per_s, shares_cores=shares_cores
        )
        for row in rows
    }
    # torchvision's own pipeline is there to compare with.
    candidates = [row for row in rows if row.loader != "stock"] or list(rows)
    fastest = min(candidates, key=lambda row: seconds[row.loader, row.workers])
    limit = _TIE * seconds[fastest.loader, fastest.workers]
    best = min(
        (row for row in candidates if seconds[row.loader, row.workers] <= limit),
        key=lambda row: (_SIMPLEST.index(row.loader), row.workers),
    )
    option = "--stock" if best.loader == "stock" else f"--loader {best.loader}"
    line = f"take {option} --workers {best.workers}: {best.img_per_s:,.0f} images/s"
    if model_img_per_s is not None:
        line += f", {_times(best.img_per_s / model_img_per_s)} what the model can learn"
    mine = seconds[best.loader, best.workers]
    others: dict[str, float] = {}
    for (loader, _), each in sorted(seconds.items(), key=lambda item: item[1]):
        if loader != best.loader:
            others.setdefault(loader, each)
    reason = f"{EPOCHS} epochs of {count(images, 'image')} would take {_duration(mine)}"
    if others:
        reason += "; " + ", ".join(f"with {name} {_duration(s)}" for name, s in others.items())
    verdict = _verdict(best, model_img_per_s, shares_cores=shares_cores)
    return Recommendation(best.loader, best.workers, line, f"{verdict}: {reason}")


def _verdict(best: Measured, model_img_per_s: float | None, *, shares_cores: bool) -> str:
    if model_img_per_s is None:
        return "the model is not known"
    if _pair(best.img_per_s, model_img_per_s, shares_cores).is_input_bound:
        return f"input binds even so, by {best.binds.replace('_', ' ')}"
    if best.loader == _SIMPLEST[0]:
        return f"the model binds, no loader would save {_TIE - 1:.0%}"
    return "with it the model binds"


def _pair(img_per_s: float, model_img_per_s: float, shares_cores: bool) -> Bottleneck:
    """A loader beside a model: a training of which nothing but these two is known."""
    return Bottleneck(
        img_per_s=img_per_s,
        wait_share=0.0,
        loader_img_per_s=img_per_s,
        model_img_per_s=model_img_per_s,
        shares_cores=shares_cores,
    )


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.2g}x"


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
