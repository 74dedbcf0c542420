"""Rates of copies that `fastft check` finds: 18 kinds of copies of your photos, and other pairs.

    python -m bench.check_rates PHOTOS --images 400 --threshold 8

Each photo is shrunk, encoded anew, made brighter, mirrored and so on; told is how many of those
copies the rule takes for one, and how many pairs of different photos it does.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from fastft.check.hashes import MIRRORED, MOST_DIFFERENCE, MOST_TINT, Prints, make_prints, measure
from fastft.check.look import look_at
from pipelines.formats.folder import IMAGE_SUFFIXES
from pipelines.workers import cpu_count, make_threads


def _shrunk(image: Image.Image, by: float) -> Image.Image:
    return image.resize((max(1, round(image.width * by)), max(1, round(image.height * by))))


def _cut(image: Image.Image, share: float) -> Image.Image:
    left, top = round(image.width * share), round(image.height * share)
    return image.crop((left, top, image.width - left, image.height - top))


#: Name -> what is done to a photo, and the JPEG quality that it is encoded with then.
COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "quality 70": (lambda image: image, 70),
    "quality 40": (lambda image: image, 40),
    "quality 20": (lambda image: image, 20),
    "0.7 of its size": (lambda image: _shrunk(image, 0.7), 90),
    "half its size": (lambda image: _shrunk(image, 0.5), 90),
    "a quarter of its size": (lambda image: _shrunk(image, 0.25), 90),
    "1.5 times its size": (lambda image: _shrunk(image, 1.5), 90),
    "256 x 256 px": (lambda image: image.resize((256, 256)), 90),
    "64 px": (lambda image: _shrunk(image, 64 / max(image.size)), 85),
    "10 % brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.1), 90),
    "10 % darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.9), 90),
    "20 % brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 90),
    "contrast 1.1": (lambda image: ImageEnhance.Contrast(image).enhance(1.1), 90),
    "colours 0.8": (lambda image: ImageEnhance.Color(image).enhance(0.8), 90),
    "mirrored": (ImageOps.mirror, 85),
    "mirrored, half its size": (lambda image: _shrunk(ImageOps.mirror(image), 0.5), 60),
    "2 % cut off each side": (lambda image: _cut(image, 0.02), 90),
    "5 % cut off each side": (lambda image: _cut(image, 0.05), 90),
}


def _prints(files: list[Path], kind: str) -> Prints:
    def one(path: Path) -> np.ndarray:
        data = path.read_bytes()
        if kind:
            change, quality = COPIES[kind]
            with Image.open(io.BytesIO(data)) as image:
                changed = change(image.convert("RGB"))
            target = io.BytesIO()
            changed.save(target, "JPEG", quality=quality)
            data = target.getvalue()
        picture = look_at(data, verify=False).picture
        if picture is None:
            raise SystemExit(f"{path} is broken")
        return picture

    with make_threads(cpu_count()) as executor:
        return make_prints(np.stack(list(executor.map(one, files))))


def _together(one: Prints, other: Prints) -> Prints:
    names = ("hashes", "lumas", "chromas")
    return Prints(
        *(np.concatenate([getattr(each, name) for each in (one, other)]) for name in names)
    )


def _accepts(
    prints: Prints, first: np.ndarray, second: np.ndarray, threshold: int
) -> tuple[np.ndarray, np.ndarray]:
    """bool[P], [P]: pairs that the hashes take for copies, and of those the whole rule."""
    by_hash = np.zeros(len(first), bool)
    by_rule = np.zeros(len(first), bool)
    for mirrored, turned in ((False, np.uint64(0)), (True, MIRRORED)):
        bits = np.bitwise_count(prints.hashes[first] ^ prints.hashes[second] ^ turned)
        near = np.flatnonzero(bits <= threshold)
        difference, tint = measure(prints, first[near], second[near], mirrored=mirrored)
        by_hash[near] = True
        by_rule[near] |= (difference <= MOST_DIFFERENCE) & (tint <= MOST_TINT)
    return by_hash, by_rule


def main() -> None:
    """Measure as the command line says; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=400, help="of which copies are made")
    parser.add_argument("--threshold", type=int, default=8)
    options = parser.parse_args()
    suffixes = IMAGE_SUFFIXES - {".gif"}
    files = sorted(p for p in options.photos.rglob("*") if p.suffix.lower() in suffixes)
    some = files[:: max(1, len(files) // options.images)]
    whole, originals = _prints(files, ""), _prints(some, "")
    count = len(some)
    print(f"{count} photos, threshold {options.threshold}")
    ends = np.arange(count)
    for kind in COPIES:
        both = _together(originals, _prints(some, kind))
        by_hash, by_rule = _accepts(both, ends, ends + count, options.threshold)
        print(f"| {kind} | {by_hash.mean():.4f} | {by_rule.mean():.4f} |")
    hashes = rule = pairs = 0
    for number in range(len(files) - 1):
        others = np.arange(number + 1, len(files))
        found = _accepts(whole, np.full(len(others), number), others, options.threshold)
        hashes, rule, pairs = hashes + found[0].sum(), rule + found[1].sum(), pairs + len(others)
        for other in others[found[1]]:
            print("copies?", files[number], files[other])
    print(f"| of {pairs:,} pairs of {len(files):,} other photos | {hashes} | {rule} |")


if __name__ == "__main__":
    main()
