"""One trial of one library, in a process that `fastft doctor` starts for it.

A library that crashes, hangs or changes thread settings does so here alone. The answer is a JSON
file, as libraries print what they like. Nothing heavy is imported before its own trial needs it.
"""

from __future__ import annotations

import ctypes
import io
import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.system.isolated import ANSWER
from pipelines.errors import FastftError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.loaders import Loader

#: What the names of missing modules are, where a loader's library is not installed.
_LIBRARIES = ("ffcv", "nvidia", "nvidia.dali")
#: Output side, px, and the images' sizes: a landscape and a portrait, larger than the output.
_SIDE = 64
_SIZES = ((160, 120), (120, 160))
#: Mean and maximum, levels, for a loader that promises none (DALI on a GPU): the flip of these
#: images is 58 levels away, another epoch's crop 63.
_UNSTATED = (4.0, 255)


def main(arguments: list[str]) -> None:
    """Run the trial that `arguments` name, and write its answer.

    Args:
        arguments: `torch`, `nvjpeg`, `decoding` and seconds for each way, or a loader and a
            device; the last is an empty folder.
    """
    *trial, folder = arguments
    try:
        if trial == ["torch"]:
            answer = _try_torch()
        elif trial == ["nvjpeg"]:
            answer = _ask_nvjpeg()
        elif trial[0] == "decoding":
            answer = _try_decoding(float(trial[1]))
        else:
            answer = _try_loader(trial[0], trial[1], Path(folder))
    except FastftError as error:
        answer = {"failed": error.found, "remedy": error.remedy, "missing": _is_missing(error)}
    except Exception as error:  # whatever a broken library raises is what was to be found
        answer = {"failed": f"{type(error).__name__}: {error}", "remedy": "", "missing": False}
    (Path(folder) / ANSWER).write_text(json.dumps(answer))


def write_beton(folder: Path) -> Path:
    """Make two small photo-like JPEGs and convert them; returns the `.beton`.

    Raises:
        DataError: the conversion failed.
    """
    import numpy as np
    from PIL import Image

    from pipelines.conversion.run import ConvertConfig, convert

    for label, (width, height) in enumerate(_SIZES):
        y, x = np.mgrid[:height, :width]
        # Smooth, as photos mostly are, and different in every part and channel.
        waves = [np.sin(x / (17 + 6 * c)) + np.cos(y / (13 + 5 * c) + label) for c in range(3)]
        image = Image.fromarray((127.5 + 60 * np.stack(waves, -1)).astype(np.uint8))
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=90)
        into = folder / "images" / f"class{label}"
        into.mkdir(parents=True)
        (into / "image.jpg").write_bytes(encoded.getvalue())
    out = folder / "images.beton"
    convert(ConvertConfig(src=folder / "images", out=out, workers=1))
    return out


def _try_loader(name: str, device: str, folder: Path) -> dict[str, Any]:
    """Take one batch and hold it against the reference.

    Raises:
        UsageError: the loader's library is missing.
        DataError: an image cannot be read.
    """
    path = write_beton(folder)
    started = time.perf_counter()
    from pipelines.loaders import make_loader

    with make_loader(
        name, path, size=_SIDE, batch_size=len(_SIZES), device=device, normalize=False, workers=1
    ) as loader:
        # To the end: leaving early is another thing than what is asked here.
        [(images, labels)] = list(loader)
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, **_judge(loader, pixels, labels.tolist())}


def _judge(loader: Loader, pixels: NDArray[np.uint8], labels: list[int]) -> dict[str, Any]:
    from fastft.parity.distance import Differences
    from pipelines.reference import render_batch

    rows = loader.plan.rows(loader.plan.order)
    samples = [int(sample) for sample in rows.samples]
    truth = render_batch([loader.source.stored(sample) for sample in samples], rows)
    differences = Differences()
    differences.add(pixels, truth)
    found = differences.distance()
    mean, most = loader.stated or _UNSTATED
    if labels != [int(loader.source.labels[sample]) for sample in samples]:
        return {"failed": "its labels are not in the plan's order", "remedy": "", "missing": False}
    if found.mean > mean or found.most > most:
        reason = (
            f"its pixels are {found.mean:.2f} levels from the reference, at most {found.most}; "
            f"expected {mean:g}, at most {most}"
        )
        return {"failed": reason, "remedy": "", "missing": False}
    return {"mean": found.mean, "most": found.most}


def _is_missing(error: FastftError) -> bool:
    """Whether the library is not there at all, rather than there and broken."""
    cause = error.__cause__
    return isinstance(cause, ModuleNotFoundError) and cause.name in _LIBRARIES


def _try_torch() -> dict[str, Any]:
    """Import torch and torchvision, and ask for GPUs."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        import torch

        here = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count() * here)]
    return {
        "torch": torch.__version__,
        "torchvision": _try_torchvision(),
        "cuda": torch.version.cuda,
        "driver": _driver_version(),
        # Of a driver that is too old, torch warns at the first look.
        "warning": next((str(w.message) for w in said if "CUDA" in str(w.message)), ""),
        "gpus": [{"name": gpu.name, "bytes": gpu.total_memory} for gpu in gpus],
    }


def _try_torchvision() -> dict[str, str]:
    """Its version, or why it cannot be imported and what installs it."""
    try:
        from pipelines.vision import torchvision
    except FastftError as error:
        return {"failed": error.found, "remedy": error.remedy}
    return {"version": torchvision.__version__}


def _driver_version() -> str | None:
    """The CUDA version that the driver supports, asked of the driver itself."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _try_decoding(limit_s: float) -> dict[str, Any]:
    """Tries DALI's ways to decode on the first GPU; the findings are kept for the loader."""
    import torch

    from fastft.doctor.dali_decoding import try_decoding
    from pipelines.loaders.dali_decode import name_setup, save_findings, takes_regions

    found = try_decoding("cuda", limit_s)
    save_findings(name_setup(torch.device("cuda")), found)
    ways = {way: asdict(each) for way, each in found.items()}
    return {"ways": ways, "takes_regions": takes_regions(found)}


def _ask_nvjpeg() -> dict[str, Any]:
    """The number of JPEG decoding engines of the GPU; None where it cannot be asked.

    Source: nvJPEG's documentation, `nvjpegGetHardwareDecoderInfo`.
    """
    names = ["libnvjpeg.so.13", "libnvjpeg.so.12"]
    # Wheels keep it where the system's linker does not look.
    for entry in sys.path:
        names += [str(path) for path in Path(entry).glob("nvidia/*/lib/libnvjpeg.so.*")]
    for name in names:
        try:
            library = ctypes.CDLL(name)
            ask, create = library.nvjpegGetHardwareDecoderInfo, library.nvjpegCreateSimple
        except (OSError, AttributeError):  # not there, or from before CUDA 12.0
            continue
        handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
        if create(ctypes.byref(handle)):
            continue
        failed = ask(handle, ctypes.byref(engines), ctypes.byref(cores))
        library.nvjpegDestroy(handle)
        if not failed:
            return {"engines": engines.value}
    return {"engines": None}
