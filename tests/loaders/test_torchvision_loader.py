"""The torchvision loader on large photos, of which it decodes no more than the crop."""

from pathlib import Path

import numpy as np
import pytest
from loader_kinds import by_sample

from pipelines.kernels.libjpeg import find_libjpeg
from pipelines.loaders import make_loader, torchvision_loader
from pipelines.regions import RegionDecoder

pytestmark = pytest.mark.skipif(find_libjpeg() is None, reason="Pillow has loaded no libjpeg")


def epoch_of(path: Path, view: str) -> dict[int, np.ndarray]:
    with make_loader(
        "torchvision", path, view=view, size=32, batch_size=8, workers=1, normalize=False
    ) as loader:
        return by_sample(loader)


@pytest.mark.parametrize("view", ["train", "recordio", "eval"])
def test_crops_decoded_alone_are_those_of_whole_photos(
    view: str, odd_beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = epoch_of(odd_beton, view)
    monkeypatch.setattr(torchvision_loader, "_LARGE_PX", 0)
    found = epoch_of(odd_beton, view)
    assert found.keys() == wanted.keys()
    for sample, pixels in found.items():
        assert np.array_equal(pixels, wanted[sample]), sample


def test_only_large_photos_are_decoded_in_part(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded in part")

    monkeypatch.setattr(RegionDecoder, "crop", refuse)
    assert epoch_of(data / "test.beton", "train")
    monkeypatch.setattr(torchvision_loader, "_LARGE_PX", 0)
    with pytest.raises(AssertionError, match="decoded in part"):
        epoch_of(data / "test.beton", "train")
