"""What the Triton kernels are launched with, and what the compiler makes of them for an H200."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from effort import long

from bench.gpu.instructions import (
    Block,
    Code,
    compile_kernels,
    count_instructions,
    disassemble,
    draw_rows,
    read_blocks,
)


def arguments(gpu: ModuleType, device: torch.device) -> dict[str, object]:
    """Of two rows of nothing."""
    long, empty = {"dtype": torch.int64, "device": device}, {"device": device}
    frames = gpu.Frames(
        torch.zeros(100, dtype=torch.uint8, **empty),
        torch.zeros((2, 3), **long),
        torch.zeros((2, 2), **long),
        torch.ones((2, 2), **long),
    )
    geometry, flips = np.array([[[0, 1, 8, 0]] * 2] * 2, np.int32), np.zeros(2, bool)
    windows = gpu.find_windows(geometry, flips, flips, 8)
    needs = gpu.find_needs(windows, 8, planar=False)
    return {
        "frames": frames,
        "planar": False,
        "geometry": torch.from_numpy(geometry).to(device),
        "windows": torch.from_numpy(windows).to(device),
        "scale": torch.ones(24, **empty),
        "bias": torch.ones(24, **empty),
        "needs": needs,
        "scratch": gpu.make_scratch(2, 8, needs, device),
        "out": torch.zeros((2, 8, 8, 3), **empty),
    }


def test_no_rows(gpu: ModuleType, device: torch.device) -> None:
    given = arguments(gpu, device)
    gpu.render_rows(**given)
    assert (given["out"] == 1).all()
    none = {key: value[:0] for key, value in given.items() if key in ("geometry", "windows", "out")}
    frames = given["frames"]
    none["frames"] = frames._replace(
        **{key: getattr(frames, key)[:0] for key in frames._fields[1:]}
    )
    gpu.render_rows(**{**given, **none})


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("out", lambda out: out[0], r"out: \[8, 8, 3\], expected \[B, S, S, 3\]"),
        ("out", lambda out: out[:, :4], r"out: \[2, 4, 8, 3\]"),
        ("out", lambda out: out.double(), r"out: torch\.float64, expected one of \(torch\.float32"),
        ("out", lambda out: out.to("meta"), "on meta"),
        ("out", lambda out: out.transpose(1, 2), "out: strides"),
        ("frames", lambda frames: frames._replace(data=frames.data.int()), "data: torch.int32"),
        ("frames", lambda frames: frames._replace(sides=frames.sides[:1]), r"sides: .*\[1, 2\]"),
        ("frames", lambda frames: frames._replace(offsets=frames.offsets.int()), "offsets: "),
        ("geometry", lambda geometry: geometry[:1], r"geometry: .*expected torch.int32\[2, 2, 4\]"),
        ("windows", lambda windows: windows.long(), r"windows: torch\.int64"),
        ("scale", lambda scale: scale[:3], r"scale: .*\[3\].*expected torch.float32\[24\]"),
        ("bias", lambda bias: bias.to("meta"), "bias: .* on meta, expected"),
        ("scratch", lambda scratch: scratch._replace(first=scratch.first[:1]), r"\[1, 2, 8\]"),
        (
            "scratch",
            lambda scratch: scratch._replace(between=scratch.between[:20]),
            "too small for 2",
        ),
        ("needs", lambda needs: needs._replace(rgb_bytes=16), "scratch: too small for 2 rows that"),
        ("scratch", lambda scratch: scratch._replace(weights=scratch.weights[..., :4]), "weights"),
    ],
)
def test_wrong_arguments_are_named(
    name: str, change: object, complaint: str, gpu: ModuleType, device: torch.device
) -> None:
    assert callable(change)
    given = arguments(gpu, device)
    with pytest.raises(ValueError, match=complaint):
        gpu.render_rows(**{**given, name: change(given[name])})


@pytest.fixture(scope="module")
def triton_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Triton keeps what it has compiled, for the next run of the tests, too."""
    kept: pytest.Cache | None = getattr(request.config, "cache", None)
    return kept.mkdir("triton") if kept is not None else tmp_path_factory.mktemp("triton")


@pytest.fixture(scope="module")
def compiled(
    load_kernels: Callable[..., ModuleType], triton_cache: Path
) -> tuple[ModuleType, dict[str, bytes], dict[str, str]]:
    """What the interpreter takes, the compiler may not; it needs no GPU."""
    triton = pytest.importorskip("triton")
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(triton_cache))
        kernels = load_kernels("uninterpreted_gpu")
        return kernels, *compile_kernels(kernels, planar=False, dtype="bf16")


@pytest.fixture(scope="module")
def cubic_filters(compiled: Any, triton_cache: Path) -> str:
    """The assembly that computes bicubic filters."""
    how: dict[str, Any] = {"planar": False, "dtype": "bf16", "cubic": True, "some": ("fill_taps",)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(triton_cache))
        return compile_kernels(compiled[0], **how)[1]["fill_taps"]


def test_compiled_kernels_want_a_gpu(compiled: Any) -> None:
    kernels = compiled[0]
    with pytest.raises(ValueError, match="out: on cpu, expected a GPU"):
        kernels.render_rows(**arguments(kernels, torch.device("cpu")))


def test_filters_are_computed_as_pillow_does(compiled: Any, cubic_filters: str) -> None:
    """A fused multiply-add rounds once where Pillow rounds twice."""
    for assembly in (compiled[2]["fill_taps"], cubic_filters):
        assert "mul.rn.f64" in assembly
        assert "div.rn.f64" in assembly
        assert "fma" not in assembly


@long
def test_planar_rows_compile(
    compiled: Any, triton_cache: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable[..., None]
) -> None:
    """Kernels that are as before are found in the cache, those for another type are not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(triton_cache))
    for cubic in (False, True):
        made = compile_kernels(compiled[0], planar=True, dtype="fp32", cubic=cubic)[0]
        assert "to_rgb" in made
    tried("kernels compiled for a GPU")


def test_an_image_takes_few_instructions(compiled: Any) -> None:
    """More would bind a GPU's multiprocessors long before its memory."""
    import triton

    kernels, cubins, _ = compiled
    codes = {name: disassemble(cubin, name, triton) for name, cubin in cubins.items()}
    found = count_instructions(kernels, draw_rows(128), codes, planar=False, dtype="bf16")
    assert 100_000 < sum(found.values()) < 160_000, found


LISTING = """
.text.first_pass:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @P0  EXIT ;
        /*0020*/                   BRX R2 -0x30             (*"BRANCH_TARGETS .L_x_1,.L_x_2"*);
.L_x_1:
        /*0030*/                   LDG.E.U8 R3, desc[UR4][R6.64] ;
        /*0040*/              @!P1 BRA `(.L_x_1) ;
        /*0050*/                   STG.E.U8 desc[UR4][R6.64], R3 ;
        /*0060*/                   EXIT ;
.L_x_2:
        /*0070*/                   LDG.E.U8 R3, desc[UR4][R6.64] ;
        /*0080*/                   LDG.E.U8 R4, desc[UR4][R6.64+0x1] ;
        /*0090*/                   NOP ;
        /*00a0*/                   STG.E.U16 desc[UR4][R6.64], R3 ;
        /*00b0*/                   EXIT ;
"""


def test_a_listing_is_cut_where_it_branches() -> None:
    blocks = list(read_blocks(LISTING.splitlines(), "first_pass"))
    assert blocks == [
        Block(2, 0, 0, (1,), may_end=True),
        Block(1, 0, 0, (2, 4), may_end=False),
        Block(2, 1, 0, (2, 3), may_end=False),
        Block(2, 0, 1, (), may_end=True),
        Block(5, 2, 2, (), may_end=True),
    ]


def test_the_counted_path_does_the_work() -> None:
    code = Code(tuple(read_blocks(LISTING.splitlines(), "first_pass")), 8)
    assert code.shortest(0, 0) == 2
    assert code.shortest(2, 2) == 2 + 1 + 5
    # Round the loop three times.
    assert code.shortest(3, 1) == 2 + 1 + 3 * 2 + 2
    with pytest.raises(ValueError, match="no way has 3 marks and stores 2 bytes"):
        code.shortest(3, 2)
