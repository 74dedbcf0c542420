import warnings
from pathlib import Path

import pytest

from fastft.synth import SynthConfig, write_synth
from pipelines.convert import ConvertConfig, convert

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(trylast=True)  # after -m and -k have taken their share
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return  # torch takes seconds to load
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a driver that is too old
        if torch.cuda.is_available():
            return
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU; torch sees none"))


@pytest.fixture(scope="session")
def hymenoptera() -> Path:
    """Real photos of ants and bees, train/ and val/; one GIF hides among them."""
    path = ROOT.parent / "shared" / "data" / "hymenoptera"
    if not path.is_dir():
        pytest.skip(f"no real photos at {path}")
    return path


@pytest.fixture(scope="session")
def odd() -> Path:
    """Class folders `jpegs` and `others` of small odd images, see tests/data/make.py."""
    return ROOT / "tests" / "data" / "odd"


@pytest.fixture(scope="session")
def odd_beton(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The odd images, converted."""
    out = tmp_path_factory.mktemp("odd") / "odd.beton"
    convert(ConvertConfig(src=odd, out=out))
    return out


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic photos of 3 classes: 33 in train/, 6 in test/."""
    out = tmp_path_factory.mktemp("synth") / "photos"
    write_synth(SynthConfig(out=out, classes=3, per_class=11, test_per_class=2, size=(90, 70)))
    return out


@pytest.fixture(scope="session")
def data(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic photos, converted: train.beton and test.beton."""
    out = tmp_path_factory.mktemp("data")
    convert(ConvertConfig(src=photos, out=out))
    return out
