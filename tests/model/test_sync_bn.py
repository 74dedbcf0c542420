from typing import Any

import pytest
import torch
from effort import choose
from processes import run_processes
from torch import nn
from torchvision import models

from fastft.model.sync_bn import GpuSyncBatchNorm, SyncBatchNorm, synchronize_batch_norm
from fastft.train.distributed import World
from pipelines.errors import UsageError

#: Images of each process.
SHARES = (4, 0, 3)
#: By name; `shape` is an image's.
CASES: dict[str, dict[str, Any]] = {
    "images": {"shape": (5, 6, 4)},
    "channels_last": {"shape": (5, 6, 4), "channels_last": True},
    "far from zero": {"shape": (5, 6, 4), "offset": 300.0},
    "vectors": {"shape": (5,)},
    "sequences": {"shape": (5, 9)},
    "no weights": {"shape": (5, 6, 4), "affine": False},
    "mean of all": {"shape": (5, 6, 4), "momentum": None},
    "no statistics": {"shape": (5, 6, 4), "track_running_stats": False},
    "float64": {"shape": (5, 6, 4), "dtype": torch.float64},
    "bfloat16": {"shape": (5, 6, 4), "dtype": torch.bfloat16},
}
#: Beside the ShuffleNet in test_step_world.py.
ARCHS = ("mobilenet_v3_small", *choose((), ("efficientnet_b0",)))


def make_layer(case: dict[str, Any]) -> nn.Module:
    options = {k: case[k] for k in ("affine", "momentum", "track_running_stats") if k in case}
    kind = nn.BatchNorm2d if len(case["shape"]) == 3 else nn.BatchNorm1d
    layer = kind(case["shape"][0], **options)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data.uniform_(0.5, 2.0, generator=generator)
    return layer.double() if case.get("dtype") == torch.float64 else layer


def make_batch(case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    shape = (sum(SHARES), *case["shape"])
    images, grads = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "ab")
    # Each image has a mean of its own, so that the shares' means differ.
    images += torch.arange(len(images)).view(-1, *[1] * len(case["shape"])) + case.get("offset", 0)
    images, grads = (each.to(case.get("dtype", torch.float32)) for each in (images, grads))
    return (lay_out(images), lay_out(grads)) if case.get("channels_last") else (images, grads)


def lay_out(images: torch.Tensor) -> torch.Tensor:
    return images.to(memory_format=torch.channels_last)


def run_layer(layer: nn.Module, images: torch.Tensor, grads: torch.Tensor) -> dict[str, Any]:
    """Two passes in training, then one in evaluation."""
    images = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    for _ in range(2):
        output = layer(images)
        output.backward(grads)
    return {
        "output": output.detach(),
        "grad": images.grad,
        "parameter grads": {name: p.grad for name, p in layer.named_parameters()},
        "state": layer.state_dict(),
        "evaluation": layer.eval()(images.detach() + 1).detach(),
    }


def cut(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    return tensor.split(SHARES)[rank]


def work(world: World) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        layer = synchronize_batch_norm(make_layer(case))
        assert type(layer) is SyncBatchNorm
        images, grads = (cut(each, world.rank) for each in make_batch(case))
        results[name] = run_layer(layer, images, grads)
    one = torch.ones(int(world.rank == 0), 2)  # per channel in all processes
    results["one value"] = refusal(synchronize_batch_norm(nn.BatchNorm1d(2)), one)
    results["torch's"] = refusal(nn.SyncBatchNorm(2), torch.ones(2, 2))
    results["variance"] = find_variance(cut(make_flat(), world.rank))
    results["frozen"] = run_frozen()
    results["before frozen layers"] = run_on_frozen_input(world.rank)
    results["autocast"] = run_autocast(world.rank)
    results.update({arch: run_network(arch, world.rank) for arch in ARCHS})
    return results


def refusal(layer: nn.Module, images: torch.Tensor) -> str:
    try:
        layer(images)
    except ValueError as error:
        return str(error)
    return ""


def make_flat() -> torch.Tensor:
    """Values whose mean float32 can tell only to a few tenths of their deviation."""
    generator = torch.Generator().manual_seed(5)
    return 3e4 + 0.01 * torch.randn(sum(SHARES), 5, 3, 3, generator=generator)


def find_variance(images: torch.Tensor) -> torch.Tensor:
    layer = synchronize_batch_norm(nn.BatchNorm2d(5, momentum=1.0))
    layer(images)
    return layer.running_var


def run_frozen() -> list[torch.Tensor]:
    """A layer in eval mode, in every process on what only the first has: nobody is waited for."""
    model = nn.Sequential(nn.BatchNorm2d(5), nn.BatchNorm2d(5))
    frozen = model[0]
    synchronize_batch_norm(model)
    assert model[0] is frozen
    model.eval()
    images, _ = make_batch(CASES["images"])
    return [model(images).detach(), model[0].num_batches_tracked]


def run_on_frozen_input(rank: int) -> torch.Tensor | None:
    """Of input that needs no gradient."""
    layer = synchronize_batch_norm(make_layer(CASES["images"]))
    images, grads = (cut(each, rank) for each in make_batch(CASES["images"]))
    layer(images).backward(grads)
    return layer.weight.grad


def run_autocast(rank: int) -> torch.Tensor:
    layer = synchronize_batch_norm(make_layer(CASES["images"]))
    images = cut(make_batch(CASES["images"])[0], rank)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return layer(images.bfloat16()).detach()


def make_network(arch: str) -> nn.Module:
    torch.manual_seed(3)
    # Nothing that draws: processes would draw for other images.
    network = models.get_model(arch, weights=None, num_classes=3)
    for module in network.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    return network.double().to(memory_format=torch.channels_last).train()


def run_network(arch: str, rank: int | None) -> dict[str, Any]:
    network = make_network(arch)
    images = torch.randn(
        (sum(SHARES), 3, 48, 48), generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    if rank is not None:
        keys = list(network.state_dict())
        synchronize_batch_norm(network)
        assert list(network.state_dict()) == keys
        images = cut(images, rank)
    logits = network(lay_out(images))
    logits.square().sum().backward()
    return {
        "logits": logits.detach(),
        "grads": {name: p.grad for name, p in network.named_parameters()},
        "state": dict(network.named_buffers()),
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(work, len(SHARES), tmp_path_factory.mktemp("sync_bn"))


def close(found: torch.Tensor, wanted: torch.Tensor, error: float) -> None:
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=error, atol=error)


@pytest.mark.parametrize("name", CASES)
def test_it_is_batch_norm_of_the_whole_batch(name: str, ranks: list[dict[str, Any]]) -> None:
    case = CASES[name]
    wanted = run_layer(make_layer(case), *make_batch(case))
    found = [rank[name] for rank in ranks]
    dtype = case.get("dtype", torch.float32)
    error = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}[dtype]
    if "offset" in case:  # float32 holds these inputs to 1.5e-5 of their deviation
        error = 1e-4
    for key in ("output", "grad", "evaluation"):
        if key == "evaluation" and case.get("track_running_stats") is False:
            continue  # each process's own statistics: evaluation joins nothing
        close(torch.cat([rank[key] for rank in found]), wanted[key], error)
    # Whatever images are rounded to, these are float32.
    error = 1e-5 if dtype == torch.bfloat16 else error
    for parameter, grad in wanted["parameter grads"].items():
        total = torch.stack([rank["parameter grads"][parameter] for rank in found]).sum(0)
        close(total, grad, error)
    for key, value in wanted["state"].items():
        close(found[0]["state"][key], value, error)
        assert all(torch.equal(rank["state"][key], found[0]["state"][key]) for rank in found)
    assert list(found[0]["state"]) == list(wanted["state"])


def test_the_variance_of_what_hardly_varies(ranks: list[dict[str, Any]]) -> None:
    wanted = make_flat().double().var((0, 2, 3)).float()
    for rank in ranks:
        torch.testing.assert_close(rank["variance"], wanted, rtol=1e-4, atol=0)


def test_channels_last_stays(ranks: list[dict[str, Any]]) -> None:
    for rank, share in zip(ranks, SHARES, strict=True):
        for key in ("output", "grad"):
            tensor = rank["channels_last"][key]
            assert len(tensor) == share
            assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert not ranks[0]["images"]["output"].is_contiguous(memory_format=torch.channels_last)


def test_a_single_value_has_no_variance_anywhere(ranks: list[dict[str, Any]]) -> None:
    assert {rank["one value"] for rank in ranks} == {
        "Expected more than 1 value per channel when training, got 1"
    }


def test_eval_mode_layers_stay_plain_and_identical(
    ranks: list[dict[str, Any]],
) -> None:
    images, _ = make_batch(CASES["images"])
    plain = nn.Sequential(nn.BatchNorm2d(5), nn.BatchNorm2d(5)).eval()(images)
    for output, tracked in (rank["frozen"] for rank in ranks):
        assert torch.equal(output, plain)
        assert tracked == 0


def test_input_that_needs_no_gradient(ranks: list[dict[str, Any]]) -> None:
    layer = make_layer(CASES["images"])
    images, grads = make_batch(CASES["images"])
    layer(images).backward(grads)
    assert layer.weight.grad is not None
    found = torch.stack([rank["before frozen layers"] for rank in ranks]).sum(0)
    close(found, layer.weight.grad, 1e-4)


def test_autocast_gives_what_plain_batch_norm_gives(ranks: list[dict[str, Any]]) -> None:
    layer = make_layer(CASES["images"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = layer(make_batch(CASES["images"])[0].bfloat16())
    close(torch.cat([rank["autocast"] for rank in ranks]), wanted.detach(), 1e-2)


@pytest.mark.parametrize("arch", ARCHS)
def test_networks_take_empty_shares(arch: str, ranks: list[dict[str, Any]]) -> None:
    wanted = run_network(arch, None)
    found = [rank[arch] for rank in ranks]
    close(torch.cat([rank["logits"] for rank in found]), wanted["logits"], 1e-8)
    for name, grad in wanted["grads"].items():
        close(torch.stack([rank["grads"][name] for rank in found]).sum(0), grad, 1e-7)
        assert not found[1]["grads"][name].any()  # of nothing
    for name, value in wanted["state"].items():
        for rank in found:
            close(rank["state"][name], value, 1e-8)


def test_alone_it_is_plain_to_the_bit() -> None:
    case = CASES["channels_last"]
    batch = make_batch(case)
    wanted = run_layer(make_layer(case), *batch)
    found = run_layer(synchronize_batch_norm(make_layer(case)), *batch)
    assert torch.equal(found["output"], wanted["output"])
    assert torch.equal(found["grad"], wanted["grad"])


def test_torchs_own_refuses_a_cpu(ranks: list[dict[str, Any]]) -> None:
    """Which is why there is another here; once it does not, ours can go."""
    assert all("expected input tensor to be on GPU" in rank["torch's"] for rank in ranks)


def test_on_a_gpu_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Parameter, "is_cuda", True, raising=False)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.LayerNorm(4)).eval()
    layers, state = list(model), dict(model.state_dict())
    assert synchronize_batch_norm(model) is model
    assert list(model) == layers
    assert [type(layer) for layer in model] == [nn.Conv2d, GpuSyncBatchNorm, nn.LayerNorm]
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())
    images = torch.randn(2, 5, 4, 4)
    assert layers[1](images).equal(nn.BatchNorm2d(5).eval()(images))


def test_an_empty_half_precision_share_counts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's would gather float16 from it and float32 from the others."""
    seen = []

    def record(_: nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen.append(images.dtype)
        return images

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", record)
    layer = GpuSyncBatchNorm(5)
    for count in (0, 2):
        assert layer(torch.zeros(count, 5, 4, 4, dtype=torch.float16)).dtype == torch.float16
    assert seen == [torch.float32, torch.float16]


def test_an_activation_behind_the_norm_stays() -> None:
    """timm's batch norm has one."""
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    plain, found = (layers.BatchNormAct2d(3) for _ in "ab")
    synchronize_batch_norm(nn.Sequential(found))
    assert isinstance(found, SyncBatchNorm)
    images = torch.randn(4, 3, 5, 5)
    for _ in ("training", "evaluation"):
        output = found(images.clone())
        assert output.equal(plain(images.clone()))
        assert (output >= 0).all()
        plain.eval()
        found.eval()
    assert synchronize_batch_norm(found) is found  # once more does nothing


def test_batch_norm_of_unknown_kinds_is_refused() -> None:
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match="--sync-bn: with Other, expected batch norm of torch's"):
        synchronize_batch_norm(nn.Sequential(Other(3)))
