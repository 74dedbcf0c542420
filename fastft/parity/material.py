"""A few samples of a data set, written out in the forms that `pixels` holds loaders against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastft.parity.distance import Differences, Distance
from pipelines.errors import DataError
from pipelines.formats.beton import Index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.crc import crc32
from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_RAW, About, Stored
from pipelines.formats.source import Source

#: Of the pieces that show a decoder alone, px: each image gives the largest that it has.
_PIECES = (224, 64, 16, 1)


class Material:
    """A few samples of a data set in the forms that the stages need, in a temporary folder.

    Attributes:
        stored: `.beton` of the samples as they are stored.
        raw: `.beton` of the reference's pixels of them.
        pieces: side in px -> `.beton` of the samples whose decoder is shown by pieces of that side.
        truth: side -> the reference's samples of that file; 0 for those of `stored` and `raw`.
        encoded: the reference's samples as they were before they were decoded.
    """

    def __init__(self, source: Source, reference: Source, images: int, folder: Path) -> None:
        """Write them.

        Args:
            source: what the loaders read.
            reference: whose pixels are right: `source` itself, or what it was converted from.
            images: how many samples to take, evenly from all.
            folder: where to write.

        Raises:
            DataError: the reference lacks a sample, or has it in another size.
        """
        count = min(images, len(source))
        chosen = [at * len(source) // count for at in range(count)]
        right = _matching(source, reference, chosen)
        self.samples = [source.stored(sample) for sample in chosen]
        self.names = [source.name(sample) for sample in chosen]
        self.encoded = [reference.stored(at) for at in right]
        truth = [
            _truth(stored, encoded, f"{reference.path}: {name}")
            for stored, encoded, name in zip(self.samples, self.encoded, self.names, strict=True)
        ]
        everything = range(count)
        self.stored = folder / "stored.beton"
        self.raw = folder / "raw.beton"
        self._write(self.stored, self.samples, everything)
        self._write(self.raw, truth, everything)
        self.truth: dict[int, list[Stored]] = {0: truth}
        self.pieces: dict[int, Path] = {}
        short = [min(stored.width, stored.height) for stored in self.samples]
        larger = max(short) + 1
        for side in _PIECES:
            part = [at for at in everything if side <= short[at] < larger]
            larger = side
            if part:
                self.pieces[side] = folder / f"pieces-{side}.beton"
                self._write(self.pieces[side], self.samples, part)
                self.truth[side] = [truth[at] for at in part]

    def stored_distance(self) -> Distance:
        """The distance of the stored samples from the reference, whatever loader reads them."""
        differences = Differences()
        for stored, right in zip(self.samples, self.truth[0], strict=True):
            pixels, wanted = (np.asarray(decode(each)) for each in (stored, right))
            differences.add(pixels[None], wanted[None])
        return differences.distance()

    def _write(self, path: Path, samples: Sequence[Stored], part: Sequence[int]) -> None:
        with BetonWriter(path, len(part)) as writer:
            for label, at in enumerate(part):
                # A label of its own for each sample: order can be told from what comes out.
                data = np.frombuffer(memoryview(samples[at].data), np.uint8)
                writer.append(samples[at], label, self.names[at], crc32(data))
            writer.finish(About(classes=tuple(str(label) for label in range(len(part)))))
            writer.publish()


def _matching(source: Source, reference: Source, chosen: Sequence[int]) -> list[int]:
    """The reference's number of each chosen sample: by name where both have names."""
    if reference is source:
        return list(chosen)
    numbers = {reference.name(sample): sample for sample in range(len(reference))}
    if isinstance(source, Index) and not source.has_names:
        if len(reference) != len(source):
            found = f"{len(reference):,} samples"
            raise DataError(reference.path, found, f"{len(source):,} as in {source.path}")
        return list(chosen)
    missing = [source.name(sample) for sample in chosen if source.name(sample) not in numbers]
    if missing:
        raise DataError(
            reference.path,
            f"has no {missing[0]}",
            f"the samples of {source.path}",
            "name the folder that it was converted from",
        )
    return [numbers[source.name(sample)] for sample in chosen]


def _truth(stored: Stored, encoded: Stored, name: str) -> Stored:
    """The right pixels of a sample, raw."""
    image = decode(encoded, name)
    if image.size != (stored.width, stored.height):
        found = f"{image.width} x {image.height} px"
        raise DataError(name, found, f"{stored.width} x {stored.height} as stored")
    return Stored(MODE_RAW, image.width, image.height, image.tobytes())
