"""`--recipe d2l` against the tutorial's own PyTorch, written out plainly.

Source: Zhang et al., "Dive into Deep Learning", section 14.2: `train_fine_tuning` and
`train_batch_ch13`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from tiny import Tiny
from torch import nn
from torchvision.models import resnet
from torchvision.transforms import functional

from fastft.config.recipes import make_config
from fastft.runs.metrics import read_metrics
from fastft.train.run import train
from pipelines.formats.encode import decode
from pipelines.formats.source import Source, open_source
from pipelines.loaders import make_loader
from pipelines.plan import make_plan

BATCH, EPOCHS, SEED, SIZE = 4, 1, 3, 40


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A network of three layers for every ResNet: neither side minds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "ResNet", lambda *_, **options: Tiny(**options))
        yield


@pytest.fixture(scope="module")
def few(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos to learn from."""
    folder = tmp_path_factory.mktemp("few")
    for split in ("train", "test"):
        (folder / f"{split}.beton").symlink_to(data / "test.beton")
    return folder


@pytest.fixture(scope="module")
def source_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 1,000 classes as torchvision keeps it, standing in for the pretrained one."""
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("d2l") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def plain_batches(source: Source, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The tutorial's transforms at the plan's crops and flips."""
    plan = make_plan(source.widths, source.heights, view="train", size=SIZE, seed=SEED, epoch=epoch)
    for rows in plan.batches(BATCH):
        images = []
        for sample, crop, flip in zip(rows.samples, rows.crops, rows.flips, strict=True):
            image = decode(source.stored(int(sample)))
            top, left, height, width = crop.tolist()
            image = functional.resized_crop(image, top, left, height, width, [SIZE, SIZE])
            image = functional.hflip(image) if flip else image
            images.append(
                functional.normalize(
                    functional.to_tensor(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
                )
            )
        yield torch.stack(images), torch.from_numpy(source.labels[rows.samples])


def tutorial_losses(source: Source, weights: Path | None) -> list[float]:
    """Loss of each step, per image, as the tutorial's code computes it.

    Its batches are the loader's, which `test_batches_are_the_tutorials` holds against its
    transforms: a last bit there grows within some steps of so few images to a percent of the loss.
    """
    torch.manual_seed(SEED)
    net = torchvision.models.resnet18()
    if weights is not None:
        net.load_state_dict(torch.load(weights, weights_only=True))
    net.fc = nn.Linear(net.fc.in_features, len(source.classes))
    if weights is not None:
        nn.init.xavier_uniform_(net.fc.weight)
        learning_rate = 5e-5
        params_1x = [
            param for name, param in net.named_parameters() if name not in ["fc.weight", "fc.bias"]
        ]
        trainer = torch.optim.SGD(
            [{"params": params_1x}, {"params": net.fc.parameters(), "lr": learning_rate * 10}],
            lr=learning_rate,
            weight_decay=0.001,
        )
    else:
        trainer = torch.optim.SGD(net.parameters(), lr=5e-4, weight_decay=0.001)
    net = net.to(memory_format=torch.channels_last)  # the same numbers, summed in the same order
    loss = nn.CrossEntropyLoss(reduction="none")
    losses = []
    loader = make_loader("torchvision", source, size=SIZE, batch_size=BATCH, seed=SEED, workers=1)
    with loader:
        for epoch in range(EPOCHS):
            loader.set_epoch(epoch)
            for images, labels in loader:
                net.train()
                trainer.zero_grad()
                prediction = net(images)
                each = loss(prediction, labels)
                each.sum().backward()
                trainer.step()
                losses.append(each.sum().item() / len(labels))
    return losses


@pytest.mark.parametrize("pretrained", [True, False], ids=["fine-tuned", "scratch"])
def test_recipe_equals_the_tutorial(
    pretrained: bool, source_model: Path, few: Path, tmp_path: Path
) -> None:
    options = {
        "data": few,
        "out": tmp_path / "run",
        "loader": "torchvision",
        "size": SIZE,
        "seed": SEED,
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "device": "cpu",
        "workers": 1,
        "weights": str(source_model) if pretrained else "none",
    }
    train(make_config(options, recipe="d2l"), Console(quiet=True))
    mine = [row.loss for row in read_metrics(tmp_path / "run" / "metrics.jsonl")[0]]
    source = open_source(few / "train.beton")
    weights = source_model if pretrained else None
    assert len(mine) == 2
    assert mine == tutorial_losses(source, weights)


def test_batches_are_the_tutorials(data: Path) -> None:
    source = open_source(data / "train.beton")
    with make_loader(
        "torchvision", source, size=SIZE, batch_size=BATCH, seed=SEED, workers=1
    ) as loader:
        for mine, theirs in zip(loader, plain_batches(source, 0), strict=True):
            # torchvision divides twice where a loader multiplies once.
            torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=2e-6)
            assert torch.equal(mine[1], theirs[1])


def test_recipe_is_the_tutorials(data: Path, tmp_path: Path) -> None:
    common = {"data": data, "out": tmp_path}
    tuned = make_config(common, recipe="d2l")
    assert (tuned.size, tuned.epochs, tuned.batch_size) == (224, 5, None)  # 128, or all if fewer
    assert (tuned.lr, tuned.head_lr_factor, tuned.loss) == (5e-5, 10.0, "sum")
    assert (tuned.view, tuned.eval_view) == ("train", "auto")  # the model's, which is eval
    assert (tuned.momentum, tuned.weight_decay, tuned.schedule) == (0, 0.001, "constant")
    scratch = make_config({**common, "weights": "none"}, recipe="d2l")
    assert (scratch.lr, scratch.head_lr_factor) == (5e-4, 1.0)
