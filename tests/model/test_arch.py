"""Other architectures: heads, weights with other heads, frozen parts, reused rows."""

import copy
from pathlib import Path

import pytest
import torch
from effort import rest
from torch import nn
from torchvision import models

from fastft.model.built import BuiltModel
from fastft.model.classifier import build_model, restore_model
from fastft.model.freezing import freeze, set_training, stages
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipelines.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("shallow_transformers")
CLASSES = ("ants", "bees", "hotdog")
# name -> its output layer, the names of its first and last parts, how many there are
ARCHS = {
    "resnet18": ("fc", "layer1", "layer4", 4),
    "squeezenet1_1": ("classifier.1", "features.3", "features.12", 8),
    "mobilenet_v3_small": ("classifier.3", "features.0", "classifier.0", 14),
    "efficientnet_b0": ("classifier.1", "features.0", "features.8", 9),
    "vit_b_16": ("heads.head", "encoder_layer_0", "encoder_layer_1", 2),
}


def source_state(arch: str) -> dict[str, torch.Tensor]:
    """A model of 1,000 classes, with no more numbers to draw than its head has."""
    with torch.device("meta"):
        shapes = models.get_model(arch, weights=None).state_dict()
    return {
        name: torch.arange(tensor.numel(), dtype=torch.float32).reshape(tensor.shape) / 1e3
        if tensor.numel() <= 1000 * 1280 and tensor.shape[:1] == (1000,)
        else torch.full(tensor.shape, 0.01).to(tensor.dtype)
        for name, tensor in shapes.items()
    }


#: A small one whose output layer is a ResNet's.
SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arch") / "small.pth"
    torch.save(source_state(SMALL), path)
    return path


@pytest.mark.parametrize(
    "arch",
    ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "vit_b_16", *rest("efficientnet_b0")],
)
def test_every_arch_gets_the_right_head(arch: str, tmp_path: Path) -> None:
    name, first, last, count = ARCHS[arch]
    state = source_state(arch)
    torch.save(state, tmp_path / "w.pth")
    size = 224 if arch == "vit_b_16" else 64
    built = build_model(CLASSES, str(tmp_path / "w.pth"), arch=arch, size=size)
    assert built.model.get_submodule(name) is built.head
    with torch.inference_mode():
        assert built.model.eval()(torch.zeros(2, 3, size, size)).shape == (2, 3)
    # All but the head is the source's, and what was not taken is said.
    own = built.model.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own if not key.startswith(f"{name}."))
    assert built.left_out == tuple(
        f"{name}.{part} {list(state[f'{name}.{part}'].shape)}" for part in ("weight", "bias")
    )
    parts = [part for part, _ in stages(built)]
    assert (parts[0], parts[-1], len(parts)) == (first, last, count)


@pytest.mark.parametrize("arch", ["inception_v3", *rest("densenet121", "googlenet", "alexnet")])
def test_archs_with_peculiarities(arch: str) -> None:
    size = 96 if arch == "inception_v3" else 64
    built = build_model(2, "none", arch=arch, size=size)
    with torch.inference_mode():
        assert built.model.eval()(torch.zeros(1, 3, size, size)).shape == (1, 2)
    assert stages(built)


def test_a_transformer_takes_other_sizes_with_its_weights(tmp_path: Path) -> None:
    torch.save(source_state("vit_b_16"), tmp_path / "w.pth")
    built = build_model(2, str(tmp_path / "w.pth"), arch="vit_b_16", size=64)
    assert built.model.encoder.pos_embedding.shape == (1, 17, 768)  # type: ignore[union-attr]


def test_wrong_archs_and_sizes_are_refused(small_file: Path) -> None:
    with pytest.raises(UsageError, match="--arch: 'resnet9', expected a classification model"):
        build_model(2, "none", arch="resnet9")
    with pytest.raises(UsageError, match="--size: 64 px, which a inception_v3 cannot take"):
        build_model(2, "none", arch="inception_v3", size=64)
    with pytest.raises(UsageError, match="--size: 100 px with --arch vit_b_16"):
        build_model(2, "none", arch="vit_b_16", size=100)
    with pytest.raises(DataError) as caught:
        build_model(2, str(small_file), arch="squeezenet1_1")
    # Every layer that does not match is counted, the first ones by name.
    assert "has no features.0.weight; no features.0.bias" in str(caught.value)
    assert "more, expected the tensors of a squeezenet1_1" in str(caught.value)


def a_checkpoint(path: Path, arch: str = "squeezenet1_1") -> Path:
    built = build_model(CLASSES, "none", arch=arch, size=64, seed=5)
    save_checkpoint(
        path,
        Checkpoint(
            model=built.model.state_dict(),
            arch=arch,
            classes=CLASSES,
            size=64,
            view="eval",
            epoch=1,
            accuracy=0.5,
            optimizer={},
            scaler={},
            config={},
        ),
    )
    return path


def test_a_checkpoint_says_what_it_is_of(tmp_path: Path) -> None:
    path = a_checkpoint(tmp_path / "best.safetensors")
    for weights in (path, tmp_path):  # a run folder stands for its best.safetensors
        built = build_model(2, str(weights), size=64)
        assert built.arch == "squeezenet1_1"
    with pytest.raises(DataError, match=r"is of a squeezenet1_1, expected a resnet18; pass --arch"):
        build_model(2, str(path), arch="resnet18", size=64)
    model = restore_model(load_checkpoint(path), path)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty/best\.safetensors: no such file"):
        build_model(2, str(tmp_path / "empty"))


def test_a_state_dict_in_anothers_wrapping_is_found(small_file: Path, tmp_path: Path) -> None:
    state = torch.load(small_file, weights_only=True)
    torch.save(
        {"state_dict": {f"module.{name}": t for name, t in state.items()}}, tmp_path / "ddp.pth"
    )
    assert build_model(2, str(tmp_path / "ddp.pth"), arch=SMALL, size=64).pretrained


def test_a_class_begins_as_the_sources_own(small_file: Path) -> None:
    state = torch.load(small_file, weights_only=True)
    options = {"arch": SMALL, "size": 64, "reuse_head": ["hotdog=934"]}
    built = build_model(CLASSES, str(small_file), **options)  # type: ignore[arg-type]
    assert isinstance(built.head, nn.Linear)
    assert torch.equal(built.head.weight[2], state["fc.weight"][934])
    assert built.head.bias[2] == state["fc.bias"][934]
    assert not torch.equal(built.head.weight[0], state["fc.weight"][0])
    assert built.reused == {"hotdog": 934}


def test_a_class_begins_as_a_checkpoints_by_name(tmp_path: Path) -> None:
    path = a_checkpoint(tmp_path / "c.safetensors")
    source = load_checkpoint(path).model
    built = build_model(("x", "y"), str(path), size=64, reuse_head=["y=bees", "x=0"])
    assert isinstance(built.head, nn.Conv2d)
    assert torch.equal(built.head.weight[1], source["classifier.1.weight"][1])
    assert torch.equal(built.head.weight[0], source["classifier.1.weight"][0])
    assert built.reused == {"y": 1, "x": 0}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("hotdog=1000", "'hotdog=1000', a row that .* does not have, expected 0 to 999"),
        ("hotdog=-1", "'hotdog=-1', a row"),
        ("hotdog=dog", "'hotdog=dog', a row"),
        ("cat=3", "'cat=3', whose class is not there, expected of ants, bees, hotdog"),
        ("hotdog", "'hotdog', whose class is not there"),
    ],
)
def test_rows_that_are_not_there(asked: str, message: str, small_file: Path) -> None:
    with pytest.raises(UsageError, match=f"--reuse-head: {message}"):
        build_model(CLASSES, str(small_file), arch=SMALL, size=64, reuse_head=[asked])


@pytest.fixture(scope="module")
def unchanged() -> BuiltModel:
    return build_model(2, "none", size=64)


@pytest.fixture
def resnet(unchanged: BuiltModel) -> BuiltModel:
    return copy.deepcopy(unchanged)


def test_frozen_backbone_keeps_weights_and_statistics(resnet: BuiltModel) -> None:
    frozen = freeze(resnet, "backbone")
    learning = {name for name, p in resnet.model.named_parameters() if p.requires_grad}
    assert learning == {"fc.weight", "fc.bias"}
    set_training(resnet.model, frozen)
    norms = [m for m in resnet.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    before = {k: v.clone() for k, v in resnet.model.state_dict().items()}
    resnet.model(torch.randn(4, 3, 64, 64)).sum().backward()
    torch.optim.SGD(resnet.model.parameters(), lr=1.0, weight_decay=0.1).step()
    changed = {k for k, v in resnet.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}


def test_stages_count_from_the_input(resnet: BuiltModel) -> None:
    frozen = freeze(resnet, "stages:2")
    held = {
        name.split(".")[0] for name, p in resnet.model.named_parameters() if not p.requires_grad
    }
    assert held == {"conv1", "bn1", "layer1", "layer2"}
    set_training(resnet.model, frozen)
    assert not resnet.model.bn1.training  # type: ignore[union-attr]
    assert resnet.model.layer3.training  # type: ignore[union-attr]


def test_stages_of_a_transformer_hold_its_positions() -> None:
    built = build_model(2, "none", arch="vit_b_16", size=32 * 2)
    freeze(built, "stages:1")
    held = {name for name, p in built.model.named_parameters() if not p.requires_grad}
    assert {"class_token", "encoder.pos_embedding", "conv_proj.weight"} <= held
    assert not any("layer_1." in name for name in held)


@pytest.mark.parametrize("asked", ["all", "stages", "stages:", "stages:0", "stages:5", "stages:-1"])
def test_what_cannot_be_frozen(asked: str, unchanged: BuiltModel) -> None:
    with pytest.raises(UsageError, match="--freeze: "):
        freeze(unchanged, asked)
    assert all(p.requires_grad for p in unchanged.model.parameters())
