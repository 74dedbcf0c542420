"""Weights & Biases as a tracker: the extra `fastft[wandb]`.

Its own environment and settings files decide where a run goes: WANDB_MODE, WANDB_ENTITY,
WANDB_PROJECT, WANDB_NAME, WANDB_DIR and the rest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Who asks for a tracker is not asked whether its makers may hear of errors.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

from fastft.runs.metrics import StepMetrics
from fastft.runs.tracker import Ending, Row, scalars


class WandbRun:
    """One run of W&B, whose process of its own writes and sends what it is told."""

    def __init__(self, out: Path, settings: Mapping[str, Any], key: str, *, limit_s: float) -> None:
        """Begin it, or go on with the one of `key`.

        Args:
            out: the run's folder; W&B's files go there unless WANDB_DIR says where.
            settings: what it is to show of the run's settings.
            key: its id; '' takes WANDB_RUN_ID, else makes one.
            limit_s: how long its end waits for what is yet to be sent.
        """
        own = wandb.setup().settings
        # A progress bar is no log.
        console: dict[str, Any] = {} if "WANDB_CONSOLE" in os.environ else {"console": "off"}
        try:
            self._run: Any = wandb.init(
                project=own.project or "fastft",
                name=own.run_name or out.resolve().name,
                id=key or own.run_id,
                resume="allow",
                reinit="create_new",  # what else this process has of W&B is not ours
                dir=os.environ.get("WANDB_DIR", str(out)),
                config=dict(settings),
                allow_val_change=True,  # by what a continued run may change
                settings=wandb.Settings(
                    silent=True, finish_timeout=limit_s, finish_timeout_raises=True, **console
                ),
            )
        except BaseException:
            _leave(None)
            raise
        self.key = str(self._run.id)
        folder = Path(self._run.settings.sync_dir)
        self.place = f"wandb sync {folder}" if self._run.offline else str(self._run.url)
        self._axes: dict[str, str] = {}

    def add(self, rows: Sequence[Row]) -> None:
        """Tell it of rows."""
        for row in rows:
            axis = "step" if isinstance(row, StepMetrics) else "epoch"
            values: dict[str, float] = {}
            for name, value, at in scalars(row):
                values |= {name: value, axis: at}
                if name not in self._axes:
                    self._axes[name] = axis
                    self._run.define_metric(name, step_metric=axis)
            self._run.log(values)

    def close(self, ending: Ending) -> None:
        """Finish it; its process ends with the last run in it."""
        try:
            self._run.summary.update({**ending.summary, "status": ending.status})
            if ending.status == "stopped":  # W&B then calls it preempted, not failed
                self._run.mark_preempting()
            self._run.finish(exit_code=0 if ending.status == "finished" else 1)
        finally:
            _leave(self._run)


def _leave(own: Any) -> None:
    """End W&B's process and threads, unless this process has other runs there than its own."""
    if wandb.setup().most_recent_active_run in (None, own):
        wandb.teardown()
