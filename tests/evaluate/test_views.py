"""Test-time augmentation: mirrored images, images upside down and several crops, averaged."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effort import rest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from runs import Command, batches_of
from torchvision.transforms.v2 import functional as F

from fastft.config.commands import EvaluateConfig, PredictConfig
from fastft.evaluate import predict as prediction
from fastft.evaluate.result import Evaluation
from fastft.evaluate.run import _passes, run_evaluate
from fastft.evaluate.scores import Findings, judge
from fastft.evaluate.section import evaluation_section
from fastft.model.classifier import restore_model
from fastft.results.read import check
from fastft.runs.checkpoint import Checkpoint, save_checkpoint
from pipelines.decoder import Decoder
from pipelines.errors import DataError, UsageError
from pipelines.loaders import make_loader
from pipelines.reference import normalize

Views = Callable[[Image.Image, int], Iterable[Image.Image]]


def turn(images: Iterable[Image.Image]) -> list[Image.Image]:
    """Each as it is, mirrored, upside down and both."""
    turned = [(each, F.hflip(each)) for each in images]
    return [view for pair in turned for each in pair for view in (each, F.vflip(each))]


def center(image: Image.Image, size: int) -> Image.Image:
    return F.center_crop(image, [size, size])


#: View, size, options, and the same by torchvision. Its TenCrop mirrors before it cuts the centre:
#: that is the mirror image of the centre where what is cut off is an even number of pixels.
CASES: dict[str, tuple[str, int, dict[str, Any], Views]] = {
    "upside down": (
        "eval",
        40,
        {"vflip": True},
        lambda image, size: [each := center(image, size), F.vflip(each)],
    ),
    "four": (
        "eval",
        40,
        {"flip": True, "vflip": True},
        lambda image, size: turn([center(image, size)]),
    ),
    "five": ("eval", 40, {"crops": 5}, F.five_crop),
    "five square": ("eval-square", 40, {"crops": 5}, F.five_crop),
    "ten": ("eval-square", 42, {"crops": 5, "flip": True}, F.ten_crop),
    "ten upside down": (
        "eval-square",
        42,
        {"crops": 5, "vflip": True},
        lambda image, size: F.ten_crop(image, size, vertical_flip=True),
    ),
    "twenty": (
        "eval",
        40,
        {"crops": 5, "flip": True, "vflip": True},
        lambda image, size: turn(F.five_crop(image, size)),
    ),
}


def resize(photos: Path, view: str, size: int) -> list[Image.Image]:
    """The test photos in the order of their paths, as they are before a crop of `size`."""
    side = int(size * 256 / 224)
    sides = [side] if view == "eval" else [side, side]
    files = sorted((photos / "test").rglob("*.jpg"))
    return [F.resize(Image.open(file).convert("RGB"), sides) for file in files]


def probabilities(
    checkpoint: Checkpoint, images: list[Image.Image], views: Views
) -> NDArray[np.float32]:
    """float32[N, C], the mean over all views of each image, one forward pass for each image."""
    model, rows = restore_model(checkpoint, Path()), []
    for image in images:
        pixels = np.stack([np.asarray(view) for view in views(image, checkpoint.size)])
        with torch.inference_mode():
            logits = model(torch.from_numpy(normalize(pixels)).permute(0, 3, 1, 2))
        rows.append(logits.softmax(1).mean(0).numpy())
    return np.stack(rows)


def judged(run: Path, data: Path, **options: Any) -> tuple[Findings, dict[str, Any]]:
    """The findings, and the JSON."""
    findings = run_evaluate(EvaluateConfig(run=run, data=data, n=1, **options), Console(quiet=True))
    return findings, json.loads((run / "evaluation" / "evaluation.json").read_text())


def predicted(run: Path, *images: Path, **options: Any) -> list[Any]:
    return prediction.predict(PredictConfig(run=run, images=images, **options))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "case",
    ["upside down", "ten", "twenty", *rest("four", "five", "five square", "ten upside down")],
)
def test_views_equal_torchvisions(
    case: str, run: Path, trained: Checkpoint, data: Path, photos: Path
) -> None:
    view, size, options, views = CASES[case]
    checkpoint = replace(trained, view=view, size=size)
    save_checkpoint(run / "best.safetensors", checkpoint)
    images = resize(photos, view, size)
    wanted = probabilities(checkpoint, images, views)
    alone = probabilities(checkpoint, images, lambda image, size: [center(image, size)])
    assert np.abs(wanted - alone).max() > 1e-3  # so that they can be told apart
    found = np.stack([row.probabilities for row in predicted(run, photos / "test", **options)])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    findings, content = judged(run, data, **options)
    labels = findings.samples.labels
    np.testing.assert_allclose(
        findings.samples.truth_probability, wanted[np.arange(len(labels)), labels], atol=1e-5
    )
    np.testing.assert_allclose(findings.samples.probability, wanted.max(1), atol=1e-5)
    assert content["loss"] == pytest.approx(findings.samples.losses.mean(), abs=1e-6)
    assert content["plain_accuracy"] == (alone.argmax(1) == labels).mean()


def former(checkpoint: Checkpoint, batches: Iterable[torch.Tensor], flip: bool) -> torch.Tensor:
    """The outputs as they were computed when there were no other views than mirror images."""
    model, kept = restore_model(checkpoint, Path()), []
    for images in batches:
        with torch.inference_mode():
            logits = model(images)
            if flip:
                mirrored = model(images.flip(3)).log_softmax(1)
                logits = torch.logaddexp(logits.log_softmax(1), mirrored)
        kept.append(logits)
    return torch.cat(kept)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("flip", [False, True])
def test_no_new_view_changes_no_bit(
    flip: bool, run: Path, trained: Checkpoint, data: Path, photos: Path
) -> None:
    wanted = former(trained, (images for images, _ in batches_of(data)), flip)
    rows = predicted(run, photos / "test", batch_size=4, flip=flip)
    found = np.stack([row.probabilities for row in rows])
    np.testing.assert_array_equal(found, wanted.softmax(1).numpy())
    findings, content = judged(run, data, flip=flip)
    same = judge(wanted.numpy(), findings.samples.labels)
    np.testing.assert_array_equal(findings.samples.losses, same.samples.losses)
    assert content["accuracy"] == same.accuracy
    assert (content["plain_accuracy"] is not None) == flip


@pytest.mark.parametrize("view", ["eval", "eval-square"])
@pytest.mark.parametrize("loader", ["torchvision", "resident"])
def test_each_pass_gives_one_crop(loader: str, view: str, data: Path, photos: Path) -> None:
    size, told = 40, list[tuple[int, int]]()
    with make_loader(
        loader, data / "test.beton", view=view, size=size, batch_size=4, normalize=False, workers=1
    ) as source:
        passes = _passes(source, 5, lambda *at: told.append(at))
        found = [torch.cat([images for images, _ in each]) for each in passes]
        stated = source.stated
    assert told == [(n, 30) for each in range(5) for n in (6 * each + 4, 6 * each + 6)]
    assert stated is not None
    crops = [F.five_crop(image, [size, size]) for image in resize(photos, view, size)]
    for at, place in enumerate((4, 0, 1, 2, 3)):  # torchvision's last is the centre
        wanted = np.stack([np.asarray(each[place], np.float32) for each in crops])
        apart = np.abs(found[at].permute(0, 2, 3, 1).numpy() - wanted)
        assert apart.mean() <= stated[0]
        assert apart.max() <= stated[1]


def test_a_file_is_decoded_once(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples: list[int] = []
    real = Decoder.to_rgb

    def spy(self: Decoder, sample: int, *others: Any) -> None:
        samples.append(sample)
        real(self, sample, *others)

    monkeypatch.setattr(Decoder, "to_rgb", spy)
    predicted(run, photos / "test", crops=5, flip=True)
    assert sorted(samples) == [*range(6)]


def test_a_broken_image_is_left_out(run: Path, photos: Path, tmp_path: Path) -> None:
    whole = sorted((photos / "test").rglob("*.jpg"))[0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(whole.read_bytes()[:700])
    config = PredictConfig(run=run, images=(broken, whole), crops=5)
    errors: list[DataError] = []
    (found,) = prediction.predict(config, on_broken=errors.append)
    assert found == predicted(run, whole, crops=5)[0]
    assert [error.where for error in errors] == [str(broken)]


@pytest.mark.parametrize("crops", ["0", "2", "10", "-5", "5.5", "many"])
def test_other_numbers_of_crops_are_refused(
    crops: str, fastft: Command, run: Path, data: Path, photos: Path
) -> None:
    for given in (["evaluate", run, "--data", data], ["predict", run, photos / "test"]):
        status, out, err = fastft(*given, "--crops", crops)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "--crops" in err
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize("config", [EvaluateConfig, PredictConfig])
def test_a_config_refuses_them_too(config: Any) -> None:
    given = {"data": Path()} if config is EvaluateConfig else {"images": ()}
    with pytest.raises(UsageError, match="--crops: '3', expected one of 1, 5"):
        config(run=Path(), crops=3, **given)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("options", "views"),
    [
        (["--flip"], "each image and its mirror image"),
        (
            ["--crops", 5, "--flip", "--vflip"],
            "20 views of each image: the crops at its centre and corners, "
            "each as it is, mirrored, upside down and both",
        ),
        *rest(
            (["--vflip"], "2 views of each image: as it is and upside down"),
            (["--crops", 5], "5 views of each image: the crops at its centre and corners"),
        ),
    ],
)
def test_terminal_and_page_name_the_views(
    options: list[object], views: str, fastft: Command, run: Path, data: Path
) -> None:
    status, out, err = fastft("evaluate", run, "--data", data, *options)
    assert (status, err) == (0, "")
    content = json.loads((run / "evaluation" / "evaluation.json").read_text())
    said = f"averaged over {views}; accuracy of the images alone {content['plain_accuracy']:.4f}"
    assert said in out.splitlines()
    section = evaluation_section([("run", check(Evaluation, content, "here"), None)])
    assert section is not None
    assert section.lead[0].endswith(f"; {said}.")


@pytest.mark.usefixtures("undrawn")
def test_older_evaluations_are_still_read(run: Path, data: Path) -> None:
    _, content = judged(run, data, flip=True)
    for name in ("vflip", "crops"):
        del content["config"][name]
    section = evaluation_section([("run", check(Evaluation, content, "here"), None)])
    assert section is not None
    assert "averaged over each image and its mirror image; accuracy" in section.lead[0]
