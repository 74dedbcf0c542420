import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_off import small
from old_checkpoints import age
from safetensors.torch import load_file
from torch import nn

from fastft.model.optim import make_optimizer, pack_optimizer, unpack_optimizer
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, load_last, save_checkpoint
from fastft.runs.checkpoint_writer import CheckpointSaver, HostCopy
from fastft.runs.folder import BEST, LAST, PREVIOUS
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
        model,
        model[3],
        optimizer=optimizer,  # type: ignore[arg-type]
        lr=0.1,
        head_lr_factor=1,
        momentum=0.9,
        weight_decay=0.1,
    )
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    rule.step()

    def checkpoint(epoch: int) -> Checkpoint:
        state = model.state_dict()
        average = {**model.state_dict(), "tied": state["3.weight"][1:], "none": torch.empty(0)}
        return replace(
            small(epoch),
            model=state,
            optimizer=pack_optimizer(rule),
            ema=average,
            config={"list": [1, None, "x"], "pair": (1, 2.5), "map": {"deep": [True]}},
        )

    return model, rule, checkpoint


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_checkpoints_hold_the_state_when_saved(
    optimizer: str, saver: CheckpointSaver, tmp_path: Path
) -> None:
    model, rule, checkpoint = trained(optimizer)
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path / "wanted.safetensors", checkpoint(epoch))
        saver.save(checkpoint(epoch))
        rule.step()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.zero_()
        saver.wait()
        assert (tmp_path / "last.safetensors").read_bytes() == (
            tmp_path / "wanted.safetensors"
        ).read_bytes()


def test_best_is_to_be_used_not_continued(saver: CheckpointSaver, tmp_path: Path) -> None:
    saver.save(small(1), best=True)
    saver.save(small(2))
    saver.close()
    best, last = (
        load_checkpoint(tmp_path / name) for name in ("best.safetensors", "last.safetensors")
    )
    assert (best.epoch, best.optimizer, best.scaler, best.progress) == (1, {}, {}, None)
    assert best.model["a"].tolist() == [1, 1, 1]
    assert (last.epoch, last.scaler, last.progress) == (2, {"scale": 2.0}, {"step": 2})
    assert load_checkpoint(tmp_path / "previous.safetensors").epoch == 1
    assert sorted(os.listdir(tmp_path)) == [
        "best.safetensors",
        "last.safetensors",
        "previous.safetensors",
    ]


def test_best_holds_the_weights_that_were_evaluated(saver: CheckpointSaver, tmp_path: Path) -> None:
    saver.save(replace(small(1), ema={"a": torch.zeros(3)}), best=True)
    saver.close()
    assert {name: each.tolist() for name, each in load_file(tmp_path / BEST).items()} == {
        "a": [0, 0, 0]
    }
    best, last = (load_checkpoint(tmp_path / name) for name in (BEST, LAST))
    assert best.ema is None
    assert last.ema is not None
    assert (last.ema["a"].tolist(), last.model["a"].tolist()) == ([0, 0, 0], [1, 1, 1])


def test_a_resumed_optimizer_is_as_fast(saver: CheckpointSaver, tmp_path: Path) -> None:
    """A file's tensors are contiguous; a step on momentum in another order than weights is slow."""
    model, rule, checkpoint = trained()
    saver.save(checkpoint(1))
    saver.close()
    _, again, _ = trained()
    again.state.clear()
    loaded = load_checkpoint(tmp_path / LAST)
    assert loaded.optimizer["0/momentum_buffer"].is_contiguous()
    unpack_optimizer(again, loaded.optimizer)
    for mine, theirs in zip(again.param_groups[0]["params"], model.parameters(), strict=False):
        found, wanted = again.state[mine]["momentum_buffer"], rule.state[theirs]["momentum_buffer"]
        assert torch.equal(found, wanted)
        assert found.stride() == wanted.stride() == theirs.stride()
        assert found.data_ptr() != wanted.data_ptr()


def test_buffers_are_used_again() -> None:
    _, _, checkpoint = trained()
    copy = HostCopy()
    first, second = copy.take(checkpoint(1)), copy.take(checkpoint(2))
    for a, b in (
        (first.model["0.weight"], second.model["0.weight"]),
        (first.optimizer["0/momentum_buffer"], second.optimizer["0/momentum_buffer"]),
    ):
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
    before_last = ["fsync", "before", "fsync", "replace last.safetensors", "fsync"]
    assert calls[:5] == before_last
    assert calls[5:] == [*before_last[:2], "replace previous.safetensors", *before_last[2:]]


def test_what_is_its_own_previous_leaves_no_link(saver: CheckpointSaver, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.safetensors", small(1))
    os.link(tmp_path / "last.safetensors", tmp_path / "previous.safetensors")  # killed in between
    saver.save(small(2))
    saver.close()
    assert sorted(os.listdir(tmp_path)) == ["last.safetensors", "previous.safetensors"]
    assert load_checkpoint(tmp_path / "previous.safetensors").epoch == 1


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
        with pytest.raises(
            DataError, match=r"last\.safetensors: cannot be written: .*No space left"
        ):
            saver.wait()
        saver.wait()
        saver.save(small(4))
        with pytest.raises(DataError, match="No space left"):
            saver.save(small(5))
        saver.save(small(6), best=True)
        with pytest.raises(DataError, match=r"best\.safetensors: cannot be written"):
            saver.close()
        saver.close()
    assert load_last(tmp_path)[0].epoch == 2
    assert load_checkpoint(tmp_path / "previous.safetensors").epoch == 1
    assert sorted(os.listdir(tmp_path)) == ["last.safetensors", "previous.safetensors"]


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


def test_values_that_are_no_json_are_not_written(saver: CheckpointSaver, tmp_path: Path) -> None:
    saver.save(replace(small(1), config={"lr": object()}))
    with pytest.raises(TypeError, match="object is not JSON serializable"):
        saver.wait()
    assert os.listdir(tmp_path) == []


def test_what_an_earlier_version_left_is_replaced(saver: CheckpointSaver, tmp_path: Path) -> None:
    for name, epoch in ((BEST, 1), (LAST, 2), (PREVIOUS, 1)):
        save_checkpoint(tmp_path / name, small(epoch))
    age(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt", "previous.pt"]
    saver.save(small(3))
    saver.wait()
    assert sorted(os.listdir(tmp_path)) == ["best.pt", LAST]
    saver.save(small(4), best=True)
    saver.wait()
    assert sorted(os.listdir(tmp_path)) == [BEST, LAST, PREVIOUS]
    assert [load_checkpoint(tmp_path / name).epoch for name in (BEST, LAST, PREVIOUS)] == [4, 4, 3]


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
            saver.save(replace(small(epoch), model={"a": tensor}))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        tensor.zero_()
        saver.wait()
        assert (load_checkpoint(tmp_path / "last.safetensors").model["a"] == epoch).all()
    saver.close()
