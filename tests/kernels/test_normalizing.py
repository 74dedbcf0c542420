"""Normalization by one kernel: compiled where there is a GPU, else interpreted."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from pipelines.loaders import completion
from pipelines.preprocessing import IMAGENET, MEAN, STD
from pipelines.transfer import Normalizer, normalizing_factors


@pytest.fixture(scope="module")
def kernel(
    triton_kernels: tuple[ModuleType, str], load_kernels: Callable[..., ModuleType]
) -> tuple[ModuleType, torch.device]:
    device = torch.device(triton_kernels[1])
    with pytest.MonkeyPatch.context() as patch:
        if device.type == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        return load_kernels("normalizing", "normalizing.py"), device


def noise(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 7), (2, 40), (0, 5)])
def test_values_are_rounded_once(
    count: int, size: int, dtype: torch.dtype, kernel: tuple[ModuleType, torch.device]
) -> None:
    """From float32's sum to a narrower type, where there is one."""
    module, device = kernel
    normalizer = Normalizer(size, MEAN, STD, device=device, dtype=dtype, fused=module.normalize)
    pixels = noise(count, size)
    images = normalizer(pixels.to(device)).cpu()
    assert images.shape == (count, 3, size, size)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)
    scale, bias = (
        torch.from_numpy(each[:3]).double() for each in normalizing_factors(1, MEAN, STD)
    )
    exact = (pixels.double() * scale + bias).permute(0, 3, 1, 2)
    half_step = torch.finfo(dtype).eps / 2
    if dtype == torch.bfloat16 and device.type == "cpu":
        half_step *= 2  # the interpreter truncates
    assert ((images.double() - exact).abs() <= exact.abs() * half_step + 3e-7).all()


def test_wrong_arguments_are_named(kernel: tuple[ModuleType, torch.device]) -> None:
    module, device = kernel
    pixels, factors = noise(2, 4).to(device), torch.ones(3, device=device)
    for pixels_, out, said in (
        (pixels, torch.empty(2, 4, 4, 4, device=device), "out: .*expected that of pixels"),
        (pixels[..., :2], torch.empty(2, 4, 4, 2, device=device), "out: "),
        (pixels.transpose(1, 2), torch.empty(2, 4, 4, 3, device=device), "strided"),
    ):
        with pytest.raises(ValueError, match=said):
            module.normalize(pixels_, factors, factors, out)


def test_a_gpus_batches_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        completion, "Normalizer", lambda *_, **options: made.append(options["fused"])
    )
    for device, dtype in (("cuda", torch.bfloat16), ("cuda", None), ("cpu", torch.bfloat16)):
        completion.make_normalizer(8, torch.device(device), dtype, IMAGENET)
    assert [each is not None for each in made] == [True, False, False]
