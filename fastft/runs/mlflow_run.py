"""MLflow as a tracker: the extra `fastft[mlflow]`.

Its own environment decides where a run goes: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME or
MLFLOW_EXPERIMENT_ID, MLFLOW_RUN_ID and the rest.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

# Who asks for a server of his own is not asked whether MLflow's makers may hear of it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from fastft.runs.tracker import Ending, Row, scalars
from pipelines.errors import UsageError

T = TypeVar("T")
#: What a server takes at once.
_MOST_METRICS, _MOST_PARAMS = 1000, 100
_PASSWORD = re.compile(r"//[^/@]*@")
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowRun:
    """One run of MLflow, told by requests that return when the server has answered."""

    def __init__(self, out: Path, settings: Mapping[str, Any], key: str) -> None:
        """Begin it, or go on with the one of `key`.

        Args:
            out: the run's folder, after which it is named.
            settings: its parameters; those of a run that goes on are there already.
            key: its id; '' takes MLFLOW_RUN_ID, else makes a run.
        """
        try:
            self._client = MlflowClient()
        except MlflowException as error:
            raise _explain(mlflow.get_tracking_uri(), error) from error
        self.key = key or os.environ.get("MLFLOW_RUN_ID", "")
        if self.key:
            self._client.update_run(self.key, status="RUNNING")
        else:
            self.key = str(
                self._client.create_run(
                    self._find_experiment(),
                    run_name=os.environ.get("MLFLOW_RUN_NAME", out.resolve().name),
                ).info.run_id
            )
        if not key:
            for part in _parts(settings.items(), _MOST_PARAMS):
                params = [Param(name, _said(value)) for name, value in part]
                self._client.log_batch(self.key, params=params)
        self.place = f"run {self.key} on {_PASSWORD.sub('//', self._client.tracking_uri)}"

    def add(self, rows: Sequence[Row]) -> None:
        """Tell it of rows."""
        now_ms = int(time.time() * 1000)
        told = (Metric(name, value, now_ms, at) for row in rows for name, value, at in scalars(row))
        for part in _parts(told, _MOST_METRICS):
            self._client.log_batch(self.key, metrics=part)

    def close(self, ending: Ending) -> None:
        """Say how it ended."""
        now_ms = int(time.time() * 1000)
        metrics = [Metric(f"summary/{k}", float(v), now_ms, 0) for k, v in ending.summary.items()]
        self._client.log_batch(self.key, metrics=metrics, tags=[RunTag("status", ending.status)])
        self._client.set_terminated(self.key, _STATUS[ending.status])

    def _find_experiment(self) -> str:
        """The experiment for new runs; made where there is none of its name."""
        if found := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return found
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fastft")
        experiment = self._client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else self._client.create_experiment(name))


def _explain(uri: str, error: MlflowException) -> Exception:
    """An error for people of a store that this installation cannot write; else the library's."""
    if "MLFLOW_ALLOW_FILE_STORE" in str(error):
        found, remedy = (
            "a folder, which MLflow writes on request",
            "set MLFLOW_ALLOW_FILE_STORE=true",
        )
    elif find_spec("sqlalchemy") is None and not uri.startswith(("http", "databricks")):
        found, remedy = "a database, which takes all of MLflow", "pip install mlflow"
    else:
        return error
    expected = "a server's address, such as http://localhost:5000"
    return UsageError("MLFLOW_TRACKING_URI", f"{uri} is {found}", expected, f"set it, or {remedy}")


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parts(items: Iterable[T], most: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, most)):
        yield part
