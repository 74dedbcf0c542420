"""Parity finds what is wrong, and says where: each test breaks something that a loader must do."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastft.config.commands import ParityConfig
from fastft.datasets.synth import SynthConfig, write_synth
from fastft.parity import pixels
from fastft.parity.distance import Differences
from fastft.parity.pixels import Comparison, compare, pick_loaders
from fastft.parity.result import AS_STORED
from pipelines import codes
from pipelines.augment import Augment
from pipelines.changing.on_cpu import Changer
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.source import Source, open_source
from pipelines.kernels.changes import Changes
from pipelines.loaders import make_loader
from pipelines.loaders.torchvision_loader import TorchvisionLoader
from pipelines.plan import Plan
from pipelines.preprocessing import Preprocessing
from pipelines.reference import RESAMPLING

SIZE = 64
pytestmark = pytest.mark.usefixtures("in_threads")


def look(source: Source, maker: Any, **options: Any) -> Comparison:
    return compare(source, {"it": maker}, size=SIZE, workers=2, **options)


def means(found: Comparison, loader: str = "it") -> dict[str, float]:
    """Stage -> its largest mean distance."""
    stages: dict[str, float] = {}
    for row in found.rows:
        if row.loader == loader:
            stages[row.stage] = max(stages.get(row.stage, 0), row.distance.mean)
    return stages


def dali(**options: Any) -> Any:
    """DALI's loader with other options of its operators."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from pipelines.loaders.dali_loader import DaliLoader

    return partial(type("Other", (DaliLoader,), options), **DEFAULTS)


#: What `make_loader` fills in.
DEFAULTS: dict[str, Any] = {"dtype": None, "rank": 0, "world": 1, "drop_last": False}


def test_loaders_keep_what_they_state(odd: Path) -> None:
    source = open_source(odd)
    names = pick_loaders(())
    assert "torchvision" in names
    found = compare(source, {n: partial(make_loader, n) for n in names}, size=SIZE, workers=2)
    assert found.passed
    assert found.images == len(source)
    by_name = {verdict.loader: verdict for verdict in found.verdicts}
    assert by_name["torchvision"].cause == "nothing"
    if "ffcv" in names:
        assert means(found, "ffcv") == {"whole": 0, "resize": 0, "decode": 0}
    assert means(found, "resident") == {"whole": 0, "resize": 0, "decode": 0}
    if "dali" in names:
        assert by_name["dali"].cause == "resize"
        assert means(found, "dali")["decode"] == 0
    assert {row.view for row in found.rows} == {"train", "eval", "native"}
    # Each loader's stages cover every image, the smallest ones' decoder too.
    assert {row.distance.images for row in found.rows} == {len(source)}


def test_a_file_encoded_again_shows_in_decoding(photos: Path, tmp_path: Path) -> None:
    worse = tmp_path / "worse"
    for file in sorted((photos / "train").glob("*/*.jpg")):
        (worse / file.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.save(worse / file.parent.name / file.name, quality=90)
    convert(ConvertConfig(src=worse, out=tmp_path / "worse.beton"))
    found = look(
        open_source(tmp_path / "worse.beton"),
        partial(make_loader, "torchvision"),
        reference=open_source(photos / "train"),
    )
    assert not found.passed
    assert found.verdicts[0].cause == "decode"
    stages = means(found)
    assert stages["resize"] == 0
    assert stages["decode"] > 0.3
    # It is the file, no loader's fault.
    assert means(found, AS_STORED)["decode"] > 0.3


def test_no_antialias_shows_in_resize(tmp_path: Path) -> None:
    out = tmp_path / "large"
    write_synth(SynthConfig(out=out, classes=2, per_class=6, test_per_class=1, size=(400, 320)))
    source = open_source(out / "train")
    found = look(source, dali(resize_options={"antialias": False}))
    assert not found.passed
    assert found.verdicts[0].cause == "resize"
    stages = means(found)
    assert stages["decode"] == 0
    assert stages["resize"] > 1


def test_turning_by_exif_shows_in_decoding(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    image = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down; both sides stay what they are
    (tmp_path / "photos" / "all").mkdir(parents=True)
    image.save(tmp_path / "photos" / "all" / "turned.jpg", exif=exif, quality=95)
    image.save(tmp_path / "photos" / "all" / "upright.jpg", quality=95)
    source = open_source(tmp_path / "photos")
    options = {"adjust_orientation": True, "jpeg_fancy_upsampling": True}
    found = look(source, dali(decode_options=options, region=True))
    assert not found.passed
    assert found.verdicts[0].cause == "decode"
    stages = means(found)
    assert stages["decode"] > 10
    assert stages["resize"] < 0.3
    assert {worst.name for worst in found.worst} == {"all/turned.jpg"}
    assert look(source, dali()).passed


def test_another_filter_shows_in_resize(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = Preprocessing(filter="bicubic", crop_share=0.9, mean=(0.5,) * 3, std=(0.5,) * 3)
    maker = partial(make_loader, "resident", preprocessing=form)
    found = look(open_source(odd), maker)
    assert found.passed
    assert set(means(found).values()) == {0}
    monkeypatch.setitem(RESAMPLING, "bicubic", Image.Resampling.LANCZOS)
    found = look(open_source(odd), maker)
    assert not found.passed
    assert found.verdicts[0].cause == "resize"


def test_stock_pipelines_have_one_form(tmp_path: Path) -> None:
    assert ParityConfig(data=tmp_path, filter="bicubic", crop_share=0.9).preprocessing == (
        Preprocessing(filter="bicubic", crop_share=0.9)
    )
    for asked in ({"filter": "bicubic"}, {"crop_share": 1.0}):
        with pytest.raises(UsageError, match="--stock"):
            ParityConfig(data=tmp_path, stock=True, **asked)


class Wrong(TorchvisionLoader):
    """Of the normalized images, red and blue exchanged."""

    def _batches(self, plan: Plan, start: int) -> Any:
        for images, labels in super()._batches(plan, start):
            yield images.flip(1) if self.dtype else images, labels


class Reordered(TorchvisionLoader):
    """Gives the samples of another seed."""

    def _make_plan(self, epoch: int) -> Plan:
        return super()._make_plan(epoch + (1 if getattr(self, "started", False) else 0))

    def _batches(self, plan: Plan, start: int) -> Any:
        self.started = True
        yield from super()._batches(self._make_plan(plan.epoch), start)


def test_wrong_channels_and_wrong_order_fail(photos: Path) -> None:
    source = open_source(photos / "test")
    found = look(source, partial(Wrong, **DEFAULTS))
    assert not found.passed
    assert means(found)["whole"] > 5
    found = look(source, partial(Reordered, **DEFAULTS))
    assert not found.passed
    assert not found.verdicts[0].in_order


def test_the_worst_sample_is_the_one(photos: Path) -> None:
    source = open_source(photos / "test")

    class OneOff(TorchvisionLoader):
        def _batches(self, plan: Plan, start: int) -> Any:
            for images, labels in super()._batches(plan, start):
                if images.is_floating_point():
                    images[labels == 4] += 0.5
                yield images, labels

    found = look(source, partial(OneOff, **DEFAULTS))
    assert len(found.worst) == 2
    for worst in found.worst:
        assert worst.name == source.name(4)
        assert worst.found.shape == worst.wanted.shape == (SIZE, SIZE, 3)
        apart = np.abs(worst.found.astype(int) - worst.wanted).mean()
        assert worst.distance == pytest.approx(apart)
        assert worst.distance > 20


def test_loaders_without_a_promise_are_only_reported(photos: Path) -> None:
    class Unknown(Wrong):
        stated = None

    found = look(open_source(photos / "test"), partial(Unknown, **DEFAULTS))
    assert found.passed
    assert found.verdicts[0].stated is None


def test_what_does_not_fit_is_refused(photos: Path, data: Path, tmp_path: Path) -> None:
    maker = partial(make_loader, "torchvision")
    test = open_source(data / "test.beton")
    (tmp_path / "other" / "cross").mkdir(parents=True)
    shutil.copy(next((photos / "train" / "cross").iterdir()), tmp_path / "other" / "cross")
    with pytest.raises(DataError, match=r"has no .*jpg, expected the samples of"):
        look(test, maker, reference=open_source(tmp_path / "other"))
    convert(ConvertConfig(src=photos / "test", out=tmp_path / "small.beton", max_side=40))
    with pytest.raises(DataError, match=r"\d+ x \d+ px, expected \d+ x \d+ as stored"):
        look(open_source(tmp_path / "small.beton"), maker, reference=open_source(photos / "test"))
    with pytest.raises(UsageError, match="names out of torchvision, ffcv, dali"):
        pick_loaders(("stock",))


def test_a_broken_sample_is_named(photos: Path) -> None:
    source = open_source(photos / "test")
    real = source.stored

    def stored(sample: int) -> Any:
        if sample == 3:
            raise DataError(source.name(sample), "broken", "a whole JPEG")
        return real(sample)

    source.stored = stored  # type: ignore[method-assign]
    with pytest.raises(DataError, match=source.name(3)):
        look(source, partial(make_loader, "torchvision"))


def test_distances_by_hand() -> None:
    differences = Differences()
    wanted = np.zeros((2, 1, 500, 1), np.uint8)
    found = wanted.copy()
    found[0, 0, 0], found[1, 0, :4] = 10, 2
    assert differences.add(found[:1], wanted[:1]) == pytest.approx([10 / 500])
    assert differences.add(found[1:], wanted[1:]) == pytest.approx([8 / 500])
    distance = differences.distance()
    assert (distance.images, distance.most) == (2, 10)
    assert distance.mean == pytest.approx(18 / 1000)
    assert distance.exact == pytest.approx(0.995)
    assert distance.most_but_0_1_percent == 2
    assert distance.psnr_db == pytest.approx(10 * np.log10(255**2 / (116 / 1000)))
    # Against the direction in which bytes wrap around.
    assert Differences().add(wanted[:1], found[:1]) == pytest.approx([10 / 500])
    with pytest.raises(ValueError, match="no pixels"):
        Differences().distance()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A class folder of photos that are decoded at a half or a quarter of their size."""
    out = tmp_path_factory.mktemp("large") / "photos"
    sides = (9 * SIZE, 7 * SIZE)
    write_synth(SynthConfig(out=out, classes=2, per_class=4, test_per_class=1, size=sides))
    return open_source(out / "train")


@pytest.mark.parametrize("name", pick_loaders((), "scaled"))
def test_scaled_pixels_are_held_against_both_definitions(name: str, large: Source) -> None:
    found = look(large, partial(make_loader, name, decode="scaled"), reference=large)
    assert found.passed
    assert means(found)["whole"] == 0
    assert 0 < means(found)["scaled"] <= found.verdicts[0].scaled[0]
    assert {row.view for row in found.rows if row.stage == "scaled"} == {"train", "eval"}


def test_a_loader_that_decodes_exactly_instead_is_found(large: Source) -> None:
    class Exact(TorchvisionLoader):
        def _batches(self, plan: Plan, start: int) -> Any:
            return super()._batches(replace(plan, decode="exact"), start)

    found = look(large, partial(Exact, **{**DEFAULTS, "decode": "scaled"}))
    assert not found.passed
    assert means(found)["scaled"] == 0
    assert means(found)["whole"] > 0


def test_scaled_pixels_too_far_from_the_exact_ones_fail(
    large: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "SCALED", (0.0, 0))
    found = look(large, partial(make_loader, "torchvision", decode="scaled"))
    assert not found.passed


def test_operations_are_held_against_their_definition(photos: Path) -> None:
    source = open_source(photos / "train")
    make = partial(make_loader, "resident")
    found = look(source, make, images=24, augment=Augment(policy="trivial"))
    assert found.passed
    assert found.verdicts[0].operations == (0.05, 1)
    distance = next(row.distance for row in found.rows if row.stage == "operations")
    assert 0 < distance.mean < 0.05
    chain = look(source, make, images=8, augment=Augment(policy="rand", erase=0.5))
    assert chain.verdicts[0].operations == pytest.approx((0.15, 255))
    assert look(source, make, images=8).verdicts[0].operations is None


def test_other_operations_than_the_plans_fail(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, real = open_source(photos / "train"), Changer.change

    def stronger(self: Changer, changes: Changes, *arrays: Any) -> None:
        is_light = changes.codes == codes.BRIGHTNESS
        real(self, changes._replace(values=changes.values + 0.2 * is_light), *arrays)

    monkeypatch.setattr(Changer, "change", stronger)
    asked = Augment(color_jitter=(0.3, 0.0, 0.0))
    found = look(source, partial(make_loader, "resident"), images=8, augment=asked)
    assert not found.passed
    assert means(found)["operations"] > 5
    assert means(found)["whole"] == 0
