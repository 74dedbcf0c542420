"""The kernels of operations on a GPU: large images, and what the compiler makes of them."""

import re
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from interpreted import load_changing, make_changing

from pipelines.changing import on_gpu
from pipelines.codes import CONTRAST, EQUALIZE, FLIP_DOWN, GRAY, NOTHING
from pipelines.errors import UsageError
from pipelines.operations import Operations
from pipelines.plan import make_plan
from pipelines.reference import change as define

#: The largest side that a plan's images have, px.
LARGEST = 8192
#: Types of the kernels' arguments, as Triton names them.
TYPES = {
    **dict.fromkeys(("source", "target", "tables"), "*u8"),
    **dict.fromkeys(("codes", "boxes"), "*i32"),
    "values": "*fp64",
    "matrices": "*fp32",
    **dict.fromkeys(("columns", "number", "passes"), "i32"),
}


@pytest.fixture(scope="module")
def kernels(
    triton_kernels: tuple[ModuleType, str], load_kernels: Callable[..., ModuleType]
) -> ModuleType:
    return make_changing(triton_kernels[1], load_kernels)


def make_operations(*rows: list[int]) -> Operations:
    """Operations of such codes, whose value is 0.4, and boxes of nothing."""
    drawn = np.array(rows, np.int32)
    return Operations(drawn, np.full(drawn.shape, 0.4), np.zeros((len(rows), 4), np.int32))


def run(device: torch.device, pixels: torch.Tensor, operations: Operations) -> torch.Tensor:
    """uint8[B, S, S, 3], as loaders have it done."""
    change = on_gpu.GpuChanger(device).of(operations, pixels.shape[1])
    arrays = [torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in change.arrays]
    return change.run(pixels, arrays)


@pytest.mark.parametrize("size", [2048, 3200, LARGEST])
def test_sums_of_more_than_31_bits(
    size: int, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large image's tables are those of a small one whose levels have the same shares."""
    if not hasattr(kernels, "own"):
        pytest.skip("compiled kernels take no other function")
    import triton.language as tl

    image = np.full((8, 8, 3), 255, np.uint8)
    image[0] = 7
    operations = make_operations([CONTRAST])
    gray = define(image, make_operations([GRAY]), 0)[..., 0]
    counts = np.bincount(gray.ravel(), minlength=256) * (size // 8) ** 2
    # Counting takes the interpreter seconds: done by now.
    monkeypatch.setattr(
        kernels.own[0], "_count_levels", lambda counts, *_: tl.load(counts + tl.arange(0, 256))
    )
    given = (counts.astype(np.int32), operations.codes, operations.values)
    tables = torch.zeros((1, 3, 256), dtype=torch.uint8)
    kernels.fill_tables[(1, 3)](*map(torch.from_numpy, given), 1, 0, tables, SIZE=size, PIXELS=1024)
    found = np.stack([table[image[..., 0]] for table in tables[0].numpy()], axis=-1)
    assert np.array_equal(found, define(image, operations, 0))


def test_the_largest_images_are_taken(
    kernels: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_gpu, "changing", kernels)
    pixels = torch.empty((1, LARGEST, LARGEST, 3), dtype=torch.uint8, device=device)
    assert run(device, pixels, make_operations([NOTHING])) is pixels


def test_a_grid_holds_the_largest_images(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"1 to {LARGEST} px"):
        make_plan(np.ones(1, np.int32), np.ones(1, np.int32), view="train", size=LARGEST + 1)
    monkeypatch.setattr(kernels, "_PIXELS", 512)
    for size in (1, 224, 5792, 5793, LARGEST):
        tiles, pixels, warps = kernels.find_tiles(size)
        assert tiles <= 65535
        assert (tiles - 1) * pixels < size * size <= tiles * pixels
        assert (pixels == 512) == (size <= 5792)
        assert pixels // warps == 128
        assert warps <= 32


@pytest.mark.gpu
def test_a_batch_of_more_than_two_gib(device: torch.device) -> None:
    """The largest images, whose last row alone is changed."""
    count = 11
    rows = [*[[NOTHING] * 3] * (count - 1), [EQUALIZE, FLIP_DOWN, CONTRAST]]
    pixels = torch.randint(0, 256, (count, LARGEST, LARGEST, 3), dtype=torch.uint8, device=device)
    assert pixels.numel() > 1 << 31
    image, operations = pixels[-1].cpu().numpy(), make_operations(*rows)
    found = run(device, pixels, operations)[-1].cpu().numpy()
    assert np.abs(found.astype(np.int16) - define(image, operations, count - 1)).max() <= 1


@pytest.fixture(scope="module")
def compiled(
    load_kernels: Callable[..., ModuleType],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ModuleType, dict[str, dict[str, str]]]:
    """`changing`, and TTIR and PTX of its kernels for an H200; it needs no GPU."""
    triton = pytest.importorskip("triton")
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kept: pytest.Cache | None = getattr(request.config, "cache", None)
    folder = kept.mkdir("triton") if kept is not None else tmp_path_factory.mktemp("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        module, _ = load_changing(load_kernels, "uninterpreted_changing")
        assembly = {}
        for kernel, pixels, warps in (
            (module.fill_tables, module._SUMMED_PIXELS, module._SUMMING_WARPS),
            (module.change_pixels, module._PIXELS, module._WARPS),
        ):
            signature = {name: TYPES.get(name, "constexpr") for name in kernel.arg_names}
            source = ASTSource(kernel, signature, {"SIZE": 224, "PIXELS": pixels})
            options = {"num_warps": warps, "enable_fp_fusion": False}
            made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            assembly[kernel.fn.__name__] = {name: made.asm[name] for name in ("ttir", "ptx")}
    return module, assembly


def test_compiled_kernels_want_a_gpu(
    compiled: tuple[ModuleType, dict[str, dict[str, str]]],
) -> None:
    pixels = torch.zeros((1, 8, 8, 3), dtype=torch.uint8)
    with pytest.raises(ValueError, match="pixels: on cpu, expected a GPU"):
        compiled[0].change(pixels, *[None] * 6)


def test_compiled_kernels_round_as_torchvision(
    compiled: tuple[ModuleType, dict[str, dict[str, str]]],
) -> None:
    """Divisions to the last bit, sums of products once, and no other sum together with a product.

    What the interpreter takes, the compiler may not.
    """
    for each in compiled[1].values():
        assembly = each["ptx"]
        assert "div.rn.f32" in assembly
        assert "div.full" not in assembly
        assert "fma.rn.f32" in assembly
        assert re.search(r"\b(add|sub|mul)\.f32", assembly) is None


def test_rows_begin_at_offsets_of_64_bits(
    compiled: tuple[ModuleType, dict[str, dict[str, str]]],
) -> None:
    for name, tensors in (
        ("fill_tables", {"source", "codes", "values", "tables"}),
        ("change_pixels", {"source", "target", "codes", "values", "boxes", "matrices", "tables"}),
    ):
        offsets = re.findall(r"tt\.addptr %(\w+), .*?, (i\d+)", compiled[1][name]["ttir"])
        assert {(tensor, bits) for tensor, bits in offsets if tensor in tensors} == {
            (tensor, "i64") for tensor in tensors
        }
