"""Programs of torch.export: computed as torch does, and nothing else that a file asks for."""

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastft.model.exported import open_exported
from fastft.runs.checkpoint import Checkpoint
from fastft.runs.description import Interface, for_others, to_metadata
from pipelines.errors import FormatError

CPU = torch.device("cpu")
Records = dict[str, bytes]


class Network(nn.Module):
    """Some of what networks are made of: tied weights, a constant, several outputs of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)
        self.register_buffer("shift", torch.tensor([0.5, -1.0, 2.0]), persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and probabilities."""
        features = self.norm(self.conv(images)).relu_().mean((2, 3))
        left, right = self.second(self.first(features)).chunk(2, 1)
        logits = self.head(torch.cat((right, left), 1)) + self.shift
        logits = logits.view(images.shape[0], -1) * torch.tensor([1.0, 2.0, 3.0])
        return logits, logits.softmax(1)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def records(network: Network, trained: Checkpoint) -> Records:
    """A program's archive, by the names of its records without their folder."""
    shapes = {"images": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(network, (torch.zeros(2, 3, 40, 40),), dynamic_shapes=shapes)
    interface = Interface(format="torch", takes="normalized images", outputs=("logits", "p"))
    content = io.BytesIO()
    metadata = to_metadata(for_others(trained), interface)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights in another order of memory
        torch.export.save(program, content, extra_files=dict(metadata))
    with zipfile.ZipFile(content) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, records: Records, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return path


def edited(records: Records, name: str, edit: Callable[[Any], object]) -> Records:
    """The same with a record of JSON changed."""
    values = json.loads(records[name])
    edit(values)
    return {**records, name: json.dumps(values).encode()}


def test_a_program_is_computed_to_the_bit(
    records: Records, network: Network, tmp_path: Path, trained: Checkpoint
) -> None:
    checkpoint, model = open_exported(write(tmp_path / "m.pt2", records), CPU)
    assert checkpoint.classes == trained.classes
    assert getattr(model, "takes_whole_images") is False  # noqa: B009  # as `predict` asks
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 40, 40)
        with torch.inference_mode():
            assert torch.equal(model(images), network(images)[0])


def test_values_end_with_their_last_use(records: Records, tmp_path: Path) -> None:
    _, model = open_exported(write(tmp_path / "m.pt2", records), CPU)
    program: Any = model.get_submodule("program")
    ended = [name for step in program._steps for name in step.ended]
    given = [name for step in program._steps for name in step.outputs]
    assert len(ended) == len(set(ended))
    assert set(given) - set(ended) <= set(program._outputs)


def test_weights_by_torch_save_are_read(records: Records, network: Network, tmp_path: Path) -> None:
    """As earlier versions of torch keep them."""
    old = {name: each for name, each in records.items() if not name.startswith("data/weights/")}
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    old["data/weights/model.pt"] = content.getvalue()
    _, model = open_exported(write(tmp_path / "m.pt2", old), CPU)
    images = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(model(images), network(images)[0])


GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


def nodes_of(values: Any) -> list[Any]:
    return values["graph_module"]["graph"]["nodes"]  # type: ignore[no-any-return]


def set_target(target: str) -> Callable[[Any], object]:
    return lambda values: nodes_of(values)[0].update(target=target)


def first_meta(values: Any) -> Any:
    return next(iter(values["config"].values()))["tensor_meta"]


EDITS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "a function of os": (GRAPH, set_target("torch.os.system")),
    "a builtin": (GRAPH, set_target("_operator.attrgetter")),
    "another library": (GRAPH, set_target("torch.ops.mine.conv2d.default")),
    "a file's operator": (GRAPH, set_target("torch.ops.aten.from_file.default")),
    "memory as it is": (GRAPH, set_target("torch.ops.aten.empty.memory_format")),
    "no overload": (GRAPH, set_target("torch.ops.aten.relu.__globals__")),
    "an out overload": (GRAPH, set_target("torch.ops.aten.add.out")),
    "a number for a target": (GRAPH, set_target(7)),  # type: ignore[arg-type]
    "an unknown argument": (
        GRAPH,
        lambda v: nodes_of(v)[0]["inputs"][0].update(arg={"as_custom_obj": {"name": "x"}}),
    ),
    "a graph as an argument": (
        GRAPH,
        lambda v: nodes_of(v)[0]["inputs"][0].update(arg={"as_graph": {"name": "x"}}),
    ),
    "a value that nothing gives": (GRAPH, lambda v: nodes_of(v).pop(0)),
    "a value twice": (GRAPH, lambda v: nodes_of(v).append(nodes_of(v)[0])),
    "two inputs": (
        GRAPH,
        lambda v: v["graph_module"]["signature"]["input_specs"].append(
            {"user_input": {"arg": {"as_tensor": {"name": "more"}}}}
        ),
    ),
    "a custom object": (
        GRAPH,
        lambda v: v["graph_module"]["signature"]["input_specs"].append(
            {"custom_obj": {"arg": {"name": "x"}, "custom_obj_name": "x"}}
        ),
    ),
    "no output": (
        GRAPH,
        lambda v: v["graph_module"]["signature"]["output_specs"].append(
            {"user_output": {"arg": {"as_tensor": {"name": "nothing"}}}}
        ),
    ),
    "a mutation": (
        GRAPH,
        lambda v: v["graph_module"]["signature"]["output_specs"].append(
            {"buffer_mutation": {"arg": {"name": "x"}, "buffer_name": "x"}}
        ),
    ),
    "no graph": (GRAPH, lambda v: v.pop("graph_module")),
    "a pickle": (WEIGHTS, lambda v: next(iter(v["config"].values())).update(use_pickle=True)),
    "a tensor beyond its bytes": (
        WEIGHTS,
        lambda v: first_meta(v)["sizes"][0].update(as_int=1 << 40),
    ),
    "a tensor before its bytes": (
        WEIGHTS,
        lambda v: first_meta(v)["storage_offset"].update(as_int=-64),
    ),
    "a stride beyond": (WEIGHTS, lambda v: first_meta(v)["strides"][0].update(as_int=1 << 30)),
    "an expanded tensor": (
        WEIGHTS,
        lambda v: first_meta(v).update(
            sizes=[{"as_int": 1 << 30}, {"as_int": 1 << 17}],
            strides=[{"as_int": 0}, {"as_int": 0}],
        ),
    ),
    "an unknown dtype": (WEIGHTS, lambda v: first_meta(v).update(dtype=99)),
    "no such record": (
        WEIGHTS,
        lambda v: next(iter(v["config"].values())).update(path_name="../../x"),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_a_program_may_not_is_refused(name: str, records: Records, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", edited(records, *EDITS[name]))
    with pytest.raises(FormatError, match=r"m\.pt2: not readable"):
        open_exported(path, CPU)


class Canary:
    """What makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self.path),)


def poisoned(records: Records, canary: Path) -> dict[str, Records]:
    """Archives with programs in them, wherever torch looks."""
    call = f"__import__('os').makedirs({str(canary)!r})"
    symbol = {"as_expr": {"expr_str": call, "hint": {"as_int": 2}}}

    def set_sizes(values: Any) -> None:
        for meta in values["graph_module"]["graph"]["tensor_values"].values():
            meta["sizes"] = [symbol for _ in meta["sizes"]]

    def set_stack(values: Any) -> None:
        nodes_of(values)[0]["metadata"]["source_fn_stack"] = f"x,{call}"

    content = io.BytesIO()
    torch.save((Canary(canary),), content)
    return {
        "sample inputs": {**records, "data/sample_inputs/model.pt": content.getvalue()},
        "a plain pickle": {**records, "data/sample_inputs/model.pt": pickle.dumps(Canary(canary))},
        "an expression": edited(records, GRAPH, set_sizes),
        "a guard": edited(records, GRAPH, lambda v: v.update(guards_code=[call])),
        "a name in metadata": edited(records, GRAPH, set_stack),
    }


KINDS = ("sample inputs", "a plain pickle", "an expression", "a guard", "a name in metadata")


@pytest.mark.parametrize("kind", KINDS)
def test_programs_within_a_program_do_not_run(
    kind: str, records: Records, network: Network, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.pt2", poisoned(records, tmp_path / "canary")[kind])
    _, model = open_exported(path, CPU)  # what they are part of is not read
    images = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(model(images), network(images)[0])
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["sample inputs", "an expression"])
def test_torchs_own_reader_would_run_them(kind: str, records: Records, tmp_path: Path) -> None:
    """Or nothing would be shown by their not running here."""
    path = write(tmp_path / "m.pt2", poisoned(records, tmp_path / "canary")[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.export.load(path)
        except Exception:  # whatever becomes of it then
            pass
    assert (tmp_path / "canary").exists()


def odd_archives(records: Records) -> dict[str, tuple[Records, int]]:
    library = {**records, "data/aotinductor/model/model.so": b"\x7fELF"}
    custom = {**records, "data/constants/custom_obj_0": b"x"}
    big = {**records, "byteorder": b"big"}
    bare = {name: each for name, each in records.items() if not name.startswith("extra/")}
    return {
        "a library": (library, zipfile.ZIP_STORED),
        "a custom object": (custom, zipfile.ZIP_STORED),
        "compressed": (records, zipfile.ZIP_DEFLATED),
        "big-endian": (big, zipfile.ZIP_STORED),
        "no metadata": (bare, zipfile.ZIP_STORED),
        "nothing": ({}, zipfile.ZIP_STORED),
    }


@pytest.mark.parametrize(
    "name", ["a library", "a custom object", "compressed", "big-endian", "no metadata", "nothing"]
)
def test_odd_archives_are_refused(name: str, records: Records, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", *odd_archives(records)[name])
    with pytest.raises(FormatError, match=r"m\.pt2: not readable"):
        open_exported(path, CPU)


@pytest.mark.parametrize("kind", ["cut", "flipped", "text", "empty"])
def test_damaged_archives_are_refused(kind: str, records: Records, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", records)
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # in a weight
    damaged = {"cut": content[:-300], "flipped": content, "text": b"text", "empty": b""}
    path.write_bytes(damaged[kind])
    with pytest.raises(FormatError, match=r"m\.pt2: not readable"):
        open_exported(path, CPU)
