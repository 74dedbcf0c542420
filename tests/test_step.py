import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from processes import run_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision import models

from fastft.loss import Loss
from fastft.optim import WeightAverage
from fastft.step import TrainStep
from fastft.sync_bn import synchronize_batch_norm
from fastft.world import ALONE, World

CPU = torch.device("cpu")
#: Images of each global batch: equal shares for 2 and 4 processes, unequal ones, empty ones.
COUNTS = (8, 7, 1, 5, 8)
WEIGHTS = torch.tensor([1.0, 0.5, 6.0])
LOSSES: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum", "class_weights": WEIGHTS, "label_smoothing": 0.1},
    "weighed mean": {"class_weights": WEIGHTS, "label_smoothing": 0.1},
}
MICRO_BATCHES = (0, 1, 2, 3)
#: So many processes train a resnet18, too: on 2, 2 and 1 images, then on 1, 1 and 0.
RESNETS = 3

Batch = tuple[torch.Tensor, torch.Tensor]


def make_small(*, batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8) if batch_norm else nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).to(memory_format=torch.channels_last)


def make_resnet() -> nn.Module:
    torch.manual_seed(2)
    return models.resnet18(num_classes=3).to(memory_format=torch.channels_last).train()


def make_batches(counts: tuple[int, ...] = COUNTS, size: int = 16) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(count, 3, size, size, generator=generator).to(
                memory_format=torch.channels_last
            ),
            torch.randint(3, (count,), generator=generator),
        )
        for count in counts
    ]


def share_of(batch: Batch, world: World) -> Batch:
    images, labels = (each.tensor_split(world.size)[world.rank] for each in batch)
    return images, labels


def make_step(model: nn.Module, world: World = ALONE, loss: str = "mean", **options: Any) -> Any:
    """A step of plain SGD with momentum; in several processes the model in DDP as it trains."""
    lr = 0.001 if loss == "sum" else 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    if world.size > 1:
        model = DistributedDataParallel(
            model, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    all_options = {"device": CPU, "amp_dtype": None, "world": world, **options}
    return TrainStep(model, optimizer, Loss(**LOSSES[loss]), **all_options)


def learn(model: nn.Module, step: TrainStep, batches: list[Batch], world: World) -> dict[str, Any]:
    """Take all steps; gives the state after each, and what the steps returned."""
    states, values = [], []
    for batch in batches:
        loss, right = step(*share_of(batch, world), len(batch[1]))
        values.append((loss.item(), right.item()))
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return {"states": states, "values": values}


def run_small(world: World, loss: str, micro_batch: int) -> dict[str, Any]:
    model = make_small()
    step = make_step(model, world, loss, micro_batch=micro_batch)
    return learn(model, step, make_batches(), world)


def run_resnet(world: World, micro_batch: int = 0, order: list[int] | None = None) -> Any:
    """With joint batch norm; the images of the first batch in another order."""
    model = make_resnet()
    if world.size > 1:
        synchronize_batch_norm(model)
    step = make_step(model, world, micro_batch=micro_batch, sync_bn=True)
    first, second = make_batches((5, 2), 40)
    if order is not None:
        first = (first[0][order], first[1][order])
    return learn(model, step, [first, second], world)


def run_plain_batch_norm(world: World) -> dict[str, Any]:
    """Of a batch of one image, of which the other processes hear nothing."""
    model = make_small(batch_norm=True)
    step = make_step(model, world)
    results = learn(model, step, make_batches((1, 1)), world)
    return {**results, "training": [module.training for module in model.modules()]}


def run_frozen(world: World) -> list[dict[str, Any]]:
    """The head alone, then, wrapped anew, everything."""
    model = make_small()
    model.requires_grad_(False)[-1].requires_grad_(True)
    step = make_step(model, world, micro_batch=1)
    first = learn(model, step, make_batches((4, 1)), world)
    model.requires_grad_(True)
    step.model = DistributedDataParallel(model) if world.size > 1 else model
    return [first, learn(model, step, make_batches((4, 1)), world)]


def run_overflow(world: World) -> dict[str, Any]:
    """In float16, where one image of the last share makes the gradients overflow in step 2."""
    model = make_small()
    step = make_step(model, world, amp_dtype=torch.float16, micro_batch=1)
    batches = make_batches((4, 4, 4))
    batches[1][0][3] = 1e6
    results = learn(model, step, batches, world)
    return {**results, "scale": step.scaler.get_scale()}


def work(world: World) -> dict[str, Any]:
    results: dict[str, Any] = {
        f"{loss} {micro}": run_small(world, loss, micro)
        for loss in LOSSES
        for micro in MICRO_BATCHES
    }
    results["plain batch norm"] = run_plain_batch_norm(world)
    results["frozen"] = run_frozen(world)
    results["overflow"] = run_overflow(world)
    if world.size == RESNETS:
        results["resnet"] = [run_resnet(world, micro_batch) for micro_batch in (0, 1)]
    return results


@pytest.fixture(scope="module", params=[2, 3, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    size = request.param
    return run_processes(work, size, tmp_path_factory.mktemp("step"))


def is_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], error: float) -> None:
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=error, atol=error, msg=name)


def compare(found: list[dict[str, Any]], wanted: dict[str, Any], error: float) -> None:
    """The processes' weights with one process's, after each step, and the sums of what they say."""
    for index, state in enumerate(wanted["states"]):
        is_same(found[0]["states"][index], state, error)
        for rank in found:
            for name, tensor in rank["states"][index].items():
                assert torch.equal(tensor, found[0]["states"][index][name])
        losses, rights = zip(*(rank["values"][index] for rank in found), strict=True)
        assert sum(losses) == pytest.approx(wanted["values"][index][0], rel=max(error, 1e-6))
        assert sum(rights) == wanted["values"][index][1]


@pytest.mark.parametrize("micro_batch", MICRO_BATCHES)
@pytest.mark.parametrize("loss", LOSSES)
def test_processes_learn_what_one_learns(loss: str, micro_batch: int, ranks: Any) -> None:
    found = [rank[f"{loss} {micro_batch}"] for rank in ranks]
    compare(found, run_small(ALONE, loss, 0), 1e-6)


def test_steps_change_the_weights() -> None:
    states = run_small(ALONE, "mean", 0)["states"]
    for before, after in pairwise(states):
        assert all((before[name] - after[name]).abs().max() > 1e-4 for name in before)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("micro_batch", [1, 3, 100])
def test_pieces_add_up(loss: str, micro_batch: int) -> None:
    compare([run_small(ALONE, loss, micro_batch)], run_small(ALONE, loss, 0), 1e-6)


def test_an_empty_piece_is_passed_over_unless_it_is_the_last() -> None:
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


def test_pieces_are_no_larger_and_no_more_than_they_have_to_be() -> None:
    seen: list[int] = []
    model = make_small()
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    learn(model, make_step(model, micro_batch=3), make_batches((7, 3, 1)), ALONE)
    assert seen == [3, 2, 2, 3, 1]


@pytest.mark.parametrize("ranks", [RESNETS], indirect=True)
def test_joint_batch_norm_learns_what_one_process_learns(ranks: Any) -> None:
    whole, in_pieces = zip(*(rank["resnet"] for rank in ranks), strict=True)
    compare(list(whole), run_resnet(ALONE), 1e-4)
    # Together the first pieces of one image each are images 0, 2 and 4; of the second, the last
    # process has none.
    compare(list(in_pieces), run_resnet(ALONE, 3, [0, 2, 4, 1, 3]), 1e-4)


def test_an_empty_share_leaves_batch_norms_statistics(ranks: Any) -> None:
    wanted = run_plain_batch_norm(ALONE)
    start = make_small(batch_norm=True).state_dict()
    for number, rank in enumerate(ranks):
        found = rank["plain batch norm"]
        assert all(found["training"])
        statistics = start if number else wanted["states"][1]
        for name, tensor in found["states"][1].items():
            if name.startswith("1.") and name not in ("1.weight", "1.bias"):
                assert torch.equal(tensor, statistics[name])
            else:
                torch.testing.assert_close(tensor, wanted["states"][1][name], rtol=1e-6, atol=1e-6)


def test_frozen_and_thawed(ranks: Any) -> None:
    start = make_small().state_dict()
    for wanted, found in zip(
        run_frozen(ALONE), zip(*(rank["frozen"] for rank in ranks), strict=True), strict=True
    ):
        compare(list(found), wanted, 1e-6)
    first, second = (part["states"][-1] for part in ranks[0]["frozen"])
    changed = [{n for n, v in state.items() if not v.equal(start[n])} for state in (first, second)]
    assert changed == [{"5.weight", "5.bias"}, set(start)]


def test_an_overflow_in_one_process_skips_the_step_in_all(ranks: Any) -> None:
    for rank in ranks:
        states = [rank["overflow"]["states"][index] for index in range(3)]
        assert all(states[0][name].equal(states[1][name]) for name in states[0])
        assert any(not states[1][name].equal(states[2][name]) for name in states[0])
        assert rank["overflow"]["scale"] == 2.0**15  # half of what it begins with
        assert all(tensor.isfinite().all() for tensor in states[2].values())
        for name, tensor in states[2].items():
            assert tensor.equal(ranks[0]["overflow"]["states"][2][name])


def test_processes_without_ddp_are_a_mistake() -> None:
    step = make_step(make_small(), amp_dtype=None)
    step._world = World(0, 2)
    with pytest.raises(AssertionError, match="drift apart"):
        step(*make_batches()[0])


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


def test_one_process_and_one_piece_are_plain_pytorch_to_the_bit() -> None:
    batches = make_batches((4, 4), 40)
    mine, plain = make_resnet(), make_resnet()
    average = WeightAverage(mine, 0.9)
    step = make_step(mine, average=average)
    assert [step(*batch)[0].item() for batch in batches] == plain_steps(plain, batches)
    assert all(mine.state_dict()[name].equal(v) for name, v in plain.state_dict().items())
    assert average.steps == 2
    right = (plain(batches[0][0]).argmax(1) == batches[0][1]).sum()
    assert step(*batches[0])[1] == right


def test_the_loss_of_a_whole_batch_is_torchs_to_the_bit() -> None:
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


class Drawing:
    """Training of a network with dropout and stochastic depth, a step at a time."""

    def __init__(self, arch: str = "efficientnet_b0", seed: int | None = 5, rank: int = 0) -> None:
        torch.manual_seed(1)
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


@pytest.mark.parametrize("arch", ["efficientnet_b0", "mobilenet_v3_small"])
def test_a_run_that_goes_on_draws_what_it_would_have_drawn(arch: str) -> None:
    straight = Drawing(arch)
    straight.take(range(2))
    state = straight.save()
    again = Drawing(arch)
    again.load(state)
    assert again.take(range(2, 4)) == straight.take(range(2, 4))
    for mine, theirs in zip(again.save()[0].values(), straight.save()[0].values(), strict=True):
        assert mine.equal(theirs)


def test_what_is_drawn_depends_on_seed_step_and_process() -> None:
    """Of the first step's masks, and only theirs: the weights are the same."""

    def first_loss(step: int = 0, **options: Any) -> float:
        drawing = Drawing("mobilenet_v3_small", **options)
        drawing.batches = drawing.batches[:1] * 4
        return drawing.take(range(step, step + 1))[0]

    assert first_loss() == first_loss()
    assert len({first_loss(), first_loss(seed=6), first_loss(step=1), first_loss(rank=1)}) == 4
    assert len({first_loss(seed=0), first_loss(seed=0, rank=1), first_loss(seed=0, step=1)}) == 3


def test_generators_are_left_alone_where_nothing_is_drawn() -> None:
    for model, options in (
        (make_small(), {"seed": 5}), (models.mobilenet_v3_small(num_classes=3), {"seed": None}),
        (models.mobilenet_v3_small(num_classes=3, dropout=0.0), {"seed": 5}),
    ):  # fmt: skip
        torch.manual_seed(7)
        step = make_step(model, **options)
        before = torch.get_rng_state()
        step(*make_batches((4,), 40)[0], 4, 3)
        is_drawn = options["seed"] is None
        assert torch.get_rng_state().equal(before) != is_drawn


def test_layers_that_draw_are_found() -> None:
    def draws(model: nn.Module) -> bool:
        return make_step(model, seed=0)._generator is not None

    assert draws(nn.Sequential(nn.Linear(1, 1), nn.AlphaDropout(0.1)))
    assert draws(nn.TransformerEncoderLayer(4, 2, dropout=0.1).self_attn)
    assert draws(models.convnext_tiny())  # stochastic depth alone
    assert not draws(models.resnet18())
    assert not draws(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.0)))
    assert not draws(nn.MultiheadAttention(4, 2))
