import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from old_checkpoints import content_of, save_old
from torchvision.models import ResNet18_Weights, shufflenet_v2_x0_5

from fastft.model.classifier import build_model, restore_model
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipelines.errors import DataError, FormatError

#: A twentieth of the default's numbers.
ARCH = "shufflenet_v2_x0_5"


def checkpoint(classes: int = 3) -> Checkpoint:
    model = build_model(classes, "none", arch=ARCH).model
    return Checkpoint(
        model=model.state_dict(),
        arch=ARCH,
        classes=tuple("abcdefgh"[:classes]),
        size=64,
        view="eval",
        epoch=2,
        accuracy=0.5,
        optimizer={},
        scaler={},
        config={"lr": 0.1},
    )


def test_what_is_drawn_comes_from_the_seed(tmp_path: Path) -> None:
    a, b, c = (
        build_model(5, "none", arch=ARCH, seed=seed).model.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["fc.weight"], c["fc.weight"])
    bound = (1 / 1024) ** 0.5  # as torch draws a linear layer
    assert 0.99 * bound < a["fc.weight"].abs().max() <= bound
    save_checkpoint(tmp_path / "c.safetensors", checkpoint())
    tuned = build_model(5, str(tmp_path / "c.safetensors")).model.state_dict()
    bound = (6 / (1024 + 5)) ** 0.5  # Xavier-uniform, as the tutorial has it on weights
    assert 0.98 * bound < tuned["fc.weight"].abs().max() <= bound


def test_model_is_channels_last() -> None:
    built = build_model(2, "none")
    assert built.model.conv1.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator,union-attr]
    assert not built.pretrained


def test_our_checkpoint_gives_its_body(tmp_path: Path) -> None:
    saved = checkpoint()
    save_checkpoint(tmp_path / "c.safetensors", saved)
    built = build_model(3, str(tmp_path / "c.safetensors"), seed=7)
    state = built.model.state_dict()
    assert torch.equal(state["conv1.0.weight"], saved.model["conv1.0.weight"])
    assert not torch.equal(state["fc.weight"], saved.model["fc.weight"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    state = shufflenet_v2_x0_5().state_dict()
    path = tmp_path / "w.pth"
    for name, value, message in [
        ("conv1.0.weight", torch.zeros(24, 1, 3, 3), "conv1.0.weight of shape"),
        ("layer9.weight", torch.zeros(1), "an additional layer9.weight"),
        ("layer9", 3, "holds no tensors by name"),
        ("conv5.1.bias", torch.zeros(3), r"shape \[3\] instead of \[1024\]"),
    ]:
        torch.save({**state, name: value}, path)
        with pytest.raises(DataError, match=message):
            build_model(2, str(path), arch=ARCH)
    torch.save({k: v for k, v in state.items() if k != "conv1.1.bias"}, path)
    with pytest.raises(DataError, match=r"has no conv1\.1\.bias"):
        build_model(2, str(path), arch=ARCH)


def test_no_network_is_one_line_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("fastft.model.weights.urlopen", offline)
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(DataError, match="--weights imagenet: cannot download resnet18") as caught:
        build_model(2, "imagenet")
    assert "no route to host" in str(caught.value)
    assert "--weights PATH" in str(caught.value)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    saved = checkpoint()
    save_checkpoint(tmp_path / "c.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.classes == ("a", "b", "c")
    assert (loaded.epoch, loaded.config) == (2, {"lr": 0.1})
    model = restore_model(loaded, tmp_path / "c.safetensors")
    assert not model.training
    assert all(torch.equal(saved.model[k], v) for k, v in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('pwned', 'w')",)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.safetensors"
    with pytest.raises(DataError, match="no such file"):
        load_checkpoint(path)
    for content in (b"", b"text", b"PK\x03\x04junk"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="not readable as a checkpoint"):
            load_checkpoint(path)
    torch.save({"format": "fastft-checkpoint", "version": 1, "evil": Evil()}, path)
    with pytest.raises(FormatError, match="not readable as a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "pwned").exists()
    torch.save([1, 2], path)
    with pytest.raises(FormatError, match="a list instead of a state dict"):
        load_checkpoint(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(FormatError, match="no fastft checkpoint"):
        load_checkpoint(path)
    save_old(path, {**content_of(checkpoint()), "version": 9})
    with pytest.raises(FormatError, match="a checkpoint of version 9"):
        load_checkpoint(path)


def test_a_failed_write_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, checkpoint())
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match="No space left"):
        save_checkpoint(path, checkpoint(2))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]
