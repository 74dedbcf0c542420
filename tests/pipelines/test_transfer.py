import numpy as np
import pytest
import torch

from pipelines.preprocessing import MEAN, STD
from pipelines.reference import normalize
from pipelines.transfer import Normalizer, to_device


@pytest.mark.parametrize("size", [1, 7, 64])
def test_normalizer_is_the_reference(size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    normalizer = Normalizer(size, MEAN, STD, device=torch.device("cpu"), dtype=torch.float32)
    images = normalizer(torch.from_numpy(pixels))
    assert images.shape == (3, 3, size, size)
    assert images.is_contiguous(memory_format=torch.channels_last)
    wanted = torch.from_numpy(normalize(pixels)).permute(0, 3, 1, 2)
    assert (images - wanted).abs().max() < 1e-6


def test_bytes_are_copied_not_shared() -> None:
    pixels = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    normalizer = Normalizer(4, MEAN, STD, device=torch.device("cpu"), dtype=None)
    images = normalizer(pixels)
    pixels.fill_(9)
    assert images.max() == 0


def batches(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(
                0, 256, (5 - i % 2, size, size, 3), dtype=torch.uint8, generator=generator
            ),
            torch.full((5 - i % 2,), i),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_batch_arrives_whole(device: str) -> None:
    where = torch.device(device)
    normalizer = Normalizer(64, MEAN, STD, device=where, dtype=torch.float32)
    sent = batches(20, 64)
    arrived = list(to_device(sent, normalizer, where))
    plain = Normalizer(64, MEAN, STD, device=torch.device("cpu"), dtype=torch.float32)
    for (images, labels), (pixels, wanted) in zip(arrived, sent, strict=True):
        assert labels.tolist() == wanted.tolist()
        assert torch.allclose(images.cpu(), plain(pixels), atol=1e-6)
