"""Which way DALI decodes by: what was found of each, kept by what it holds for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import everything, same

pytest.importorskip("nvidia.dali")
from pipelines.loaders import dali_loader, make_loader
from pipelines.loaders.dali_decode import (
    REGION,
    WAYS,
    WHOLE,
    Decoding,
    findings_file,
    name_setup,
    read_findings,
    save_findings,
    takes_regions,
)
from pipelines.loaders.dali_loader import DaliLoader

FAST = Decoding(img_per_s=5000.0, cpu_ms=0.2, mean=0.2, most=9.0)
CRASHED = Decoding(failed="crashed: SIGSEGV")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("whole", "region", "taken"),
    [
        (FAST, replace(FAST, img_per_s=6000.0), True),
        (CRASHED, FAST, True),
        (FAST, CRASHED, False),
        (CRASHED, CRASHED, False),
        (FAST, replace(FAST, img_per_s=4000.0), False),
        # Decoded by the CPU, however fast that is.
        (FAST, replace(FAST, img_per_s=9000.0, cpu_ms=1.2), False),
        (FAST, replace(FAST, img_per_s=9000.0, most=30.0), False),
        (FAST, replace(FAST, img_per_s=9000.0, mean=0.9), False),
    ],
)
def test_regions_have_to_earn_it(whole: Decoding, region: Decoding, taken: bool) -> None:
    assert takes_regions({str(WHOLE): whole, str(REGION): region}) is taken
    assert not takes_regions({str(REGION): region})


def test_plain_colours_are_never_taken() -> None:
    assert not takes_regions({str(way): FAST for way in WAYS if not way.fancy})


def test_findings_are_kept_by_card_and_versions() -> None:
    assert read_findings("a card") == {}
    found = {str(WHOLE): FAST, str(REGION): CRASHED}
    path = save_findings("a card", found)
    save_findings("another", {str(REGION): FAST})
    assert path == findings_file()
    assert read_findings("a card") == found
    assert read_findings("another") == {str(REGION): FAST}
    assert "nvidia-dali" in name_setup(torch.device("cpu"))


@pytest.mark.parametrize("content", ["{", "[]", '{"a card": 3}', '{"a card": {"whole": {"x": 1}}}'])
def test_other_files_there_count_for_nothing(content: str) -> None:
    findings_file().parent.mkdir(parents=True)
    findings_file().write_text(content)
    assert read_findings("a card") == {}
    save_findings("a card", {str(WHOLE): FAST})
    assert str(WHOLE) in json.loads(findings_file().read_text())["a card"]


def test_a_gpu_takes_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_loader, "name_setup", lambda device: "a card")
    loader: Any = object.__new__(DaliLoader)
    loader.device, loader._closed = torch.device("cuda"), True
    assert loader._decodes_regions() is False  # where nobody has tried
    save_findings("a card", {str(WHOLE): CRASHED, str(REGION): FAST})
    assert loader._decodes_regions() is True
    loader.device = torch.device("cpu")
    assert loader._decodes_regions() is True


@pytest.mark.parametrize("view", ["train", "eval"])
def test_whole_images_give_the_same_pixels(
    view: str, odd_beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut behind DALI's decoder, as on a GPU, or by it; `test_dali_loader` has the third."""

    def batches() -> list[Any]:
        with make_loader(
            "dali", odd_beton, view=view, size=32, batch_size=8, normalize=False, workers=1
        ) as loader:
            return everything(loader)

    regions = batches()
    monkeypatch.setattr(DaliLoader, "region", False)
    assert same(batches(), regions)
