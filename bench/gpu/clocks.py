"""A GPU's clocks, power and temperature while something runs on it, as nvidia-smi tells them."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterable
from statistics import median
from typing import Any

#: Figures that are asked for, and their names here.
ASKED = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "power.draw": "power_w",
    "temperature.gpu": "celsius",
    "utilization.gpu": "busy_percent",
}
#: Milliseconds between samples: seldom enough to cost nothing.
_EVERY_MS = 250
_LIMIT_S = 10


class Clocks:
    """Samples while it is entered; without nvidia-smi there are no samples, and nothing else.

    One nvidia-smi does all of it: to start one for each sample would cost the process that is
    measured some milliseconds.
    """

    def __init__(self, program: str | None = None) -> None:
        self._program = program or shutil.which("nvidia-smi")
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Clocks:
        if self._program is None:
            return self
        try:
            self._process = subprocess.Popen(
                [*self._asking(), f"--loop-ms={_EVERY_MS}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            self._program = None
            return self
        self._thread = threading.Thread(target=self._read, name="clocks", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is None or self._thread is None:
            return
        if not self._lines:  # it keeps lines to itself, or has had no time: the GPU is still warm
            self._lines += self._ask_once()
        self._process.terminate()
        self._process.wait()
        self._thread.join()

    @property
    def found(self) -> dict[str, Any]:
        """Median and maximum of each figure so far, and the number of samples; or nothing."""
        return summarize(list(self._lines))

    def _asking(self) -> list[str]:
        assert self._program is not None
        return [
            self._program,
            "--id=0",
            f"--query-gpu={','.join(ASKED)}",
            "--format=csv,noheader,nounits",
        ]

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line)

    def _ask_once(self) -> list[str]:
        try:
            said = subprocess.run(
                self._asking(), capture_output=True, text=True, timeout=_LIMIT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        return said.stdout.splitlines()


def summarize(lines: Iterable[str]) -> dict[str, Any]:
    """Median and maximum of each column that holds numbers."""
    samples = [line.split(",") for line in lines if line.count(",") == len(ASKED) - 1]
    found: dict[str, Any] = {}
    for name, column in zip(ASKED.values(), zip(*samples, strict=True), strict=False):
        values = [float(cell) for cell in column if _is_number(cell)]
        if values:
            found[name] = {"median": median(values), "max": max(values)}
    return {"samples": len(samples), **found} if found else {}


def _is_number(cell: str) -> bool:
    return cell.strip().replace(".", "", 1).isdigit()
