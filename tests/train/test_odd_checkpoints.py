"""Checkpoints that are sealed and whole, with states that no run can go on from: each is refused by
one line that names the file, before anything is loaded, computed or overwritten."""

import copy
import io
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import odd_states
import pytest
import torch
from effort import choose
from odd_states import Armed, Change, Trained, content_of, drop, go_on, put, write, write_old
from rich.console import Console

from fastft.config.train import TrainConfig
from fastft.model.weights import load_weights
from fastft.runs.checkpoint import load_checkpoint, load_last
from fastft.runs.sound import find_odd_tensor
from fastft.train.resume import note_changes
from fastft.train.run import train
from pipelines.errors import DataError

Command = Callable[..., tuple[int, str, str]]
REFUSED = "odd states of checkpoints refused"
QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("shallow")


def changed(kind: str, change: Change, amp: str = "off") -> dict[str, Any]:
    content = copy.deepcopy(content_of(kind, amp))
    change(content)
    return content


@pytest.mark.parametrize("save", [write, write_old])
@pytest.mark.parametrize(
    ("kind", "amp"), [("sgd", "off"), ("adamw", "off"), ("sgd", "fp16"), ("adamw", "fp16")]
)
def test_what_a_run_leaves_is_gone_on_with(
    kind: str, amp: str, save: Callable[..., Path], tmp_path: Path
) -> None:
    never_stopped = Trained(kind, amp)
    never_stopped.learn()
    wanted = never_stopped.content()
    save(tmp_path, content_of(kind, amp))
    found = go_on(tmp_path, kind, amp).content()
    for part in ("model", "optimizer", "scaler", "ema"):
        assert str(found[part]) == str(wanted[part]), part
    # In another precision than before, all but the scale is gone on with.
    save(tmp_path, content_of(kind, "off" if amp == "fp16" else "fp16"))
    found = go_on(tmp_path, kind, amp).content()
    for part in ("model", "optimizer", "ema"):
        assert str(found[part]) == str(wanted[part]), part


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_settings_of_the_optimizer_are_not_read(kind: str, tmp_path: Path) -> None:
    """They are made anew from the run's own."""
    never_stopped = Trained(kind)
    never_stopped.learn()
    content = copy.deepcopy(content_of(kind))
    content["optimizer"]["param_groups"] = odd_states.nest(9)
    write_old(tmp_path, content)
    found, wanted = go_on(tmp_path, kind).content(), never_stopped.content()
    for part in ("model", "optimizer"):
        assert str(found[part]) == str(wanted[part])


@pytest.mark.parametrize("kind", ["sgd", "adamw", "fp16"])
def test_odd_states_are_refused(kind: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    amp, optimizer = ("fp16", "sgd") if kind == "fp16" else ("off", kind)
    table = odd_states.ODD_SCALERS if kind == "fp16" else odd_states.ODD[kind]
    impossible = set[int]()
    for save in (write, write_old):
        for number, (change, said) in enumerate(table):
            # In an ordinary run an earlier version's file has what no other can have.
            if save is write_old and number not in impossible and choose(True, False):
                continue
            try:
                path = save(tmp_path / save.__name__ / str(number), changed(optimizer, change, amp))
            except (TypeError, AttributeError, KeyError, ValueError):
                assert save is write
                impossible.add(number)
                continue
            with pytest.raises(DataError) as caught:
                go_on(path.parent, optimizer, amp)
            message = str(caught.value)
            # Of one that cannot be read the folder is named, as there is none before it either.
            assert message.startswith(str(path.parent)), (number, said, message)
            assert f"{path.name}: " in message, (number, said, message)
            assert said in message, (number, said, message)
            assert len(message.splitlines()) == 1, message
            assert len(message) < 1500, message
    # What JSON and safetensors have no words for.
    assert len(impossible) == {"sgd": 19, "adamw": 1, "fp16": 0}[kind]
    tried(REFUSED, choose(len(table), 2 * len(table) - len(impossible)))


def test_hostile_dictionaries_are_only_tensors(tmp_path: Path) -> None:
    content = content_of("sgd")
    write_old(tmp_path, {**content, "model": Armed(content["model"]), "ema": Armed(content["ema"])})
    go_on(tmp_path, "sgd")
    torch.save(Armed({"format": "fastft-checkpoint"}), tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"w\.pt: holds a NoneType for 'model'"):
        load_checkpoint(tmp_path / "w.pt")
    torch.save({"state_dict": Armed({"a": torch.zeros(1)})}, tmp_path / "w.pt")
    found = load_weights(str(tmp_path / "w.pt"), "resnet18")
    assert found is not None
    assert [*found.state] == ["a"]


def test_a_version_may_be_anything_and_is_none(tmp_path: Path) -> None:
    for version in (True, 3, None, [1], "1", 1.0):
        path = write_old(tmp_path, {**content_of("sgd"), "version": version})
        with pytest.raises(DataError, match="holds a checkpoint of version"):
            load_checkpoint(path)


def test_no_tensor_stands_for_more_than_is_stored() -> None:
    one, few = torch.ones(100), torch.zeros(1)
    assert find_odd_tensor({"a": one, "b": one, "c": one[3:], "d": one.view(10, 10).T}) == ""
    wide = {"a": one, "b": few.expand(9)}
    assert find_odd_tensor(wide) == "a tensor larger than what is stored of it at 'b'"
    many = {f"{number}": one for number in range(5)}
    assert find_odd_tensor(many) == "a tensor larger than what is stored of it at '4'"


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    write_old(tmp_path, content_of("sgd")).rename(tmp_path / "previous.pt")
    # A record's name is shown, and may hold anything.
    with zipfile.ZipFile(tmp_path / "last.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a\n\x1b[31m", bytes(9))
    _, path, remark = load_last(tmp_path)
    assert path.name == "previous.pt"
    assert "31m is compressed" in remark
    assert remark.isprintable()
    box = io.StringIO()
    note_changes({"gpu": "a\n\x1b[31m"}, {"gpu": None}, Console(file=box, width=400))
    assert box.getvalue().strip().isprintable()


# Whole commands.


def config_of(data: Path, out: Path, **options: Any) -> TrainConfig:
    usual = {
        "weights": "none",
        "size": 40,
        "batch_size": 10,
        "epochs": 1,
        "amp": "off",
        "workers": 1,
        "loader": "resident",
        "arch": "shufflenet_v2_x0_5",
        "ema": 0.5,
        "optimizer": "adamw",
    }
    return TrainConfig(data=data, out=out, **{**usual, **options})


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch; as if another was left to do."""
    out = tmp_path_factory.mktemp("begun") / "run"
    train(config_of(data, out), QUIET)
    content = parts_of(out / "last.safetensors")
    content["config"]["epochs"], content["progress"]["is_done"] = 2, False
    for name in ("curves.png", "summary.json", "best.safetensors"):
        (out / name).unlink()
    write(out, content)
    return out


def parts_of(path: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(path)
    return {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("optimizer", "5/exp_avg"), "wrong 'optimizer': no 5/exp_avg"),
        (put(torch.zeros(7), "ema", "fc.bias"), "fc.bias of shape [7]"),
        (put("nope", "arch"), "is of a 'nope', expected a classification model"),
        (put(3, "progress", "consumed"), "consumed is 3 after 0 steps"),
        (put("x", "config", "lr"), "lr: 'x', expected a number"),
    ],
    ids=["optimizer", "ema", "arch", "progress", "config"],
)
def test_a_run_is_not_gone_on_with(
    change: Change,
    said: str,
    begun: Path,
    tmp_path: Path,
    fastft: Command,
    tried: Callable[..., None],
) -> None:
    content = copy.deepcopy(parts_of(begun / "last.safetensors"))
    change(content)
    run = tmp_path / "run"
    for file in begun.iterdir():
        run.mkdir(exist_ok=True)
        (run / file.name).write_bytes(file.read_bytes())
    write(run, content)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    status, out, err = fastft("train", "--resume", run)
    assert (status, err.count("\n")) == (1, 1), err
    assert err.startswith(f"{run}/last.safetensors: ")
    assert said in err
    assert "epoch 2" not in out
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    tried(REFUSED)


def test_a_run_may_switch_to_float16(begun: Path, tmp_path: Path, fastft: Command) -> None:
    """As on another machine: its checkpoint knows of no scale."""
    content = copy.deepcopy(parts_of(begun / "last.safetensors"))
    content["config"]["amp"] = "fp16"
    write(tmp_path, content)
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((begun / name).read_bytes())
    status, _, err = fastft("train", "--resume", tmp_path)
    assert (status, err) == (0, "")
    assert load_checkpoint(tmp_path / "last.safetensors").scaler["growth_interval"] == 2000
