"""Parameter groups, held against timm's own."""

from typing import Any

import pytest
from torch import nn

from fastft.model.built import BuiltModel
from fastft.model.classifier import build_model
from fastft.model.groups import find_treatment, make_groups
from fastft.model.optim import make_optimizer, pack_optimizer, set_learning_rate
from pipelines.errors import UsageError

LR, WEIGHT_DECAY = 0.1, 0.05


def build(arch: str) -> BuiltModel:
    if arch.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed")
    return build_model(3, "none", arch=arch, size=64)


def optimize(built: BuiltModel, head_lr_factor: float = 1.0, **options: Any) -> Any:
    asked = {"layer_decay": 1.0, "decay": "auto", **options}
    return make_optimizer(
        built.model,
        built.head,
        optimizer="adamw",
        lr=LR,
        head_lr_factor=head_lr_factor,
        momentum=0.9,
        weight_decay=WEIGHT_DECAY,
        treatment=find_treatment(built, **asked),
    )


def told(groups: Any, model: nn.Module, **usual: float) -> dict[str, tuple[float, float]]:
    """Share of the learning rate and decay of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (
            pytest.approx(group.get("lr_scale", group.get("peak_lr", LR) / LR)),
            group.get("weight_decay", usual.get("decay")),
        )
        for group in groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
@pytest.mark.parametrize(
    "arch", ["test_vit", "test_vit4", "test_convnext", "test_efficientnet", "test_resnet"]
)
def test_groups_treat_parameters_as_timms_do(arch: str, layer_decay: float) -> None:
    from timm.optim import param_groups_layer_decay

    built = build(f"timm:{arch}")
    optimizer = optimize(built, layer_decay=layer_decay)
    spared = getattr(built.model, "no_weight_decay", tuple)()
    wanted = param_groups_layer_decay(
        built.model, WEIGHT_DECAY, no_weight_decay_list=spared, layer_decay=layer_decay
    )
    assert told(optimizer.param_groups, built.model) == told(wanted, built.model)
    held = [id(each) for group in optimizer.param_groups for each in group["params"]]
    assert sorted(held) == sorted(map(id, built.model.parameters()))


def test_groups_are_tens_not_hundreds() -> None:
    """Of as many parameters as two for each layer and decay; each has a place of its own."""
    built = build("timm:vit_tiny_patch16_224")
    optimizer = optimize(built, layer_decay=0.75, head_lr_factor=10)
    assert len(optimizer.param_groups) == 2 * (12 + 1) + 2
    assert len(optimize(built).param_groups) == 4
    rates = [group["peak_lr"] for group in optimizer.param_groups]
    assert rates[-2:] == [1.0, 1.0]
    assert rates[:-2] == sorted(rates[:-2], reverse=True)


def test_the_rate_that_is_told_is_the_bodys() -> None:
    """The others follow it."""
    optimizer = optimize(build("timm:test_vit"), layer_decay=0.5, head_lr_factor=3)
    assert set_learning_rate(optimizer, "cosine", 0, 100) == pytest.approx(LR / 10)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert (rates[0], rates[-1]) == (pytest.approx(LR / 20), pytest.approx(3 * LR / 10))


def test_torchvisions_layers_are_its_stages() -> None:
    built = build("resnet18")
    found = told(optimize(built, layer_decay=0.5, decay="matrices").param_groups, built.model)
    assert found["fc.weight"] == (1, WEIGHT_DECAY)
    assert found["fc.bias"] == (1, 0)
    assert found["layer4.1.conv2.weight"] == (0.5, WEIGHT_DECAY)
    assert found["layer1.0.bn1.weight"] == (0.5**4, 0)
    assert found["conv1.weight"] == (0.5**4, WEIGHT_DECAY)


@pytest.mark.usefixtures("shallow_transformers")
def test_positions_are_at_the_input_and_spared() -> None:
    built = build("vit_b_16")
    found = told(optimize(built, layer_decay=0.5, decay="matrices").param_groups, built.model)
    assert found["class_token"] == found["encoder.pos_embedding"] == (0.25, 0)
    assert found["conv_proj.weight"] == (0.25, WEIGHT_DECAY)


def test_torchvisions_networks_have_two_groups() -> None:
    """In the order that states of earlier runs have."""
    built = build("squeezenet1_1")
    body, head = make_groups(built.model, built.head, lr=LR, head_lr_factor=1.0)
    last = set(map(id, built.head.parameters()))
    assert [id(p) for p in body["params"]] == [
        id(p) for p in built.model.parameters() if id(p) not in last
    ]
    assert set(map(id, head["params"])) == last
    assert body.keys() == {"params", "lr", "peak_lr"}
    assert len(optimize(built).param_groups) == 2


def test_states_are_packed_by_the_groups_order() -> None:
    built = build("timm:test_vit")
    optimizer = optimize(built, layer_decay=0.75)
    for parameter in built.model.parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    packed = pack_optimizer(optimizer)
    flat = [each for group in optimizer.param_groups for each in group["params"]]
    assert len(packed) == 3 * len(flat)
    assert all(packed[f"{i}/exp_avg"].shape == each.shape for i, each in enumerate(flat))


def test_layers_that_are_unknown_are_refused() -> None:
    built = build("timm:caformer_s18")
    with pytest.raises(UsageError, match="--layer-decay: given with timm:caformer_s18"):
        optimize(built, layer_decay=0.75)
    assert len(optimize(built).param_groups) == 4
