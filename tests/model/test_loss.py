from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from fastft.model.loss import Loss, class_weights, count_right
from pipelines.errors import UsageError

CLASSES = ("cat", "dog", "hotdog")
LABELS = np.array([0, 0, 0, 1, 2, 2])
#: With and without class weights, smoothing, and a batch that is larger than its part.
OPTIONS = [
    (options | weights, count)
    for options in ({}, {"label_smoothing": 0.1}, {"reduction": "sum", "label_smoothing": 1.0})
    for weights in ({}, {"class_weights": torch.tensor([1.0, 0.5, 6.0])})
    for count in (None, 13)
]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, generator=generator), torch.from_numpy(LABELS)


def test_without_options_it_is_cross_entropy() -> None:
    logits, labels = batch()
    assert Loss()(logits, labels) == pytest.approx(functional.cross_entropy(logits, labels).item())
    total = Loss(reduction="sum")
    value = total(logits, labels).item()
    assert value == pytest.approx(6 * functional.cross_entropy(logits, labels).item())
    assert total.per_image(value, 6) == pytest.approx(value / 6)
    assert Loss().per_image(value, 6) == value


def test_class_weights_multiply_the_loss_alone() -> None:
    logits, labels = batch()
    weights = torch.tensor([1.0, 0.5, 6.0])
    by_hand = sum(
        weights[label] * -logits[row].log_softmax(0)[label] for row, label in enumerate(labels)
    )
    found = Loss(class_weights=weights)(logits, labels)
    assert found.item() == pytest.approx(float(by_hand) / 6, rel=1e-5)


def test_draft_weighs_hot_dogs_six_to_one() -> None:
    """(1 + 5 y) / 5 times cross-entropy, averaged over the batch."""
    logits, labels = batch()
    weights = class_weights("hotdog=1.2,*=0.2", CLASSES, LABELS)
    assert weights is not None
    y = (labels == 2).float()
    losses = functional.cross_entropy(logits, labels, reduction="none") * (1 + 5 * y) / 5
    found = Loss(class_weights=torch.from_numpy(weights))(logits, labels)
    assert found.item() == pytest.approx(losses.mean().item(), rel=1e-6)


def test_smoothing_is_torchs() -> None:
    logits, labels = batch()
    wanted = functional.cross_entropy(logits, labels, label_smoothing=0.1).item()
    assert Loss(label_smoothing=0.1)(logits, labels).item() == pytest.approx(wanted)


def test_weights_as_they_are_asked_for() -> None:
    assert class_weights("", CLASSES, LABELS) is None
    for asked, wanted in {
        "hotdog=6": [1, 1, 6],
        "hotdog=6,*=0.5": [0.5, 0.5, 6],
        " dog = 2 ,cat=0": [0, 2, 1],
        # 6 images, 3 classes: each class counts 2 in sum.
        "balanced": [2 / 3, 2, 1],
    }.items():
        found = class_weights(asked, CLASSES, LABELS)
        assert found is not None
        assert found == pytest.approx(np.array(wanted, np.float32)), asked
        assert found.dtype == np.float32
    balanced = class_weights("balanced", CLASSES, LABELS)
    assert balanced is not None
    assert balanced[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize(("options", "count"), OPTIONS)
def test_shares_of_one_class_are_a_label(options: dict[str, Any], count: int | None) -> None:
    """In value and gradient, for a part of a batch, too."""
    logits, labels = batch()
    loss = Loss(**options)
    gradients = []
    for targets in (labels, functional.one_hot(labels, 3).float()):
        own = logits.clone().requires_grad_()
        found = loss(own, targets, count)
        assert found.item() == pytest.approx(loss(logits, labels, count).item(), rel=1e-6)
        found.backward()
        gradients.append(own.grad)
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("options", "count"), OPTIONS)
def test_mixed_shares_mix_two_losses(options: dict[str, Any], count: int | None) -> None:
    """As MixUp's own loss does; each class weighs what it weighs alone."""
    logits, labels = batch()
    others, loss = labels.roll(1), Loss(**options)
    for share in (0.0, 0.3, 1.0):
        one, other = (functional.one_hot(each, 3).float() for each in (labels, others))
        found = loss(logits, share * one + (1 - share) * other, count)
        wanted = share * loss(logits, labels, count) + (1 - share) * loss(logits, others, count)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_shares_are_torchs_probabilities(smoothing: float) -> None:
    logits, _ = batch()
    shares = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    wanted = functional.cross_entropy(logits, shares, label_smoothing=smoothing)
    assert Loss(label_smoothing=smoothing)(logits, shares).item() == pytest.approx(wanted.item())
    total = Loss(label_smoothing=smoothing, reduction="sum")(logits, shares)
    assert total.item() == pytest.approx(6 * wanted.item())
    parts = [
        Loss(label_smoothing=smoothing)(logits[at:to], shares[at:to], 6).item()
        for at, to in ((0, 4), (4, 4), (4, 6))
    ]
    assert parts[1] == 0
    assert sum(parts) == pytest.approx(wanted.item())


def test_shares_of_narrow_logits_lose_in_float32() -> None:
    logits, labels = batch()
    shares = functional.one_hot(labels, 3).float()
    for dtype in (torch.bfloat16, torch.float16):
        found = Loss()(logits.to(dtype), shares)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(Loss()(logits.to(dtype).float(), shares).item())
    assert Loss()(logits.double(), shares).dtype == torch.float64


def test_right_answers_are_counted() -> None:
    """Mixed images are right by the class with the larger share."""
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 3, 1], [1, 0, 0]])
    labels = torch.tensor([0, 2, 2, 1])
    assert count_right(logits, labels).item() == 2
    shares = functional.one_hot(labels, 3).float()
    assert count_right(logits, shares).item() == 2
    mixed = torch.tensor([[0.6, 0.4, 0], [0.4, 0, 0.6], [0.0, 0.6, 0.4], [0.3, 0.0, 0.7]])
    assert count_right(logits, mixed).item() == 3
    assert count_right(logits[:0], labels[:0]).item() == 0
    assert count_right(logits[:0], mixed[:0]).item() == 0


@pytest.mark.parametrize("asked", ["cow=2", "dog", "dog=", "dog=x", "dog=-1", "dog=nan", "=2", ","])
def test_wrong_weights_are_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="--class-weight"):
        class_weights(asked, CLASSES, LABELS)
