"""Safetensors files of ours: to the bit, readable by anybody, and nothing that lies is believed."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from damaged import flip
from torchvision.models import resnet18, shufflenet_v2_x0_5

from fastft.model.weights import load_weights
from fastft.runs.checkpoint import read_file
from fastft.runs.sound import DTYPES
from fastft.runs.tensor_file import read_tensors, write_tensors
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError, FormatError

TEXT = '{"a": "\\"\\ud800"}'


def all_kinds() -> dict[str, torch.Tensor]:
    """A tensor of each dtype and of odd shapes."""
    torch.manual_seed(0)
    found = {str(kind): (torch.randn(3, 5) * 50).to(kind) for kind in DTYPES}
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    return {
        **found,
        "number": torch.tensor(7),
        "truth": torch.tensor(True),
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(-0.0),
        "weight": weight,
        "part": weight[1:, :, 1],
        "t": found["torch.bfloat16"].T,
        "tiny": torch.tensor(1e-42),
        "learnt": torch.nn.Parameter(weight),
    }


def write(path: Path, tensors: dict[str, torch.Tensor], text: str = TEXT) -> Path:
    with AtomicFile(path) as target:
        write_tensors(target, tensors, text)
        target.publish()
    return path


def lie(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    """A file with this header, whose length may be another than it says."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].is_contiguous()
        bits = [
            each.detach().contiguous().view(-1).view(torch.uint8)
            for each in (found[name].clone(), tensor)
        ]
        assert torch.equal(*bits), name


def test_tensors_come_back_to_the_bit(tmp_path: Path) -> None:
    tensors, text = read_tensors(write(tmp_path / "x", all_kinds()))
    assert_same(tensors, all_kinds())
    assert text == TEXT


def test_the_librarys_own_reader_agrees(tmp_path: Path) -> None:
    path = write(tmp_path / "x", all_kinds())
    assert_same(safetensors.torch.load_file(path), all_kinds())
    assert_same(safetensors.torch.load(path.read_bytes()), all_kinds())
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    # Each tensor lies at a multiple of its width, as the library has it.
    content = path.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    assert size % 8 == 0
    header = json.loads(content[8 : 8 + size])
    for name, tensor in all_kinds().items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_the_same_tensors_make_the_same_file(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, all_kinds()) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_load_file_serves_other_libraries(library: str, tmp_path: Path) -> None:
    make = resnet18 if library == "timm" else shufflenet_v2_x0_5
    network = make().to(memory_format=torch.channels_last)
    path = write(tmp_path / "x", network.state_dict())
    if library == "timm":
        other = pytest.importorskip("timm", reason="timm is not installed").create_model("resnet18")
    else:
        other = make()
    other.load_state_dict(safetensors.torch.load_file(path))
    assert all(map(torch.equal, other.state_dict().values(), network.state_dict().values()))


def test_any_changed_bit_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x", all_kinds())
    size = path.stat().st_size
    for position in range(size):
        flip(path, position, position % 8)
        # In the length or the brace it is no safetensors file any more; else the CRC-32 is wrong.
        with pytest.raises(FormatError, match="not readable as a checkpoint") as caught:
            read_file(path)
        assert str(caught.value).isprintable()
        flip(path, position, position % 8)
    assert_same(read_tensors(path)[0], all_kinds())


def test_what_is_cut_or_longer_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"a": torch.arange(9.0)})
    whole = path.read_bytes()
    for content in (
        *(whole[:size] for size in range(len(whole))),
        whole + b"\0",
        whole + whole,
        b"\0" + whole,
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError):
            read_file(path)


A_TENSOR = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b'{"a":' + A_TENSOR.encode() + b"}", 1 << 62),
        (b'{"a":' + A_TENSOR.encode() + b"}", (1 << 64) - 1),
        (b'{"a":' + A_TENSOR.encode() + b"}", 99_000_000),
        (f'{{"a":{A_TENSOR},"b":{A_TENSOR}}}'.encode(), None),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', None),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', None),
        (b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', None),
        (b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', None),
        (b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', None),
        (b'{"a":{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,8]}}', None),
        (b'{"a":{"dtype":"F32","shape":[1099511627776,0],"data_offsets":[0,8]}}', None),
        (b'{"a":{"dtype":"X7","shape":[2],"data_offsets":[0,8]}}', None),
        (b'{"a":{"dtype":"F8_E8M0","shape":[8],"data_offsets":[0,8]}}', None),
        (b'{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', None),
        (b'{"a":' + A_TENSOR.encode() + b"," + b"[" * 100_000 + b"}", None),
        (b'{"__metadata__":{"fastft":7},"a":' + A_TENSOR.encode() + b"}", None),
        (b'{"__metadata__":{"fastft":"{}"},"a":' + A_TENSOR.encode() + b"}", None),
        (b'{"__metadata__":' + b'{"a":' * 5000 + b"}", None),
        (b"{}", None),
        (b"{", None),
        (b"{\xff}", None),
    ],
)
def test_a_header_that_lies_is_one_line(
    header: bytes, length: int | None, tmp_path: Path, tried: Callable[..., None]
) -> None:
    path = lie(tmp_path / "x.safetensors", header, bytes(8), length)
    with pytest.raises(DataError) as caught:
        load_weights(str(path), "resnet18")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 600
    tried("odd states of checkpoints refused")


def test_weights_of_others_are_read(tmp_path: Path) -> None:
    state: dict[str, Any] = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}
    for metadata in (None, {"format": "pt", "who": "timm"}):
        safetensors.torch.save_file(state, tmp_path / "w.bin", metadata=metadata)
        found = load_weights(str(tmp_path / "w.bin"), "resnet18")
        assert found is not None
        assert_same(dict(found.state), state)
        assert (found.arch, found.classes) == (None, ())
    state["b"] = torch.tensor(float("nan"))
    safetensors.torch.save_file(state, tmp_path / "w.bin")
    with pytest.raises(DataError, match=r"holds no tensors by name: NaN or infinity at 'b'"):
        load_weights(str(tmp_path / "w.bin"), "resnet18")
