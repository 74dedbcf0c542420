"""Training batches (224 px, float32, normalized): our loaders and the libraries' own, one field.

The stock pipelines are written from their libraries' documentation and share no code with ours
(`peers.py`). They read the class folder, ours its `.beton`, which stock FFCV reads, too. Same
photos, batch, workers, distribution of crops. A stock pipeline that dies is a row that says so. On
photos of two megapixels and more ours decode `scaled`, too.

Every loader is read on without end, epoch after epoch, and a round is a whole number of epochs'
batches out of the middle: nothing that was prefetched while the clock stood counts, and every
epoch's start-up does. Of `resident`, which decodes crops in the first epoch and whole photos in the
second, that shows the later ones. First epochs are timed from making the loader on.

All are timed by turns when the first of these tests asks for it; each test then files its own
contender's seconds. `-k dali` lets those alone take part.
"""

from __future__ import annotations

import faulthandler
import math
import statistics
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import peers
from bench.conftest import BATCH, USUAL_PX, VERDICTS, Photos, Tables
from bench.field import Entrant, Field
from bench.ours import Fidelity, Ours
from bench.remote import Remote
from bench.verdicts import Goal, fastest, judge, named, summary, table
from pipelines.conversion.run import ConvertConfig, convert

SIZE = 224
GROUP = f"loaders: train {SIZE} px, float32, normalized"
#: A round is at least this many images of the usual size, or as many pixels of larger ones, 2 s on
#: 2 cores: long against a batch's 0.07 s; and this many batches, three times what is prefetched.
ROUND_IMAGES, ROUND_BATCHES = 2000, 30
#: Batches of an epoch at least, smaller than usual if need be: else it would be prefetched whole.
EPOCH_BATCHES = 4
#: Mean area from which on `scaled` decodes what an S x S crop shows at a part of its size, px.
SCALED_PX = 2_000_000
#: Read before the clock starts: more than any contender here has prefetched (2 batches for each
#: of 2 workers). One in a smoke run, whose figures say nothing.
WARM_BATCHES = 10
#: How far mean brightness may be apart, in standard deviations of a pixel, and of so many photos
#: one crop each: they are random, and 40 of them were 0.18 off.
NEAR, NEAR_PHOTOS = 0.15, 400

BENCH = 'pip install "fastft[bench]"'
DALI = {"needs": ("nvidia.dali",), "remedy": 'pip install "fastft[dali]"'}
FFCV = {"needs": ("ffcv",), "remedy": 'pip install "fastft[ffcv]"'}
stock = partial(Entrant, side="stock", reads="jpeg", source="photos")
ours = partial(Entrant, side="fastft", reads="jpeg", source="jpeg")
ENTRANTS = (
    stock(name="torchvision, Pillow", make=peers.stock_torchvision),
    stock(name="torchvision, tensors", make=peers.stock_torchvision_tensors),
    stock(name="timm", make=peers.stock_timm, needs=("timm",), remedy=BENCH),
    stock(name="SPDL", make=peers.stock_spdl, needs=("spdl.io",), remedy=BENCH),
    stock(name="DALI", make=peers.stock_dali, **DALI),
    stock(name="FFCV", make=peers.stock_ffcv, source="jpeg", **FFCV),
    stock(name="FFCV, raw", make=peers.stock_ffcv, source="raw", reads="pixels", **FFCV),
    ours(name="fastft torchvision", make=partial(Ours, "torchvision")),
    ours(name="fastft dali", make=partial(Ours, "dali"), **DALI),
    ours(name="fastft ffcv", make=partial(Ours, "ffcv"), **FFCV),
    ours(name="fastft ffcv, raw", make=partial(Ours, "ffcv"), source="raw", reads="pixels", **FFCV),
    ours(name="fastft resident", make=partial(Ours, "resident"), reads="pixels"),
    ours(
        name="fastft resident yuv420",
        make=partial(Ours, "resident", store="yuv420"),
        reads="pixels",
    ),
    ours(name="fastft ffcv, first epoch", make=partial(Ours, "ffcv"), anew=True, **FFCV),
    ours(name="fastft resident, first epoch", make=partial(Ours, "resident"), anew=True),
    *(
        ours(
            name=f"fastft {name}, scaled",
            make=partial(Ours, name, decode="scaled"),
            reads="jpeg, scaled",
            **needs,
        )
        for name, needs in (("torchvision", {}), ("ffcv", FFCV))
    ),
)

PILLOW, RESIDENT, SCALED = "torchvision, Pillow", "fastft resident", "fastft ffcv, scaled"
STREAMING, best = "best streaming loader of ours", fastest("fastft", "jpeg")
GOALS = (
    Goal(f"{STREAMING} / best stock peer", best, fastest("stock", "jpeg"), 1.9),
    Goal(f"{STREAMING} / {PILLOW}", best, named(PILLOW), 3.2),
    Goal(f"{SCALED} / best stock peer", named(SCALED), fastest("stock", "jpeg"), 2.5),
    Goal(
        f"{RESIDENT} / best stock peer on pre-decoded data",
        named(RESIDENT),
        fastest("stock", "pixels"),
        1.7,
    ),
    *(
        Goal(f"{mine} / {theirs}", named(mine), named(theirs), at_least)
        for mine, theirs, at_least in (
            ("fastft torchvision", PILLOW, 0.95),
            ("fastft dali", "DALI", 1),
            ("fastft ffcv", "FFCV", 1.4),
            ("fastft ffcv, raw", "FFCV, raw", 1),
            (RESIDENT, PILLOW, 6),
            (f"{RESIDENT}, first epoch", "DALI", 1.5),
            (f"{RESIDENT}, first epoch", "fastft ffcv", 0.9),
        )
    ),
)


@pytest.fixture(scope="module")
def sources(photos: Photos, workspace: Path, entered: tuple[Entrant, ...]) -> dict[str, Path]:
    """Data of the contenders that take part, by their `source`."""
    made = {"photos": photos.root}
    for source, mode in (("jpeg", "passthrough"), ("raw", "raw")):
        if any(entrant.source == source for entrant in entered):
            made[source] = workspace / f"loaders-{source}.beton"
            convert(ConvertConfig(src=photos.root, out=made[source], mode=mode))
    return made


@pytest.fixture(scope="module")
def entered(request: pytest.FixtureRequest) -> tuple[Entrant, ...]:
    """The contenders whose tests were chosen and whose libraries are here."""
    chosen = [
        item.callspec.params.get("entrant")
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    return tuple(entrant for entrant in ENTRANTS if entrant in chosen and not lacking(entrant))


def lacking(entrant: Entrant) -> str:
    """A line on what it lacks, if anything."""
    for name in entrant.needs:
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"{entrant.name}: {name} is not installed; {entrant.remedy}"
    return ""


@pytest.fixture(scope="module")
def field(
    entered: tuple[Entrant, ...],
    sources: dict[str, Path],
    photos: Photos,
    cores: int,
    rounds: int,
    tables: Tables,
    pytestconfig: pytest.Config,
) -> Field:
    """All of them, timed by turns."""
    # pytest's limit is meant for one test; here each answer has one (`remote.PATIENCE_S`).
    faulthandler.cancel_dump_traceback_later()
    smoke, batch_size, epochs = photos.is_smoke, batch_of(len(photos)), 1
    if not smoke:
        images = ROUND_IMAGES * min(1, USUAL_PX / photos.facts["mean_px"])
        epochs = math.ceil(max(images, ROUND_BATCHES * batch_size) / len(photos))
    timed = Field(
        images=len(photos),
        batch_size=batch_size,
        epochs=epochs,
        warm_batches=1 if smoke else WARM_BATCHES,
    )
    capture, terminal = map(
        pytestconfig.pluginmanager.get_plugin, ("capturemanager", "terminalreporter")
    )

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)

    with timed:
        for entrant in entered:
            if is_pointless(entrant, photos):
                continue
            make = partial(entrant.make, sources[entrant.source], batch_size, cores, SIZE)
            timed.enter(entrant, Remote(entrant.name, make))
        timed.run(rounds, 0 if smoke else 1, tell)
    verdicts = judge(timed.found, GOALS)
    if timed.found:
        tables[GROUP] = table(timed.found, PILLOW, timed.failed)
    if verdicts:
        remark = " (of a smoke run, which says nothing)" if smoke else ""
        tables[f"{GROUP}: goals{remark}"] = [[str(verdict)] for verdict in verdicts]
    pytestconfig.stash[VERDICTS].extend(verdicts)
    return timed


def batch_of(images: int) -> int:
    """The batch of all contenders; as far as may be, of whole ones: timm leaves out others."""
    return min(BATCH, max(1, images // EPOCH_BATCHES))


def is_pointless(entrant: Entrant, photos: Photos) -> bool:
    """Whether it would decode `scaled` what is not large enough for that."""
    return entrant.reads.endswith("scaled") and photos.facts["mean_px"] < SCALED_PX


def recorded_clock() -> float:
    """Stands still but for the seconds that were measured before."""
    return _elapsed_s[0]


_elapsed_s = [0.0]


@pytest.mark.benchmark(group=GROUP, timer=recorded_clock)
@pytest.mark.parametrize("entrant", ENTRANTS, ids=lambda entrant: entrant.name)
def test_loader(entrant: Entrant, request: pytest.FixtureRequest, photos: Photos) -> None:
    if reason := lacking(entrant):
        pytest.skip(reason)
    field: Field = request.getfixturevalue("field")
    if entrant.name in field.missing:
        pytest.skip(field.missing[entrant.name])
    if is_pointless(entrant, photos):
        pytest.skip(f"{entrant.name}: photos of fewer than {SCALED_PX / 1e6:g} megapixels")
    if entrant.name in field.failed:
        if entrant.side == "stock":  # nobody here can mend it
            pytest.skip(field.failed[entrant.name])
        pytest.fail(field.failed[entrant.name], pytrace=False)
    # Asked for late: whoever has it must use it.
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")
    laps = field.found[entrant.name]
    seconds = iter(laps.wall_s)

    def lap() -> None:
        _elapsed_s[0] += next(seconds)

    benchmark.pedantic(lap, rounds=len(laps.wall_s))
    benchmark.extra_info.update(summary(laps, field.found))
    # Every sample once an epoch, and pixels of one distribution.
    assert laps.look is not None
    assert laps.look.labels == Counter(photos.labels)
    brightness = [each.look.brightness for each in field.found.values() if each.look]
    near = NEAR * max(1, NEAR_PHOTOS / len(photos)) ** 0.5
    assert abs(laps.look.brightness - statistics.median(brightness)) < near
    if entrant.side == "fastft":
        assert isinstance(laps.fidelity, Fidelity)
        assert laps.fidelity.is_kept, laps.fidelity
