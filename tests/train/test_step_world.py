"""Steps of several processes, which one process on the whole batch has to equal."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from effort import choose
from processes import run_processes
from steps import (
    LOSSES,
    compare,
    learn,
    make_batches,
    make_deep,
    make_small,
    make_step,
    run_small,
)
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from fastft.model.sync_bn import synchronize_batch_norm
from fastft.train.distributed import ALONE, World

#: A loss and images of a piece: in an ordinary run every value of each, under soak all pairs.
CASES = choose(
    [*(("mean", micro) for micro in range(4)), ("sum", 2), ("weighed mean", 1)],
    [(loss, micro) for loss in LOSSES for micro in range(4)],
)
#: So many processes train a deep network, too: on 2, 2 and 1 images, then on 1, 1 and 0.
DEEP = 3


def run_deep(world: World, micro_batch: int = 0, order: list[int] | None = None) -> Any:
    """With joint batch norm; the images of the first batch in another order."""
    model = make_deep()
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


def count_reductions(world: World) -> list[int]:
    """How often gradients are exchanged in two steps, and in two more in another wrapping."""
    model, counts = make_small(), []
    step = make_step(model, world, micro_batch=1)
    for _ in range(2):
        calls: list[None] = []
        step.model = DistributedDataParallel(model)
        step.model.register_comm_hook(calls, count_and_reduce)
        learn(model, step, make_batches((8, 8)), world)
        counts.append(len(calls))
    return counts


def count_and_reduce(calls: list[None], bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    calls.append(None)
    return allreduce_hook(None, bucket)


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
        f"{loss} {micro}": run_small(world, loss, micro) for loss, micro in CASES
    }
    results["clipped"] = run_small(world, "sum", 2, clip_grad=0.5)
    results["plain batch norm"] = run_plain_batch_norm(world)
    results["frozen"] = run_frozen(world)
    results["overflow"] = run_overflow(world)
    results["reductions"] = count_reductions(world)
    if world.size == DEEP:
        results["deep"] = [run_deep(world, micro_batch) for micro_batch in (0, 1)]
    return results


#: In an ordinary run by three alone, whose shares are uneven and sometimes empty.
@pytest.fixture(scope="module", params=choose([DEEP], [2, 3, 4]))
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    size = request.param
    return run_processes(work, size, tmp_path_factory.mktemp("step"))


@pytest.mark.parametrize(("loss", "micro_batch"), CASES)
def test_processes_learn_what_one_learns(
    loss: str, micro_batch: int, ranks: Any, tried: Callable[..., None]
) -> None:
    found = [rank[f"{loss} {micro_batch}"] for rank in ranks]
    compare(found, run_small(ALONE, loss, 0), 1e-6)
    tried("steps shared by processes")


def test_processes_clip_what_one_clips(ranks: Any) -> None:
    wanted = run_small(ALONE, "sum", 0, clip_grad=0.5)
    compare([rank["clipped"] for rank in ranks], wanted, 1e-6)
    plain = run_small(ALONE, "sum", 0)["states"][-1]
    assert not all(plain[name].equal(each) for name, each in wanted["states"][-1].items())


@pytest.mark.parametrize("ranks", [DEEP], indirect=True)
def test_joint_batch_norm_learns_what_one_process_learns(ranks: Any) -> None:
    whole, in_pieces = zip(*(rank["deep"] for rank in ranks), strict=True)
    compare(list(whole), run_deep(ALONE), 1e-4)
    # Together the first pieces of one image each are images 0, 2 and 4; of the second, the last
    # process has none.
    compare(list(in_pieces), run_deep(ALONE, 3, [0, 2, 4, 1, 3]), 1e-4)


def test_an_empty_share_leaves_batch_norms_statistics(ranks: Any) -> None:
    wanted = run_plain_batch_norm(ALONE)
    start = make_small(batch_norm=True).state_dict()
    for number, rank in enumerate(ranks):
        found = rank["plain batch norm"]
        assert all(found["training"])
        statistics = start if number else wanted["states"][1]
        for name, tensor in found["states"][1].items():
            if name.startswith("1.") and name not in ("1.weight", "1.bias"):
                # Here more threads may have added than there.
                exact = {"rtol": 0.0, "atol": 0.0} if number else {"rtol": 1e-5, "atol": 1e-6}
                torch.testing.assert_close(tensor, statistics[name], **exact)
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


def test_gradients_are_exchanged_once_in_a_step(ranks: Any) -> None:
    assert all(rank["reductions"] == [2, 2] for rank in ranks)


def test_one_overflow_skips_the_step_everywhere(ranks: Any) -> None:
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
