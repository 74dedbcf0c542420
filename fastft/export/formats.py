"""The bytes of an exported model in each format.

Traces, stack traces with paths of this machine and the like are left out.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fastft.export.networks import PIXELS, Exported, WholePhotos, list_outputs
from fastft.runs.checkpoint import Checkpoint, describe
from fastft.runs.description import IMAGES, INTERFACE, ExportFormat, Interface, to_metadata
from fastft.runs.tensor_file import write_tensors
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError, UsageError, is_no_memory

#: The version of ONNX's operators: the first that resizes as Pillow does, and read by what is
#: in use since 2023.
OPSET = 18
#: A protocol buffer holds less than this, and so does a file of ONNX.
MOST_ONNX_BYTES = (1 << 31) - 1
_SIDES = ("batch", "height", "width")
#: Loggers that tell of a conversion what is no fault: what it decomposes and by which version.
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def require_onnx(option: str) -> None:
    """Refuse to write or run ONNX without its libraries.

    Raises:
        UsageError: one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        found, remedy = f"cannot be used here ({error})", 'pip install "fastft[export]"'
        raise UsageError(option, found, "onnx, onnxscript and onnxruntime", remedy) from error


def write_export(
    target: AtomicFile,
    export_format: ExportFormat,
    checkpoint: Checkpoint,
    model: nn.Module,
    *,
    whole_photos: bool,
) -> Interface:
    """Write a whole file of a format.

    Args:
        target: an empty file.
        export_format: one of FORMATS.
        checkpoint: the model's, as others are to have it.
        model: its network, in eval mode on the CPU.
        whole_photos: whether resizing, cutting and normalization are in the graph.

    Returns:
        What the file's model takes and gives.

    Raises:
        DataError: the network cannot be written in this format.
        OSError: as the system says.
    """
    outputs = list_outputs(checkpoint)
    takes: Any = "whole photos" if whole_photos else "normalized images"
    interface = Interface(format=export_format, takes=takes, outputs=outputs)
    if export_format == "safetensors":
        interface = replace(interface, outputs=())
        more = {INTERFACE: to_metadata(checkpoint, interface)[INTERFACE]}
        write_tensors(target, checkpoint.model, describe(checkpoint), more)
        return interface
    metadata = to_metadata(checkpoint, interface)
    made: Exported | WholePhotos = (WholePhotos if whole_photos else Exported)(model, checkpoint)
    write = _write_onnx if export_format == "onnx" else _write_program
    try:
        with _quiet():
            program = _trace(made.eval(), checkpoint.size, whole_photos=whole_photos)
            names = (*outputs, PIXELS) if whole_photos else outputs
            content = write(program, names, metadata)
    except DataError:
        raise
    except Exception as error:  # a tracer of any Python and a converter of any operator
        if is_no_memory(error):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        found = f"a {checkpoint.arch} that cannot be exported so: {reason:.300}"
        raise DataError(f"--format {export_format}", found, "", "take another format") from error
    target.write(content)
    return interface


def _trace(made: nn.Module, size: int, *, whole_photos: bool) -> torch.export.ExportedProgram:
    """The program of a network, for any number of images, and for photos of any size."""
    made.requires_grad_(requires_grad=False)
    if whole_photos:
        image = torch.zeros(2, 2 * size + 11, 3 * size + 8, 3, dtype=torch.uint8)
    else:
        image = torch.zeros(2, 3, size, size)
    dynamic = range(3 if whole_photos else 1)
    shapes = {IMAGES: dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC)}
    program = torch.export.export(made, (image,), dynamic_shapes=shapes)
    for module in program.graph_module.modules():
        graph = getattr(module, "graph", None)
        for node in graph.nodes if graph is not None else ():
            node.meta.pop("stack_trace", None)
    return program


def _write_program(
    program: torch.export.ExportedProgram, names: tuple[str, ...], metadata: Mapping[str, str]
) -> memoryview:
    """torch.export's archive; its outputs have no names, but this order."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=dict(metadata))
    return content.getbuffer()


def _write_onnx(
    program: torch.export.ExportedProgram, names: tuple[str, ...], metadata: Mapping[str, str]
) -> bytes:
    import onnx

    converted = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[IMAGES],
        output_names=list(names),
        verbose=False,
    )
    assert converted is not None, "torch.onnx.export gives a program by dynamo"
    try:
        proto = converted.model_proto
        _make_plain(proto, metadata)
        content: bytes = proto.SerializeToString()
    except ValueError as error:  # a protocol buffer of 2 GiB
        found, expected = f"more than the {MOST_ONNX_BYTES:,} bytes of a file", "a smaller model"
        raise DataError("--format onnx", found, expected, "take --format torch") from error
    onnx.checker.check_model(content)
    return content


def _make_plain(proto: Any, metadata: Mapping[str, str]) -> None:
    """Name the sides that vary, leave out what the converter remarks, and add the description."""
    graph = proto.graph
    del graph.value_info[:]
    for holder in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.ClearField("doc_string")
    for value in (*graph.input, *graph.output):
        for name, side in zip(_SIDES, value.type.tensor_type.shape.dim, strict=False):
            if side.dim_param:
                side.dim_param = name
    kept = [value for value in graph.output if value.name != PIXELS]
    del graph.output[len(kept) :]  # pixels are the last; as a value of the graph they stay
    del proto.metadata_props[:]
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the terminal what the converters remark of themselves."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in levels:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
