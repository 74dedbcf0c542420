"""Exported models, read back: what each says of itself, and the network to run.

Files of strangers are looked at before a library sees them; SECURITY.md says what that holds for.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastft.model.program import Program
from fastft.model.program_archive import read_archive
from fastft.runs.checkpoint import Checkpoint
from fastft.runs.description import IMAGES, LOGITS, Interface, read_metadata
from pipelines.errors import DataError, FormatError, UsageError, is_no_memory
from pipelines.memory import require_room

#: How files of exported models end; other files are checkpoints.
SUFFIXES = (".onnx", ".pt2")
#: A protocol buffer holds less.
_MOST_BYTES = (1 << 31) - 1
_EXPECTED = "a model by fastft export"
#: Domains of ONNX's own operators.
_DOMAINS = ("", "ai.onnx")


class ExportedNetwork(nn.Module):
    """A network out of an exported file; gives logits float32[B, C].

    Attributes:
        takes_whole_images: whether it takes uint8[1, H, W, 3] RGB, which it resizes, cuts and
            normalizes itself; else float32[B, 3, S, S], normalized.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint, interface: Interface) -> None:
        super().__init__()
        self.takes_whole_images = interface.takes == "whole photos"
        self._path, self._size = path, checkpoint.size
        self._outputs = len(checkpoint.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits for images."""
        try:
            logits = self.run(images)
        except Exception as error:  # of a graph that a stranger made, anything
            if is_no_memory(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            found = f"its graph cannot be run: {reason:.200}"
            raise DataError(self._path, found, _EXPECTED, "export it again") from error
        if tuple(logits.shape) != (len(images), self._outputs) or not logits.is_floating_point():
            found = f"gives {list(logits.shape)} for {len(images)} images"
            raise DataError(self._path, found, f"[{len(images)}, {self._outputs}]", "")
        return logits.float()

    def run(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, whatever the graph makes of images."""
        raise NotImplementedError


class _ProgramNetwork(ExportedNetwork):
    """A program of torch.export."""

    def __init__(
        self, path: Path, checkpoint: Checkpoint, interface: Interface, program: Program
    ) -> None:
        super().__init__(path, checkpoint, interface)
        self.program = program

    def run(self, images: torch.Tensor) -> torch.Tensor:
        """See `ExportedNetwork`."""
        with torch.inference_mode():
            logits: torch.Tensor = self.program(images)[0]
        return logits


class _SessionNetwork(ExportedNetwork):
    """A graph of ONNX, run by onnxruntime."""

    def __init__(
        self, path: Path, checkpoint: Checkpoint, interface: Interface, session: Any
    ) -> None:
        super().__init__(path, checkpoint, interface)
        self._session = session

    def run(self, images: torch.Tensor) -> torch.Tensor:
        """See `ExportedNetwork`."""
        given = {IMAGES: images.contiguous().cpu().numpy()}
        (logits,) = self._session.run([LOGITS], given)
        return torch.from_numpy(logits).to(images.device)


def is_exported(path: Path) -> bool:
    """Whether a path is of an exported model, by its ending."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def open_exported(path: Path, device: torch.device) -> tuple[Checkpoint, nn.Module]:
    """Open a model that `fastft export` wrote as ONNX or by torch.export.

    Args:
        path: the file.
        device: where to run it.

    Returns:
        All that describes it, as a checkpoint without tensors; the network, see `ExportedNetwork`.

    Raises:
        FormatError: the file is no such model, damaged, or holds what is not executed.
        DataError: it cannot be read.
        UsageError: a library is missing that runs it.
    """
    try:
        if path.suffix.lower() == ".onnx":
            return _open_onnx(path, device)
        return _open_program(path, device)
    except (DataError, UsageError):
        raise
    except FileNotFoundError:
        raise DataError(path, "no such file", _EXPECTED, "check the path") from None
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be read", _EXPECTED) from error
    except Exception as error:  # whatever a hostile file makes the libraries raise
        if is_no_memory(error):  # of the machine, or is it asked for more than the file holds?
            require_room(4 * path.stat().st_size, str(path))
        is_ours = isinstance(error, ValueError | TypeError | zipfile.BadZipFile)
        reason = f": {next(iter(str(error).splitlines()), ''):.200}" if is_ours else ""
        raise FormatError(path, f"not readable{reason}", _EXPECTED, "export it again") from error


def _open_program(path: Path, device: torch.device) -> tuple[Checkpoint, nn.Module]:
    archive = read_archive(path)
    checkpoint, interface = read_metadata(archive.metadata)
    network = _ProgramNetwork(path, checkpoint, interface, Program(archive))
    return checkpoint, network.to(device).eval()


def _open_onnx(path: Path, device: torch.device) -> tuple[Checkpoint, nn.Module]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        found, remedy = f"cannot be run here ({error})", 'pip install "fastft[export]"'
        raise UsageError(str(path), found, "onnx and onnxruntime", remedy) from error
    if path.stat().st_size > _MOST_BYTES:
        raise FormatError(path, f"{path.stat().st_size:,} bytes", f"at most {_MOST_BYTES:,}", "")
    content = path.read_bytes()
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's, of a class that its versions move about
        if is_no_memory(error):
            raise
        raise ValueError("no protocol buffer of ONNX") from error
    checkpoint, interface = read_metadata({each.key: each.value for each in proto.metadata_props})
    _check_graph(proto)
    del proto
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised, too
    if device.type == "cpu" and interface.takes != "whole photos":
        options.intra_op_num_threads = 1  # who asks does so from a thread for each core
    # Its own format is recognized by a few letters, and would be read by another parser.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    usable = [each for each in wanted if each in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=[*usable, "CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's classes derive from nothing narrower
        if is_no_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(f"refused by onnxruntime: {reason}") from error
    names = [each.name for each in session.get_inputs()]
    if names != [IMAGES] or LOGITS not in (each.name for each in session.get_outputs()):
        raise ValueError(f"inputs {', '.join(names):.80}, or no output {LOGITS}")
    return checkpoint, _SessionNetwork(path, checkpoint, interface, session).eval()


def _check_graph(proto: Any) -> None:
    """Refuse tensors that lie in other files, and operators that are not ONNX's own.

    Raises:
        ValueError: there are such.
    """
    import onnx

    if len(proto.functions):
        raise ValueError("functions of its own")
    waiting = [proto.graph]
    while waiting:
        graph = waiting.pop()
        tensors = [*graph.initializer]
        for sparse in graph.sparse_initializer:
            tensors += [sparse.values, sparse.indices]
        for node in graph.node:
            if node.domain not in _DOMAINS:
                raise ValueError(f"an operator of the domain {node.domain!r:.80}")
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    tensors += [sparse.values, sparse.indices]
                waiting += [attribute.g, *attribute.graphs]
        for tensor in tensors:
            if tensor.data_location != onnx.TensorProto.DEFAULT or len(tensor.external_data):
                raise ValueError(f"the tensor {tensor.name!r:.80} in another file")
