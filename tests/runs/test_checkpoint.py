import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastft.runs.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_last,
    read_torch_file,
    save_checkpoint,
)
from pipelines.errors import DataError, FormatError

SAVED = Checkpoint(
    model={"a": torch.arange(6.0), "b": torch.tensor(3)}, arch="resnet18", classes=("x", "y"),
    size=64, view="eval", epoch=2, accuracy=0.5, optimizer={"state": {0: torch.ones(2)}}, scaler={},
    config={"lr": 0.1}, progress={"step": 7, "best": [0.5, 1.25], "loader": {"epoch": 1}},
)  # fmt: skip


def content_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """As a version without seals wrote it."""
    parts = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    return {**parts, "format": "fastft-checkpoint", "version": 1, "classes": list(parts["classes"])}


def damage(path: Path, position: int, bit: int = 0) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def assert_refused(path: Path) -> FormatError:
    with pytest.raises(FormatError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_where_a_run_stands_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", SAVED)
    assert load_checkpoint(tmp_path / "c.pt").progress == SAVED.progress
    save_checkpoint(tmp_path / "c.pt", replace(SAVED, progress=None))
    assert load_checkpoint(tmp_path / "c.pt").progress is None
    save_checkpoint(tmp_path / "c.pt", replace(SAVED, progress=[3]))  # type: ignore[arg-type]
    assert "holds a wrong 'progress'" in str(assert_refused(tmp_path / "c.pt"))


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    content = content_of(SAVED)
    del content["progress"], content["ema"]
    torch.save(content, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert (loaded.progress, loaded.ema, loaded.epoch) == (None, None, 2)


def test_others_read_our_files(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", SAVED)
    for mmap in (False, True):
        content = torch.load(tmp_path / "c.pt", weights_only=True, mmap=mmap)
        assert torch.equal(content["model"]["a"], SAVED.model["a"])


def test_torch_alone_does_not_see_a_changed_weight(tmp_path: Path) -> None:
    """Why records are compared here."""
    path = tmp_path / "c.pt"
    torch.save(content_of(SAVED), path)
    damage(path, path.read_bytes().index(SAVED.model["a"].numpy().tobytes()) + 9)
    changed = torch.load(path, weights_only=True)["model"]["a"]
    assert not torch.equal(changed, SAVED.model["a"])
    assert str(assert_refused(path)).startswith(
        f"{path}: not readable as a checkpoint: c/data/0 is damaged, expected a file by torch.save"
    )


def test_any_changed_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, SAVED)
    size = path.stat().st_size
    bits = [(position, position % 8) for position in range(size)]
    bits += [(position, bit) for position in range(size - 60, size) for bit in range(8)]
    for position, bit in bits:
        damage(path, position, bit)
        assert_refused(path)
        damage(path, position, bit)
    assert load_checkpoint(path).epoch == 2


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, SAVED)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        assert_refused(path)


def test_anything_added_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, SAVED)
    whole = path.read_bytes()
    for content in (whole + b"\0", whole + b"\0" * 22, whole + whole, b"PK\x03\x04" + whole):
        path.write_bytes(content)
        assert_refused(path)


def test_foreign_checkpoints_are_read_like_torch(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert read_torch_file(path)["a"].tolist() == [1, 1, 1]
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_torch_file(path)["a"].tolist() == [1, 1, 1]


def test_the_last_checkpoint_is_taken(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", SAVED)
    save_checkpoint(tmp_path / "previous.pt", replace(SAVED, epoch=1))
    for name in (".last.pt.x1", ".best.pt.x2", ".previous.pt.link", ".other.x3"):
        (tmp_path / name).touch()
    checkpoint, remark = load_last(tmp_path)
    assert (checkpoint.epoch, remark) == (2, "")
    assert sorted(os.listdir(tmp_path)) == [".other.x3", "last.pt", "previous.pt"]


@pytest.mark.parametrize(
    ("how", "found"), [("missing", "no such file"), ("empty", "not readable"), ("bit", "damaged")]
)
def test_previous_replaces_a_damaged_last(tmp_path: Path, how: str, found: str) -> None:
    save_checkpoint(tmp_path / "previous.pt", replace(SAVED, epoch=1))
    last = tmp_path / "last.pt"
    if how != "missing":
        save_checkpoint(last, SAVED)
        damage(last, last.stat().st_size // 2)
    if how == "empty":
        os.truncate(last, 0)
    checkpoint, remark = load_last(tmp_path)
    assert checkpoint.epoch == 1
    assert remark.startswith(f"{last}: ")
    assert found in remark
    assert remark.endswith("; previous.pt, the checkpoint before it, is used instead")
    assert "\n" not in remark


def test_nothing_to_continue_from_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_last(tmp_path / "none")
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04")
    save_checkpoint(tmp_path / "previous.pt", SAVED)
    damage(tmp_path / "previous.pt", 70)
    with pytest.raises(DataError) as caught:
        load_last(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}: last.pt: not readable as a checkpoint: File is not a zip")
    assert "; previous.pt: not readable as a checkpoint: " in text
    assert "\n" not in text
