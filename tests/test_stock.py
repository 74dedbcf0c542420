"""The libraries' own pipelines, looked at as `fastft parity --stock` does."""

from pathlib import Path

import pytest

from fastft.stock import STOCK, SUSPECT_P, compare_stock
from pipelines.errors import DataError

LIBRARIES = {"torchvision": "torchvision", "ffcv": "ffcv", "dali": "nvidia.dali"}


@pytest.mark.parametrize("name", STOCK)
def test_stock_pipelines(name: str, data: Path) -> None:
    pytest.importorskip(LIBRARIES[name], reason=f"{LIBRARIES[name]} is not installed")
    row = compare_stock(name, data / "train.beton", 32, 0)
    assert row.evaluation.images == 33
    # torchvision's transforms are the reference's; the others resize and cut in their own ways.
    if name == "torchvision":
        assert row.evaluation.most == 0
    else:
        assert 0.2 < row.evaluation.mean < 20
    assert [each.what for each in row.crops] == ["area", "aspect ratio", "top", "left", "flips"]
    assert all(each.p > SUSPECT_P for each in row.crops)
    assert 0.5 < row.sharpness < 2


def test_an_error_in_the_other_process_is_this_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.beton: no such file"):
        compare_stock("torchvision", tmp_path / "nothing.beton", 32, 0)
