"""The photos that the suites read: synthetic ones, drawn once, or a folder of real ones."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastft.datasets.synth import SynthConfig, write_synth

ROOT = Path(__file__).resolve().parents[1]
#: Width and height about which ImageNet's photos vary, px.
MEAN_SIZE = (470, 400)
#: Below this many photos of the usual size, or as many pixels, a run only shows that the suites
#: still work: one round each.
SMOKE_BELOW, USUAL_PX = 200, 200_000
CLASSES = 4
BATCH = 64
#: Whole batches: stock DALI decodes a short last one in full, which for 397 photos would flatter us
#: by 13 %.
IMAGES = 16 * BATCH


@dataclass(frozen=True, slots=True)
class Photos:
    """A class folder of RGB and grayscale JPEGs.

    Attributes:
        root: the class folder.
        files: its files in ImageFolder's order.
        labels: of each file.
        facts: where they are from, how many and how large, for the tables and the JSON.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def is_smoke(self) -> bool:
        """Whether they are so few that figures would say nothing."""
        return self.facts["images"] * self.facts["mean_px"] < SMOKE_BELOW * USUAL_PX


def core_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def find_photos(folder: Path) -> list[Path]:
    """Real ones, in class folders anywhere below.

    Raises:
        pytest.UsageError: there are none.
    """
    found = [path for path in sorted(folder.rglob("*")) if is_plain_jpeg(path)]
    if not found:
        raise pytest.UsageError(f"--photos {folder}: no JPEGs in class folders")
    return found


def copy_photos(found: Sequence[Path], limit: int | None, root: Path, name: str) -> Photos:
    """Copy whole batches of photos into a class folder.

    Args:
        found: all there are.
        limit: how many at most; None for all.
        root: where to.
        name: of what they are, for the tables.
    """
    limit = min(limit or len(found), len(found))
    limit -= limit % BATCH if limit > BATCH else 0
    # Evenly from the whole list, so that fewer photos are of as many classes.
    chosen = [found[number * len(found) // limit] for number in range(limit)]
    pixels = 0
    for path in chosen:
        # The folder above the class's tells splits apart, whose files may share names.
        copy = root / path.parent.name / f"{path.parents[1].name}_{path.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        with Image.open(copy) as image:
            pixels += image.width * image.height
    classes = sorted(folder.name for folder in root.iterdir())
    files = sorted(root.glob("*/*"))
    size_bytes = sum(path.stat().st_size for path in files)
    facts = {
        "photos": name,
        "images": len(files),
        "mean_px": round(pixels / len(files)),
        "mean_bytes": round(size_bytes / len(files)),
        "cores": core_count(),
    }
    labels = tuple(classes.index(path.parent.name) for path in files)
    return Photos(root, tuple(files), labels, facts)


def draw_photos(config: pytest.Config, images: int) -> Path:
    """Synthetic photos, kept in pytest's cache for as long as what draws them is the same."""
    digest = hashlib.sha256(f"{images} {MEAN_SIZE}".encode())
    for module in sorted((ROOT / "fastft" / "datasets").glob("synth*.py")):
        digest.update(module.read_bytes())
    cache = config.cache.mkdir("fastft-bench")
    folder = cache / digest.hexdigest()[:16]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may begin at once
        if not folder.exists():
            write_synth(
                SynthConfig(
                    out=folder,
                    classes=CLASSES,
                    per_class=-(-images // CLASSES),
                    test_per_class=1,
                    size=MEAN_SIZE,
                )
            )
    return folder / "train"


def is_plain_jpeg(path: Path) -> bool:
    """Whether every contender reads it: stock DALI and FFCV know no GIF, DALI no CMYK."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(3) != b"\xff\xd8\xff":
            return False
    with Image.open(path) as image:
        return image.mode in ("RGB", "L")
