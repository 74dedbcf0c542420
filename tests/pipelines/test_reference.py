import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from effort import choose
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

from pipelines.formats.beton import read_index
from pipelines.formats.encode import decode
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.formats.source import Source
from pipelines.plan import make_plan
from pipelines.preprocessing import FILTERS, MEAN, STD, Filter, Preprocessing
from pipelines.reference import normalize, render

SIZE = 224
RANDOM = np.random.default_rng(3)
#: Height and width: odd, thin, small, square, large.
SHAPES = [(301, 199), (61, 333), (40, 30), (7, 9), (256, 256), (480, 641)]


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


def test_real_photos(hymenoptera: Path, few_photos: Path) -> None:
    from pipelines.formats.source import open_source

    source = open_source(choose(few_photos, hymenoptera / "val"))
    check_train(source)
    check_eval(source, "eval")


@pytest.mark.parametrize("share", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("filter_", FILTERS)
def test_any_form_is_torchvisions(filter_: Filter, share: float) -> None:
    """Odd sides, and images that are enlarged; sides to resize to as timm computes them."""
    form = Preprocessing(filter=filter_, crop_share=share)
    by = InterpolationMode(filter_)
    images = [Image.fromarray(RANDOM.integers(0, 256, (*each, 3), np.uint8)) for each in SHAPES]
    widths, heights = np.array([image.size for image in images], np.int32).T
    samples = [Stored(MODE_RAW, *image.size, image.tobytes()) for image in images]
    for view, size in product(("eval", "eval-square", "train"), (224, 160, 97, 33)):
        plan = make_plan(widths, heights, view=view, size=size, preprocessing=form)
        rows = plan.rows(np.arange(len(samples)))
        side = math.floor(size / share)
        resize = transforms.Resize(side if view == "eval" else [side, side], by)
        evaluate = transforms.Compose([resize, transforms.CenterCrop(size)])
        for row, (image, sample) in enumerate(zip(images, samples, strict=True)):
            if view == "train":
                crop = rows.crops[row].tolist()
                theirs = functional.resized_crop(image, *crop, [size, size], by)
                theirs = functional.hflip(theirs) if rows.flips[row] else theirs
            else:
                theirs = evaluate(image)
            assert np.array_equal(render(sample, rows, row), np.asarray(theirs)), (view, size, row)


#: timm's names, and whether at the size of its tests.
MODELS = [
    ("convnext_tiny", False),
    ("convnext_tiny", True),
    ("vit_small_patch16_224", False),
    ("efficientnet_b0", False),
    ("resnet50d", False),
    ("resnet50d", True),
    ("vit_small_patch14_dinov2", False),
]


@pytest.mark.parametrize(("name", "is_test"), MODELS)
def test_evaluation_is_timms(name: str, is_test: bool) -> None:
    timm = pytest.importorskip("timm")
    found = timm.get_pretrained_cfg(name).to_dict()
    config = timm.data.resolve_data_config(pretrained_cfg=found, use_test_size=is_test)
    size = config["input_size"][-1]
    form = Preprocessing(
        filter=config["interpolation"],
        crop_share=config["crop_pct"],
        mean=config["mean"],
        std=config["std"],
    )
    images = [Image.fromarray(RANDOM.integers(0, 256, (*each, 3), np.uint8)) for each in SHAPES]
    for mode, view in (("center", "eval"), ("squash", "eval-square")):
        asked = {**config, "crop_mode": mode}
        to_bytes = timm.data.create_transform(**asked, use_prefetcher=True)
        to_floats = timm.data.create_transform(**asked)
        for image in images[:: 1 if mode == "center" else 4]:
            sides = ([each] for each in image.size)
            plan = make_plan(*map(np.int32, sides), view=view, size=size, preprocessing=form)
            rows = plan.rows(plan.order)
            ours = render(Stored(MODE_RAW, *image.size, image.tobytes()), rows, 0)
            assert np.array_equal(ours.transpose(2, 0, 1), to_bytes(image))
            floats = torch.from_numpy(normalize(ours, form)).permute(2, 0, 1)
            assert torch.allclose(floats, to_floats(image), rtol=0, atol=1e-6)


def test_normalize_is_torchvisions() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    theirs = transform(pixels).permute(1, 2, 0)
    assert torch.equal(torch.from_numpy(normalize(pixels)), theirs)
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    ours = normalize(pixels, Preprocessing(mean=mean, std=std))
    assert torch.equal(torch.from_numpy(ours), transform(pixels).permute(1, 2, 0))
