"""Training batches with TrivialAugment and random erasing: ours with and without, and others' own.

    python -m bench.augmented PHOTOS --rounds 5 --out bench/results/augmented.json

PHOTOS is a class folder. Contenders run by turns, each in a process of its own (`field.py`); a
ratio is the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from functools import partial
from itertools import zip_longest
from pathlib import Path

from bench import peers
from bench.field import Entrant, Field
from bench.ours import Ours
from bench.remote import Remote
from bench.verdicts import cpu_ms_per_image, img_per_s, ratio
from fastft.system.environment import environment
from pipelines.augment import Augment
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.workers import cpu_count

SIZE, BATCH, ROUND_IMAGES, WARM_BATCHES = 224, 64, 4000, 10
ASKED = Augment(policy="trivial", erase=0.25)
stock = partial(Entrant, side="stock", reads="jpeg", source="photos")
ours = partial(Entrant, side="fastft", reads="jpeg", source="jpeg")
ENTRANTS = (
    stock(name="torchvision, augmented", make=peers.stock_torchvision_augmented),
    stock(name="timm, augmented", make=partial(peers.stock_timm, augmented=True)),
    ours(name="ffcv", make=partial(Ours, "ffcv")),
    ours(name="ffcv, augmented", make=partial(Ours, "ffcv", augment=ASKED)),
    ours(name="resident", make=partial(Ours, "resident")),
    ours(name="resident, augmented", make=partial(Ours, "resident", augment=ASKED)),
)
#: candidate, baseline, what is asked for
PAIRS = (
    ("resident, augmented", "resident", 0.6),
    ("resident, augmented", "timm, augmented", 8.0),
    ("resident, augmented", "torchvision, augmented", None),
    ("ffcv, augmented", "ffcv", 0.85),
    ("ffcv, augmented", "timm, augmented", None),
)


def link_photos(source: Path, folder: Path, multiple: int) -> int:
    """Link the photos of a class folder, so many of each class that whole batches come of them.

    Returns:
        How many.
    """
    folders = [each for each in sorted(source.iterdir()) if each.is_dir()]
    classes = [sorted(each.glob("*.jpg")) for each in folders]  # as every contender reads them
    by_turns = [path for paths in zip_longest(*classes) for path in paths if path is not None]
    kept = by_turns[: len(by_turns) // multiple * multiple or None]
    for path in kept:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).symlink_to(path.absolute())
    return len(kept)


def main() -> None:
    """Measure as the command line says; prints rates and ratios, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos, beton = Path(folder, "photos"), Path(folder, "photos.beton")
        images = link_photos(given.photos, photos, BATCH)
        convert(ConvertConfig(src=photos, out=beton, verify=False))
        batch = min(BATCH, images)
        epochs = max(1, -(-ROUND_IMAGES // images))
        field = Field(images=images, batch_size=batch, epochs=epochs, warm_batches=WARM_BATCHES)
        with field:
            for entrant in ENTRANTS:
                data = photos if entrant.source == "photos" else beton
                make = partial(entrant.make, data, batch, cpu_count(), SIZE)
                field.enter(entrant, Remote(entrant.name, make))
            field.run(given.rounds, 1, print)
    for name, why in {**field.missing, **field.failed}.items():
        print(f"{name}: {why}")
    rates = {
        name: {"img_per_s": img_per_s(laps), "cpu_ms_per_image": cpu_ms_per_image(laps)}
        for name, laps in field.found.items()
    }
    for name, row in rates.items():
        print(f"{name:24} {row['img_per_s']:8,.0f} images/s {row['cpu_ms_per_image']:7.2f} ms CPU")
    ratios = {
        f"{mine} / {theirs}": (ratio(field.found[mine], field.found[theirs]), goal)
        for mine, theirs, goal in PAIRS
        if mine in field.found and theirs in field.found
    }
    for name, (found, goal) in ratios.items():
        print(f"{name:48} {found} {'' if goal is None else f'of {goal:g}'}")
    if given.out is not None:
        content = {
            "environment": environment(),
            "images": images,
            "batch": batch,
            "rounds": given.rounds,
            "loaders": rates,
            "ratios": {name: asdict(found) for name, (found, _) in ratios.items()},
        }
        given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
