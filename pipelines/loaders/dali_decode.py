"""The choice among DALI's ways to decode JPEGs on a GPU, by what a probe has found.

DALI can decode whole images, or regions alone, and enlarge colours as libjpeg-turbo does (`fancy`)
or plainly. What of it a GPU does, and what falls back to the CPU or crashes, depends on the card,
the driver and the libraries. So each way is tried once in a process of its own
(`doctor.dali_decoding`), and what was found is kept for this card and these versions. Plain
enlarging gives other pixels than the reference: it is tried to learn from, and never taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import torch

from pipelines import findings

#: The share of JPEGs that the hardware decoder takes; nvImageCodec's own 0.9 had slow batches (DALI
#: issue 6366). `python -m bench.gpu` tries others.
HW_DECODER_LOAD = 0.65
#: Regions must not cost the CPU more than whole images do, which would show that it decodes them.
_SAME_CPU = 1.1
#: Levels: regions are to be no farther from the reference.
_SAME_MEAN = 0.05
_SUBJECT = "dali_decoding"
_DRIVER = Path("/sys/module/nvidia/version")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to decode."""

    region: bool
    fancy: bool

    def __str__(self) -> str:
        return f"{'region' if self.region else 'whole'}, {'fancy' if self.fancy else 'plain'}"


WAYS = tuple(Way(region, fancy) for region in (False, True) for fancy in (True, False))
WHOLE, REGION = Way(region=False, fancy=True), Way(region=True, fancy=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """The outcome of trying one way.

    Attributes:
        failed: why it gave nothing; '' if it did.
        img_per_s: of a loader that does nothing else.
        cpu_ms: of all cores, per image: a millisecond or more is an image that the CPU decodes.
        mean, most: levels from the reference.
    """

    failed: str = ""
    img_per_s: float = 0.0
    cpu_ms: float = 0.0
    mean: float = 0.0
    most: float = 0.0


def takes_regions(found: Mapping[str, Decoding]) -> bool:
    """Whether regions are decoded, rather than whole images, by what was found of either."""
    whole, region = found.get(str(WHOLE)), found.get(str(REGION))
    if whole is None or region is None or region.failed:
        return False
    return bool(whole.failed) or (
        region.img_per_s > whole.img_per_s
        and region.cpu_ms <= whole.cpu_ms * _SAME_CPU
        and region.most <= whole.most
        and region.mean <= whole.mean + _SAME_MEAN
    )


@cache
def name_setup(device: torch.device) -> str:
    """The card, its driver and the libraries that findings hold for; found once."""
    driver = _DRIVER.read_text().strip() if _DRIVER.exists() else "unknown"
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    packages = {
        name: each.version
        for each in distributions()
        if (name := each.metadata["Name"].lower()).startswith(("nvidia-dali", "nvidia-nvimg"))
    }
    told = (f"{name} {version}" for name, version in sorted(packages.items()))
    return ", ".join((card, f"driver {driver}", *told))


def findings_file() -> Path:
    """The file of findings, by what they hold for."""
    return findings.findings_file(_SUBJECT)


def read_findings(setup: str) -> dict[str, Decoding]:
    """The findings for this card and these versions; nothing where nobody has tried."""
    try:
        kept = findings.read_findings(_SUBJECT, setup)
        return {str(way): Decoding(**values) for way, values in kept.items()}
    except TypeError:  # of another version
        return {}


def save_findings(setup: str, found: Mapping[str, Decoding]) -> Path:
    """Keep what was found, beside what was for others; gives the file.

    Raises:
        DataError: it cannot be written.
    """
    return findings.save_findings(
        _SUBJECT, setup, {way: asdict(each) for way, each in found.items()}
    )
