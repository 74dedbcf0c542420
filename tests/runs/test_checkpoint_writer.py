import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cut_off import small
from torch import nn

from fastft.model.optim import make_optimizer
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, load_last, save_checkpoint
from fastft.runs.checkpoint_writer import CheckpointSaver, HostCopy
from pipelines.errors import DataError


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[CheckpointSaver]:
    saver = CheckpointSaver(tmp_path)
    yield saver
    with contextlib.suppress(DataError):
        saver.close()


def trained(optimizer: str = "sgd") -> tuple[nn.Module, Any, Callable[[int], Checkpoint]]:
    """A model after a step, its optimizer, and what takes their checkpoint."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 2))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rule = make_optimizer(
        model, model[3], optimizer=optimizer, lr=0.1, head_lr_factor=1, momentum=0.9,  # type: ignore[arg-type]
        weight_decay=0.1,
    )  # fmt: skip
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    rule.step()

    def checkpoint(epoch: int) -> Checkpoint:
        state = model.state_dict()
        average = {**model.state_dict(), "tied": state["3.weight"][1:], "none": torch.empty(0)}
        return replace(
            small(epoch), model=state, optimizer=rule.state_dict(), ema=average,
            config={"list": [1, None, "x"], "pair": (1, 2.5), "map": {"deep": [True]}},
        )  # fmt: skip

    return model, rule, checkpoint


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_checkpoints_hold_the_state_when_saved(
    optimizer: str, saver: CheckpointSaver, tmp_path: Path
) -> None:
    model, rule, checkpoint = trained(optimizer)
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path / "wanted.pt", checkpoint(epoch))
        saver.save(checkpoint(epoch))
        rule.step()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.zero_()
        saver.wait()
        # Byte for byte: strides, what tensors share, what their dictionaries know, too.
        assert (tmp_path / "last.pt").read_bytes() == (tmp_path / "wanted.pt").read_bytes()
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded.model["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert loaded.ema is not None
    assert loaded.ema["tied"].data_ptr() == loaded.model["3.weight"][1:].data_ptr()


def test_best_is_to_be_used_not_continued(saver: CheckpointSaver, tmp_path: Path) -> None:
    saver.save(small(1), best=True)
    saver.save(small(2))
    saver.close()
    best, last = (load_checkpoint(tmp_path / name) for name in ("best.pt", "last.pt"))
    assert (best.epoch, best.optimizer, best.scaler, best.progress) == (1, {}, {}, None)
    assert best.model["a"].tolist() == [1, 1, 1]
    assert (last.epoch, last.scaler, last.progress) == (2, {"scale": 2.0}, {"step": 2})
    assert load_checkpoint(tmp_path / "previous.pt").epoch == 1
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt", "previous.pt"]


def test_buffers_are_used_again() -> None:
    _, _, checkpoint = trained()
    copy = HostCopy()
    first, second = copy.take(checkpoint(1)), copy.take(checkpoint(2))
    for a, b in (
        (first.model["0.weight"], second.model["0.weight"]),
        (first.optimizer["state"][0]["momentum_buffer"],
         second.optimizer["state"][0]["momentum_buffer"]),
    ):  # fmt: skip
        assert a.data_ptr() == b.data_ptr()
    assert second.model["0.weight"].stride() == checkpoint(2).model["0.weight"].stride()
    assert second.model["0.weight"].data_ptr() != checkpoint(2).model["0.weight"].data_ptr()
    larger = replace(checkpoint(3), model={"0.weight": torch.ones(9, 3, 3, 3)})
    assert copy.take(larger).model["0.weight"].tolist() == torch.ones(9, 3, 3, 3).tolist()


def test_buffers_are_not_used_before_they_are_written(
    saver: CheckpointSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, order = threading.Event(), []
    take, wait = HostCopy.take, CheckpointSaver.wait

    def taking(self: HostCopy, checkpoint: Checkpoint) -> Checkpoint:
        order.append(f"take {checkpoint.epoch}")
        return take(self, checkpoint)

    def waiting(self: CheckpointSaver) -> None:
        if self.busy:
            asked.set()
        wait(self)

    def write(path: Path, checkpoint: Checkpoint, before: object = None) -> None:
        assert asked.wait(60)
        order.append(f"write {checkpoint.epoch}")
        assert checkpoint.model["a"].tolist() == [checkpoint.epoch] * 3

    monkeypatch.setattr(HostCopy, "take", taking)
    monkeypatch.setattr(CheckpointSaver, "wait", waiting)
    monkeypatch.setattr("fastft.runs.checkpoint_writer.save_checkpoint", write)
    saver.save(small(1))
    assert saver.busy
    saver.save(small(2))  # the first writing ends only when this waits for it
    saver.close()
    assert not saver.busy
    assert order == ["take 1", "write 1", "take 2", "write 2"]


def test_before_is_called_after_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace_ = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (calls.append(f"replace {Path(b).name}"), replace_(a, b))
    )
    saver = CheckpointSaver(tmp_path, before=lambda: calls.append("before"))
    saver.save(small(1))
    saver.save(small(2))
    saver.close()
    before_last = ["fsync", "before", "fsync", "replace last.pt", "fsync"]
    assert calls[:5] == before_last
    assert calls[5:] == [*before_last[:2], "replace previous.pt", *before_last[2:]]


def test_what_is_its_own_previous_leaves_no_link(saver: CheckpointSaver, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", small(1))
    os.link(tmp_path / "last.pt", tmp_path / "previous.pt")  # killed in between
    saver.save(small(2))
    saver.close()
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]
    assert load_checkpoint(tmp_path / "previous.pt").epoch == 1


# --- errors ------------------------------------------------------------------------------------


def test_a_full_disk_is_said_once(
    saver: CheckpointSaver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver.save(small(1))
    saver.save(small(2))
    saver.wait()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        saver.save(small(3))
        with pytest.raises(DataError, match=r"last\.pt: cannot be written: .*No space left"):
            saver.wait()
        saver.wait()
        saver.save(small(4))
        with pytest.raises(DataError, match="No space left"):
            saver.save(small(5))
        saver.save(small(6), best=True)
        with pytest.raises(DataError, match=r"best\.pt: cannot be written"):
            saver.close()
        saver.close()
    assert load_last(tmp_path)[0].epoch == 2
    assert load_checkpoint(tmp_path / "previous.pt").epoch == 1
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]


def test_own_errors_surface_without_hanging(tmp_path: Path) -> None:
    def fails() -> None:
        raise KeyError("metrics")

    saver = CheckpointSaver(tmp_path, before=fails)
    saver.save(small(1))
    with pytest.raises(KeyError, match="metrics"):
        saver.close()
    saver.close()
    assert os.listdir(tmp_path) == []
    assert not [each for each in threading.enumerate() if each.name.startswith("checkpoint")]


def test_unreadable_values_are_not_written(saver: CheckpointSaver) -> None:
    group = {"param_groups": [{"lr": np.float64(0.1)}]}
    with pytest.raises(TypeError, match=r"optimizer\.param_groups\.0\.lr: a float64"):
        saver.save(replace(small(1), optimizer=group))


@pytest.mark.gpu
def test_the_gpu_is_not_waited_for(tmp_path: Path) -> None:
    tensor, much = torch.zeros(1 << 20, device="cuda"), torch.ones(8192, 8192, device="cuda")
    saver = CheckpointSaver(tmp_path)
    for epoch in (1, 2):
        tensor.fill_(epoch)
        for _ in range(20):
            much @ much
        torch.cuda.set_sync_debug_mode("error")
        try:
            saver.save(replace(small(epoch), model={"a": tensor, "b": tensor[:7]}))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        tensor.zero_()
        saver.wait()
        loaded = load_checkpoint(tmp_path / "last.pt").model
        assert (loaded["a"] == epoch).all()
        assert loaded["b"].data_ptr() == loaded["a"].data_ptr()
    saver.close()
