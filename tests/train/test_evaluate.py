import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import batches_of, make_checkpoint
from torch import nn
from torch.nn import functional

from fastft.datasets.splits import evaluation_split
from fastft.evaluate.scores import judge
from fastft.model.classifier import restore_model
from fastft.runs.checkpoint import Checkpoint
from fastft.train.evaluate import average, classify, evaluate
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(data: Path) -> Checkpoint:
    return make_checkpoint(data, read_index(data / "test.beton").classes)


def test_the_loop_waits_for_the_device_once(
    trained: Checkpoint, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only reading a number makes a process wait: as often for six batches as for one."""
    model = restore_model(trained, Path())
    read: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        real = getattr(torch.Tensor, name)

        def spy(tensor: torch.Tensor, *rest: Any, real: Any = real, name: str = name) -> Any:
            read.append(name)
            return real(tensor, *rest)

        monkeypatch.setattr(torch.Tensor, name, spy)
    counts = []
    for batch_size in (6, 1):
        batches = batches_of(data, batch_size=batch_size)
        read.clear()
        evaluate(model, batches, device=CPU, amp_dtype=None)
        counts.append(list(read))
    assert counts == [["item", "item"]] * 2


def test_kept_outputs_are_the_models_own(trained: Checkpoint, data: Path) -> None:
    model = restore_model(trained, Path())
    batches = batches_of(data)
    plain = evaluate(model, batches, device=CPU, amp_dtype=None)
    kept = evaluate(model, batches, device=CPU, amp_dtype=None, keep=True)
    assert plain == kept
    assert plain.outputs is None
    assert kept.outputs is not None
    with torch.inference_mode():
        wanted = torch.cat([model(images) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    assert kept.outputs.logits.dtype == np.float32
    np.testing.assert_array_equal(kept.outputs.logits, wanted.numpy())
    np.testing.assert_array_equal(kept.outputs.labels, labels.numpy())
    assert kept.outputs.plain is None
    findings = judge(kept.outputs.logits, kept.outputs.labels)
    assert findings.accuracy == kept.score
    assert findings.loss == pytest.approx(kept.loss, rel=1e-6)


def test_flip_averages_probabilities(trained: Checkpoint, data: Path) -> None:
    model = restore_model(trained, Path())
    batches = batches_of(data)
    kept = evaluate(model, batches, device=CPU, amp_dtype=None, flip=True, keep=True)
    assert kept.outputs is not None
    assert kept.outputs.plain is not None
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    mirrored = torch.from_numpy(images.numpy()[..., ::-1].copy())
    with torch.inference_mode():
        logits, others = model(images), model(mirrored)
    wanted = (logits.softmax(1) + others.softmax(1)) / 2
    found = torch.from_numpy(kept.outputs.logits).softmax(1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(kept.outputs.plain), logits, atol=1e-4, rtol=0)
    assert (wanted - logits.softmax(1)).abs().max() > 0.01  # so that the two can be told apart
    assert kept.loss == pytest.approx(functional.nll_loss(wanted.log(), labels).item(), rel=1e-4)
    assert kept.score == (wanted.argmax(1) == labels).sum().item() / 6


def test_flip_keeps_the_loss_of_tiny_probabilities_finite() -> None:
    symmetric = torch.tensor([[[[200.0, -200.0, 200.0]]]])
    logits, plain = classify(nn.Flatten(), symmetric, None, flip=True)
    assert plain.tolist() == [[200, -200, 200]]
    wanted = pytest.approx(400 + math.log(2))
    assert functional.cross_entropy(logits, torch.tensor([1])).item() == wanted


def test_mirror_images_alone_give_the_former_bits() -> None:
    """`logsumexp` would round one output in sixteen of these differently."""
    images = torch.randn(64, 1, 10, 10, generator=torch.Generator().manual_seed(0)) * 5
    found, plain = classify(nn.Flatten(), images, None, flip=True)
    mirrored = images.flip(3).flatten(1)
    assert torch.equal(plain, images.flatten(1))
    assert torch.equal(found, torch.logaddexp(plain.log_softmax(1), mirrored.log_softmax(1)))


def test_averages_of_tiny_probabilities_stay_finite() -> None:
    outputs = [torch.tensor([[200.0, -200.0, 100.0 * at]]) for at in range(-2, 1)]
    loss = functional.cross_entropy(average(outputs), torch.tensor([1]))
    assert loss.item() == pytest.approx(400)
    (alone,) = outputs[:1]
    assert average([alone]) is alone


def test_every_pass_weighs_the_same(trained: Checkpoint, data: Path) -> None:
    model = restore_model(trained, Path())
    batches = batches_of(data)
    others = [[(images.roll(at, 3), labels) for images, labels in batches] for at in (5, 9)]
    kept = evaluate(model, batches, device=CPU, amp_dtype=None, vflip=True, crops=others, keep=True)
    assert kept.outputs is not None
    assert kept.outputs.plain is not None
    total = torch.zeros(6, 3)
    with torch.inference_mode():
        for each in (batches, *others):
            images = torch.cat([images for images, _ in each])
            total += model(images).softmax(1) + model(images.flip(2)).softmax(1)
        plain = model(torch.cat([images for images, _ in batches]))
    labels = torch.cat([labels for _, labels in batches])
    found = torch.from_numpy(kept.outputs.logits).softmax(1)
    torch.testing.assert_close(found, total / 6, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(kept.outputs.plain), plain, atol=1e-4, rtol=0)
    assert kept.samples == 6
    wanted = functional.nll_loss((total / 6).log(), labels).item()
    assert kept.loss == pytest.approx(wanted, rel=1e-4)


def test_passes_of_other_lengths_are_an_error(trained: Checkpoint, data: Path) -> None:
    model, batches = restore_model(trained, Path()), batches_of(data)
    with pytest.raises(ValueError, match="shorter"):
        evaluate(model, batches, device=CPU, amp_dtype=None, crops=[batches[:1]])


def test_no_samples_are_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        evaluate(nn.Identity(), [], device=CPU, amp_dtype=None)


def test_what_is_evaluated(data: Path, photos: Path, tmp_path: Path) -> None:
    classes = tuple(sorted(path.name for path in (photos / "test").iterdir()))
    assert evaluation_split(data, None, classes) == data / "test.beton"
    assert evaluation_split(data, "train", classes) == data / "train.beton"
    assert evaluation_split(photos, None, classes) == photos / "test"
    assert evaluation_split(photos / "train", None, classes) == photos / "train"
    assert evaluation_split(data / "train.beton", None, classes) == data / "train.beton"
    for name in ("val", "train"):
        (tmp_path / name).mkdir()
    assert evaluation_split(tmp_path, None, classes) == tmp_path / "val"
    # Vehicles, one of which is called like a split.
    assert evaluation_split(tmp_path, None, ("train", "val")) == tmp_path
    (tmp_path / "val").rmdir()
    with pytest.raises(DataError, match=r"a training split alone.*--split train"):
        evaluation_split(tmp_path, None, classes)
    with pytest.raises(UsageError, match="has no test"):
        evaluation_split(tmp_path, "test", classes)
    with pytest.raises(UsageError, match="given with the file"):
        evaluation_split(data / "test.beton", "test", classes)
    with pytest.raises(DataError, match="no such file"):
        evaluation_split(tmp_path / "no", "test", classes)
