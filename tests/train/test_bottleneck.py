from pathlib import Path

import pytest
import torch

from fastft.runs.metrics import EpochMetrics
from fastft.train.bottleneck import Bottleneck, find_bottleneck
from pipelines.loaders import make_loader


def found(loader: float, model: float, wait: float, *, on_cpu: bool) -> Bottleneck:
    return Bottleneck(
        img_per_s=min(loader, model),
        wait_share=wait,
        loader_img_per_s=loader,
        model_img_per_s=model,
        shares_cores=on_cpu,
        advice="try --loader resident",
    )


def test_on_a_gpu_the_slower_one_binds() -> None:
    slow = found(510, 830, 0.38, on_cpu=False)
    assert slow.is_input_bound
    assert slow.input_share == pytest.approx(1 - 510 / 830)
    assert str(slow).splitlines() == [
        "510 images/s, 38% of step time waiting for input",
        "input-bound 39%: loader 510, model 830 images/s; try --loader resident",
    ]
    fast = found(5000, 830, 0.0, on_cpu=False)
    assert not fast.is_input_bound
    assert "model-bound: loader 5,000, model 830 images/s" in str(fast)
    assert "try" not in str(fast)


def test_on_the_same_cores_both_cost_time() -> None:
    # Nobody waits, yet a third of the cores' time goes for input.
    shared = found(400, 200, 0.0, on_cpu=True)
    assert shared.input_share == pytest.approx(1 / 3)
    assert shared.is_input_bound
    assert not found(13_000, 200, 0.0, on_cpu=True).is_input_bound


def test_waiting_counts_whatever_the_trials_say() -> None:
    assert found(13_000, 200, 0.5, on_cpu=True).input_share == 0.5


def epoch(number: int, images: int, train_s: float, wait_s: float) -> EpochMetrics:
    return EpochMetrics(
        epoch=number,
        size=40,
        train_loss=1.0,
        train_accuracy=0.5,
        eval_loss=1.0,
        eval_accuracy=0.5,
        img_per_s=images / train_s,
        wait_s=wait_s,
        train_s=train_s,
        eval_s=1.0,
    )


def test_a_runs_own_loader_and_step_are_tried(data: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        seen.append(tuple(images.shape))
        assert len(images) == len(labels)

    with make_loader("torchvision", data / "train.beton", size=40, batch_size=8) as loader:
        result = find_bottleneck(
            # The first epoch, which starts everything up, does not count beside others.
            [epoch(0, 33, 33.0, 30.0), epoch(1, 33, 1.0, 0.25), epoch(2, 33, 3.0, 0.75)],
            loader,
            step,
            loader_name="torchvision",
        )
        assert loader.plan.epoch == 3  # none of the run's
    assert result.img_per_s == pytest.approx(66 / 4)
    assert result.wait_share == pytest.approx(0.25)
    assert set(seen) == {(8, 3, 40, 40)}
    assert len(seen) >= 2
    assert result.loader_img_per_s > 0
    assert result.model_img_per_s > 0
    assert result.shares_cores
    assert result.advice == "try --loader resident"


def test_a_single_batch_is_enough(data: Path) -> None:
    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        pass

    with make_loader("resident", data / "train.beton", size=40, batch_size=33) as loader:
        result = find_bottleneck([epoch(0, 33, 1.0, 0.0)], loader, step, loader_name="resident")
    assert result.loader_img_per_s > 0
    assert "fastest loader" in result.advice


def test_too_large_stores_are_advised_against(data: Path) -> None:
    with make_loader("resident", data / "train.beton", size=16, batch_size=33) as loader:
        result = find_bottleneck(
            [epoch(0, 33, 1.0, 0.0)], loader, lambda images, labels: None, loader_name="resident"
        )
    assert result.advice == "try --store-side 18"
