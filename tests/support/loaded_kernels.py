"""Kernels that a process has before it forks trainings: each would load them for a second."""

from __future__ import annotations

from fastft.config.train import TrainConfig
from fastft.train.inputs import open_inputs, open_sources, resolve_inputs


def load_kernels(config: TrainConfig) -> None:
    """Read a batch as a training does; threads that did have ended."""
    sources = open_sources(config)
    with open_inputs(resolve_inputs(config, sources), sources) as inputs:
        next(iter(inputs.train))
