"""Splits by hashes of names: shares, stability, groups, folds, classes that are small."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import NONE, Columns, hash_words
from pipelines.formats.division import Divided, Division, describe_division, divide


def photos(*counts: int) -> tuple[list[str], np.ndarray, list[str]]:
    classes = [f"c{label}" for label in range(len(counts))]
    pairs = [(label, n) for label, count in enumerate(counts) for n in range(count)]
    names = [f"c{label}/img_{n:04d}.jpg" for label, n in pairs]
    return names, np.array([label for label, _ in pairs], np.int64), classes


def divided(
    names: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str],
    columns: Columns = NONE,
    **asked: Any,
) -> Divided:
    return divide("photos", names, labels, classes, columns, Division(**asked))


def test_sides_are_the_same_everywhere() -> None:
    # Kept: whoever changes them moves everybody's photos.
    assert hash_words(["ants/1.jpg"], "fastft split 0").tolist() == [13547947213408786986]
    names, labels, classes = photos(12, 8)
    assert divided(names, labels, classes, val_split=0.3).val.tolist() == [3, 6, 7, 12, 15]


def test_large_classes_are_divided_by_dice_alone() -> None:
    names, labels, classes = photos(3000, 3000, 3000)
    for seed in range(3):
        val = divided(names, labels, classes, val_split=0.2, seed=seed).val
        counts = np.bincount(labels[val])
        assert (abs(counts - 600) < 4.5 * (3000 * 0.2 * 0.8) ** 0.5).all()
        assert (counts != 600).any()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.34, 0.5, 0.9])
def test_each_class_has_about_its_share(share: float) -> None:
    names, labels, classes = photos(2, 5, 11, 40, 100, 300)
    for seed in range(20):
        val = divided(names, labels, classes, val_split=share, seed=seed).val
        for label, count in enumerate((2, 5, 11, 40, 100, 300)):
            apart = int((labels[val] == label).sum())
            assert 1 <= apart <= count - 1
            assert abs(apart - share * count) <= max(0.25 * share * count, 0.99)


@pytest.mark.parametrize("groups", [5, 7, 12, 60])
def test_groups_have_about_their_share(groups: int) -> None:
    names = [f"c0/p{n % groups}_{n:03d}.jpg" for n in range(600)]
    for seed in range(20):
        found = divided(
            names, np.zeros(600, np.int64), ["c0"], val_split=0.3, group_by="p[0-9]+", seed=seed
        )
        assert abs(len(found.val) - 180) <= max(45, 600 / groups / 2)


def test_few_photos_move_where_dice_fell_badly() -> None:
    moved = []
    for seed in range(60):
        names, labels, classes = photos(60)
        before = {names[i] for i in divided(names, labels, classes, val_split=0.2, seed=seed).val}
        more, more_labels, _ = photos(66)
        found = divided(more, more_labels, classes, val_split=0.2, seed=seed)
        after = {more[i] for i in found.val} & set(names)
        moved.append(len(before ^ after))
    assert np.median(moved) == 0
    assert max(moved) <= 3


def test_folds_are_equal_parts_of_each_class() -> None:
    names, labels, classes = photos(71, 50, 3)
    for fold in range(5):
        val = divided(names, labels, classes, folds=5, fold=fold).val
        assert np.bincount(labels[val], minlength=3).tolist() in (
            [[a, 10, c] for a in (14, 15) for c in (0, 1)]
        )


def test_folds_of_groups_are_about_equal() -> None:
    names = [f"c0/p{n * n % 41}_{n:03d}.jpg" for n in range(600)]
    patients = np.array([n * n % 41 for n in range(600)])
    sizes, seen = [], []
    for fold in range(4):
        val = divided(
            names, np.zeros(600, np.int64), ["c0"], folds=4, fold=fold, group_by="p[0-9]+"
        ).val
        sizes.append(len(val))
        seen += np.unique(patients[val]).tolist()
    assert sorted(seen) == np.unique(patients).tolist()
    assert max(sizes) - min(sizes) <= 30


def test_photos_added_later_move_none() -> None:
    names, labels, classes = photos(900, 600)
    before = {names[i] for i in divided(names, labels, classes, val_split=0.25).val}
    more, more_labels, _ = photos(1100, 1500)
    after = {more[i] for i in divided(more, more_labels, classes, val_split=0.25).val}
    assert before == after & set(names)
    assert after - set(names)


def test_seeds_divide_otherwise() -> None:
    names, labels, classes = photos(200)
    sides = [divided(names, labels, classes, val_split=0.5, seed=seed).val for seed in (0, 1)]
    assert 30 < len(np.intersect1d(*sides)) < 70


def test_folds_cover_each_sample_once() -> None:
    names, labels, classes = photos(70, 50)
    folds = [divided(names, labels, classes, folds=5, fold=fold) for fold in range(5)]
    assert sorted(np.concatenate([fold.val for fold in folds]).tolist()) == list(range(120))
    for fold in folds:
        assert sorted([*fold.train.tolist(), *fold.val.tolist()]) == list(range(120))


@pytest.mark.parametrize("pattern", ["patient[0-9]+", "_(patient[0-9]+)_"])
def test_groups_stay_on_one_side(pattern: str) -> None:
    names = [f"c{n % 2}/a_patient{n % 23}_{n:03d}.jpg" for n in range(400)]
    labels = np.array([n % 2 for n in range(400)], np.int64)
    found = divided(names, labels, ["c0", "c1"], val_split=0.3, group_by=pattern)
    patients = np.arange(400) % 23
    assert not np.intersect1d(patients[found.train], patients[found.val]).size
    assert found.groups == 23
    assert "23 groups" in describe_division(found, Division(val_split=0.3, group_by=pattern))


def test_a_tables_groups_stay_on_one_side() -> None:
    names, labels, classes = photos(60, 60)
    patients = np.arange(120) % 17
    columns = Columns(groups=hash_words([str(patient) for patient in patients]))
    found = divided(names, labels, classes, columns, val_split=0.3)
    assert not np.intersect1d(patients[found.train], patients[found.val]).size
    assert found.groups == 17


def test_names_without_a_group_stand_alone() -> None:
    names = [*(f"c0/p{n % 4}.{n}.jpg" for n in range(20)), "c0/p0", "c0/other.jpg"]
    found = divided(names, np.zeros(22, np.int64), ["c0"], val_split=0.4, group_by=r"p[0-9]\.")
    assert found.groups == 6
    assert found.remarks == ("--group-by matches not 2 of 22 names: each is a group of its own",)


def test_small_classes_are_on_both_sides() -> None:
    for seed in range(40):
        names, labels, classes = photos(2, 3, 400)
        found = divided(names, labels, classes, val_split=0.1, seed=seed)
        for side in (found.train, found.val):
            assert set(labels[side].tolist()) == {0, 1, 2}


def test_a_fold_may_lack_a_small_class() -> None:
    names, labels, classes = photos(3, 60)
    folds = [divided(names, labels, classes, folds=6, fold=fold) for fold in range(6)]
    assert any(0 not in labels[fold.val] for fold in folds)
    assert all(0 in labels[fold.train] for fold in folds)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"val_split": 1.0}, "--val-split: 1, expected a share between 0 and 1"),
        ({"val_split": -0.1}, "--val-split: -0.1"),
        ({"val_split": float("nan")}, "--val-split: nan"),
        ({"folds": 1}, "--folds: 1, expected 2 to 100"),
        ({"folds": 1000}, "--folds: 1000"),
        ({"folds": 5, "val_split": 0.2}, "--folds: given with --val-split"),
        ({"folds": 5, "fold": 5}, "--fold: 5, expected 0 to 4"),
        ({"fold": 2}, "--fold: 2, expected --folds beside it"),
        ({"val_split": 0.2, "group_by": "("}, "expected a regular expression"),
        ({"group_by": "a"}, "--group-by: given without a split to make"),
        ({"val_split": 0.2, "group_by": "zebra"}, "'zebra' matches no name"),
        ({"val_split": 0.2, "group_by": "jpg"}, "all 20 samples are one group"),
        ({"val_split": 0.2, "seed": -1}, "--split-seed: -1"),
        ({"folds": 30}, "20 samples, expected 30 or more"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], words: str) -> None:
    names, labels, classes = photos(10, 10)
    with pytest.raises((UsageError, DataError)) as caught:
        divided(names, labels, classes, **asked)
    assert words in str(caught.value)


def test_a_class_of_one_group_is_refused() -> None:
    names = [*(f"a/same_{n}.jpg" for n in range(9)), *(f"b/{n}_x.jpg" for n in range(9))]
    labels = np.repeat(np.arange(2), 9)
    with pytest.raises(DataError, match=r"the images of a \(9\) cannot be on both sides"):
        divided(names, labels, ["a", "b"], val_split=0.3, group_by="same")
    with pytest.raises(DataError, match=r"cannot be on both sides|all 1 images of a"):
        divided(["a/1", "b/1", "b/2"], np.array([0, 1, 1]), ["a", "b"], val_split=0.5)
