"""Order and crops of what really comes out of each loader, read off probe images."""

import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np
import pytest
import torch
from loader_kinds import require_library
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from fastft.parity.probe import MAX_PROBES, SHAPES, Crops, probe_shape, read_crops, write_probes
from fastft.parity.result import SUSPECT_P
from fastft.parity.stock import compare_crops
from pipelines.formats.source import Source, open_source
from pipelines.loaders import make_loader
from pipelines.plan import make_plan
from pipelines.reference import render_batch

SIZE = 48
LOADERS = ["torchvision", "ffcv", "dali", "resident"]
EPOCHS = 3
#: How exactly a box can be read off, px.
EXACT_PX = 1.2


pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("probes") / "probes.beton"
    write_probes(path, MAX_PROBES)
    return open_source(path)


@pytest.fixture(scope="module", params=LOADERS)
def output(request: pytest.FixtureRequest, probes: Source) -> tuple[str, list[np.ndarray]]:
    """A loader's name, and what it gives in each epoch: uint8[256, S, S, 3]."""
    name = request.param
    require_library(name)
    epochs = []
    with make_loader(name, probes, size=SIZE, batch_size=60, workers=2, normalize=False) as loader:
        for epoch in range(EPOCHS):
            loader.set_epoch(epoch)
            batches = [images.permute(0, 2, 3, 1).contiguous() for images, _ in loader]
            epochs.append(torch.cat(batches).numpy())
    return name, epochs


def test_loaders_execute_the_plan(output: tuple[str, list[np.ndarray]], probes: Source) -> None:
    for epoch, pixels in enumerate(output[1]):
        plan = make_plan(probes.widths, probes.heights, view="train", size=SIZE, epoch=epoch)
        rows, found = plan.rows(plan.order), read_crops(pixels)
        assert found.samples.tolist() == rows.samples.tolist()
        assert found.flips.tolist() == rows.flips.tolist()
        assert np.abs(found.boxes - rows.boxes).max() < EXACT_PX


def test_order_is_random_and_complete(output: tuple[str, list[np.ndarray]]) -> None:
    orders = [read_crops(pixels).samples for pixels in output[1]]
    ranks = []
    for order in orders:
        assert sorted(order.tolist()) == list(range(MAX_PROBES))
        ranks.append(np.argsort(order))
        # A sample's place says nothing of its number, nor of its place in the epoch before.
        assert abs(stats.spearmanr(ranks[-1], np.arange(MAX_PROBES)).statistic) < 0.25
    for before, after in itertools.pairwise(ranks):
        assert abs(stats.spearmanr(before, after).statistic) < 0.25
    # Every place is as likely for the first dozen samples, over all epochs.
    early = np.array([rank[:12] for rank in ranks]).ravel() / MAX_PROBES
    assert stats.kstest(early, "uniform").pvalue > SUSPECT_P


@cache
def draw_boxes(shape: tuple[int, int]) -> np.ndarray:
    """float64[1500, 4]: crops of an image of this width and height by torchvision."""
    image = Image.new("RGB", shape)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        draw = partial(RandomResizedCrop.get_params, image, [0.08, 1], [3 / 4, 4 / 3])
        return np.array([draw() for _ in range(1500)])


def test_crops_are_distributed_as_torchvisions(output: tuple[str, list[np.ndarray]]) -> None:
    found = read_crops(np.concatenate(output[1]))
    for shape in SHAPES:
        width, height = shape
        drawn = draw_boxes(shape)
        mine = found.boxes[[probe_shape(int(sample)) == shape for sample in found.samples]]
        for what in (
            lambda boxes: boxes[:, 2] * boxes[:, 3],
            lambda boxes: boxes[:, 3] / boxes[:, 2],
            lambda boxes, h=height: boxes[:, 0] + boxes[:, 2] / 2 - h / 2,
            lambda boxes, w=width: boxes[:, 1] + boxes[:, 3] / 2 - w / 2,
        ):
            assert stats.ks_2samp(what(mine), what(drawn)).pvalue > SUSPECT_P
    assert stats.binomtest(int(found.flips.sum()), len(found.flips)).pvalue > SUSPECT_P


def test_evaluation_is_central_and_in_order(probes: Source) -> None:
    for name in LOADERS:
        require_library(name)
        with make_loader(
            name, probes, view="eval", size=SIZE, batch_size=100, workers=2, normalize=False
        ) as loader:
            pixels = torch.cat([images.permute(0, 2, 3, 1).contiguous() for images, _ in loader])
        found = read_crops(pixels.numpy())
        assert found.samples.tolist() == list(range(MAX_PROBES))
        assert not found.flips.any()
        sides = np.array([probe_shape(sample)[::-1] for sample in range(MAX_PROBES)])
        middle = found.boxes[:, :2] + found.boxes[:, 2:] / 2
        # The crop is whole pixels of an image resized to 54: half a pixel there is 2.5 here.
        assert np.abs(middle - sides / 2).max() < 2.6 + EXACT_PX
        assert np.abs(found.boxes[:, 2:] - sides.min(1)[:, None] * SIZE / 54).max() < EXACT_PX


def rendered(
    probes: Source, change: Callable[[Crops], Crops] | None = None
) -> Iterator[np.ndarray]:
    """The reference's output of two epochs, its rows changed."""
    for epoch in range(2):
        plan = make_plan(probes.widths, probes.heights, view="train", size=32, epoch=epoch)
        rows = plan.rows(plan.order)
        if change is not None:
            change(rows)  # type: ignore[arg-type]
        yield render_batch([probes.stored(int(sample)) for sample in rows.samples], rows)


def suspects(output: Iterator[np.ndarray]) -> set[str]:
    return {test.what for test in compare_crops(output, 32) if test.p < SUSPECT_P}


def test_other_distributions_are_told_apart(probes: Source) -> None:
    assert suspects(rendered(probes)) == set()

    def flip_all(rows: Crops) -> None:
        rows.flips[:] = True

    def to_the_top(rows: Crops) -> None:
        rows.crops[:, 0] = 0

    def squares(rows: Crops) -> None:
        rows.crops[:, 2:] = rows.crops[:, 2:].min(1, keepdims=True)

    assert suspects(rendered(probes, flip_all)) == {"flips"}
    assert suspects(rendered(probes, to_the_top)) == {"top"}
    assert {"aspect ratio", "area"} <= suspects(rendered(probes, squares))
