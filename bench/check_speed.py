"""Times `fastft check`: the whole command on many small photos, made here.

    python -m bench.check_speed --images 100000 --out FOLDER

The photos are JPEGs of 96 px, noise of a few waves each; one in a hundred is a shrunk or mirrored
copy of an earlier one. Told are seconds, memory, and how many of the copies were found.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

_CLASSES, _SIDE_PX, _EVERY = 10, 96, 100


def _draw(number: int) -> Image.Image:
    random = np.random.default_rng(number)
    waves = random.normal(size=(8, 8, 3)) * 60 + 128
    small = Image.fromarray(np.clip(waves, 0, 255).astype(np.uint8))
    large = np.asarray(small.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC), np.int16)
    noise = random.integers(-12, 13, large.shape, np.int16)
    return Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8))


def _write(out: Path, number: int) -> None:
    copy = number % _EVERY == _EVERY - 1
    image = _draw(number - 50 if copy else number)
    if copy:
        image = image.resize((80, 80))
    if copy and number // _EVERY % 2:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    target = io.BytesIO()
    image.save(target, "JPEG", quality=80)
    split = "train" if number % 10 else "val"
    path = out / split / f"class{number // 10 % _CLASSES}" / f"{number:07}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(target.getvalue())


def time_pairs(count: int) -> None:
    """Time the search among made hashes and thumbnails alone; prints seconds and memory."""
    from fastft.check.copies import find_copies
    from fastft.check.hashes import CHROMA_PX, LUMA_PX, Prints

    random = np.random.default_rng(0)
    prints = Prints(
        random.integers(0, 2**64, count, np.uint64),
        random.integers(0, 256, (count, LUMA_PX, LUMA_PX), np.uint8),
        random.integers(0, 256, (count, CHROMA_PX, CHROMA_PX, 2), np.uint8),
    )
    digests = random.bytes(16 * count)
    nothing: Callable[[int, int], None] = lambda *_: None  # noqa: E731
    started = time.perf_counter()
    links = find_copies(np.frombuffer(digests, "V16"), prints, np.ones(count, bool), 8, nothing)
    took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"search alone: {count:,} hashes in {took:.1f} s, {len(links)} links, peak {peak:.2f} GB")


def main() -> None:
    """Measure as the command line says; prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("check_speed"))
    parser.add_argument("--quick", action="store_true", help="without going through all data")
    parser.add_argument("--hashes", type=int, help="instead time the search among so many hashes")
    options = parser.parse_args()
    if options.hashes:
        time_pairs(options.hashes)
        return
    photos = options.out / str(options.images)
    if not photos.exists():
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor() as executor:
            list(executor.map(partial(_write, photos), range(options.images), chunksize=500))
        print("the photos are made; run it again")  # what making them took would count
        return
    found = options.out / "found"
    command = [sys.executable, "-m", "fastft", "check", str(photos), "--out", str(found)]
    started = time.perf_counter()
    subprocess.run(command + ["--quick"] * options.quick, check=True)
    took = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    groups = json.loads((found / "check.json").read_text())["groups"]
    copies = options.images // _EVERY
    cpu_s = used.ru_utime + used.ru_stime
    peak = used.ru_maxrss / 1e6
    print(f"{options.images:,} photos in {took:.1f} s, CPU {cpu_s:.1f} s, peak {peak:.2f} GB")
    print(f"{len(groups):,} groups found of {copies:,} that were made")


if __name__ == "__main__":
    main()
