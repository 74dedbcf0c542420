"""The tutorial's own training loop, as a program: `python tutorial.py PHOTOS OUT ...`.

Source: "Dive into Deep Learning", 14.2 (fine-tuning, PyTorch): its transforms, loaders, optimizer
and `train_ch13`, without the plot; from scratch, since its weights are a download. It ends with
what the book does not have, a saved state dict. `--workers N` gives its loaders processes and
pinned memory, which the book does not.
"""

from __future__ import annotations

import argparse
import json
import time

STARTED = time.perf_counter()

import torch  # noqa: E402 - its import is part of what is measured
import torchvision  # noqa: E402
from torch import nn  # noqa: E402


def main() -> None:
    """Train, evaluate after each epoch, save; prints what took how long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("out")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    imported_s = time.perf_counter() - STARTED
    device = torch.device(asked.device)
    train_iter, test_iter = loaders(asked)
    net = torchvision.models.resnet18(num_classes=2)
    net = nn.DataParallel(net, device_ids=[0]) if device.type == "cuda" else net
    net = net.to(device)
    loss = nn.CrossEntropyLoss(reduction="none")
    trainer = torch.optim.SGD(net.parameters(), lr=5e-4, weight_decay=0.001)
    epochs_s = []
    for _ in range(asked.epochs):
        began = time.perf_counter()
        net.train()
        total = right = images = 0.0
        for features, labels in train_iter:
            features, labels = features.to(device), labels.to(device)
            trainer.zero_grad()
            predicted = net(features)
            each = loss(predicted, labels)
            each.sum().backward()
            trainer.step()
            total += float(each.sum())
            right += float((predicted.argmax(1) == labels).sum())
            images += len(labels)
        accuracy = evaluate(net, test_iter, device)
        epochs_s.append(time.perf_counter() - began)
    torch.save(net.state_dict(), asked.out)
    print(
        json.dumps(
            {
                "imported_s": imported_s,
                "epochs_s": epochs_s,
                "loss": total / images,
                "train_accuracy": right / images,
                "accuracy": accuracy,
            }
        )
    )


def loaders(asked: argparse.Namespace) -> tuple[torch.utils.data.DataLoader, ...]:
    """Its two loaders of images."""
    transforms = torchvision.transforms
    normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    train_augs = transforms.Compose(
        [
            transforms.RandomResizedCrop(asked.size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            normalize,
        ]
    )
    test_augs = transforms.Compose(
        [
            transforms.Resize([round(asked.size * 256 / 224)] * 2),
            transforms.CenterCrop(asked.size),
            transforms.ToTensor(),
            normalize,
        ]
    )
    options = {"batch_size": asked.batch_size, "num_workers": asked.workers}
    if asked.workers:
        options |= {"pin_memory": asked.device != "cpu", "persistent_workers": True}
    folder = torchvision.datasets.ImageFolder
    return (
        torch.utils.data.DataLoader(
            folder(f"{asked.photos}/train", train_augs), shuffle=True, **options
        ),
        torch.utils.data.DataLoader(folder(f"{asked.photos}/test", test_augs), **options),
    )


def evaluate(net: nn.Module, batches: torch.utils.data.DataLoader, device: torch.device) -> float:
    """Its accuracy."""
    net.eval()
    right, images = 0.0, 0
    with torch.no_grad():
        for features, labels in batches:
            features, labels = features.to(device), labels.to(device)
            right += float((net(features).argmax(1) == labels).sum())
            images += len(labels)
    return right / images


if __name__ == "__main__":
    main()
