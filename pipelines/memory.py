"""The memory that a process may still take: the machine's, or its container's if that is less.

And its own address space, as far as a limit of it makes libraries wait without end.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
#: Of address space: OpenBLAS maps 115 MB on two cores as soon as it is loaded.
_BLAS_BYTES = 256 << 20
#: What of SciPy loads it; all that is used here begins with one of them.
_BLAS_USERS = frozenset({"scipy.linalg", "scipy.special"})


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Bytes that may be taken, and what sets the limit, in words."""

    bytes: int
    limit: str


def free_memory(proc: Path = _PROC, cgroup: Path = _CGROUP) -> FreeMemory:
    """The memory that can be taken without swapping or being killed.

    Files that the system keeps in memory count as free: it drops them when asked.

    Args:
        proc, cgroup: where the kernel tells; replaced in tests.
    """
    limits = [FreeMemory(_available_bytes(proc), "of this machine")]
    limits += [
        FreeMemory(max(0, room), f"of this container's {limit / 1e9:.1f} GB")
        for limit, room in _cgroup_rooms(proc, cgroup)
    ]
    return min(limits, key=lambda each: each.bytes)


def require_room(room_bytes: int, purpose: str) -> None:
    """Fail where there is not so much address space, before who needs it finds out.

    Raises:
        MemoryError: so it is.
    """
    try:
        mmap.mmap(-1, room_bytes).close()  # 3 us
    except OSError as error:
        raise MemoryError(f"no room for {purpose}") from error


def require_blas_room() -> None:
    """Fail where SciPy would find no memory, before it is loaded, as by numba.

    Its OpenBLAS tries again without end where it gets none.

    Raises:
        MemoryError: there is less than it takes at first.
    """
    if not _BLAS_USERS & sys.modules.keys():
        require_room(_BLAS_BYTES, "SciPy")


def _available_bytes(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{proc / 'meminfo'} reports no MemAvailable")


def _cgroup_rooms(proc: Path, cgroup: Path) -> Iterator[tuple[int, int]]:
    """Limit and what is left of it, bytes, of each group that this process is in."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:  # a kernel without them
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, names = cgroup, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = cgroup / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = root / path.lstrip("/")
        # From inside a container the path may be the host's: what is mounted is then the group.
        for folder in (group, *group.parents):
            if folder == root.parent or not folder.is_relative_to(root):
                break
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                yield limit, limit - used + _reclaimable_bytes(folder)
            except (OSError, ValueError):  # no such group, or "max"
                continue


def _reclaimable_bytes(group: Path) -> int:
    """The memory of files that a group is charged for."""
    counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    prefix = "total_" if "total_inactive_file" in counts else ""
    return sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
