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
    assert divided(names, labels, classes, val_split=0.3).val.tolist() == [3, 7, 15]


def test_shares_are_those_of_fair_dice() -> None:
    names, labels, classes = photos(3000, 3000, 3000)
    for seed in range(3):
        val = divided(names, labels, classes, val_split=0.2, seed=seed).val
        counts = np.bincount(labels[val])
        assert (abs(counts - 600) < 4.5 * (3000 * 0.2 * 0.8) ** 0.5).all()


def test_photos_added_later_move_none() -> None:
    names, labels, classes = photos(40, 30)
    before = {names[i] for i in divided(names, labels, classes, val_split=0.25).val}
    more, more_labels, _ = photos(90, 75)
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
        ({"val_split": 1e-9, "task": "labels"}, "leaves none of 20 samples"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], words: str) -> None:
    names, labels, classes = photos(10, 10)
    columns = NONE
    if asked.pop("task", ""):
        columns = Columns(task="labels", targets=np.ones((20, 1), np.float32))
    with pytest.raises((UsageError, DataError)) as caught:
        divided(names, labels, classes, columns, **asked)
    assert words in str(caught.value)


def test_a_class_of_one_group_is_refused() -> None:
    names = [*(f"a/same_{n}.jpg" for n in range(9)), *(f"b/{n}_x.jpg" for n in range(9))]
    labels = np.repeat(np.arange(2), 9)
    with pytest.raises(DataError, match=r"the images of a \(9\) cannot be on both sides"):
        divided(names, labels, ["a", "b"], val_split=0.3, group_by="same")
    with pytest.raises(DataError, match=r"cannot be on both sides|all 1 images of a"):
        divided(["a/1", "b/1", "b/2"], np.array([0, 1, 1]), ["a", "b"], val_split=0.5)
