"""The libraries' own pipelines, looked at as `fastft parity --stock` does."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from effort import SOAK_H, choose
from processes import SERVER, send_briefly

from fastft.parity.result import SUSPECT_P
from fastft.parity.stock import STOCK, compare_stock
from pipelines.errors import DataError

LIBRARIES = {"torchvision": "torchvision", "ffcv": "ffcv", "dali": "nvidia.dali"}


@pytest.mark.parametrize("name", STOCK)
def test_stock_pipelines(
    name: str, data: Path, tried: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(LIBRARIES[name].split(".")[0]) is None:
        pytest.skip(f"{LIBRARIES[name]} is not installed")
    # The other process is forked from one that has loaded torch.
    monkeypatch.setattr("fastft.parity.stock.get_context", lambda method: SERVER)
    if choose(True, False):
        monkeypatch.setattr("fastft.parity.stock._send_comparison", send_briefly)
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
    tried("stock pipelines compared")


def test_errors_of_the_other_process_surface(
    tmp_path: Path, tried: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not SOAK_H:  # else in one that is started as ever
        monkeypatch.setattr("fastft.parity.stock.get_context", lambda method: SERVER)
    with pytest.raises(DataError, match=r"nothing\.beton: no such file"):
        compare_stock("torchvision", tmp_path / "nothing.beton", 32, 0)
    tried("stock pipelines compared")
