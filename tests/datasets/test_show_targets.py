"""Sheets of photos with several labels, or a number."""

from pathlib import Path

import pytest
from targets import LABELS, write_targets

from fastft.config.commands import ShowConfig
from fastft.datasets.show import make_sheet
from pipelines.errors import UsageError
from pipelines.formats.beton import read_index


def test_each_label_has_its_images(tmp_path: Path) -> None:
    file = write_targets(tmp_path / "a.beton", "labels", 12)
    targets = read_index(file).columns.targets
    assert targets is not None
    sheet = make_sheet(ShowConfig(data=file))
    assert sheet.note == "12 images, 2 labels"
    for at, (band, name) in enumerate(zip(sheet.bands, LABELS, strict=True)):
        assert band.name == name
        shown = [cell.lines[0] for row in band.rows for cell in row]
        having = [f"{sample:03}.png" for sample in targets[:, at].nonzero()[0]]
        assert shown == (having[:8] if at == 0 else having[-8:])
    with pytest.raises(UsageError, match="'cat'"):
        make_sheet(ShowConfig(data=file, classes=("cat",)))


def test_a_number_is_shown_from_least_to_most(tmp_path: Path) -> None:
    file = write_targets(tmp_path / "a.beton", "number", 13)
    targets = read_index(file).columns.targets
    assert targets is not None
    sheet = make_sheet(ShowConfig(data=file, n=4))
    assert sheet.note == "13 images, the number darkness"
    shown = [cell.lines[2] for row in sheet.bands[0].rows for cell in row]
    numbers = sorted(targets.ravel().tolist())
    assert shown == [f"darkness {numbers[at]:g}" for at in (0, 4, 8, 12)]
