"""One look at an exported model, in a process of its own that has not made it.

It is run by what others will run it by, onnxruntime or torch.export, on the CPU, and compared with
the network of the checkpoint on the same photos.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastft.export.networks import PIXELS, Exported, Prepare, list_outputs
from fastft.model.classifier import restore_model
from fastft.model.label_scores import HALF
from fastft.model.tasks import Goal, goal_of
from fastft.runs.checked import STRICT, Count
from fastft.runs.checkpoint import Checkpoint, load_checkpoint
from fastft.runs.description import IMAGES
from fastft.system.isolated import ANSWER
from pipelines.errors import FastftError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.encode import decode
from pipelines.loaders import make_loader
from pipelines.reference import normalize

Floats = NDArray[np.float32]
#: Outputs of the photos that are given, the pixels that the network saw of them, if it says.
_Run = Callable[[NDArray[Any]], tuple[Floats, Floats, Floats | None]]
_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """What an exported model says otherwise than the checkpoint.

    Attributes:
        photos: compared.
        same: of them with the same class, or the same labels from one half on; of numbers those
            that differ by less than 1e-4 deviations.
        most: largest difference of a probability, or of a number in deviations.
        worst: the photo of that.
        second: largest difference of the model's own probabilities or numbers from its logits'.
        most_levels, mean_levels: of the pixels that the network sees, of 255; None: as given.
        by: what ran it.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    photos: Count
    same: Count
    most: float
    worst: str
    second: float
    most_levels: float | None
    mean_levels: float | None
    by: str


def main(arguments: list[str]) -> None:
    """Compare, and write the answer.

    Args:
        arguments: the checkpoint, the model's file, its format, a `.beton` of photos, and an empty
            folder.
    """
    checkpoint, model, export_format, photos, folder = arguments
    answer: dict[str, Any]
    try:
        answer = asdict(compare(Path(checkpoint), Path(model), export_format, Path(photos)))
    except FastftError as error:
        answer = {"failed": str(error)}
    (Path(folder) / ANSWER).write_text(json.dumps(answer))


@torch.inference_mode()
def compare(checkpoint_path: Path, path: Path, export_format: str, photos: Path) -> Differences:
    """Run a model and its checkpoint's network on photos.

    Raises:
        DataError: a file cannot be read.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    goal = goal_of(checkpoint.outputs)
    network = restore_model(checkpoint, checkpoint_path)
    run, by, takes_photos = _open(checkpoint, path, export_format)
    index = read_index(photos)
    most = second = level_sum = most_levels = 0.0
    worst, same, levels = "", 0, 0
    for first, pixels in _cut(checkpoint, photos):
        images = normalize(pixels, checkpoint.preprocessed).transpose(0, 3, 1, 2)
        images = np.ascontiguousarray(images)
        wanted = goal.read(network(torch.from_numpy(images)))
        count = len(pixels)
        for start in range(0, count, 1 if takes_photos else count):
            part = slice(start, start + 1 if takes_photos else count)
            given = _whole(index, first + start) if takes_photos else images
            logits, stands_for, seen = run(given)
            found = goal.read(torch.from_numpy(logits))
            apart = _differ(goal, found, wanted[part])
            same += int(_agree(goal, found, wanted[part]).sum())
            second = max(second, float(_differ(goal, stands_for, found).max()))
            if seen is not None:
                gaps = np.abs(seen - pixels[part].transpose(0, 3, 1, 2))
                level_sum, levels = level_sum + float(gaps.sum()), levels + gaps.size
                most_levels = max(most_levels, float(gaps.max()))
            if not apart.max() <= most or not worst:  # NaN, too
                most = float(apart.max())
                worst = index.name(first + start + int(apart.argmax()))
    return Differences(
        photos=len(index),
        same=same,
        most=most,
        worst=worst,
        second=second,
        most_levels=most_levels if levels else None,
        mean_levels=level_sum / levels if levels else None,
        by=by,
    )


def _cut(checkpoint: Checkpoint, photos: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The number of a photo, and uint8[B, S, S, 3] of it and the next, as evaluation cuts them."""
    first = 0
    with make_loader(
        "torchvision",
        photos,
        view=checkpoint.view,
        size=checkpoint.size,
        batch_size=min(_BATCH, len(read_index(photos))),
        workers=0,
        normalize=False,
        decode=checkpoint.decode,
        preprocessing=checkpoint.preprocessed,
    ) as loader:
        for images, labels in loader:
            yield first, images.permute(0, 2, 3, 1).numpy()
            first += len(labels)


def _whole(index: Index, sample: int) -> NDArray[np.uint8]:
    """uint8[1, H, W, 3]: a whole photo."""
    return np.asarray(decode(index.stored(sample), index.name(sample)))[None]


def _differ(goal: Goal, found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.float64]:
    """float64[B]: the largest difference of each photo, of numbers in deviations."""
    apart: NDArray[np.float64] = np.abs(found.astype(np.float64) - wanted).max(axis=1)
    return apart / (goal.meaning.deviation if goal.meaning.task == "number" else 1.0)


def _agree(goal: Goal, found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """bool[B]: whether the same is told of each photo."""
    if goal.meaning.task == "classes":
        agree: NDArray[np.bool_] = found.argmax(1) == wanted.argmax(1)
    elif goal.meaning.task == "labels":
        agree = ((found >= HALF) == (wanted >= HALF)).all(1)
    else:
        agree = _differ(goal, found, wanted) < 1e-4
    return agree


def _open(checkpoint: Checkpoint, path: Path, export_format: str) -> tuple[_Run, str, bool]:
    """How to run a model, by what, and whether it takes whole photos, one by one."""
    opened: tuple[_Run, str, bool] = _OPENERS[export_format](checkpoint, path)
    return opened


def _open_onnx(checkpoint: Checkpoint, path: Path) -> tuple[_Run, str, bool]:
    import onnx
    import onnxruntime

    proto = onnx.load(path)
    takes_photos = len(proto.graph.input[0].type.tensor_type.shape.dim) == 4 and (
        proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    )
    names = list(list_outputs(checkpoint))
    content = path.read_bytes()
    if takes_photos:  # what the network sees is a value of the graph; asked for, it is given
        names.append(PIXELS)
        kind = onnx.TensorProto.FLOAT
        proto.graph.output.append(onnx.helper.make_tensor_value_info(PIXELS, kind, None))
        content = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: NDArray[Any]) -> tuple[Floats, Floats, Floats | None]:
        logits, second, *pixels = session.run(names, {IMAGES: images})
        return logits, second, pixels[0] if pixels else None

    return run, f"onnxruntime {onnxruntime.__version__}", takes_photos


def _open_program(checkpoint: Checkpoint, path: Path) -> tuple[_Run, str, bool]:
    program = torch.export.load(path).module()
    dtypes = [node.meta["val"].dtype for node in program.graph.nodes if node.op == "placeholder"]
    takes_photos = dtypes == [torch.uint8]
    # The same operators as in the program, whose values in between cannot be asked for.
    prepare = Prepare(checkpoint.size, checkpoint.view, checkpoint.preprocessed)

    def run(images: NDArray[Any]) -> tuple[Floats, Floats, Floats | None]:
        given = torch.from_numpy(images.copy())
        logits, second, *_ = program(given)
        seen = prepare(given).numpy() if takes_photos else None
        return logits.numpy(), second.numpy(), seen

    return run, f"torch.export of torch {torch.__version__}", takes_photos


def _open_weights(checkpoint: Checkpoint, path: Path) -> tuple[_Run, str, bool]:
    import safetensors
    from safetensors.torch import load_file

    weights = replace(checkpoint, model=load_file(path), ema=None)
    exported = Exported(restore_model(weights, path), checkpoint).eval()

    def run(images: NDArray[Any]) -> tuple[Floats, Floats, Floats | None]:
        logits, second = exported(torch.from_numpy(images))
        return logits.numpy(), second.numpy(), None

    return run, f"torch {torch.__version__}, loaded by safetensors {safetensors.__version__}", False


_OPENERS = {"onnx": _open_onnx, "torch": _open_program, "safetensors": _open_weights}
