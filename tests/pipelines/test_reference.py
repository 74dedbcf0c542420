from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from pipelines.formats.beton import read_index
from pipelines.formats.encode import decode
from pipelines.formats.source import Source
from pipelines.plan import make_plan
from pipelines.preprocessing import MEAN, STD
from pipelines.reference import normalize, render

SIZE = 224


def pil(source: Source, sample: int) -> Image.Image:
    return decode(source.stored(sample))


def check_train(source: Source) -> None:
    plan = make_plan(source.widths, source.heights, view="train", size=SIZE, epoch=2)
    rows = plan.rows(plan.order)
    for row, sample in enumerate(rows.samples):
        top, left, height, width = rows.crops[row].tolist()
        image = pil(source, sample)
        theirs = functional.resized_crop(image, top, left, height, width, [SIZE, SIZE])
        if rows.flips[row]:
            theirs = functional.hflip(theirs)
        ours = render(source.stored(sample), rows, row)
        assert np.array_equal(ours, np.asarray(theirs)), source.name(sample)


def check_eval(source: Source, view: str) -> None:
    resize = transforms.Resize(256 if view == "eval" else [256, 256])
    transform = transforms.Compose([resize, transforms.CenterCrop(SIZE)])
    plan = make_plan(source.widths, source.heights, view=view, size=SIZE)
    rows = plan.rows(plan.order)
    for row, sample in enumerate(rows.samples):
        ours = render(source.stored(sample), rows, row)
        assert np.array_equal(ours, np.asarray(transform(pil(source, sample)))), source.name(sample)


def test_train_is_torchvisions_crop_on_odd_images(odd_beton: Path) -> None:
    check_train(read_index(odd_beton))


@pytest.mark.parametrize("view", ["eval", "eval-square"])
def test_eval_is_torchvisions_on_odd_images(odd_beton: Path, view: str) -> None:
    check_eval(read_index(odd_beton), view)


def test_real_photos(hymenoptera: Path) -> None:
    from pipelines.formats.source import open_source

    source = open_source(hymenoptera / "val")
    check_train(source)
    check_eval(source, "eval")


def test_normalize_is_torchvisions() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    theirs = transform(pixels).permute(1, 2, 0)
    assert torch.equal(torch.from_numpy(normalize(pixels)), theirs)
