"""Processor, memory and disks of a machine, as findings; torch is not needed for it."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.memory import free_memory
from pipelines.workers import cpu_count

Status = Literal["ok", "note", "problem"]

_GB = 1e9
#: Below these, what fastft is made for does not fit: a process with torch takes some 0.7 GB,
#: and a ResNet-18's two checkpoints with momentum 0.2 GB.
_LITTLE_MEMORY, _LITTLE_DISK = 2 * _GB, 1 * _GB
#: Docker gives 64 MB, which a few batches in transit between processes fill.
_LITTLE_SHM = 0.5 * _GB


#: The line that installs what Triton builds its link to a GPU's driver with.
COMPILER = "apt-get install -y --no-install-recommends gcc libc6-dev python3-dev"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One row of what `fastft doctor` says.

    Attributes:
        group: `machine`, `versions` or `loaders`.
        name: what was looked at.
        status: `ok`; `note`, which one may want to change; `problem`, which one should.
        found: what is there, one line.
        remedy: what to do about it, where possible a command line; a problem always has one.
    """

    group: Literal["machine", "versions", "loaders"]
    name: str
    status: Status
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.status == "problem" and not self.remedy:
            raise ValueError(f"a problem without a remedy: {self.name}: {self.found}")


def find_machine(proc: Path = Path("/proc"), shm: Path = Path("/dev/shm")) -> list[Finding]:
    """Processor, memory and disks.

    Args:
        proc, shm: where the kernel tells, and its memory for files; replaced in tests.
    """
    info = read_cpu_info(proc)
    cpu = f"{cpu_name(info)}, {platform.machine()}"
    free = free_memory()
    little = free.bytes < _LITTLE_MEMORY
    return [
        Finding(group="machine", name="CPU", status="ok", found=cpu),
        Finding(group="machine", name="cores", status="ok", found=_cores()),
        _instructions(cpu_flags(info)),
        Finding(
            group="machine",
            name="memory",
            status="note" if little else "ok",
            found=f"{free.bytes / _GB:.1f} GB free {free.limit}",
            remedy="take --workers 1 and a smaller --batch-size" if little else "",
        ),
        _shared_memory(shm),
        _disk("disk, this folder", Path.cwd(), "write --out to another disk"),
        _disk("disk, cache folder", cache_folder(), "set TORCH_HOME to a folder on another disk"),
    ]


def find_compiler() -> Finding:
    """The C compiler that Triton takes, and Python's headers: kernels on a GPU need both."""
    compiler = os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    found, remedy = f"{compiler}, and {headers}", ""
    if compiler is None:
        found, remedy = "none, which kernels on a GPU need", COMPILER
    elif not headers.exists():
        found, remedy = f"{compiler}, but no {headers}, which kernels on a GPU need", COMPILER
    status: Status = "problem" if remedy else "ok"
    return Finding(group="machine", name="C compiler", status=status, found=found, remedy=remedy)


def cache_folder() -> Path:
    """The folder of downloaded weights; `torch.hub.get_dir` says the same, and loads torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch").expanduser() / "hub"


def read_cpu_info(proc: Path = Path("/proc")) -> dict[str, str]:
    """The kernel's facts of the first processor."""
    try:
        text = (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name(info: Mapping[str, str]) -> str:
    """The processor's name, of what `read_cpu_info` gives."""
    return info.get("model name") or platform.processor() or platform.machine()


def cpu_flags(info: Mapping[str, str]) -> frozenset[str]:
    """Its instruction sets by the kernel's names."""
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def _cores(cgroup: Path = Path("/sys/fs/cgroup")) -> str:
    affinity = len(os.sched_getaffinity(0))
    quota = "none"
    try:  # version 2, then version 1; the limit comes first in both
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text().strip()
                for name in ("quota", "period")
            )
        except OSError:
            limit, period = "max", "1"
    if limit not in ("max", "-1"):
        quota = f"{int(limit) / int(period):g}"
    return (
        f"{os.cpu_count()} in the machine, {affinity} by affinity, cgroup quota {quota}: "
        f"--workers 0 takes {cpu_count()}"
    )


def _instructions(flags: frozenset[str]) -> Finding:
    has_avx2, has_bf16 = "avx2" in flags, "avx512_bf16" in flags
    found = f"AVX2 {'yes' if has_avx2 else 'no'}, AVX-512 BF16 {'yes' if has_bf16 else 'no'}"
    # `environment.pick_amp` decides by these.
    found += f": --amp auto on the CPU takes {'bf16' if has_bf16 else 'float32'}"
    slow = platform.machine() == "x86_64" and not has_avx2
    return Finding(
        group="machine",
        name="instructions",
        status="note" if slow else "ok",
        found=f"{found}; without AVX2 decoding and training are slow" if slow else found,
    )


def _shared_memory(shm: Path) -> Finding:
    try:
        usage = shutil.disk_usage(shm)
    except OSError:
        return Finding(
            group="machine",
            name=str(shm),
            status="problem",
            found="is not there",
            remedy=f"mount -t tmpfs tmpfs {shm}",
        )
    little = usage.free < _LITTLE_SHM
    return Finding(
        group="machine",
        name=str(shm),
        status="note" if little else "ok",
        found=f"{usage.total / _GB:.2f} GB, {usage.free / _GB:.2f} GB free",
        remedy=f"remove what is left in {shm}; in a container: docker run --shm-size=2g ..."
        if little
        else "",
    )


def _disk(name: str, folder: Path, remedy: str) -> Finding:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    little = free < _LITTLE_DISK
    return Finding(
        group="machine",
        name=name,
        status="note" if little else "ok",
        found=f"{free / _GB:.1f} GB free at {folder}",
        remedy=remedy if little else "",
    )
