import numpy as np
import pytest
import torch
from torch.nn import functional

from fastft.model.loss import Loss, class_weights
from pipelines.errors import UsageError

CLASSES = ("cat", "dog", "hotdog")
LABELS = np.array([0, 0, 0, 1, 2, 2])


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
        "hotdog=6": [1, 1, 6], "hotdog=6,*=0.5": [0.5, 0.5, 6], " dog = 2 ,cat=0": [0, 2, 1],
        # 6 images, 3 classes: each class counts 2 in sum.
        "balanced": [2 / 3, 2, 1],
    }.items():  # fmt: skip
        found = class_weights(asked, CLASSES, LABELS)
        assert found is not None
        assert found == pytest.approx(np.array(wanted, np.float32)), asked
        assert found.dtype == np.float32
    balanced = class_weights("balanced", CLASSES, LABELS)
    assert balanced is not None
    assert balanced[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize("asked", ["cow=2", "dog", "dog=", "dog=x", "dog=-1", "dog=nan", "=2", ","])
def test_wrong_weights_are_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="--class-weight"):
        class_weights(asked, CLASSES, LABELS)
