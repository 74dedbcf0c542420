"""Made-up /proc and cgroup trees, and this machine's own."""

from pathlib import Path

import psutil
import pytest

from pipelines.memory import FreeMemory, free_memory

MACHINE_BYTES = 64 << 30
UNLIMITED = 9223372036854771712  # what version 1 says for none
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def tell(tmp_path: Path, membership: str | None) -> tuple[Path, Path]:
    """A machine with 64 GiB available, and what it says of the groups that a process is in."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    available = MACHINE_BYTES >> 10
    (proc / "meminfo").write_text(
        f"MemTotal: {2 * available} kB\nMemFree: 1024 kB\nMemAvailable:  {available} kB\n"
    )
    if membership is not None:
        (proc / "self/cgroup").write_text(membership)
    return proc, cgroup


def limit(
    group: Path, limit: int | str, used: int, names: tuple[str, str] = V2, **counts: int
) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (group / name).write_text(f"{value}\n")
    counts = {"anon": used, "file": 1 << 30, **counts}
    (group / "memory.stat").write_text("".join(f"{k} {v}\n" for k, v in counts.items()))


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    wanted = FreeMemory(MACHINE_BYTES, "of this machine")
    assert free_memory(*tell(tmp_path, None)) == wanted


def test_missing_memavailable_is_an_error(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, None)
    (proc / "meminfo").write_text("MemTotal: 1 kB\nMemFree: 1 kB\n")
    with pytest.raises(RuntimeError, match="meminfo reports no MemAvailable"):
        free_memory(proc, cgroup)


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "0::/job/step/task\n")
    limit(cgroup / "job", 50_000_000_000, 10_000_000_000)
    limit(cgroup / "job/step", 8_000_000_000, 5_000_000_000)
    limit(cgroup / "job/step/task", 20_000_000_000, 4_000_000_000)
    wanted = FreeMemory(3_000_000_000, "of this container's 8.0 GB")
    assert free_memory(proc, cgroup) == wanted


def test_unlimited_groups_are_skipped_not_their_parents(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "0::/job/task\n")
    limit(cgroup / "job/task", "max", 4_000_000_000)
    limit(cgroup / "job", "max", 4_000_000_000)
    assert free_memory(proc, cgroup).bytes == MACHINE_BYTES
    limit(cgroup / "job", 6_000_000_000, 4_000_000_000)
    assert free_memory(proc, cgroup) == FreeMemory(2_000_000_000, "of this container's 6.0 GB")


def test_limits_above_the_machines_memory_change_nothing(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "0::/job\n")
    limit(cgroup / "job", 4 * MACHINE_BYTES, 1 << 30)
    assert free_memory(proc, cgroup) == FreeMemory(MACHINE_BYTES, "of this machine")


@pytest.mark.parametrize("path", ["/", "/docker/4f1c", "/../host.slice"])
def test_a_containers_own_group_is_what_is_mounted(tmp_path: Path, path: str) -> None:
    """Under a path of its own, or under the host's, which does not exist inside."""
    proc, cgroup = tell(tmp_path, f"0::{path}\n")
    limit(cgroup, 4_000_000_000, 1_000_000_000)
    assert free_memory(proc, cgroup).bytes == 3_000_000_000


def test_files_that_can_be_dropped_count_as_free(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "0::/job\n")
    kept = {"shmem": 500_000_000, "active_anon": 1_000_000_000, "unevictable": 7}
    limit(cgroup / "job", 4_000_000_000, 3_500_000_000, inactive_file=2_000_000_000, **kept)
    assert free_memory(proc, cgroup).bytes == 2_500_000_000
    files = {"inactive_file": 2_000_000_000, "active_file": 100_000_000}
    limit(cgroup / "job", 4_000_000_000, 3_500_000_000, **files, **kept)
    assert free_memory(proc, cgroup).bytes == 2_600_000_000


def test_a_group_above_its_limit_has_no_room(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "0::/job\n")
    limit(cgroup / "job", 1_000_000_000, 1_500_000_000)
    assert free_memory(proc, cgroup) == FreeMemory(0, "of this container's 1.0 GB")


@pytest.mark.parametrize("controllers", ["memory", "cpuset,memory"])
def test_version_1(tmp_path: Path, controllers: str) -> None:
    """A group's own files are its children's not; those count with `total_`."""
    proc, cgroup = tell(tmp_path, f"12:pids:/\n4:{controllers}:/job/task\n1:cpu:/\n0::/\n")
    own = {"inactive_file": 1, "active_file": 2}
    total = {"total_inactive_file": 400_000_000, "total_active_file": 100_000_000}
    limit(cgroup / "memory/job/task", UNLIMITED, 2_000_000_000, V1)
    limit(cgroup / "memory/job", 4_000_000_000, 2_000_000_000, V1, **own, **total)
    limit(cgroup / "memory", UNLIMITED, 9_000_000_000, V1)
    assert free_memory(proc, cgroup) == FreeMemory(2_500_000_000, "of this container's 4.0 GB")


def test_version_1_without_a_limit(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "4:memory:/job\n")
    limit(cgroup / "memory/job", UNLIMITED, 2_000_000_000, V1)
    assert free_memory(proc, cgroup) == FreeMemory(MACHINE_BYTES, "of this machine")


def test_version_1_inside_a_container(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "4:memory:/docker/4f1c\n")
    limit(cgroup / "memory", 4_000_000_000, 1_000_000_000, V1)
    assert free_memory(proc, cgroup).bytes == 3_000_000_000


def test_groups_of_other_processes_do_not_count(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "5:cpu,cpuacct:/other\n0::/job:1\n")
    limit(cgroup / "memory/other", 1_000_000_000, 0, V1)
    limit(cgroup / "other", 1_000_000_000, 0)
    limit(cgroup / "job:1", 9_000_000_000, 0)
    assert free_memory(proc, cgroup).bytes == 9_000_000_000


def test_nothing_above_the_mounted_tree_counts(tmp_path: Path) -> None:
    proc, cgroup = tell(tmp_path, "0::/job\n")
    limit(cgroup / "job", 9_000_000_000, 0)
    limit(tmp_path, 1_000_000_000, 0)
    assert free_memory(proc, cgroup).bytes == 9_000_000_000


def test_this_machine() -> None:
    free = free_memory()
    assert 0 < free.bytes <= psutil.virtual_memory().total
    assert free.limit == "of this machine" or free.limit.startswith("of this container's ")
