"""Steps that are captured: here a capture is a function that runs when it is replayed."""

from typing import Any

import pytest
import torch
from steps import Batch, Recorder, is_same, learn, make_batches, make_deep, make_small
from torch import nn

from fastft.model.loss import Loss
from fastft.model.optim import WeightAverage, make_optimizer, set_learning_rate
from fastft.train import step as step_module
from fastft.train.distributed import ALONE
from fastft.train.step import TrainStep

CPU = torch.device("cpu")
BATCH, SIZE = 8, 16


def make(
    model: nn.Module, recorder: Recorder | None, optimizer: str = "sgd", **options: Any
) -> Any:
    made = make_optimizer(
        model,
        list(model.children())[-1],
        optimizer=optimizer,  # type: ignore[arg-type]
        lr=0.05,
        head_lr_factor=3,
        momentum=0.9,
        weight_decay=0.01,
    )
    step = TrainStep(model, made, Loss(), device=CPU, amp_dtype=None, capture=recorder, **options)
    if recorder is not None:
        step.prepare("graph", BATCH, SIZE)
    return step


def learn_at_changing_rates(model: nn.Module, step: Any, batches: list[Batch]) -> list[Any]:
    """What the steps say, and the weights in the end."""
    values: list[Any] = []
    for number, (images, labels) in enumerate(batches):
        set_learning_rate(step._optimizer, "cosine", number, len(batches), 0.3)
        loss, right = step(images, labels, len(labels))
        values.append((loss.item(), right.item()))
    return [values, {name: each.clone() for name, each in model.state_dict().items()}]


@pytest.mark.parametrize(
    ("optimizer", "options"), [("sgd", {}), ("adamw", {}), ("sgd", {"clip_grad": 0.1})]
)
def test_captured_steps_learn_the_same(optimizer: str, options: dict[str, float]) -> None:
    """Full batches and short ones, at rates that change; torch's other code for rates on a device
    rounds otherwise.
    """
    batches = make_batches((8, 8, 8, 8, 8, 3, 8, 8, 1, 8), SIZE)
    recorder = Recorder()
    plain, graphed = make_small(batch_norm=True), make_small(batch_norm=True)
    wanted = learn_at_changing_rates(plain, make(plain, None, optimizer, **options), batches)
    found = learn_at_changing_rates(graphed, make(graphed, recorder, optimizer, **options), batches)
    assert recorder.captured == 2
    assert recorder.replayed == 8 - 3  # full batches after those that warm up
    assert recorder.pools == [None, "pool 1"]
    for (loss, right), (own_loss, own_right) in zip(wanted[0], found[0], strict=True):
        assert own_loss == pytest.approx(loss, rel=1e-5)
        assert own_right == right
    is_same(found[1], wanted[1], 1e-5)


def test_a_graph_follows_the_rates() -> None:
    """At a rate of zero nothing is learnt, whatever it was when the step was captured."""
    recorder, model = Recorder(), make_small()
    step = make(model, recorder)
    batches = make_batches((8,) * 6, SIZE)
    learn(model, step, batches[:5], ALONE)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    for group in step._optimizer.param_groups:
        group["lr"] = 0.0
    step(*batches[5], BATCH)
    assert recorder.replayed == 3
    is_same(model.state_dict(), before, 0)


def test_rates_stay_numbers_for_whoever_saves_them() -> None:
    recorder, model = Recorder(), make_small()
    step = make(model, recorder, "adamw")
    learn(model, step, make_batches((8,) * 5, SIZE), ALONE)
    assert recorder.captured == 2
    assert [group["lr"] for group in step._optimizer.param_groups] == pytest.approx([0.05, 0.15])
    assert [group["capturable"] for group in step._optimizer.param_groups] == [False, False]


def test_a_batch_in_an_input_is_not_copied() -> None:
    recorder, model = Recorder(), make_small()
    step = make(model, recorder)
    batches = make_batches((8,) * 8, SIZE)
    learn(model, step, batches[:4], ALONE)
    assert len(step.inputs) == 2
    other = make_small()
    other.load_state_dict(model.state_dict())
    for slot, (images, labels) in zip((1, 0, 1), batches[4:], strict=False):
        step.inputs[slot].copy_(images)
        untouched = step.inputs[1 - slot].clone()
        loss, _ = step(step.inputs[slot], labels, BATCH)
        assert torch.equal(step.inputs[1 - slot], untouched)
        assert torch.isfinite(loss)


def test_a_thawed_network_is_captured_anew() -> None:
    recorder, model = Recorder(), make_small()
    model[0].requires_grad_(False)  # type: ignore[index]
    step = make(model, recorder)
    batches = make_batches((8,) * 10, SIZE)
    learn(model, step, batches[:5], ALONE)
    frozen = model[0].weight.clone()  # type: ignore[index]
    model.requires_grad_(True)
    step.model = model
    assert step.inputs == []
    learn(model, step, batches[5:], ALONE)
    assert recorder.captured == 4
    assert not torch.equal(model[0].weight, frozen)  # type: ignore[index]


def test_the_average_follows_captured_steps() -> None:
    averages = []
    for recorder in (None, Recorder()):
        model = make_small()
        average = WeightAverage(model, 0.9)
        learn(model, make(model, recorder, average=average), make_batches((8,) * 6, SIZE), ALONE)
        averages.append(average)
    assert [each.steps for each in averages] == [6, 6]
    is_same(averages[1].model.state_dict(), averages[0].model.state_dict(), 1e-5)


def test_pieces_are_captured_together() -> None:
    found, wanted = make_small(), make_small()
    batches = make_batches((8,) * 5, SIZE)
    recorder = Recorder()
    learn(found, make(found, recorder, micro_batch=3), batches, ALONE)
    learn(wanted, make(wanted, None, micro_batch=3), batches, ALONE)
    assert recorder.replayed == 2
    is_same(found.state_dict(), wanted.state_dict(), 1e-5)


def test_other_sizes_are_learnt_from_as_usual() -> None:
    recorder, model = Recorder(), make_small()
    step = make(model, recorder)
    learn(model, step, make_batches((8,) * 5, 24), ALONE)
    assert recorder.captured == 0


def test_a_failed_capture_is_told_and_skipped() -> None:
    def fails(work: Any, pool: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    found, wanted = make_small(), make_small()
    step, told = make(found, fails), []  # type: ignore[arg-type]
    step.on_failure = told.append
    batches = make_batches((8,) * 6, SIZE)
    learn(found, step, batches, ALONE)
    learn(wanted, make(wanted, None), batches, ALONE)
    assert [str(error) for error in told] == ["operation not permitted when stream is capturing"]
    is_same(found.state_dict(), wanted.state_dict(), 0)


@pytest.mark.parametrize(
    ("options", "obstacle"),
    [({}, "needs a CUDA GPU"), ({"capture": Recorder()}, "")],
)
def test_obstacles_are_named(options: dict[str, Any], obstacle: str) -> None:
    model = make_small()
    made = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(model, made, Loss(), device=CPU, amp_dtype=None, **options)
    assert step.find_obstacle("graph") == obstacle
    assert step.find_obstacle("default") == step.find_obstacle("off") == ""


def test_what_draws_or_scales_is_not_captured() -> None:
    model = nn.Sequential(make_small(), nn.Dropout(0.5))
    made = torch.optim.SGD(model.parameters(), lr=0.1)
    draws = TrainStep(model, made, Loss(), device=CPU, amp_dtype=None, capture=Recorder(), seed=0)
    assert "random numbers" in draws.find_obstacle("graph")
    scales = TrainStep(model, made, Loss(), device=CPU, amp_dtype=torch.float16, capture=Recorder())
    assert "float16" in scales.find_obstacle("graph")


def test_compiled_steps_take_full_batches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another backend than the usual, which would take a minute."""
    seen: list[int] = []

    def compile_(model: Any, **options: Any) -> Any:
        assert options == {"backend": "one", "dynamic": False}

        def run(images: torch.Tensor) -> Any:
            seen.append(len(images))
            return model(images)

        return run

    monkeypatch.setattr(step_module, "BACKEND", "one")
    monkeypatch.setattr(torch, "compile", compile_)
    found, wanted = make_deep(), make_deep()
    batches = make_batches((4, 2, 4), 40)
    steps = []
    for model in (found, wanted):
        made = torch.optim.SGD(model.parameters(), lr=0.05)
        steps.append(TrainStep(model, made, Loss(), device=CPU, amp_dtype=None))
    steps[0].prepare("default", 4, 40)
    learn(found, steps[0], batches, ALONE)
    learn(wanted, steps[1], batches, ALONE)
    assert seen == [4, 4]
    assert steps[0].prepared_s > 0
    is_same(found.state_dict(), wanted.state_dict(), 0)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_gpus_graph_learns_the_same(optimizer: str) -> None:
    device = torch.device("cuda")
    results = []
    for how in ("off", "graph"):
        model = make_deep().to(device)
        made = make_optimizer(
            model,
            model.fc,
            optimizer=optimizer,  # type: ignore[arg-type]
            lr=0.01,
            head_lr_factor=3,
            momentum=0.9,
            weight_decay=0.01,
        )
        step = TrainStep(model, made, Loss(), device=device, amp_dtype=torch.bfloat16)
        step.prepare(how, 16, 64)  # type: ignore[arg-type]
        losses = []
        for number, (images, labels) in enumerate(make_batches((16,) * 8 + (5, 16), 64)):
            set_learning_rate(made, "cosine", number, 10)
            loss, _ = step(images.to(device), labels.to(device), len(labels))
            losses.append(loss.item())
        results.append((losses, model.state_dict()))
        assert bool(step.inputs) is (how == "graph")
    assert results[1][0] == pytest.approx(results[0][0], rel=0.02)
