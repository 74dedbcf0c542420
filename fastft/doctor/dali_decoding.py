"""Tries DALI's ways to decode JPEGs on this GPU, each in a process of its own.

A way may crash, hang or quietly decode on the CPU: that is what is to be found out, before a
training meets it. `pipelines.loaders.dali_decode` keeps what was found and acts on it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from fastft.datasets.synth import SynthConfig, write_synth
from fastft.system.isolated import ANSWER, run_child
from pipelines.atomic import unguessable
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import FastftError
from pipelines.loaders.dali_decode import WAYS, Decoding, Way

#: Photos of 4:2:0, as cameras make them; a batch of a training.
_PHOTOS, _FEW_PHOTOS, _PHOTO_PX = 256, 12, (400, 300)
_SIZE, _BATCH = 224, 128
#: Read before the clock starts, and for how long they are read then.
_WARM_EPOCHS, _SECONDS = 2, 1.5
#: Photos that are compared with the reference.
_COMPARED = 32


def try_decoding(
    device: str,
    limit_s: float,
    on_way: Callable[[Way], None] = lambda way: None,
    *,
    rehearse: bool = False,
) -> dict[str, Decoding]:
    """Try each way; gives what became of it, by `str(Way)`.

    Args:
        device: where images are decoded.
        limit_s: how long each may take before it is killed.
        on_way: told what is about to be tried.
        rehearse: with a few photos, for figures that mean nothing.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix=unguessable("fastft-")) as folder:
        photos = Path(folder, "photos")
        count = _FEW_PHOTOS if rehearse else _PHOTOS
        write_synth(
            SynthConfig(
                out=photos, classes=2, per_class=count // 2, test_per_class=1, size=_PHOTO_PX
            )
        )
        convert(ConvertConfig(src=photos / "train", out=Path(folder, "data.beton")))
        for way in WAYS:
            on_way(way)
            data = Path(folder, "data.beton")
            found[str(way)] = try_way(way, device, data, limit_s, rehearse=rehearse)
    return found


def try_way(
    way: Way, device: str, data: Path, limit_s: float, *, rehearse: bool = False
) -> Decoding:
    """Try one way on the photos of a `.beton`, in a process of its own.

    Args:
        way: how it is decoded.
        device: where.
        data: photos of 4:2:0.
        limit_s: how long it may take before it is killed.
        rehearse: see `try_decoding`.
    """
    told = [str(WAYS.index(way)), device, str(data), str(rehearse)]
    return Decoding(**run_child("fastft.doctor.dali_decoding", told, limit_s))


def main(arguments: list[str]) -> None:
    """Try one way, and write what became of it; see `try_decoding` and `system.isolated`."""
    number, device, data, rehearse, folder = arguments
    try:
        found = _try(WAYS[int(number)], device, Path(data), 0.1 if rehearse == "True" else _SECONDS)
    except FastftError as error:
        found = Decoding(failed=str(error))
    except Exception as error:  # whatever a library raises is what was to be found
        found = Decoding(failed=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    Path(folder, ANSWER).write_text(json.dumps(asdict(found)))


def _try(way: Way, device: str, data: Path, seconds: float) -> Decoding:
    import torch

    from fastft.parity.pixels import compare
    from pipelines.formats.source import open_source
    from pipelines.loaders import make_loader
    from pipelines.loaders.dali_loader import DaliLoader

    DaliLoader.region = way.region
    DaliLoader.decode_options = {**DaliLoader.decode_options, "jpeg_fancy_upsampling": way.fancy}
    source = open_source(data)
    with make_loader(
        "dali",
        source,
        size=_SIZE,
        batch_size=min(_BATCH, len(source)),
        device=device,
        dtype=torch.float16,
    ) as loader:
        done, began, used, epoch = 0, 0.0, 0.0, 0
        while epoch <= _WARM_EPOCHS or time.perf_counter() - began < seconds:
            if epoch == _WARM_EPOCHS:
                done, began, used = 0, time.perf_counter(), time.process_time()
            loader.set_epoch(epoch)
            for images, _ in loader:
                done += len(images)
            if device != "cpu":
                torch.cuda.synchronize()
            epoch += 1
        rate = done / (time.perf_counter() - began)
        cpu_ms = 1000 * (time.process_time() - used) / done
    rows = compare(
        source,
        {"dali": partial(make_loader, "dali")},
        images=min(_COMPARED, len(source)),
        size=_SIZE,
        device=device,
    ).rows
    whole = [row.distance for row in rows if row.loader == "dali" and row.stage == "whole"]
    return Decoding(
        img_per_s=round(rate, 1),
        cpu_ms=round(cpu_ms, 4),
        mean=round(max(each.mean for each in whole), 4),
        most=max(each.most for each in whole),
    )
