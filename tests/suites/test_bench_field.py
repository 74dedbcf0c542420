"""The benchmarks' field: turns, ratios, verdicts, contenders. Nothing is timed."""

import random
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from bench.field import Entrant, Field, Laps, ordered
from bench.ours import Fidelity, Ours
from bench.peers import random_crop
from bench.remote import Look, MissingError, RemoteError
from bench.verdicts import Goal, fastest, judge, named, ratio, summary, table
from pipelines.plan import make_plan


def entrant(name: str, *, side: str = "stock", reads: str = "jpeg", anew: bool = False) -> Entrant:
    return Entrant(name=name, side=side, reads=reads, source="", make=iter, anew=anew)


def laps(name: str, wall_s: list[float], images: int = 100, **kind) -> Laps:
    return Laps(entrant(name, **kind), images, wall_s, [0.5 * each for each in wall_s])


def field_of(*all_laps: Laps) -> dict[str, Laps]:
    return {each.entrant.name: each for each in all_laps}


# --- turns -------------------------------------------------------------------------------------


def test_everybody_is_first_once_and_follows_several():
    names = list("abcde")
    rounds = [ordered(names, turn) for turn in range(5)]
    assert all(sorted(order) == names for order in rounds)
    assert len({tuple(order) for order in rounds}) == 5
    before_b = {order[order.index("b") - 1] for order in rounds if order[0] != "b"}
    assert len(before_b) > 1
    assert ordered([], 3) == []


class FakeRemote:
    """What a field asks of a process; writes down who was asked what."""

    def __init__(self, name: str, told: list[tuple[str, str]], **fails) -> None:
        self.name, self.told, self.fails = name, told, fails
        self.batches, self.short = 1, 0
        self.is_closed = False

    def _tell(self, what: str) -> None:
        self.told.append((self.name, what))
        if (error := self.fails.get(what)) is not None:
            raise error

    def ready(self) -> None:
        self._tell("ready")

    def settle(self) -> None:
        self._tell("settle")

    def restart(self) -> None:
        self._tell("restart")
        self.batches = 0

    def read(self, batches: int) -> int:
        self._tell(f"read {batches}")
        self.batches += batches
        return 8 * batches - self.short

    def look(self, batches: int) -> Look:
        assert self.batches % batches == 0, "not at an epoch's beginning"
        return Look(Counter({0: 8 * batches}), 0.0)

    def call(self, method: str) -> str:
        return method

    def usage(self) -> SimpleNamespace:
        return SimpleNamespace(cpu_s=float(self.batches))

    def close(self) -> None:
        self.is_closed = True


def make_field(told: list, *, fails: dict | None = None, **kinds) -> tuple[Field, dict]:
    """Three batches an epoch, rounds of two epochs."""
    field = Field(images=24, batch_size=8, epochs=2, warm_batches=5)
    remotes = {}
    for name, kind in kinds.items():
        remotes[name] = FakeRemote(name, told, **(fails or {}).get(name, {}))
        field.enter(entrant(name, **kind), remotes[name])
    return field, remotes


def test_each_round_times_every_contender_once():
    told: list[tuple[str, str]] = []
    field, remotes = make_field(told, a={}, b={"side": "fastft"}, c={"anew": True})
    lines: list[str] = []
    with field:
        field.run(rounds=2, warm_rounds=1, told=lines.append)
    assert lines == [
        "opening 3 contenders",
        "round 1 of 3",
        "round 2 of 3",
        "round 3 of 3",
        "looking at what they give",
    ]
    assert {name: len(each.wall_s) for name, each in field.found.items()} == dict.fromkeys("abc", 2)
    assert field.found["a"].images == 48
    assert field.found["c"].images == 24
    # The timed reading alone, of the process itself: as a fake's clock counts its batches.
    assert field.found["a"].cpu_s == [6.0, 6.0]
    assert field.found["c"].cpu_s == [3.0, 3.0]
    laps_of_a = [what for name, what in told if name == "a"][2:]
    assert laps_of_a[:6] == ["read 5", "read 6", "settle"] * 2
    assert [what for name, what in told if name == "c"][2:5] == ["restart", "read 3", "settle"]
    # One works while the others are idle: who has read settles before anybody else reads.
    timed = [name for name, what in told if what in ("read 6", "read 3")]
    assert timed[:9] == [*"abc", *reversed("bca"), *"cab"]
    assert field.found["b"].fidelity == "fidelity"
    assert field.found["a"].fidelity is None
    assert all(each.is_closed for each in remotes.values())


def test_a_failed_contender_leaves_the_others_running():
    told: list[tuple[str, str]] = []
    fails = {
        "missing": {"ready": MissingError("missing: no library")},
        "broken": {"read 6": RemoteError("broken: KeyError: 1")},
    }
    field, remotes = make_field(told, fails=fails, a={}, missing={}, broken={}, short={})
    remotes["short"].short = 1
    with field:
        field.run(rounds=2, warm_rounds=0)
    assert list(field.found) == ["a"]
    assert field.missing == {"missing": "missing: no library"}
    assert field.failed == {
        "broken": "broken: KeyError: 1",
        "short": "short: 47 images, expected 48",
    }
    assert [what for name, what in told if name == "broken"].count("read 6") == 1
    assert all(each.is_closed for each in remotes.values())


def test_a_bug_or_ctrl_c_leaves_no_process():
    field, remotes = make_field([], fails={"b": {"settle": KeyboardInterrupt()}}, a={}, b={})
    with pytest.raises(KeyboardInterrupt), field:
        field.run(rounds=1, warm_rounds=0)
    assert all(each.is_closed for each in remotes.values())


# --- verdicts ----------------------------------------------------------------------------------


def test_a_ratio_is_taken_within_rounds():
    # The machine is three times as slow in the second round, and rounds are not of one length.
    ours = laps("ours", [1.0, 3.0, 1.0], images=50)
    theirs = laps("theirs", [4.0, 12.0, 4.4], images=100)
    came = ratio(ours, theirs)
    assert (came.median, came.low, came.high) == (2.0, 2.0, 2.2)
    assert str(came) == "2.00 (2.00 - 2.20)"
    assert ratio(theirs, ours).median == 0.5
    with pytest.raises(ValueError, match="shorter"):
        ratio(ours, laps("fewer", [1.0]))


FIELD = field_of(
    laps("slow", [4.0, 4.0]),
    laps("quick", [2.0, 2.0]),
    laps("raw", [1.0, 1.0], reads="pixels"),
    laps("ours", [1.0, 2.0], side="fastft"),
    laps("ours, raw", [0.5, 0.5], side="fastft", reads="pixels"),
    laps("ours, first epoch", [0.1, 0.1], side="fastft", anew=True),
)


def test_best_is_per_side_and_data():
    best = {
        (side, reads): fastest(side, reads)(FIELD)
        for side in ("stock", "fastft")
        for reads in ("jpeg", "pixels")
    }
    assert {key: each.entrant.name for key, each in best.items()} == {
        ("stock", "jpeg"): "quick",
        ("stock", "pixels"): "raw",
        ("fastft", "jpeg"): "ours",
        ("fastft", "pixels"): "ours, raw",
    }
    assert fastest("stock", "jpeg")({}) is None


def test_verdicts_name_both_present_sides():
    goals = (
        Goal("our best / best peer", fastest("fastft", "jpeg"), fastest("stock", "jpeg"), 1.4),
        Goal("ours / slow", named("ours"), named("slow"), 2),
        Goal("ours / absent", named("ours"), named("absent"), 2),
    )
    first, second = judge(FIELD, goals)
    assert str(first) == ("our best (ours) / best peer (quick): 1.50 (1.00 - 2.00), goal >= 1.4")
    assert str(second) == "ours / slow: 3.00 (2.00 - 4.00), goal >= 2"
    assert asdict(first) == {
        "what": "our best / best peer",
        "ours": "ours",
        "theirs": "quick",
        "ratio": 1.5,
        "low": 1.0,
        "high": 2.0,
        "goal": 1.4,
    }


def test_what_the_json_says():
    assert summary(FIELD["quick"], field_of(FIELD["quick"], FIELD["slow"])) == {
        "contender": "quick",
        "side": "stock",
        "reads": "jpeg",
        "epochs": "later",
        "images": 100,
        "img_per_s": 50.0,
        "cpu_ms_per_image": 10.0,
        "ratio_to": {"slow": [2.0, 2.0, 2.0]},
    }


def test_table_goes_from_slow_to_fast():
    head, *rows = table(FIELD, "slow")
    assert [row[0] for row in rows] == [
        "slow",
        "quick",
        "ours",
        "raw",
        "ours, raw",
        "ours, first epoch",
    ]
    assert {len(row) for row in (head, *rows)} == {8}
    assert rows[2][2:7] == ["67", "3.00", "1.50", "1.00 - 2.00", "7.5"]
    assert rows[4][3:6] == ["8.00", "2.00", "2.00 - 2.00"]
    assert [row[0] for row in rows if row[-1]] == ["quick", "raw"]


def test_who_died_is_a_row_that_says_so():
    head, dead, *rest = table(FIELD, "slow", {"FFCV": "FFCV: its process ended with status -9"})
    assert dead == ["FFCV", "", "", "", "", "", "", "FFCV: its process ended with status -9"]
    assert [head, *rest] == table(FIELD, "slow")


def test_few_photos_are_read_in_several_batches():
    from bench.bench_loaders import batch_of

    assert [batch_of(count) for count in (1, 3, 40, 64, 300, 1024)] == [1, 1, 10, 16, 64, 64]


@pytest.mark.parametrize(
    ("images", "mean_px", "is_smoke"),
    [(60, 200_000, True), (64, 12_900_000, False), (384, 206_000, False), (199, 200_000, True)],
)
def test_a_smoke_run_is_told_by_pixels(images: int, mean_px: int, is_smoke: bool):
    from bench.photos import Photos

    photos = Photos(Path(), (), (), {"images": images, "mean_px": mean_px})
    assert photos.is_smoke == is_smoke


def test_a_table_of_one():
    _, row = table(field_of(FIELD["ours"]), "slow")
    assert row[:6] == ["ours", "jpeg", "67", "", "", ""]


# --- contenders --------------------------------------------------------------------------------


def test_crops_are_drawn_as_the_plan_draws_them():
    height, width, crops = 300, 400, 40_000
    random.seed(1)
    drawn = np.array([random_crop(height, width) for _ in range(crops)])
    plan = make_plan(
        np.full(crops, width, np.int32),
        np.full(crops, height, np.int32),
        view="train",
        size=224,
        seed=1,
        epoch=0,
    )
    planned = plan.rows(plan.order).boxes
    for name, of in {
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
    }.items():
        assert stats.ks_2samp(of(drawn), of(planned)).pvalue > 1e-3, name
    assert (drawn >= 0).all()
    assert (drawn[:, :2] + drawn[:, 2:] <= (height, width)).all()


@pytest.mark.parametrize(
    ("shape", "box"), [((20, 300), (0, 136, 20, 27)), ((300, 20), (136, 0, 27, 20))]
)
def test_an_extreme_image_is_cropped_centrally(shape, box, monkeypatch):
    monkeypatch.setattr("bench.peers.TRIES", 0)
    assert random_crop(*shape) == box


def test_ours_are_held_against_the_reference(data: Path):
    ours = Ours("resident", data / "train.beton", 4, 1, 16)
    with closing(ours):
        assert len(next(ours)[1]) == 4
        fidelity = ours.fidelity()
    assert fidelity.is_kept
    assert fidelity.stated is not None


def test_a_promise_can_be_broken():
    assert Fidelity(0.05, 1, (0.05, 1), True).is_kept
    assert not Fidelity(0.06, 1, (0.05, 1), True).is_kept
    assert not Fidelity(0.0, 2, (0.05, 1), True).is_kept
    assert not Fidelity(0.0, 0, (0.05, 1), False).is_kept
    assert Fidelity(9.0, 99, None, True).is_kept


def test_the_suite_names_its_contenders_alike():
    pytest.importorskip("pytest_benchmark")
    from bench.bench_loaders import ENTRANTS, GOALS, lacking
    from bench.conftest import version_of

    names = [each.name for each in ENTRANTS]
    assert len(set(names)) == len(names)
    everybody = field_of(*(Laps(each, 1, [1.0], [1.0]) for each in ENTRANTS))
    assert len(judge(everybody, GOALS)) == len(GOALS)
    away = Entrant(
        name="away",
        side="stock",
        reads="jpeg",
        source="",
        make=iter,
        needs=("os", "no_such_library.part"),
        remedy="pip install it",
    )
    assert lacking(away) == "away: no_such_library.part is not installed; pip install it"
    assert lacking(entrant("here")) == ""
    assert version_of("no-such-library") is None
    assert version_of("numpy") == np.__version__
