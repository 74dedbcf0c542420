from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastft.datasets.large_photos import advise
from pipelines.formats.beton import Index, read_index
from pipelines.formats.layout import MODE_RAW


def large(data: Path, mean_bytes: int) -> Index:
    """An index that says of its photos that a phone took them."""
    index = read_index(data / "test.beton")
    sides = {"widths": 4032, "heights": 3024}
    changed: dict[str, Any] = {
        name: np.full_like(getattr(index, name), side) for name, side in sides.items()
    }
    return replace(index, sizes=np.full_like(index.sizes, mean_bytes), **changed)


def test_large_photos_are_named_with_the_saving(data: Path) -> None:
    index = large(data, 2_400_000)
    assert advise(index, 224) == (
        "photos average 12.2 megapixels for 224 px: fastft convert --max-side 512 would make them "
        "about 20 times as fast to decode"
    )
    assert "--max-side 896" in advise(index, 384)
    folder: Any = SimpleNamespace(widths=index.widths, heights=index.heights)
    assert "about 20 times" in advise(folder, 224)  # by pixels


@pytest.mark.parametrize("why", ["small", "few bytes", "raw"])
def test_nothing_is_said_where_little_is_saved(why: str, data: Path) -> None:
    index = large(data, 200_000)
    if why == "small":
        index = read_index(data / "test.beton")
    elif why == "raw":
        index = replace(large(data, 2_400_000), modes=np.full_like(index.modes, MODE_RAW))
    assert advise(index, 224) == ""
