"""Operations on a GPU against torchvision: compiled where there is a GPU, else interpreted."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from effort import choose
from interpreted import make_changing

from pipelines import codes
from pipelines.codes import (
    AUTO_CONTRAST,
    BRIGHTNESS,
    CONTRAST,
    EQUALIZE,
    ERASE,
    FLIP_DOWN,
    GRAY,
    HUE,
    NOTHING,
    POSTERIZE,
    ROTATE,
    SATURATION,
    SHARPNESS,
    SHEAR_X,
    SHEAR_Y,
    SOLARIZE,
    TRANSLATE_X,
    TRANSLATE_Y,
)
from pipelines.operations import Operations
from pipelines.reference import change as define

#: Values of each operation: a plan's extremes, some between, and such that change nothing.
VALUES: dict[int, tuple[float, ...]] = {
    NOTHING: (0, 0),
    FLIP_DOWN: (0, 0),
    SHEAR_X: (0.99, -0.3, 0.123, 0),
    SHEAR_Y: (0.99, -0.3, 0.123, 0),
    TRANSLATE_X: (32, -5, 1, 0),
    TRANSLATE_Y: (32, -5, 1, 0),
    ROTATE: (135, -30, 90, 180, 7.3, 0),
    **dict.fromkeys((BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS), (0.01, 0.4, 1.0, 1.3, 1.99)),
    HUE: (-0.5, -0.1, -1e-9, 0.05, 0.31, 0.5),  # the third: float32 makes a whole turn of red
    GRAY: (0, 0),
    POSTERIZE: (2, 4, 7, 8),
    SOLARIZE: (0, 255, 100.5, 128),
    AUTO_CONTRAST: (0, 0, 0),
    EQUALIZE: (0, 0, 0),
    ERASE: (0, 0),
}
#: Operations that fall on torchvision's levels to the last. Others do where it sums in their order:
#: bilinear sums differ where they end near a half. The interpreter has no fused multiply-add.
EXACT = {*VALUES} - {*codes.GEOMETRIC, SATURATION, SHARPNESS} | {TRANSLATE_X, TRANSLATE_Y}
SIZES = choose((1, 2, 33), (1, 2, 3, 33, 64))


@pytest.fixture(scope="module")
def kernels(
    triton_kernels: tuple[ModuleType, str], load_kernels: Callable[..., ModuleType]
) -> ModuleType:
    return make_changing(triton_kernels[1], load_kernels)


def make_pixels(count: int, size: int) -> np.ndarray:
    """uint8[count, size, size, 3]: noise, waves beyond both ends, and a few levels, in turn."""
    random = np.random.default_rng(size)
    pixels = random.integers(0, 256, (count, size, size, 3), np.uint8)
    y, x = np.mgrid[0:size, 0:size] / max(size, 1)
    waves = np.stack((np.sin(9 * y + 2 * x), np.cos(7 * x * y), y - x), axis=-1)
    pixels[1::3] = np.clip(127.5 + 140 * waves, 0, 255).astype(np.uint8)
    # One channel has a single level.
    pixels[2::3] = 30 + pixels[2::3] % np.array([100, 1, 7], np.uint8)
    return pixels


def make_operations(rows: Sequence[Sequence[tuple[int, float]]], size: int) -> Operations:
    """Operations of rows of codes and values; boxes differ from row to row."""
    pairs = np.array(rows, np.float64).reshape(len(rows), -1, 2)
    box = np.array([size // 3, 0, max(size // 2, 1), size // 2])
    row = np.arange(len(rows))[:, None]
    boxes = np.minimum(box + row % 3, max(size // 2, 1)).astype(np.int32)
    return Operations(pairs[..., 0].astype(np.int32), pairs[..., 1].copy(), boxes)


def run(
    kernels: ModuleType,
    device: torch.device,
    pixels: np.ndarray,
    operations: Operations,
    real: Any = np.float64,
) -> np.ndarray:
    """uint8[B, S, S, 3] of the kernels, with scratch for a row more than there are."""
    count, size = pixels.shape[:2]
    arrays = (
        pixels.copy(),
        operations.codes,
        operations.values.astype(real),
        operations.boxes,
        operations.matrices(size).astype(np.float32),
    )
    given = [torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in arrays]
    scratch = kernels.make_scratch(count + 1, size, device)
    scratch.other.fill_(77)
    steps = kernels.find_steps(operations.codes)
    out = kernels.change(*given, steps, scratch)
    assert out.data_ptr() == (scratch.other if len(steps.sums) % 2 else given[0]).data_ptr()
    assert (scratch.other[count:] == 77).all()
    return out.cpu().numpy()


def reference(pixels: np.ndarray, operations: Operations) -> np.ndarray:
    """uint8[B, S, S, 3] of torchvision."""
    return np.stack([define(image, operations, row) for row, image in enumerate(pixels)])


@pytest.mark.parametrize("code", VALUES, ids=lambda code: codes.NAMES.get(code, "nothing"))
def test_pixels_are_torchvisions(code: int, kernels: ModuleType, device: torch.device) -> None:
    for size in SIZES:
        values = VALUES[code][: choose(None if size == 33 else 3, None)]
        pixels = make_pixels(len(values), size)
        operations = make_operations([[(code, value)] for value in values], size)
        wanted, found = reference(pixels, operations), run(kernels, device, pixels, operations)
        distance = np.abs(found.astype(int) - wanted)
        assert distance.max() <= (code not in EXACT), size
        # Halves in a shear by tenths of pixels are the most frequent cause.
        assert (distance > 0).mean() <= 0.03, size
        if code == NOTHING:
            assert np.array_equal(found, pixels)
        elif size == 33:
            assert not np.array_equal(found, pixels)


def test_float32_values_are_a_level_off(kernels: ModuleType, device: torch.device) -> None:
    rows = [[(code, 1.3)] for code in (BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS)]
    pixels, operations = make_pixels(4, 17), make_operations(rows, 17)
    found = run(kernels, device, pixels, operations, np.float32)
    assert np.abs(found.astype(int) - reference(pixels, operations)).max() <= 1


def test_sums_by_the_kernels_own_functions(
    kernels: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in whose place the fixture puts Triton's."""
    if not hasattr(kernels, "own"):
        pytest.skip("compiled kernels have no others")
    rows = [[(code, 0.4)] for code in (CONTRAST, EQUALIZE, AUTO_CONTRAST)]
    pixels, operations = make_pixels(3, 20), make_operations(rows, 20)
    passes, own = kernels.own
    for name, function in own.items():
        monkeypatch.setattr(passes, name, function)
    found = run(kernels, device, pixels, operations)
    assert np.array_equal(found, reference(pixels, operations))


def draw_chains(count: int, columns: int, among: Sequence[int]) -> list[list[tuple[int, float]]]:
    """Operations and values at random."""
    random = np.random.default_rng(columns)
    return [
        [(code, random.choice(VALUES[code])) for code in random.choice(among, columns).tolist()]
        for _ in range(count)
    ]


def test_chains_are_torchvisions(kernels: ModuleType, device: torch.device) -> None:
    """Operations without a level's difference, which others would enlarge."""
    chains = [*draw_chains(choose(4, 11), 6, sorted(EXACT)), [(NOTHING, 0.0)] * 6]
    pixels, operations = make_pixels(len(chains), 17), make_operations(chains, 17)
    found = run(kernels, device, pixels, operations)
    assert np.array_equal(found, reference(pixels, operations))
    assert np.array_equal(found[-1], pixels[-1])


def test_chains_do_one_after_the_other(kernels: ModuleType, device: torch.device) -> None:
    """However many passes they are."""
    for columns, count in choose([(3, 4)], [(2, 4), (3, 6), (6, 9)]):
        chains = [*draw_chains(count, columns, sorted(VALUES)), [(NOTHING, 0.0)] * columns]
        pixels, operations = make_pixels(len(chains), 20), make_operations(chains, 20)
        found, wanted = run(kernels, device, pixels, operations), pixels
        for at in range(columns):
            column = slice(at, at + 1)
            parts = operations.codes[:, column], operations.values[:, column], operations.boxes
            wanted = run(kernels, device, wanted, Operations(*parts))
        assert np.array_equal(found, wanted)


def test_rows_of_fewer_passes_are_kept(kernels: ModuleType, device: torch.device) -> None:
    """Rows of 0 to 3 passes, in batches of 3 and, without the last row, of 2."""
    flip, gray, nothing = (FLIP_DOWN, 0.0), (GRAY, 0.0), (NOTHING, 0.0)
    rows = [[nothing] * 3, [gray, nothing, nothing], [nothing, flip, gray]]
    rows += [[gray, nothing, flip], [flip, flip, flip]]
    for count in (5, 4):
        pixels, operations = make_pixels(count, 9), make_operations(rows[:count], 9)
        assert len(kernels.find_steps(operations.codes).sums) == count - 2
        wanted = reference(pixels, operations)
        assert np.array_equal(run(kernels, device, pixels, operations), wanted)


def test_programs_of_few_pixels(
    kernels: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles that end within an image, and sums of many rounds."""
    chains = [[(code, VALUES[code][0]), (GRAY, 0.0)] for code in VALUES]
    pixels, operations = make_pixels(len(chains), 12), make_operations(chains, 12)
    wanted = run(kernels, device, pixels, operations)
    monkeypatch.setattr(kernels, "_PIXELS", 128)
    monkeypatch.setattr(kernels, "_SUMMED_PIXELS", 64)
    assert np.array_equal(run(kernels, device, pixels, operations), wanted)


def test_steps(kernels: ModuleType) -> None:
    def sums(*rows: Sequence[int]) -> tuple[bool, ...]:
        return kernels.find_steps(np.array(rows, np.int32)).sums  # type: ignore[no-any-return]

    assert sums([NOTHING, NOTHING]) == ()
    assert kernels.find_steps(np.zeros((0, 3), np.int32)).sums == ()
    assert kernels.find_steps(np.zeros((3, 0), np.int32)).sums == ()
    # Operations that join the pass before, and those that begin one.
    joining = (BRIGHTNESS, SATURATION, HUE, GRAY, POSTERIZE, SOLARIZE, ERASE)
    assert sums(joining) == (False,)
    for code in codes.NAMES:
        needs_sums = code in (CONTRAST, AUTO_CONTRAST, EQUALIZE)
        assert sums([NOTHING, code, NOTHING]) == (needs_sums,)
        wanted = (False,) if code in joining else (False, needs_sums)
        assert sums([HUE, code]) == wanted
    assert sums([CONTRAST, CONTRAST], [GRAY, NOTHING], [HUE, EQUALIZE]) == (True, True)
    assert sums([GRAY, HUE, EQUALIZE], [ROTATE, FLIP_DOWN, SHEAR_X]) == (False, True, False)


def test_kernels_take_a_range_of_codes() -> None:
    assert codes.GEOMETRIC == tuple(range(min(codes.GEOMETRIC), max(codes.GEOMETRIC) + 1))


def arguments(kernels: ModuleType, device: torch.device, count: int = 2) -> dict[str, Any]:
    """Images upside down, with an operation to spare."""
    drawn = np.array([[FLIP_DOWN, NOTHING]] * count, np.int32).reshape(count, 2)
    return {
        "pixels": torch.ones((count, 8, 8, 3), dtype=torch.uint8, device=device),
        "codes": torch.from_numpy(drawn).to(device),
        "values": torch.zeros((count, 2), dtype=torch.float64, device=device),
        "boxes": torch.zeros((count, 4), dtype=torch.int32, device=device),
        "matrices": torch.zeros((count, 2, 6), device=device),
        "steps": kernels.find_steps(drawn),
        "scratch": kernels.make_scratch(2, 8, device),
    }


def test_nothing_to_do(kernels: ModuleType, device: torch.device) -> None:
    """No rows, no operations, and no image are left as they are."""
    given = arguments(kernels, device, 0)
    assert kernels.change(**given) is given["pixels"]
    given = arguments(kernels, device)
    for name in ("codes", "values", "matrices"):
        given[name] = given[name][:, :0].contiguous()
    steps = kernels.find_steps(np.zeros((2, 0), np.int32))
    assert kernels.change(**{**given, "steps": steps}) is given["pixels"]
    empty = torch.ones((2, 0, 0, 3), dtype=torch.uint8, device=device)
    scratch = kernels.make_scratch(2, 0, device)
    given = {**arguments(kernels, device), "pixels": empty, "scratch": scratch}
    assert kernels.change(**given) is empty


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("pixels", lambda pixels: pixels[0], r"pixels: \[8, 8, 3\], expected \[B, S, S, 3\]"),
        ("pixels", lambda pixels: pixels[:, :4], r"pixels: \[2, 4, 8, 3\]"),
        ("pixels", lambda pixels: pixels.float(), r"pixels: torch\.float32"),
        ("pixels", lambda pixels: pixels.transpose(1, 2), "pixels: strides"),
        ("pixels", lambda pixels: pixels.to("meta"), r"expected torch\.|on meta"),
        ("pixels", lambda pixels: pixels[:, :4, :4], r"scratch: .* rows of 4 px"),
        ("pixels", lambda pixels: pixels.expand(3, 8, 8, 3)[:3], "scratch: .* 3 rows"),
        ("codes", lambda drawn: drawn.long(), r"codes: torch\.int64"),
        ("codes", lambda drawn: drawn.repeat(1, 2), r"values: .*expected torch\.float64\[2, 4\]"),
        ("codes", lambda drawn: drawn[0], r"codes: .*\[2\].*expected torch\.int32\[2, 2\]"),
        ("values", lambda values: values.half(), r"values: .*expected torch\.float64"),
        ("boxes", lambda boxes: boxes[:, :2], r"boxes: .*expected torch\.int32\[2, 4\]"),
        ("matrices", lambda matrices: matrices.double(), r"matrices: .*torch\.float32\[2, 2, 6\]"),
        ("matrices", lambda matrices: matrices.to("meta"), "matrices: .* on meta"),
        ("scratch", lambda scratch: scratch._replace(tables=scratch.tables[:1]), "scratch.tables"),
        ("scratch", lambda scratch: scratch._replace(other=scratch.other.int()), "scratch.other"),
    ],
)
def test_wrong_arguments_are_named(
    name: str,
    change: Callable[[Any], Any],
    complaint: str,
    kernels: ModuleType,
    device: torch.device,
) -> None:
    given = arguments(kernels, device)
    if "3 rows" in complaint:
        given["pixels"] = given["pixels"][:1]
    with pytest.raises(ValueError, match=complaint):
        kernels.change(**{**given, name: change(given[name])})


def test_the_batch_is_no_scratch(kernels: ModuleType, device: torch.device) -> None:
    given = arguments(kernels, device)
    with pytest.raises(ValueError, match="scratch: is the batch itself"):
        kernels.change(**{**given, "pixels": given["scratch"].other})


@pytest.mark.gpu
def test_the_host_waits_for_nothing(kernels: ModuleType, device: torch.device) -> None:
    """And no memory is allocated."""
    given = arguments(kernels, device)
    kernels.change(**given)  # compiled
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernels.change(**given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
