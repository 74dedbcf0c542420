"""A network of three layers stands for every model here: what is done with its outputs counts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import make_checkpoint
from tiny import make_tiny

from fastft.runs.checkpoint import Checkpoint
from pipelines.formats.beton import read_index


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        yield


@pytest.fixture(scope="module")
def trained(tiny: None, data: Path) -> Checkpoint:
    """A checkpoint as a training of it on `data` could have left it."""
    return make_checkpoint(data, read_index(data / "test.beton").classes)
