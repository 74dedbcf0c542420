"""Finds out what works on this machine, and what installs the rest; `tables` shows it.

This process loads neither torch nor any loader: `worker` does, one process for each, which
may crash or hang. That a loader works is found by decoding two images with it.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from PIL import features

from fastft import __version__
from fastft.system.isolated import run_child
from fastft.system.machine import Finding, find_compiler, find_machine
from pipelines.errors import one_line
from pipelines.images.turbojpeg import TURBOJPEG, load_turbojpeg

#: Those that execute the plan, in the order of README.
LOADERS = ("torchvision", "ffcv", "dali", "resident")
#: A trial took 8 s on 2 cores where all was yet to be compiled; the
#: rest is for slow disks and busy machines.
LIMIT_S = 120.0

_TORCH = "pip install --force-reinstall torch torchvision"
#: DALI's name holds the CUDA version that it was built with.
_DALI = tuple(f"nvidia-dali-cuda{n}" for n in (120, 130, 110))
#: What ffcv is built with, and how to tell that it is there; see ./dev.
_TOOLS = {"g++": "g++", "pkg-config": "pkg-config"}
_HEADERS = {"opencv4": "libopencv-dev", "libturbojpeg": "libturbojpeg0-dev"}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found.

    Attributes:
        findings: in the order to show them in.
        works: whether torch and torchvision, whose the models are, can be imported, and at least
            one loader works.
    """

    findings: tuple[Finding, ...]
    works: bool

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings to remedy."""
        return tuple(each for each in self.findings if each.status == "problem")


def diagnose(
    *,
    loaders: Sequence[str] = LOADERS,
    limit_s: float = LIMIT_S,
    on_trial: Callable[[str], None] = lambda name: None,
) -> Diagnosis:
    """Look at the machine and the libraries, and try every loader.

    Args:
        loaders: which to try.
        limit_s: how long each trial may take before it is killed.
        on_trial: told what is about to be tried.
    """
    on_trial("torch")
    torch = run_trial(("torch",), limit_s)
    imports = "failed" not in torch
    has_models = imports and "failed" not in torch["torchvision"]
    devices = ("cpu", "cuda") if torch.get("gpus") else ("cpu",)
    findings = [*find_machine(), *_gpus(torch, limit_s), *_versions(torch)]
    works = False
    for name in loaders:
        for device in devices:
            label = name if len(devices) == 1 else f"{name} on {device}"
            if not imports:  # the same crash or limit for each would say nothing new
                text = "not tried, as torch cannot be imported"
                found = _row("loaders", label, "problem", text, _TORCH)
            else:
                on_trial(label)
                found = _loader(name, label, run_trial((name, device), limit_s))
            works |= found.status == "ok"
            findings.append(found)
            if (name, device, found.status) == ("dali", "cuda", "ok"):
                on_trial("DALI's decoding")
                findings += _decoding(run_trial(("decoding", f"{limit_s:g}"), 4 * limit_s))
    return Diagnosis(tuple(findings), has_models and works)


def run_trial(trial: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run `worker` in a process of its own; see `system.isolated`."""
    return run_child("fastft.doctor.worker", trial, limit_s)


def _loader(name: str, label: str, answer: dict[str, Any]) -> Finding:
    if "failed" not in answer:
        apart = f"{answer['mean']:.2f} levels from the reference, at most {answer['most']}"
        found = f"works, {answer['seconds']:.1f} s; " + (
            apart if answer["most"] else "every pixel is the reference's"
        )
        return Finding(group="loaders", name=label, status="ok", found=found)
    missing = bool(answer.get("missing"))
    remedy = _loader_remedy(name, missing)
    if name not in ("ffcv", "dali"):  # theirs always names the extra, which may be there and broken
        remedy = answer.get("remedy") or remedy
    # Those who do without a library that is not needed have no problem.
    return Finding(
        group="loaders",
        name=label,
        status="note" if missing else "problem",
        found=_brief(answer["failed"]),
        remedy=remedy,
    )


def _decoding(answer: dict[str, Any]) -> list[Finding]:
    """DALI's ways to decode on a GPU; one that fails is not taken, and no problem."""
    if "failed" in answer:
        return [_row("loaders", "DALI's decoding", "note", answer["failed"])]
    rows = []
    for way, found in answer["ways"].items():
        if found["failed"]:
            rows.append(_row("loaders", f"DALI, {way}", "note", found["failed"]))
            continue
        text = f"{found['img_per_s']:,.0f} images/s, {found['cpu_ms']:.2f} ms of CPU per image, "
        text += f"{found['mean']:.2f} levels from the reference, at most {found['most']:g}"
        rows.append(_row("loaders", f"DALI, {way}", "ok", text))
    taken = "regions" if answer["takes_regions"] else "whole images"
    return [*rows, _row("loaders", "DALI decodes", "ok", f"{taken}, by these figures")]


def _loader_remedy(name: str, missing: bool) -> str:
    """The line that installs what a loader needs, or installs it anew."""
    if name == "dali" and not missing:  # of the package itself, as no index need have fastft
        found = next((each for each in _DALI if _version(each)), _DALI[0])
        return f"pip install --force-reinstall {found}"
    if name == "dali":
        return 'pip install "fastft[dali]"'
    if name == "ffcv":
        lacking = _missing_packages()
        first = f"apt-get install -y --no-install-recommends {lacking} && " if lacking else ""
        # Built here, as it is linked to the system's OpenCV and libjpeg-turbo; it has no
        # pyproject.toml, and a wheel of another machine would be taken from pip's cache.
        what = '"fastft[ffcv]"' if missing else "--force-reinstall --no-deps --no-cache-dir ffcv"
        return f"{first}PIP_USE_PEP517=1 pip install {what}"
    return _TORCH if name == "torchvision" else "pip install --force-reinstall numba"


def _missing_packages() -> str:
    """The system packages that building ffcv lacks here."""
    lacking = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    for header, package in _HEADERS.items():
        command = ["pkg-config", "--exists", header]
        if "pkg-config" in lacking or subprocess.run(command, check=False).returncode:
            lacking.append(package)
    return " ".join(lacking)


def _gpus(torch: dict[str, Any], limit_s: float) -> list[Finding]:
    """The driver, each GPU and its JPEG engines."""
    if "failed" in torch:
        return [_row("machine", "GPU", "note", "unknown, as torch cannot be imported")]
    if torch["gpus"]:
        rows = [_row("machine", "CUDA driver", "ok", f"supports CUDA {torch['driver']}")]
        for number, gpu in enumerate(torch["gpus"]):
            text = f"{gpu['name']}, {gpu['bytes'] / 1e9:.1f} GB"
            rows.append(_row("machine", f"GPU {number}", "ok", text))
        engines = run_trial(("nvjpeg",), limit_s).get("engines")
        text = "unknown" if engines is None else f"{engines} in GPU 0"
        return [*rows, _row("machine", "NVJPEG engines", "ok", text), find_compiler()]
    if torch["driver"] is None:
        return [
            _row("machine", "CUDA driver", "note", "none: training runs on the CPU"),
            _row("machine", "NVJPEG engines", "ok", "none, no GPU"),
        ]
    found = f"supports CUDA {torch['driver']}, but torch sees no GPU"
    found += f": {torch['warning']}" if torch["warning"] else ""
    remedy = "see nvidia-smi: update the driver, or install a torch that is built for its CUDA"
    return [_row("machine", "CUDA driver", "problem", found, remedy)]


def _versions(torch: dict[str, Any]) -> list[Finding]:
    rows = [
        _row("versions", "fastft", "ok", __version__),
        _row("versions", "Python", "ok", f"{platform.python_version()}, {sys.executable}"),
    ]
    if "failed" in torch:
        rows.append(_row("versions", "torch", "problem", torch["failed"], _TORCH))
    else:
        built = f"with CUDA {torch['cuda']}" if torch["cuda"] else "for the CPU alone"
        rows.append(_row("versions", "torch", "ok", f"{torch['torch']}, built {built}"))
        vision = torch["torchvision"]
        if "failed" in vision:  # the models are torchvision's, whatever loads the images
            row = _row("versions", "torchvision", "problem", vision["failed"], vision["remedy"])
        else:
            row = _row("versions", "torchvision", "ok", vision["version"])
        rows.append(row)
    for name, packages, remedy in (
        ("DALI", _DALI, _loader_remedy("dali", True)),
        ("ffcv", ["ffcv"], _loader_remedy("ffcv", True)),
        ("numba", ["numba"], "pip install numba"),
        ("Pillow", ["pillow"], "pip install pillow"),
        ("timm", ["timm"], 'pip install "fastft[timm]"'),
        ("onnxruntime", ["onnxruntime", "onnxruntime-gpu"], 'pip install "fastft[export]"'),
        ("tensorboard", ["tensorboard"], 'pip install "fastft[tensorboard]"'),
        ("wandb", ["wandb"], 'pip install "fastft[wandb]"'),
        ("mlflow", ["mlflow-skinny", "mlflow"], 'pip install "fastft[mlflow]"'),
        ("pyarrow", ["pyarrow"], 'pip install "fastft[data]"'),
        ("s3fs", ["s3fs"], 'pip install "fastft[s3]"'),
    ):
        if found := next((v for each in packages if (v := _version(each))), None):
            rows.append(_row("versions", name, "ok", found))
        else:
            rows.append(_row("versions", name, "note", "not installed", remedy))
    return [*rows, *_jpeg_versions()]


def _jpeg_versions() -> list[Finding]:
    inside = features.version("libjpeg_turbo")
    library = load_turbojpeg()
    if library is None:
        found, remedy = "not installed: conversion is slower", "libturbojpeg0-dev"
    else:
        # It does not tell its version; tj3 functions came with 3.0.
        kind = "3.0 or later" if hasattr(library, "tj3Init") else "2.1 or earlier"
        found, remedy = f"{kind}, as {TURBOJPEG}", ""
    return [
        _row("versions", "libjpeg-turbo of Pillow", "ok" if inside else "note", inside or "none"),
        _row(
            "versions",
            "libjpeg-turbo of the system",
            "note" if remedy else "ok",
            found,
            f"apt-get install -y --no-install-recommends {remedy}" if remedy else "",
        ),
        _jpeg_regions(),
    ]


def _jpeg_regions() -> Finding:
    from pipelines.regions import are_decoded  # loads numba

    if are_decoded():
        return _row("versions", "regions of JPEGs", "ok", "decoded by Pillow's libjpeg-turbo")
    found = "not decoded alone: ffcv takes nearly twice as long"
    remedy = "pip install --force-reinstall --only-binary :all: pillow"
    return _row("versions", "regions of JPEGs", "note", found, remedy)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _row(group: Any, name: str, status: Any, found: str, remedy: str = "") -> Finding:
    return Finding(group=group, name=name, status=status, found=_brief(found), remedy=remedy)


def _brief(text: str) -> str:
    """The first line; some libraries complain in a page."""
    return one_line((text.strip().splitlines() or [""])[0][:300])
