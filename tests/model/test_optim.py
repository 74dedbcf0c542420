import pytest
import torch
from torch import nn

from fastft.model.classifier import build_model
from fastft.model.optim import (
    WeightAverage,
    cosine_share,
    make_optimizer,
    peak_lr,
    set_learning_rate,
)


def test_the_output_layer_learns_faster() -> None:
    built = build_model(2, "none")
    model = built.model
    optimizer = make_optimizer(
        model, built.head, lr=0.1, head_lr_factor=10, momentum=0.9, weight_decay=0.001
    )
    body, head = optimizer.param_groups
    assert (body["lr"], head["lr"]) == (0.1, 1.0)
    assert [tuple(p.shape) for p in head["params"]] == [(2, 512), (2,)]
    assert len(body["params"]) + 2 == len(list(model.parameters()))
    assert body["weight_decay"] == head["weight_decay"] == 0.001
    assert set_learning_rate(optimizer, "cosine", 0, 100) == pytest.approx(0.01)
    assert head["lr"] == pytest.approx(0.1)
    assert set_learning_rate(optimizer, "constant", 99, 100) == 0.1


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_cosine_schedule_rises_then_falls(steps: int) -> None:
    shares = [cosine_share(step, steps) for step in range(steps)]
    peak = shares.index(1.0)
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert all(0 < share <= 1 for share in shares)


def test_warm_up_is_a_share_of_the_steps() -> None:
    for warm_up, rise in ((0.0, 1), (0.3, 30), (1.0, 100)):
        shares = [cosine_share(step, 100, warm_up) for step in range(100)]
        assert shares.index(1.0) == rise - 1


def test_default_rates_depend_on_optimizer_and_weights() -> None:
    rates = [peak_lr(name, pretrained=on) for name in ("sgd", "adamw") for on in (True, False)]
    assert rates == [0.002, 0.01, 2e-4, 1e-3]


def test_adamw_has_the_same_two_groups() -> None:
    built = build_model(2, "none")
    optimizer = make_optimizer(
        built.model,
        built.head,
        optimizer="adamw",
        lr=0.1,
        head_lr_factor=3,
        momentum=0.9,
        weight_decay=0.05,
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.3])
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05}


def test_the_average_follows_the_weights() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, 1.0)  # type: ignore[arg-type]
    average = WeightAverage(model, 0.5)
    wanted = 1.0
    for step, value in enumerate((3.0, -1.0, 2.0), 1):
        nn.init.constant_(model[0].weight, value)  # type: ignore[arg-type]
        model[1].running_mean.fill_(value)  # type: ignore[union-attr,operator]
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * value
        assert average.model[0].weight.item() == pytest.approx(wanted)  # type: ignore[index,union-attr]
    # Statistics are the model's own: an average of batch norm's would be one of an average.
    assert average.model[1].running_mean.item() == 2.0  # type: ignore[index,union-attr]
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
