"""Resizing and cutting in a graph, against what evaluation does by Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastft.export.networks import Prepare
from pipelines.plan import make_plan
from pipelines.preprocessing import Filter, Preprocessing
from pipelines.reference import cut, normalize

SIZE = 32
#: Width and height: landscape, portrait, square, smaller than the output, odd slacks, long, a line.
SIDES = ((90, 70), (61, 113), (64, 64), (20, 31), (37, 36), (500, 40), (33, 210), (40, 1))


def photo(width: int, height: int) -> np.ndarray:
    """uint8[H, W, 3]: waves with noise and hard edges."""
    rng = np.random.default_rng((width, height))
    y, x = np.arange(height)[:, None, None], np.arange(width)[:, None]
    waves = 128 + 90 * np.sin(x / (5 + np.arange(3)) + y / 7)
    waves += rng.normal(0, 12, (height, width, 3))
    waves[height // 3 : height // 2] = 250
    return np.clip(waves, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
@pytest.mark.parametrize("view", ["eval", "eval-square"])
@pytest.mark.parametrize("share", [0.875, 0.95, 1.0])
def test_pixels_are_one_level_from_pillows(view: str, filter_: Filter, share: float) -> None:
    form = Preprocessing(filter=filter_, crop_share=share)
    prepare = Prepare(SIZE, view, form)
    apart = []
    for width, height in SIDES:
        pixels = photo(width, height)
        sides = np.array([width], np.int32), np.array([height], np.int32)
        plan = make_plan(*sides, view=view, size=SIZE, preprocessing=form)
        wanted = np.asarray(cut(Image.fromarray(pixels), plan.rows(plan.order), 0))
        found = prepare(torch.from_numpy(pixels)[None])[0].permute(1, 2, 0).numpy()
        assert found.shape == wanted.shape
        apart.append(np.abs(found - wanted))
    assert max(each.max() for each in apart) <= 1
    assert np.mean([each.mean() for each in apart]) < 0.02


def test_normalizing_is_the_references() -> None:
    form = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    pixels = photo(SIZE, SIZE)
    prepare = Prepare(SIZE, "eval", form)
    found = prepare.normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    wanted = normalize(pixels, form).transpose(2, 0, 1)
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=0, atol=1e-6)
