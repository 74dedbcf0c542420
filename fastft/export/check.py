"""The photos that an exported model is compared on, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fastft.config.division import make_division
from fastft.config.export import ExportConfig
from fastft.datasets.division import has_splits, open_sides
from fastft.datasets.splits import find_splits
from fastft.datasets.synth_draw import draw_jpeg
from fastft.evaluate.listing import list_images
from fastft.export.worker import Differences
from fastft.runs.checked import checked
from fastft.runs.checkpoint import Checkpoint
from fastft.system.isolated import run_child
from pipelines.errors import DataError, FastftError
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.crc import crc32
from pipelines.formats.encode import EncodePolicy, Encoder, read_stored
from pipelines.formats.layout import About, Stored
from pipelines.formats.source import Source, open_source

#: Differences of probabilities, or of numbers in deviations, beyond which a model is another one:
#: graphs of the same float32 numbers were 1e-7 to 1e-5 apart.
MOST_DIFFERENCE = 1e-4
#: Time that a comparison may take: 64 photos of a ResNet-18 took 6 s on 2 cores.
_LIMIT_S = 900.0
_SYNTHETIC, _SYNTHETIC_PX = "synthetic photos", (200, 160)
#: Float32 holds so many of a number's own size; a large one has no closer neighbour.
_FLOAT32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True)
class Photos:
    """Photos to compare on.

    Attributes:
        what: in words.
        name: the same without where they lie, for others to read.
        count: how many there are.
        read: the name of one, and it as it would be stored.
    """

    what: str
    name: str
    count: int
    read: Callable[[int], tuple[str, Stored]]


@dataclass(frozen=True, slots=True)
class RunData:
    """The data of a run, as far as they are where they were.

    Attributes:
        train, evaluation: its splits; None where they are not.
    """

    train: Source | None = None
    evaluation: Source | None = None


def find_run_data(checkpoint: Checkpoint) -> RunData:
    """The data that a checkpoint's run was of; without them nothing is wrong."""
    config = checkpoint.config
    if not isinstance(config.get("data"), str) or not Path(config["data"]).exists():
        return RunData()
    data, how = Path(config["data"]), asdict(checkpoint.prepared)
    try:
        if has_splits(data):
            paths = find_splits(data)
            sources = [open_source(path, **(how if path.is_dir() else {})) for path in paths]
        else:
            division = make_division(config)
            if not division:
                return RunData()
            sources = [*open_sides(data, division, **how)]
    except (FastftError, TypeError, ValueError):  # they are others by now
        return RunData()
    if any(source.classes != checkpoint.classes for source in sources):
        return RunData()
    return RunData(*sources)


def find_photos(config: ExportConfig, checkpoint: Checkpoint, evaluation: Source | None) -> Photos:
    """The photos that are asked for, else those of the evaluation split, else synthetic ones.

    Raises:
        DataError: those that are asked for are not there.
    """
    encoder = Encoder(EncodePolicy(verify=False, **asdict(checkpoint.prepared)))
    if config.check:
        paths = list_images(config.check)
        what = ", ".join(map(str, config.check[:3])) + (", ..." if len(config.check) > 3 else "")

        def read_file(at: int) -> tuple[str, Stored]:
            return str(paths[at]), read_stored(str(paths[at]), encoder, 0)

        return Photos(what, "photos of their own", len(paths), read_file)
    if evaluation is not None and len(evaluation):
        source = evaluation
        name = "/".join(source.path.absolute().parts[-2:])

        def read_sample(at: int) -> tuple[str, Stored]:
            return source.name(at), source.stored(at)

        return Photos(str(source.path), name, len(source), read_sample)

    def draw(at: int) -> tuple[str, Stored]:
        rng = np.random.Generator(np.random.Philox(at))
        content = draw_jpeg(rng, "shapes", at % 4, _SYNTHETIC_PX)
        stored = encoder.encode(content, at).stored
        assert stored is not None, "a JPEG of ours"
        return f"synthetic photo {at}", stored

    return Photos(_SYNTHETIC, _SYNTHETIC, config.check_images, draw)


def write_photos(photos: Photos, most: int, path: Path) -> int:
    """Write so many photos, evenly taken, as a `.beton`; gives their number.

    Raises:
        DataError: a photo is broken.
    """
    count = min(photos.count, most)
    with BetonWriter(path, count) as writer:
        for number in range(count):
            name, stored = photos.read(number * photos.count // count)
            writer.append(stored, 0, name, crc32(stored.data))
        writer.finish(About(classes=("photo",)))
        writer.publish()
    return count


def compare_in_process(
    checkpoint: Path, model: Path, export_format: str, photos: Path
) -> Differences:
    """What a model says otherwise than its checkpoint, found out in a process of its own.

    Raises:
        DataError: it cannot be run.
    """
    arguments = [str(checkpoint.absolute()), str(model.absolute()), export_format]
    answer = run_child("fastft.export.worker", [*arguments, str(photos.absolute())], _LIMIT_S)
    if "failed" in answer:
        found = f"does not run: {answer['failed']}"
        raise DataError(f"--format {export_format}", found, "", "take another format")
    return checked(Differences, answer)


def require_equal(found: Differences, checkpoint: Checkpoint, config: ExportConfig) -> None:
    """Refuse a model that says otherwise than its checkpoint.

    Of whole photos pixels differ by a level here and there, and so does what a network makes of
    them: that is told, and not refused, as long as it is a number.

    Raises:
        DataError: it does.
    """
    meaning = checkpoint.outputs
    bound = MOST_DIFFERENCE
    rounding = 4 * _FLOAT32 * abs(meaning.mean) / meaning.deviation  # of a number in its own unit
    for what, most, limit in (
        ("predictions", found.most, float("inf") if config.with_preprocessing else bound),
        (
            "probabilities beside its logits",
            found.second,
            bound + (rounding if meaning.task == "number" else 0),
        ),
    ):
        if not most <= limit or most == float("inf"):
            said = f"gives {what} {most:.2g} apart from the checkpoint's, first for {found.worst}"
            expected = f"at most {bound:g}"
            raise DataError(f"--format {config.format}", said, expected, "take another format")


def describe_differences(found: Differences, checkpoint: Checkpoint, what: str) -> list[str]:
    """Lines on what a comparison on some photos came to."""
    task = checkpoint.outputs.task
    noun = {"classes": "class", "labels": "labels", "number": "number"}[task]
    unit = "numbers, in deviations," if task == "number" else "probabilities"
    lines = [
        f"run by {found.by} on {what}: the same {noun} for {found.same:,} of {found.photos:,}, "
        f"{unit} at most {found.most:.1e} apart"
    ]
    if found.most_levels is not None:
        lines.append(
            f"pixels at most {found.most_levels:g} of 255 levels from Pillow's, "
            f"{found.mean_levels:.4f} on average"
        )
    return lines
