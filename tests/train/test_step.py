import copy
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
import torch
from effort import rest
from steps import (
    CPU,
    LOSSES,
    Batch,
    compare,
    is_same,
    learn,
    make_batches,
    make_deep,
    make_small,
    make_step,
    run_small,
)
from tiny import Tiny
from torch import nn
from torchvision import models

from fastft.model.loss import Loss
from fastft.model.optim import WeightAverage
from fastft.train.distributed import ALONE, World
from fastft.train.step import TrainStep


def test_steps_change_the_weights() -> None:
    states = run_small(ALONE, "mean", 0)["states"]
    for before, after in pairwise(states):
        assert all((before[name] - after[name]).abs().max() > 1e-4 for name in before)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("micro_batch", [1, 3, 100])
def test_pieces_add_up(loss: str, micro_batch: int) -> None:
    compare([run_small(ALONE, loss, micro_batch)], run_small(ALONE, loss, 0), 1e-6)


def test_empty_pieces_are_skipped_but_the_last() -> None:
    """One image of six: the shares are as unequal as no loader of ours makes them."""
    model, wanted = make_small(), make_small()
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    images, labels = make_batches((1,))[0]
    loss, _ = make_step(model, micro_batch=2)(images, labels, 6)
    assert seen == [1, 1]
    whole, _ = make_step(wanted)(images, labels, 6)
    assert loss.equal(whole)
    is_same(model.state_dict(), wanted.state_dict(), 1e-6)


def test_pieces_are_few_and_small_enough() -> None:
    seen: list[int] = []
    model = make_small()
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    learn(model, make_step(model, micro_batch=3), make_batches((7, 3, 1)), ALONE)
    assert seen == [3, 2, 2, 3, 1]


def plain_steps(model: nn.Module, batches: list[Batch]) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for images, labels in batches:
        loss = nn.functional.cross_entropy(model(images), labels, reduction="none").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_one_process_equals_plain_pytorch_bitwise() -> None:
    batches = make_batches((4, 4), 40)
    mine, plain = make_deep(), make_deep()
    average = WeightAverage(mine, 0.9)
    step = make_step(mine, average=average)
    assert [step(*batch)[0].item() for batch in batches] == plain_steps(plain, batches)
    assert all(mine.state_dict()[name].equal(v) for name, v in plain.state_dict().items())
    assert average.steps == 2
    right = (plain(batches[0][0]).argmax(1) == batches[0][1]).sum()
    assert step(*batches[0])[1] == right


def test_a_batchs_loss_equals_torchs_bitwise() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 3, 7, 31, 128, 1000):
        logits = torch.randn(count, 5, generator=generator).requires_grad_()
        labels = torch.randint(5, (count,), generator=generator)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        for reduction, wanted in (("mean", losses.mean()), ("sum", losses.sum())):
            (wanted_grad,) = torch.autograd.grad(wanted, logits, retain_graph=True)
            for given in (count, None):
                found = Loss(reduction=reduction)(logits, labels, given)  # type: ignore[arg-type]
                assert found.equal(wanted)
                assert torch.autograd.grad(found, logits)[0].equal(wanted_grad)


def test_the_losses_of_parts_add_up() -> None:
    logits, labels = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    labels %= 3
    for options in LOSSES.values():
        loss = Loss(**options)
        parts = zip(logits.split([3, 0, 4]), labels.split([3, 0, 4]), strict=True)
        total = sum(loss(*part, 7).item() for part in parts)
        assert total == pytest.approx(loss(logits, labels).item(), rel=1e-6)


def gradient_norm(step: TrainStep, batch: Batch) -> float:
    """The norm of the gradients that a step of plain SGD has taken, at a rate of 1."""
    model = step.model
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step(*batch)
    moved = [new.detach() - old for new, old in zip(model.parameters(), before, strict=True)]
    return float(nn.utils.get_total_norm(moved))


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_gradients_are_clipped_to_a_norm(micro_batch: int) -> None:
    """Those of the whole batch; smaller ones stay as they are."""
    batch, norms = make_batches((8,))[0], []
    for clip_grad in (0.0, 0.01, 1e5):
        model = make_small()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        step = TrainStep(
            model,
            optimizer,
            Loss(),
            device=CPU,
            amp_dtype=None,
            micro_batch=micro_batch,
            clip_grad=clip_grad,
        )
        norms.append(gradient_norm(step, batch))
    assert norms == pytest.approx([norms[0], 0.01, norms[0]], rel=1e-4)
    assert norms[0] > 0.1


def test_float16s_gradients_are_clipped_unscaled() -> None:
    """A step whose gradients overflow is still left out."""
    model = make_small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(model, optimizer, Loss(), device=CPU, amp_dtype=torch.float16, clip_grad=0.01)
    assert gradient_norm(step, make_batches((8,))[0]) == pytest.approx(0.01, rel=1e-2)
    images, labels = make_batches((8,))[0]
    images[3] = 1e6
    assert gradient_norm(step, (images, labels)) == 0
    assert step.scaler.get_scale() == 2.0**15


class Drawing:
    """Training of a network with dropout and stochastic depth, a step at a time."""

    def __init__(self, arch: str = "efficientnet_b0", seed: int | None = 5, rank: int = 0) -> None:
        torch.manual_seed(1)
        if arch == "tiny":
            self.model: nn.Module = Tiny(num_classes=3, drop=0.5).train()
        else:
            self.model = models.get_model(arch, weights=None, num_classes=3).train()
        self.step = make_step(self.model, micro_batch=3, seed=seed, world=World(rank))
        self.batches = make_batches((4, 4, 4, 4), 40)

    def take(self, steps: range) -> list[float]:
        """Losses of these steps, between which others draw, too."""
        losses = []
        for number in steps:
            losses.append(self.step(*self.batches[number], 4, number)[0].item())
            torch.rand(3)
        return losses

    def save(self) -> tuple[Any, Any]:
        return copy.deepcopy((self.model.state_dict(), self.step._optimizer.state_dict()))

    def load(self, state: tuple[Any, Any]) -> None:
        self.model.load_state_dict(state[0])
        self.step._optimizer.load_state_dict(state[1])


@pytest.mark.parametrize("arch", ["tiny", *rest("efficientnet_b0", "mobilenet_v3_small")])
def test_a_resumed_run_draws_the_same_numbers(arch: str) -> None:
    straight = Drawing(arch)
    straight.take(range(2))
    state = straight.save()
    again = Drawing(arch)
    again.load(state)
    assert again.take(range(2, 4)) == straight.take(range(2, 4))
    for mine, theirs in zip(again.save()[0].values(), straight.save()[0].values(), strict=True):
        assert mine.equal(theirs)


def test_draws_depend_on_seed_step_process() -> None:
    """Of the first step's masks, and only theirs: the weights are the same."""

    def first_loss(step: int = 0, **options: Any) -> float:
        drawing = Drawing("tiny", **options)
        drawing.batches = drawing.batches[:1] * 4
        return drawing.take(range(step, step + 1))[0]

    assert first_loss() == first_loss()
    assert len({first_loss(), first_loss(seed=6), first_loss(step=1), first_loss(rank=1)}) == 4
    assert len({first_loss(seed=0), first_loss(seed=0, rank=1), first_loss(seed=0, step=1)}) == 3


def test_generators_are_left_alone_where_nothing_is_drawn() -> None:
    for model, options in (
        (make_small(), {"seed": 5}),
        (models.mobilenet_v3_small(num_classes=3), {"seed": None}),
        (models.mobilenet_v3_small(num_classes=3, dropout=0.0), {"seed": 5}),
    ):
        torch.manual_seed(7)
        step = make_step(model, **options)
        before = torch.get_rng_state()
        step(*make_batches((4,), 40)[0], 4, 3)
        is_drawn = options["seed"] is None
        assert torch.get_rng_state().equal(before) != is_drawn


def draws(model: nn.Module) -> bool:
    return make_step(model, seed=0)._generator is not None


def draws_in_timm(name: str, **options: float) -> bool:
    import timm

    return draws(timm.create_model(name, **options))


def test_layers_that_draw_are_found() -> None:
    assert draws(nn.Sequential(nn.Linear(1, 1), nn.AlphaDropout(0.1)))
    assert draws(nn.TransformerEncoderLayer(4, 2, dropout=0.1).self_attn)
    assert draws(models.efficientnet_b0(dropout=0.0))  # stochastic depth alone
    assert not draws(make_deep())
    if find_spec("timm"):
        assert draws_in_timm("test_vit", drop_path_rate=0.1)
        assert draws_in_timm("test_vit", patch_drop_rate=0.1)
        assert draws_in_timm("test_vit", attn_drop_rate=0.1)
        assert draws_in_timm("test_efficientnet", drop_rate=0.1)  # which no layer of it says
        assert not draws_in_timm("test_vit")
        assert not draws_in_timm("test_efficientnet")
    assert not draws(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.0)))
    assert not draws(nn.MultiheadAttention(4, 2))
