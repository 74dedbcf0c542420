import warnings
from pathlib import Path

import pytest

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
    """Real photos of ants and bees, train/ and val/; one GIF is named like a JPEG."""
    path = ROOT.parent / "shared" / "data" / "hymenoptera"
    if not path.is_dir():
        pytest.skip(f"no real photos at {path}")
    return path
