"""Fixtures of the tests of parity."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def in_threads() -> Iterator[None]:
    """torchvision's loader decodes in threads, as where it may start no processes.

    Its pixels are the same, and processes take longer to start than a few photos to decode.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.loaders.torchvision_loader.is_daemonic", lambda: True)
        yield
