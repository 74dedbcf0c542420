"""The card of an exported model: what it is, what it was made of, how to run it. Markdown.

Nothing stands in it but what the checkpoint, the run's data and the comparison say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from fastft import __version__
from fastft.export.check import RunData
from fastft.export.examples import write_example
from fastft.export.formats import OPSET
from fastft.runs.checkpoint import Checkpoint
from fastft.runs.description import IMAGES, Interface
from fastft.runs.measures import MEASURES
from pipelines.errors import one_line
from pipelines.formats.source import Source

#: Classes that are listed, before the rest is only counted: all are in the file's metadata.
_MOST_CLASSES = 100
#: Settings that say how it was trained, in the order to show them in.
_SETTINGS = tuple(
    """recipe weights freeze epochs batch_size optimizer lr head_lr_factor weight_decay schedule
    augment mixup cutmix label_smoothing class_weight sampler ema amp seed""".split()
)
_KINDS = {
    "onnx": f"ONNX, opset {OPSET}",
    "torch": "a program of torch.export",
    "safetensors": "weights by the names of the network's own state dict",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """All that a card says.

    Attributes:
        checkpoint: the model, as others are to have it.
        interface: what the file takes and gives.
        file_name: the file's.
        size_bytes: the file's.
        written: the day of the checkpoint's file.
        data: the run's, as far as they are there.
        differences: lines on what the comparison came to.
    """

    checkpoint: Checkpoint
    interface: Interface
    file_name: str
    size_bytes: int
    written: date
    data: RunData
    differences: Sequence[str]


def write_card(facts: CardFacts) -> str:
    """The card."""
    checkpoint = facts.checkpoint
    meaning, arch = checkpoint.outputs, checkpoint.arch
    noun = MEASURES[meaning.task].count(checkpoint.classes)
    telling = {"classes": "one of", "labels": "any of", "number": ""}[meaning.task]
    sections = [
        f"# {_code(arch)}: {_escape(noun)}",
        f"`{facts.file_name}` tells {telling} {_escape(noun)} from a photo. It is a {_code(arch)}, "
        f"trained and exported by fastft {__version__}.".replace("  ", " "),
        _list_classes(checkpoint),
        "## File",
        _describe_file(facts),
        "## Images",
        _describe_images(facts),
        "## Training",
        _describe_training(facts),
        "## Compared with the checkpoint",
        "\n".join(f"- {_escape(line)}" for line in facts.differences),
        "## To run it",
        _describe_running(facts),
    ]
    return "\n\n".join(each for each in sections if each) + "\n"


def _list_classes(checkpoint: Checkpoint) -> str:
    if checkpoint.outputs.task == "number":
        return ""
    thresholds = checkpoint.outputs.thresholds
    lines = ["| output | name |", "| ---: | --- |"]
    if thresholds:
        lines = ["| output | name | best threshold |", "| ---: | --- | ---: |"]
    for row, name in enumerate(checkpoint.classes[:_MOST_CLASSES]):
        best = f" {thresholds[row]:.4g} |" if thresholds else ""
        lines.append(f"| {row} | {_escape(name)} |{best}")
    more = len(checkpoint.classes) - _MOST_CLASSES
    return "\n".join(lines) + (f"\n\nand {more:,} more, in the file's metadata" if more > 0 else "")


def _describe_file(facts: CardFacts) -> str:
    interface, count = facts.interface, len(facts.checkpoint.classes)
    size = facts.checkpoint.size
    image = f"float32[batch, 3, {size}, {size}], normalized RGB"
    if interface.takes == "whole photos":
        image = "uint8[batch, height, width, 3], RGB, of any size"
    gives = ", ".join(f"`{name}` float32[batch, {count}]" for name in interface.outputs)
    if interface.format == "safetensors":
        gives = f"logits float32[batch, {count}]"
    elif interface.takes == "whole photos" and interface.format == "torch":
        gives += f", and the pixels that the network saw, float32[batch, 3, {size}, {size}]"
    where = {
        "onnx": "metadata_props",
        "torch": "extra files",
        "safetensors": "`__metadata__`",
    }[interface.format]
    rows = {
        "format": f"{_KINDS[interface.format]}, float32",
        "size": f"{facts.size_bytes:,} bytes",
        "takes": f"`{IMAGES}` {image}",
        "gives": gives,
        "metadata": f"{where}: `fastft`, JSON: classes, size, view, preprocessing, preparation, "
        "meaning of the outputs, settings; `fastft-export`, JSON: version, inputs, outputs",
    }
    return _table(rows)


def _describe_images(facts: CardFacts) -> str:
    checkpoint = facts.checkpoint
    form, size, prepared = checkpoint.preprocessed, checkpoint.size, checkpoint.prepared
    side = form.resize_side(size)
    if checkpoint.view == "eval-square":
        resized = f"resized to {side} x {side} px"
    else:
        resized = f"resized so that the shorter side has {side} px"
    inside = ""
    if facts.interface.takes == "whole photos":
        inside = " All of it but decoding is in the model; "
        inside += "the filter runs one way, rounds, then the other way, as Pillow's, in float32."
    turned = "turned upright as EXIF says" if prepared.apply_exif else "EXIF rotation is ignored"
    deep = {
        "clip": 'more than 8 bits are clipped as Pillow\'s `convert("RGB")` does',
        "scale": "more than 8 bits are mapped to 0-255",
    }[prepared.depth]
    scaled = ""
    if checkpoint.decode == "scaled":
        scaled = (
            " In training large JPEGs were decoded at a part of their size (`--decode scaled`)."
        )
    words = (
        f"A photo is decoded to RGB ({turned}; {deep}), {resized} by Pillow's antialiased "
        f"{form.filter} filter, cut to the {size} x {size} px in its middle, divided by 255, and "
        f"normalized.{inside}{scaled}"
    )
    numbers = {
        "resized to": f"{side} px",
        "cut to": f"{size} px",
        "filter": form.filter,
        "mean": ", ".join(f"{each:.9g}" for each in form.mean),
        "deviation": ", ".join(f"{each:.9g}" for each in form.std),
    }
    meaning = checkpoint.outputs
    if meaning.task == "number":
        numbers["a logit of 0 is"] = f"{meaning.mean!r}"
        numbers["a logit of 1 is more by"] = f"{meaning.deviation!r}"
    return f"{words}\n\n{_table(numbers)}"


def _describe_training(facts: CardFacts) -> str:
    checkpoint = facts.checkpoint
    config = checkpoint.config
    score = MEASURES[checkpoint.outputs.task].score
    rows = {
        f"{score.name} of the evaluation split": score.write(checkpoint.score),
        "epochs behind it": f"{checkpoint.epoch}",
        "checkpoint written on": f"{facts.written:%Y-%m-%d}",
    }
    if isinstance(config.get("data"), str):
        rows["data"] = _escape(config["data"])
    for name, source in (("trained on", facts.data.train), ("judged by", facts.data.evaluation)):
        if source is not None:
            rows[name] = _count(source)
    for name in _SETTINGS:
        if _is_told(config.get(name)):
            rows[name.replace("_", " ")] = _escape(str(config[name]))
    return _table(rows)


def _count(source: Source) -> str:
    """Photos of a split, of few classes those of each."""
    text = f"{len(source):,} photos"
    if source.columns.task == "classes" and len(source.classes) <= 20:
        counts = np.bincount(source.labels, minlength=len(source.classes))
        each = (f"{_escape(n)} {c:,}" for n, c in zip(source.classes, counts, strict=True))
        text += f" ({', '.join(each)})"
    return text


def _is_told(value: Any) -> bool:
    return isinstance(value, str | int | float) and value not in ("", 0, "off", False)


def _describe_running(facts: CardFacts) -> str:
    example = write_example(facts.checkpoint, facts.interface, facts.file_name)
    needs = {
        "onnx": "onnxruntime, numpy and Pillow",
        "torch": "torch, numpy and Pillow",
        "safetensors": "safetensors, torch, torchvision or timm, numpy and Pillow",
    }[facts.interface.format]
    return (
        f"By fastft: `fastft predict {facts.file_name} photo.jpg`. Without it, with {needs}, from "
        f"the folder of the file:\n\n```python\n{example}```"
    )


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {rows[key]} |" for key in rows)])


def _escape(text: str) -> str:
    """A text of others' as one line of Markdown, in which nothing is a mark."""
    line = one_line(text)
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!" else letter for letter in line)


def _code(text: str) -> str:
    return f"`{one_line(text).replace('`', '')}`"
