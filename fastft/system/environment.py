"""The machine and the libraries: what a run's results depend on beside its settings."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from fastft import __version__
from fastft.system.machine import cpu_flags, cpu_name, read_cpu_info
from pipelines.errors import UsageError
from pipelines.workers import cpu_count

_PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "ffcv", "numba", "numpy", "pillow")


def environment() -> dict[str, Any]:
    """Versions, processor and GPU, as JSON values."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "fastft": __version__,
        "python": platform.python_version(),
        **{name: package_version(name) for name in _PACKAGES},
        "cpu": cpu_name(read_cpu_info()),
        "cpus": cpu_count(),
        "gpu": gpu,
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def pick_device(device: str) -> torch.device:
    """`auto`, or a device by name.

    Raises:
        UsageError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise UsageError("--device", repr(device), "auto, cpu, cuda or cuda:N") from error
    if picked.type not in ("cpu", "cuda"):
        raise UsageError("--device", repr(device), "auto, cpu, cuda or cuda:N")
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        found = f"{device}, but {torch.cuda.device_count()} GPUs are visible"
        raise UsageError("--device", found, "one that is here", "take --device cpu")
    return picked


def pick_amp(amp: str, device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in, or None for plain float32."""
    if amp == "off":
        return None
    if amp in ("bf16", "fp16"):
        return torch.bfloat16 if amp == "bf16" else torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    # Without its instructions a CPU emulates bfloat16, slower than float32.
    return torch.bfloat16 if "avx512_bf16" in cpu_flags(read_cpu_info()) else None
