"""Files of ONNX: run as they are, and refused where they ask for more than their own numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastft.model.exported import is_exported, open_exported
from fastft.runs.checkpoint import Checkpoint
from fastft.runs.description import Interface, for_others, to_metadata
from pipelines.errors import DataError, FormatError

onnx = pytest.importorskip("onnx", reason="the extra fastft[export] is not installed")
pytest.importorskip("onnxruntime", reason="the extra fastft[export] is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # where it is installed

CPU = torch.device("cpu")
SIDE = 40
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(3, 3)).astype(np.float32)


def make_proto(checkpoint: Checkpoint) -> Any:
    """Means of the channels through a matrix, three logits."""
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weight"], ["logits"]),
    ]
    tensors = [
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        numpy_helper.from_array(WEIGHT, "weight"),
    ]
    sides = ["batch", 3, SIDE, SIDE]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, sides)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [images], [logits], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    interface = Interface(format="onnx", takes="normalized images", outputs=("logits",))
    for key, value in to_metadata(for_others(checkpoint), interface).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return proto


@pytest.fixture
def proto(trained: Checkpoint) -> Any:
    return make_proto(trained)


def write(path: Path, proto: Any) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_graph_is_run(proto: Any, tmp_path: Path, trained: Checkpoint) -> None:
    checkpoint, model = open_exported(write(tmp_path / "m.onnx", proto), CPU)
    assert checkpoint.classes == trained.classes
    images = torch.from_numpy(RNG.normal(size=(4, 3, SIDE, SIDE)).astype(np.float32))
    wanted = images.mean((2, 3)).numpy() @ WEIGHT
    np.testing.assert_allclose(model(images).numpy(), wanted, atol=1e-6)


def put_outside(tensor: Any) -> None:
    """Have a tensor lie in a file that is there."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "secret.bin"), ("length", "36")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def with_outside_constant(proto: Any) -> None:
    tensor = numpy_helper.from_array(WEIGHT, "c")
    put_outside(tensor)
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def with_outside_branch(proto: Any) -> None:
    """A tensor of a graph within the graph."""
    tensor = numpy_helper.from_array(WEIGHT, "inner")
    put_outside(tensor)
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [3, 3])
    branch = helper.make_graph([], "branch", [], [value], [tensor])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    proto.graph.node.append(node)


def with_outside_sparse(proto: Any) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    put_outside(values)
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))


def with_function(proto: Any) -> None:
    opset = [helper.make_opsetid("", 18)]
    node = helper.make_node("Identity", ["a"], ["b"])
    proto.functions.append(helper.make_function("mine", "F", ["a"], ["b"], [node], opset))


EDITS: dict[str, tuple[Callable[[Any], object], str]] = {
    "weights outside": (lambda proto: put_outside(proto.graph.initializer[1]), "in another file"),
    "a constant outside": (with_outside_constant, "in another file"),
    "a branch outside": (with_outside_branch, "in another file"),
    "a sparse tensor outside": (with_outside_sparse, "in another file"),
    "others' operator": (lambda proto: setattr(proto.graph.node[1], "domain", "x"), "domain 'x'"),
    "a function": (with_function, "functions of its own"),
    "no metadata": (lambda proto: proto.ClearField("metadata_props"), "no fastft in its metadata"),
    "odd metadata": (lambda proto: setattr(proto.metadata_props[0], "value", "[1]"), "version"),
    "another input": (lambda proto: setattr(proto.graph.input[0], "name", "x"), "onnxruntime"),
    "another output": (lambda proto: setattr(proto.graph.output[0], "name", "means"), "no output"),
    "an operator of nobody": (
        lambda proto: setattr(proto.graph.node[1], "op_type", "Nothing"),
        "refused by onnxruntime",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_a_graph_may_not_is_refused(
    name: str, proto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    monkeypatch.chdir(tmp_path)  # from where onnxruntime would open it
    edit, message = EDITS[name]
    edit(proto)
    with pytest.raises(FormatError, match=rf"m\.onnx: not readable: .*{message}"):
        open_exported(write(tmp_path / "m.onnx", proto), CPU)


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "another format"])
def test_damaged_files_are_refused(kind: str, proto: Any, tmp_path: Path) -> None:
    content = proto.SerializeToString()
    proto.producer_name = "ORTM"  # where onnxruntime would take it for a format of its own
    damaged = {
        "cut": content[:-50],
        "text": b"text",
        "empty": b"",
        "another format": b"\x08\x0a\x12\x04ORTM" + b"\xff" * 64,
    }
    (tmp_path / "m.onnx").write_bytes(damaged[kind])
    with pytest.raises(FormatError, match=r"m\.onnx: not readable"):
        open_exported(tmp_path / "m.onnx", CPU)


def test_a_graph_of_another_formats_letters_is_onnx(proto: Any, tmp_path: Path) -> None:
    proto.producer_name = "ORTM"
    path = write(tmp_path / "m.onnx", proto)
    assert path.read_bytes()[4:8] == b"ORTM"
    open_exported(path, CPU)


def test_outputs_of_another_number_are_refused(trained: Checkpoint, tmp_path: Path) -> None:
    proto = make_proto(replace(trained, classes=("a", "b")))
    _, model = open_exported(write(tmp_path / "m.onnx", proto), CPU)
    with pytest.raises(DataError, match=r"gives \[2, 3\] for 2 images, expected \[2, 2\]"):
        model(torch.zeros(2, 3, SIDE, SIDE))


def test_a_graph_that_fails_is_one_line(proto: Any, tmp_path: Path) -> None:
    _, model = open_exported(write(tmp_path / "m.onnx", proto), CPU)
    with pytest.raises(DataError, match=r"m\.onnx: its graph cannot be run"):
        model(torch.zeros(2, 3, SIDE, SIDE + 1))


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    for name in ("m.onnx", "m.pt2"):
        with pytest.raises(DataError, match="no such file"):
            open_exported(tmp_path / name, CPU)
    (tmp_path / "run.onnx").mkdir()
    assert not is_exported(tmp_path / "run.onnx")
    assert not is_exported(tmp_path / "best.safetensors")
    assert is_exported(tmp_path / "M.ONNX")
