"""Splits that `convert` makes, and what the file says of them."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastft.datasets.division import open_sides
from pipelines.conversion.merge import merge
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.division import Division
from pipelines.formats.source import Source, open_source

THIRD = Division(val_split=0.3)


def converted(src: Path, out: Path, **options: Any) -> Path:
    convert(ConvertConfig(src=src, out=out, **options))
    return out


def names_and_labels(source: Source) -> dict[str, int]:
    return dict(zip(source.names(), source.labels.tolist(), strict=True))


def test_both_sides_are_written(photos: Path, tmp_path: Path) -> None:
    src = photos / "train"
    reports = convert(ConvertConfig(src=src, out=tmp_path / "data", division=THIRD))
    train, val = (read_index(tmp_path / "data" / f"{side}.beton") for side in ("train", "val"))
    assert names_and_labels(train) | names_and_labels(val) == names_and_labels(open_source(src))
    assert len(train) + len(val) == 33
    assert train.classes == val.classes
    assert {train.division, val.division} == {"--val-split 0.3"}
    assert reports[0].remarks[0].startswith(f"split by --val-split 0.3: {len(train)} to train")


def test_folder_and_beton_are_divided_alike(photos: Path, tmp_path: Path) -> None:
    whole = converted(photos / "train", tmp_path / "whole.beton")
    converted(photos / "train", tmp_path / "data", division=THIRD)
    of_folder, of_beton = (open_sides(path, THIRD) for path in (photos / "train", whole))
    written = (read_index(tmp_path / "data" / f"{side}.beton") for side in ("train", "val"))
    for side, other, third in zip(of_folder, of_beton, written, strict=True):
        assert list(side.names()) == list(other.names()) == third.names()
        np.testing.assert_array_equal(side.labels, other.labels)
        np.testing.assert_array_equal(side.widths, other.widths)
        for sample in range(len(side)):
            assert side.stored(sample) == other.stored(sample) == third.stored(sample)


def test_train_beside_test_gives_val(photos: Path, tmp_path: Path) -> None:
    converted(photos, tmp_path, division=Division(folds=4, fold=1))
    sizes = {path.stem: len(read_index(path)) for path in tmp_path.glob("*.beton")}
    assert sizes["test"] == 6
    assert sizes["train"] + sizes["val"] == 33
    assert read_index(tmp_path / "test.beton").division == "--folds 4 --fold 1"


def test_a_val_split_is_not_made_twice(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "test", tmp_path / "photos" / "val")
    shutil.copytree(photos / "train", tmp_path / "photos" / "train")
    with pytest.raises(UsageError, match="which has train, val, expected data without a val split"):
        converted(tmp_path / "photos", tmp_path / "data", division=THIRD)
    assert not (tmp_path / "data").exists()


def test_broken_photos_are_left_out_of_their_side(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "train", tmp_path / "photos")
    whole = open_sides(tmp_path / "photos", THIRD)
    victims = [side.name(2) for side in whole]
    for name in victims:
        os.truncate(tmp_path / "photos" / name, 400)
    src = tmp_path / "photos"
    config = ConvertConfig(src=src, out=tmp_path / "data", max_bad="3", division=THIRD)
    reports = convert(config)
    assert [[bad.name for bad in report.quarantined] for report in reports] == [
        [name] for name in victims
    ]
    for report, side in zip(reports, whole, strict=True):
        left = [name for name in side.names() if name not in victims]
        assert read_index(report.out).names() == left


def test_shards_of_both_sides_merge(photos: Path, tmp_path: Path) -> None:
    converted(photos / "train", tmp_path / "whole", division=THIRD)
    for shard in ("1/2", "2/2"):
        converted(photos / "train", tmp_path / "parts", division=THIRD, shard=shard)
    merge(tmp_path / "parts", remove_shards=True)
    for side in ("train", "val"):
        whole, merged = (tmp_path / each / f"{side}.beton" for each in ("whole", "parts"))
        assert merged.read_bytes() == whole.read_bytes()


def test_another_division_is_not_resumed(photos: Path, tmp_path: Path) -> None:
    import pipelines.conversion.run as run

    class Killed(BaseException):
        pass

    def die(*told: object) -> None:
        raise Killed

    config = ConvertConfig(src=photos / "train", out=tmp_path / "data", division=THIRD)
    with pytest.raises(Killed):
        run.convert(config, die)
    with pytest.raises(UsageError, match="of other images or options"):
        converted(
            photos / "train", tmp_path / "data", division=Division(val_split=0.5), resume=True
        )
    converted(photos / "train", tmp_path / "data", division=THIRD, resume=True)
    converted(photos / "train", tmp_path / "again", division=THIRD)
    for side in ("train", "val"):
        first, second = (tmp_path / each / f"{side}.beton" for each in ("data", "again"))
        assert first.read_bytes() == second.read_bytes()
