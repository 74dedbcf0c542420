"""Programs that run an exported model without fastft, as its card shows them.

Each is whole, and prints what the model says of `photo.jpg`.
"""

from __future__ import annotations

from fastft.runs.checkpoint import Checkpoint
from fastft.runs.description import IMAGES, Interface

_TIMM = "timm:"


def write_example(checkpoint: Checkpoint, interface: Interface, file_name: str) -> str:
    """The program for a model, Python."""
    if interface.format == "onnx":
        imports, run = ["import onnxruntime"], _run_onnx(checkpoint, interface, file_name)
    elif interface.format == "torch":
        imports, run = ["import torch"], _run_program(checkpoint, interface, file_name)
    else:
        imports, run = _run_weights(checkpoint, file_name)
    imports += ["import numpy as np", "from PIL import Image"]
    if checkpoint.prepared.apply_exif:
        imports.append("from PIL import ImageOps")
    whole = interface.takes == "whole photos"
    lines = ["import json", "", *sorted(imports, key=_by_module), "", *_open_photo(checkpoint)]
    lines += [f"{IMAGES} = np.asarray(photo)[None]"] if whole else _prepare(checkpoint)
    return "\n".join([*lines, "", *run, *_tell(checkpoint)]) + "\n"


def _by_module(line: str) -> tuple[bool, str]:
    return line.startswith("from"), line.lower()


def _open_photo(checkpoint: Checkpoint) -> list[str]:
    if checkpoint.prepared.apply_exif:
        return ['photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")']
    return ['photo = Image.open("photo.jpg").convert("RGB")']


def _prepare(checkpoint: Checkpoint) -> list[str]:
    """Resizing, cutting and normalization in Pillow and numpy."""
    form, size = checkpoint.preprocessed, checkpoint.size
    side = form.resize_side(size)
    if checkpoint.view == "eval-square":
        sides = [f"resized = ({side}, {side})"]
    else:
        sides = [
            "short = min(photo.size)",
            f"resized = tuple({side} * each // short for each in photo.size)",
        ]
    mean, std = (", ".join(f"{each:.9g}" for each in values) for values in (form.mean, form.std))
    return [
        *sides,
        f"photo = photo.resize(resized, Image.Resampling.{form.filter.upper()})",
        f"left, top = (round((each - {size}) / 2) for each in photo.size)",
        f"photo = photo.crop((left, top, left + {size}, top + {size}))",
        "pixels = np.asarray(photo, np.float32) / 255",
        f"mean = np.array([{mean}], np.float32)",
        f"deviation = np.array([{std}], np.float32)",
        "pixels = (pixels - mean) / deviation",
        f"{IMAGES} = pixels.transpose(2, 0, 1)[None]",
    ]


def _run_onnx(checkpoint: Checkpoint, interface: Interface, file_name: str) -> list[str]:
    output = interface.outputs[1]
    return [
        f'session = onnxruntime.InferenceSession("{file_name}")',
        f'({output},) = session.run(["{output}"], {{"{IMAGES}": {IMAGES}}})',
        f"found = {output}[0]",
        'about = json.loads(session.get_modelmeta().custom_metadata_map["fastft"])',
    ]


def _run_program(checkpoint: Checkpoint, interface: Interface, file_name: str) -> list[str]:
    more = ", pixels" if interface.takes == "whole photos" else ""
    return [
        'extra = {"fastft": ""}',
        f'model = torch.export.load("{file_name}", extra_files=extra).module()',
        "with torch.inference_mode():",
        f"    logits, {interface.outputs[1]}{more} = model(torch.from_numpy({IMAGES}.copy()))",
        f"found = {interface.outputs[1]}[0].numpy()",
        'about = json.loads(extra["fastft"])',
    ]


def _run_weights(checkpoint: Checkpoint, file_name: str) -> tuple[list[str], list[str]]:
    """Imports, and a network with the weights; what its logits stand for."""
    arch, count = checkpoint.arch, len(checkpoint.classes)
    imports = ["import torch", "from safetensors import safe_open"]
    imports.append("from safetensors.torch import load_file")
    if arch.startswith(_TIMM):
        imports.append("import timm")
        made = f'timm.create_model("{arch.removeprefix(_TIMM)}", num_classes={count}'
        made += f", img_size={checkpoint.size})" if _has_fixed_size(arch) else ")"
    else:
        imports.append("from torchvision.models import get_model")
        options = ""
        if arch.startswith("vit_"):
            options = f", image_size={checkpoint.size}"
        elif arch in ("inception_v3", "googlenet"):
            options = ", aux_logits=False, init_weights=False"
        made = f'get_model("{arch}", num_classes={count}{options})'
    read = {
        "classes": "logits.softmax(1)",
        "labels": "logits.sigmoid()",
        "number": f"logits * {checkpoint.outputs.deviation!r} + {checkpoint.outputs.mean!r}",
    }[checkpoint.outputs.task]
    return imports, [
        f"model = {made}.eval()",
        f'model.load_state_dict(load_file("{file_name}"))',
        "with torch.inference_mode():",
        f"    logits = model(torch.from_numpy({IMAGES}.copy()))",
        f"found = ({read})[0].numpy()",
        f'with safe_open("{file_name}", "pt") as file:',
        '    about = json.loads(file.metadata()["fastft"])',
    ]


def _has_fixed_size(arch: str) -> bool:
    import timm

    config = timm.models.get_pretrained_cfg(arch.removeprefix(_TIMM))
    return bool(config is not None and config.fixed_input_size)


def _tell(checkpoint: Checkpoint) -> list[str]:
    if checkpoint.outputs.task == "labels":
        return [
            'for name, probability in zip(about["classes"], found):',
            "    if probability >= 0.5:",
            '        print(f"{probability:.4f} {name}")',
        ]
    if checkpoint.outputs.task == "number":
        return ["print(f\"{found[0]:.6g} {about['classes'][0]}\")"]
    return ["print(f\"{found.max():.4f} {about['classes'][found.argmax()]}\")"]
