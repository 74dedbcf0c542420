import copy
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import old_checkpoints
import pytest
import torch
from damaged import flip
from effort import choose
from safetensors.torch import load_file

from fastft.runs.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_last,
    read_file,
    save_checkpoint,
)
from fastft.runs.folder import remove_old
from fastft.runs.tensor_file import write_tensors
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError, FormatError

SAVED = Checkpoint(
    model={"a": torch.arange(6.0), "b": torch.tensor(3)},
    arch="resnet18",
    classes=("x", "y\udcff"),
    size=64,
    view="eval",
    epoch=2,
    accuracy=0.5,
    optimizer={"0/momentum_buffer": torch.ones(2)},
    scaler={},
    config={"lr": 0.1},
    progress={"step": 7, "best": [0.5, 1.25], "loader": {"epoch": 1}, "loss": float("inf")},
)
PLAIN = {
    "version": 2,
    "arch": "resnet18",
    "classes": ["x"],
    "size": 64,
    "view": "eval",
    "epoch": 2,
    "accuracy": 0.5,
    "config": {},
    "scaler": {},
}


def write_text(path: Path, text: str) -> Path:
    """A file of ours that says this beside its tensors."""
    with AtomicFile(path) as target:
        write_tensors(target, {"a": torch.ones(2)}, text)
        target.publish()
    return path


def shown(checkpoint: Checkpoint) -> str:
    """All that it holds; in a file the widest numbers stand first."""
    return str(replace(checkpoint, model=dict(sorted(checkpoint.model.items()))))


def old_file(path: Path, checkpoint: Checkpoint = SAVED) -> Path:
    return old_checkpoints.save_old(path, old_checkpoints.content_of(checkpoint))


def assert_refused(path: Path) -> FormatError:
    with pytest.raises(FormatError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_all_parts_come_back(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    full = replace(SAVED, ema={"a": torch.zeros(6)}, scaler={"scale": 0.1 + 0.2})
    save_checkpoint(path, full)
    found = load_checkpoint(path)
    assert shown(found) == shown(full)
    assert found.scaler["scale"] == full.scaler["scale"]
    assert found.model["b"].dtype == torch.int64
    assert {*load_file(path)} == {"a", "b", "ema/a", "optimizer/0/momentum_buffer"}
    save_checkpoint(path, replace(SAVED, progress=None))
    assert shown(load_checkpoint(path)) == shown(replace(SAVED, progress=None))


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", SAVED)
    assert os.listdir(tmp_path) == ["c.safetensors"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[1]", "a checkpoint of version None"),
        ("3", "a checkpoint of version None"),
        ('{"version": true}', "a checkpoint of version True"),
        ('{"version": 3}', "a checkpoint of version 3"),
        ('{"version": 2}', "required keyword-only arguments: 'arch'"),
        ("[" * 100_000, "recursion depth exceeded"),
        ('{"a":' * 100_000, "recursion depth exceeded"),
        ("9" * 100_000, "a number of many digits"),
        ("[" + "1," * (1 << 23), "more text than any run's"),
        (json.dumps({**PLAIN, "size": 1 << 63}), "a number of many digits"),
        (json.dumps({**PLAIN, "size": 1 << 40}), "wrong 'size': 1099511627776"),
        (json.dumps({**PLAIN, "size": 64.5}), "wrong 'size': 64.5"),
        (json.dumps({**PLAIN, "accuracy": float("nan")}), "wrong 'accuracy': nan"),
        (json.dumps({**PLAIN, "accuracy": "1"}), "wrong 'accuracy': '1'"),
        (json.dumps({**PLAIN, "epoch": -1}), "wrong 'epoch': -1"),
        (json.dumps({**PLAIN, "classes": []}), "wrong 'classes': a list"),
        (json.dumps({**PLAIN, "classes": [3] * 100_000}), "wrong 'classes.0': 3"),
        (json.dumps({**PLAIN, "classes": {"x": 1}}), "wrong 'classes': a dict"),
        (json.dumps({**PLAIN, "view": "train"}), "wrong 'view': 'train'"),
        (json.dumps({**PLAIN, "progress": [3]}), "wrong 'progress': a list"),
        (json.dumps({**PLAIN, "preparation": {"x": 1}}), "Preparation.__init__() got"),
        (json.dumps({**PLAIN, "preparation": {"depth": 1}}), "a preparation out of"),
        (json.dumps({**PLAIN, "odd": 1}), "unexpected keyword argument 'odd'"),
        (json.dumps(dict([*PLAIN.items()][:5])), "required keyword-only arguments: 'epoch'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_odd_text_is_refused(text: str, said: str, tmp_path: Path) -> None:
    error = assert_refused(write_text(tmp_path / "c.safetensors", text))
    assert said in str(error)
    assert len(str(error)) < 500


def test_any_changed_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, SAVED)
    for position in range(path.stat().st_size):
        flip(path, position, position % 8)
        assert_refused(path)
        flip(path, position, position % 8)
    assert load_checkpoint(path).epoch == 2


def test_what_lost_its_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, SAVED)
    path.write_bytes(path.read_bytes().replace(b"fastft-crc32", b"fastft-crc31"))
    assert "its beginning is damaged" in str(assert_refused(path))


# --- files of earlier versions, and of others ----------------------------------------------------


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    path = old_file(tmp_path / "c.pt")
    assert str(load_checkpoint(path)) == str(SAVED)
    content = torch.load(path, weights_only=True)
    del content["progress"], content["ema"], content["preparation"]
    torch.save(content, path)
    assert str(load_checkpoint(path)) == str(replace(SAVED, progress=None))
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert str(load_checkpoint(path)) == str(replace(SAVED, progress=None))


def test_torch_alone_does_not_see_a_changed_weight(tmp_path: Path) -> None:
    """Why records are compared here."""
    path = old_file(tmp_path / "c.pt")
    flip(path, path.read_bytes().index(SAVED.model["a"].numpy().tobytes()) + 9)
    changed = torch.load(path, weights_only=True)["model"]["a"]
    assert not torch.equal(changed, SAVED.model["a"])
    assert str(assert_refused(path)).startswith(
        f"{path}: not readable as a checkpoint: c/data/0 is damaged, expected a safetensors file"
    )


def test_an_old_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = old_file(tmp_path / "c.pt")
    os.truncate(path, path.stat().st_size - len(old_checkpoints.SEAL) - 1)
    for size in reversed(range(0, path.stat().st_size, choose(3, 1))):
        os.truncate(path, size)
        assert_refused(path)


def test_any_number_of_an_old_file_is_covered(tmp_path: Path) -> None:
    path = old_file(tmp_path / "c.pt")
    wanted, number = str(load_checkpoint(path)), SAVED.model["a"].numpy().tobytes()
    at, size = path.read_bytes().index(number), path.stat().st_size
    # In an ordinary run a tensor, and every seventh byte of the rest.
    for position in sorted({*range(at, at + len(number)), *range(0, size, choose(7, 1))}):
        flip(path, position, position % 8)
        try:
            assert str(load_checkpoint(path)) == wanted  # in what stands between the records
        except DataError:
            pass
        flip(path, position, position % 8)


def test_records_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Or a small file would stand for gigabytes."""
    path, content = tmp_path / "w.pt", {str(number): torch.zeros(1000) for number in range(9)}
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("w/data.pkl", "w/version", "w/byteorder", "w/data/0"):
            archive.writestr(name, records[name])
        stored = archive.filelist[-1]
        for number in range(1, 9):
            archive.filelist.append(copy.copy(stored))
            archive.filelist[-1].filename = f"w/data/{number}"
        for info in archive.filelist:
            info.CRC = 0  # as if none had been computed
    assert torch.load(path, weights_only=True).keys() == content.keys()
    assert path.stat().st_size < 9000
    with pytest.raises(FormatError, match="its records overlap"):
        read_file(path)


def test_foreign_checkpoints_are_read_like_torch(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert read_file(path)["a"].tolist() == [1, 1, 1]
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_file(path)["a"].tolist() == [1, 1, 1]


# --- what to continue from -----------------------------------------------------------------------

Save = Callable[[Path, Checkpoint], Any]


def names(save: Save) -> tuple[str, str]:
    suffix = "pt" if save is old_file else "safetensors"
    return f"last.{suffix}", f"previous.{suffix}"


@pytest.mark.parametrize("save", [save_checkpoint, old_file])
def test_the_last_checkpoint_is_taken(save: Save, tmp_path: Path) -> None:
    last, previous = names(save)
    save(tmp_path / last, SAVED)
    save(tmp_path / previous, replace(SAVED, epoch=1))
    for name in (f".{last}.x1", ".best.safetensors.x2", f".{previous}.link", ".other.x3"):
        (tmp_path / name).touch()
    checkpoint, path, remark = load_last(tmp_path)
    assert (checkpoint.epoch, path, remark) == (2, tmp_path / last, "")
    assert sorted(os.listdir(tmp_path)) == [".other.x3", last, previous]


@pytest.mark.parametrize("save", [save_checkpoint, old_file])
@pytest.mark.parametrize(
    ("how", "found"), [("missing", "no such file"), ("empty", "not readable"), ("bit", "damaged")]
)
def test_previous_replaces_a_damaged_last(how: str, found: str, save: Save, tmp_path: Path) -> None:
    names_ = names(save)
    last, previous = (tmp_path / name for name in names_)
    save(previous, replace(SAVED, epoch=1))
    if how != "missing":
        save(last, SAVED)
        flip(last, last.read_bytes().index(SAVED.model["a"].numpy().tobytes()))
    if how == "empty":
        os.truncate(last, 0)
    checkpoint, path, remark = load_last(tmp_path)
    assert (checkpoint.epoch, path) == (1, previous)
    assert remark.startswith(f"{last}: ")
    assert found in remark
    assert remark.endswith(f"; {names_[1]}, the checkpoint before it, is used instead")
    assert "\n" not in remark


def test_nothing_to_continue_from_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_last(tmp_path / "none")
    (tmp_path / "last.safetensors").write_bytes(b"PK\x03\x04")
    save_checkpoint(tmp_path / "previous.safetensors", SAVED)
    flip(tmp_path / "previous.safetensors", 70)
    with pytest.raises(DataError) as caught:
        load_last(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}: last.safetensors: not readable as a checkpoint: File is ")
    assert "; previous.safetensors: not readable as a checkpoint: " in text
    assert "\n" not in text


def test_old_files_go_when_newer_ones_are_there(tmp_path: Path) -> None:
    for name in ("best", "last", "previous"):
        old_file(tmp_path / f"{name}.pt")
    remove_old(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt", "previous.pt"]
    save_checkpoint(tmp_path / "last.safetensors", SAVED)
    assert load_last(tmp_path)[1].name == "last.safetensors"
    remove_old(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.safetensors"]
    save_checkpoint(tmp_path / "best.safetensors", SAVED)
    remove_old(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "last.safetensors"]
