"""`fastft predict`: image files in, what the model says of each out, as it comes.

Images are prepared as evaluation prepares them. Of very many photos nothing but their paths is
held: rows go to files batch by batch, and a summary has counts, the first rows, and some for a
sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image

from fastft.config.commands import PredictConfig
from fastft.config.train import Amp
from fastft.evaluate.csv_file import CsvFile
from fastft.evaluate.listing import find_images
from fastft.evaluate.opening import open_model
from fastft.evaluate.outputs import JsonFile, to_utf8, write_bytes
from fastft.evaluate.pipeline import CPU_BATCH, GPU_BATCH, Setting, answer
from fastft.evaluate.predictions import Prediction, Teller, Told
from fastft.model.exported import is_exported
from fastft.runs.checkpoint import Checkpoint
from fastft.system.environment import pick_amp, pick_device
from pipelines.errors import DataError, UsageError
from pipelines.formats.encode import EncodePolicy, Encoder, read_stored
from pipelines.workers import cpu_count

#: Predictions that a summary keeps: those that are printed, and at least those of a sheet.
FIRST, _SAMPLE = 40, 32


@dataclass(slots=True)
class Summary:
    """What has been predicted.

    Attributes:
        count: images.
        known: those whose folder's name is a class.
        right: those of them that the model says the same of.
        first: the first FIRST of them.
        sample: up to twice as many as a sheet shows, evenly from all.
        broken: images that cannot be read.
        done: those that had a row before, and were left out.
    """

    count: int = 0
    known: int = 0
    right: int = 0
    first: list[Told] = field(default_factory=list)
    sample: list[Told] = field(default_factory=list)
    broken: int = 0
    done: int = 0
    _step: int = 1

    def add(self, told: Told) -> None:
        """Count one more."""
        if len(self.first) < FIRST:
            self.first.append(told)
        if self.count % self._step == 0:
            self.sample.append(told)
            if len(self.sample) > 2 * _SAMPLE:
                self.sample, self._step = self.sample[::2], 2 * self._step
        self.count += 1
        self.known += told.is_right is not None
        self.right += bool(told.is_right)


def predict(
    config: PredictConfig,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_broken: Callable[[DataError], None] | None = None,
) -> list[Told]:
    """Predict what images show, and keep all of it; see `run_predict`, which keeps little.

    Raises:
        UsageError: see there.
        DataError: see there.
    """
    kept: list[Told] = []
    run_predict(config, on_told=kept.extend, on_progress=on_progress, on_broken=on_broken)
    return kept


def run_predict(
    config: PredictConfig,
    *,
    on_told: Callable[[Sequence[Told]], object] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_broken: Callable[[DataError], None] | None = None,
) -> Summary:
    """Predict what images show; writes the CSV and the JSON as it goes, and draws the sheet.

    Args:
        config: what to do.
        on_told: called with the predictions of each batch, in the images' order.
        on_progress: called with images done and in all, where they are more than a batch.
        on_broken: called with the error of each image that cannot be read, which is then left out.
            Without it, of a single image and if nothing is left, the first such error is raised.

    Raises:
        UsageError: an output that cannot be a file, no such device, or an option that says nothing
            of the run's task.
        DataError: the run or an image cannot be read, there are no images, an output cannot be
            written or continued, or the model's outputs are not finite.
    """
    for option, out in config.outputs.items():
        if out.is_dir():
            raise UsageError(option, f"{out} is a folder", "a file to write", "name a file in it")
    device = pick_device(config.device)
    checkpoint, model_path, model = open_model(config.run, device)
    if config.crops > 1 and getattr(model, "takes_whole_images", False):
        several = f"{config.crops} of a model that cuts photos itself"
        raise UsageError("--crops", several, "1", "leave it out, or ask the run")
    teller = Teller(checkpoint, model_path, config)
    paths, summary = find_images(config.images), Summary()
    is_alone = len(paths) == 1
    setting = _settle(config, checkpoint, device)
    first_error: DataError | None = None
    with ExitStack() as stack:
        table = listing = None
        if config.csv is not None:
            table = CsvFile(config.csv, teller.head, continues=config.skip_done)
            stack.enter_context(table)
            summary.done = len(paths)
            paths = [path for path in paths if to_utf8(path).decode() not in table.done]
            summary.done -= len(paths)
        if config.json is not None:
            listing = stack.enter_context(JsonFile(config.json))
        answers = answer(paths, checkpoint, model, setting)
        for found in stack.enter_context(closing(answers)):
            for number in sorted(found.broken):
                error = found.broken[number]
                first_error = first_error or error
                if on_broken is None or is_alone:
                    raise error
                on_broken(error)
                summary.broken += 1
            rows = zip(found.numbers, found.rows, strict=True)
            told = [teller.tell(Path(paths[number]), row) for number, row in rows]
            for each in told:
                summary.add(each)
            if table is not None:
                table.add(each.row for each in told)
            if listing is not None:
                listing.add(each.plain for each in told)
            if on_told is not None:
                on_told(told)
            if on_progress is not None and len(paths) > setting.batch_size:
                on_progress(summary.count + summary.broken, len(paths))
        if first_error is not None and not summary.count and not summary.done:
            raise first_error
        for output in (listing, table):
            if output is not None:
                output.publish()
    if config.sheet is not None and summary.count:
        _draw_sheet(config.sheet, summary.sample, checkpoint)
    return summary


def _settle(config: PredictConfig, checkpoint: Checkpoint, device: torch.device) -> Setting:
    """Settles on what was asked for, else on the run's own, else on what suits this machine."""
    trained: Any = checkpoint.config.get("amp")
    amp: str = trained if trained in get_args(Amp) else "auto"
    if is_exported(config.run):  # it is of the type that it was exported in
        amp = "off"
    batch_size = config.batch_size or (GPU_BATCH if device.type == "cuda" else CPU_BATCH)
    return Setting(
        device=device,
        amp_dtype=pick_amp(config.amp or amp, device),
        batch_size=batch_size,
        workers=config.workers or cpu_count(),
        flip=config.flip,
        vflip=config.vflip,
        crops=config.crops,
    )


def _draw_sheet(out: Path, sample: Sequence[Told], checkpoint: Checkpoint) -> None:
    from fastft.evaluate.plots import (  # matplotlib takes 0.7 s
        SHEET_IMAGES,
        SHOWN_PX,
        Shown,
        cut_image,
        draw_sheet,
    )

    count = min(SHEET_IMAGES, len(sample))
    shown = []
    encoder = Encoder(EncodePolicy(verify=False, **asdict(checkpoint.prepared)))
    for each in (sample[at * len(sample) // count] for at in range(count)):
        stored = read_stored(str(each.path), encoder, 0)
        name, form = str(each.path), checkpoint.preprocessed
        image = Image.fromarray(cut_image(stored, checkpoint.view, SHOWN_PX, name, form))
        if isinstance(each, Prediction):
            shown.append(Shown(image, each.label, each.probability, each.truth))
        else:
            shown.append(Shown(image, each.caption, None, None))
    write_bytes(out, [draw_sheet(shown)])
