"""Operations beyond crop and mirror on a CPU, against torchvision's functionals."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import codes
from pipelines.augment import Augment
from pipelines.changing.on_cpu import BatchChanger, Changer, as_asked, written_for
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
from pipelines.kernels import changes
from pipelines.operations import Operations, draw_operations
from pipelines.preprocessing import MEAN, STD
from pipelines.reference import change as define
from pipelines.transfer import Normalizer, normalizing_factors

#: Values of each operation: a plan's extremes, some between, and such that change nothing.
VALUES: dict[int, tuple[float, ...]] = {
    NOTHING: (0, 7),
    FLIP_DOWN: (0, 0),
    **dict.fromkeys((SHEAR_X, SHEAR_Y), (0.99, -0.3, 0.123, 0)),
    **dict.fromkeys((TRANSLATE_X, TRANSLATE_Y), (32, -5, 1, 0, 400, -400)),
    ROTATE: (135, -30, 90, -90, 180, 7.3, 0, 360, -63),
    **dict.fromkeys((BRIGHTNESS, CONTRAST, SATURATION), (0, 0.01, 0.4, 1.0, 1.3, 1.99, 11)),
    SHARPNESS: (0, 0.01, 0.4, 1.0, 1.3, 1.99),
    HUE: (-0.5, -0.1, 0, 0.05, 0.31, 0.5),
    GRAY: (0, 0),
    POSTERIZE: (2, 3, 4, 7, 8),
    SOLARIZE: (0, 255, 100.5, 128, 204.0001),
    AUTO_CONTRAST: (0, 0, 0),
    EQUALIZE: (0, 0, 0),
    ERASE: (0, 0),
}
#: The share of values that may be a level off, of images of 17 px and more; other operations fall
#: on torchvision's levels to the last. Bilinear sums differ where they end near a half, most in
#: shears by tenths of pixels; sums of products where torch fuses them, as it does with AVX.
LIMITS = {SHEAR_X: 0.006, SHEAR_Y: 0.006, ROTATE: 0.0005, SATURATION: 0.003, SHARPNESS: 0.001}
LIMITS |= {GRAY: 0.0001}
EXACT = sorted({*VALUES} - {*LIMITS})
SIZES = (1, 2, 3, 5, 17, 64, 65, 224)
GUARD = 0xA5


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


def make_operations(chains: Sequence[Sequence[tuple[int, float]]], size: int) -> Operations:
    """Chains of codes and values, of equal lengths; boxes of all kinds."""
    table = np.array(chains, float).reshape(len(chains), len(chains[0]) if chains else 1, 2)
    random = np.random.default_rng(len(chains))
    ends = np.sort(random.integers(0, size + 1, (len(chains), 2, 2)), axis=1)
    boxes = np.concatenate((ends[:, 0], ends[:, 1] - ends[:, 0]), axis=1).astype(np.int32)
    boxes[:1] = 0, 0, size, size
    drawn, values = (np.ascontiguousarray(table[..., at]) for at in (0, 1))
    return Operations(drawn.astype(np.int32), values, boxes)


def make_all(size: int) -> tuple[np.ndarray, Operations]:
    """Images, and every operation behind a move into the scratch memory, or without it."""
    chains = [
        [first, (code, value)]
        for code, values in VALUES.items()
        for value in values
        for first in ((NOTHING, 0.0), (TRANSLATE_X, 0.0))
    ]
    return make_pixels(len(chains), size), make_operations(chains, size)


def with_room(pixels: np.ndarray) -> np.ndarray:
    """A copy [B, S, S * 3] of images, with what may be touched behind it."""
    count, size = pixels.shape[:2]
    room = np.zeros(pixels.size + changes.READ_PAST, np.uint8)[: pixels.size]
    room[:] = pixels.reshape(-1)
    return room.reshape(count, size, size * 3)


def run(pixels: np.ndarray, operations: Operations, dtype: Any = np.uint8) -> np.ndarray:
    out = np.empty(pixels.shape, dtype)
    count, size = pixels.shape[:2]
    Changer().run(operations, with_room(pixels), out.reshape(count, size, size * 3))
    return out


def reference(pixels: np.ndarray, operations: Operations) -> np.ndarray:
    return np.stack([define(image, operations, row) for row, image in enumerate(pixels)])


@pytest.mark.parametrize("code", VALUES, ids=lambda code: codes.NAMES.get(code, "nothing"))
def test_pixels_are_torchvisions(code: int) -> None:
    for size in SIZES:
        # Each value on noise, on waves and on a few levels.
        values = [value for value in VALUES[code] for _ in range(3)]
        pixels = make_pixels(len(values), size)
        operations = make_operations([[(code, value)] for value in values], size)
        found = run(pixels, operations)
        distance = np.abs(found.astype(int) - reference(pixels, operations))
        assert distance.max() <= (code in LIMITS), size
        assert (distance > 0).mean() <= (0.05 if size < 17 else LIMITS.get(code, 0)), size
        if code == NOTHING:
            assert np.array_equal(found, pixels)
        elif size == 65:
            assert not np.array_equal(found, pixels)


def test_factors_anywhere_are_torchvisions() -> None:
    random = np.random.default_rng(0)
    pixels = make_pixels(90, 20)
    spans = {HUE: (-0.5, 0.5), SOLARIZE: (0, 255), ROTATE: (-180, 180)}
    blends = (BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS)
    for code in (*blends, *spans, SHEAR_X, SHEAR_Y):
        values = random.uniform(*spans.get(code, (0, 2) if code in blends else (-1, 1)), 90)
        operations = make_operations([[(code, value)] for value in values], 20)
        distance = np.abs(run(pixels, operations).astype(int) - reference(pixels, operations))
        assert distance.max() <= (code in LIMITS), code
        assert (distance > 0).mean() <= LIMITS.get(code, 0), code


@pytest.mark.parametrize("size", [5, 33])
def test_chains_are_torchvisions(size: int) -> None:
    """Operations without a level's difference, which others would enlarge."""
    random = np.random.default_rng(size)
    chains = [
        [(code, random.choice(VALUES[code])) for code in random.choice(EXACT, 6).tolist()]
        for _ in range(60)
    ]
    pixels, operations = make_pixels(60, size), make_operations(chains, size)
    assert np.array_equal(run(pixels, operations), reference(pixels, operations))


def test_chains_do_one_after_the_other() -> None:
    random = np.random.default_rng(1)
    for size in (1, 2, 17, 40):
        chains = [
            [(code, random.choice(VALUES[code])) for code in random.choice([*VALUES], 5).tolist()]
            for _ in range(60)
        ]
        pixels, operations = make_pixels(60, size), make_operations(chains, size)
        wanted = pixels
        for at in range(5):
            column = slice(at, at + 1)
            parts = (
                np.ascontiguousarray(each[:, column])
                for each in (operations.codes, operations.values)
            )
            wanted = run(wanted, Operations(*parts, operations.boxes))
        assert np.array_equal(run(pixels, operations), wanted)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"policy": "trivial", "vflip": 0.5, "erase": 0.5}, 0.001),
        # Its shears are by tenths of pixels.
        ({"policy": "rand-n1-m30"}, 0.005),
        ({"color_jitter": (0.4, 0.4, 0.0, 0.1), "grayscale": 0.2}, 0.00001),
    ],
)
def test_draws_of_a_plan_are_torchvisions(settings: dict[str, Any], limit: float) -> None:
    count, size = 300, 48
    pixels = make_pixels(count, size)
    here = {"seed": 0, "epoch": 0, "samples": np.arange(count), "size": size}
    operations = draw_operations(Augment(**settings), **here)
    distance = np.abs(run(pixels, operations).astype(int) - reference(pixels, operations))
    assert distance.max() <= 1
    assert (distance > 0).mean() <= limit


def test_nothing_leaves_pixels() -> None:
    pixels = make_pixels(4, 9)
    for columns in (0, 1, 5):
        operations = make_operations([[(NOTHING, 3.0)] * columns] * 4, 9)
        assert np.array_equal(run(pixels, operations), pixels)
    none = make_operations([], 9)
    assert run(pixels[:0], none).shape == (0, 9, 9, 3)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 64, 65])
def test_a_changed_image_leaves_the_next(size: int) -> None:
    """An image moves out of its own place and back; the next one lies behind it."""
    chains = []
    for code, values in VALUES.items():
        for value in values:
            chains += [[(SHARPNESS, 1.0), (code, value)], [(NOTHING, 0.0)] * 2]
    pixels, operations = make_pixels(len(chains), size), make_operations(chains, size)
    found = run(pixels, operations)
    assert np.array_equal(found[1::2], pixels[1::2])
    alone = (
        run(pixels[at : at + 1], operations.take(slice(at, at + 1))) for at in range(len(found))
    )
    assert np.array_equal(found, np.concatenate([*alone]))


class _Guarded:
    """An array between guards."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, begin: int) -> None:
        self._bytes = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize + 256, GUARD, np.uint8)
        self._begin, self._end = begin, begin + self._bytes.size - 256
        self.array = self._bytes[begin : self._end].view(dtype).reshape(shape)

    def is_whole(self, spare: int) -> bool:
        """Whether nothing but the array, and `spare` bytes behind it, was written to."""
        outside = self._bytes[: self._begin], self._bytes[self._end + spare :]
        return all((part == GUARD).all() for part in outside)


@pytest.mark.parametrize("begin", [64, 68])  # addresses that streaming takes, and others
@pytest.mark.parametrize("size", [1, 2, 3, 17, 32])
def test_other_bytes_stay_untouched(size: int, begin: int) -> None:
    pixels, operations = make_all(size)
    factors = normalizing_factors(size, MEAN, STD)
    shape = (len(pixels), size, size * 3)
    for dtype in (np.uint8, np.uint16, np.float32):
        given, out = (_Guarded(shape, each, begin) for each in (np.uint8, dtype))
        image = _Guarded(shape[1:], np.uint8, begin)
        tables, counts = _Guarded((3, 256), np.uint8, 64), _Guarded((3, 256), np.int64, 64)
        given.array[:] = pixels.reshape(shape)
        scratch = changes.Scratch(image.array, tables.array, counts.array)
        matrices = operations.matrices(size)
        of_rows = changes.Changes(operations.codes, operations.values, operations.boxes, matrices)
        changes.change_rows(given.array, of_rows, scratch, *factors, out.array.view(np.uint8))
        assert given.is_whole(changes.READ_PAST)
        assert image.is_whole(changes.READ_PAST)
        assert all(each.is_whole(0) for each in (out, tables, counts))


def test_images_may_become_the_output() -> None:
    """A loader has it so that normalizes on another device."""
    pixels, operations = make_all(17)
    given = with_room(pixels)
    Changer().run(operations, given, given)
    assert np.array_equal(given.reshape(pixels.shape), run(pixels, operations))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_outputs_are_the_normalizers(size: int, dtype: torch.dtype | None) -> None:
    pixels, operations = make_all(size)
    changed = run(pixels, operations)
    normalizer = Normalizer(size, MEAN, STD, device=torch.device("cpu"), dtype=dtype)
    wanted = normalizer(torch.from_numpy(changed)).permute(0, 2, 3, 1)
    written = run(pixels, operations, written_for(dtype))
    found = as_asked(torch.from_numpy(written), dtype)
    assert found.dtype == wanted.dtype
    if dtype is None:
        assert torch.equal(found, wanted)
    else:
        # Both round once to float32; where one of them fuses less, narrower types may differ.
        step = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
        distance = (found.float() - wanted.float()).abs()
        assert (distance <= 1e-6 + step * wanted.float().abs()).all()
        assert (distance > 1e-6).float().mean() < 0.001
        assert torch.equal(found, torch.from_numpy(run(pixels, operations, np.float32)).to(dtype))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("codes", lambda drawn: drawn - 1),
        ("codes", lambda drawn: drawn + ERASE),
        ("codes", lambda drawn: drawn[:2]),
        ("codes", lambda drawn: drawn[:, :1]),
        ("values", lambda values: values[:, :1]),
        ("values", lambda values: values[:2]),
        ("values", lambda values: values * np.nan),
        ("values", lambda values: values * np.inf),
        ("values", lambda values: values * -1e5),
        ("boxes", lambda boxes: boxes[:2]),
        ("boxes", lambda boxes: boxes[:, :3]),
        # Top, left, height, width: 0, 0, 5 and 6 of 7 px.
        ("boxes", lambda boxes: boxes - (1, 0, 0, 0)),
        ("boxes", lambda boxes: boxes - (0, 1, 0, 0)),
        ("boxes", lambda boxes: boxes - (0, 0, 6, 0)),
        ("boxes", lambda boxes: boxes - (0, 0, 0, 7)),
        ("boxes", lambda boxes: boxes + np.array((0, 0, 3, 0))),
        ("boxes", lambda boxes: boxes + np.array((0, 2, 0, 0))),
        ("boxes", lambda boxes: boxes + np.array((7, 0, 2**31 - 6, 0))),
    ],
)
def test_operations_of_no_plan_are_refused(
    name: str, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    given: dict[str, Any] = {
        "codes": np.array([[NOTHING, FLIP_DOWN]] * 3, np.int32),
        "values": np.ones((3, 2)),
        "boxes": np.array([[0, 0, 5, 6]] * 3, np.int32),
    }
    Operations(**given).check(3, 7)
    given[name] = spoil(given[name]).astype(given[name].dtype)
    pixels = with_room(make_pixels(3, 7))
    before, out = pixels.copy(), np.full(pixels.shape, GUARD, np.uint8)
    with pytest.raises(ValueError, match="operations: "):
        Changer().run(Operations(**given), pixels, out)
    assert np.array_equal(pixels, before)
    assert (out == GUARD).all()


def test_one_bad_row_is_enough() -> None:
    operations = make_operations([[(FLIP_DOWN, 0.0)]] * 4, 7)
    for array, value in ((operations.codes, ERASE + 1), (operations.values, np.nan)):
        before, array[3, 0] = array[3, 0], value
        with pytest.raises(ValueError, match="an unknown code"):
            operations.check(4, 7)
        array[3, 0] = before
    operations.check(4, 7)
    for count, size in ((3, 7), (5, 7), (4, 6)):
        with pytest.raises(ValueError, match="operations: "):
            operations.check(count, size)


def test_one_changer_serves_all_sizes() -> None:
    changer = Changer()
    for size in (17, 5, 64, 1, 17):
        pixels, operations = make_all(size)
        out = np.empty(pixels.shape, np.uint8)
        changer.run(operations, with_room(pixels), out.reshape(len(out), size, -1))
        assert np.array_equal(out, run(pixels, operations))


@pytest.fixture(params=[None, torch.uint8, torch.float32, torch.bfloat16, torch.float16])
def batch_changer(request: pytest.FixtureRequest) -> Iterator[tuple[Any, BatchChanger]]:
    changer = BatchChanger(request.param, workers=2)
    yield request.param, changer
    changer.close()


def test_batches_are_changed_as_by_one_thread(
    batch_changer: tuple[torch.dtype | None, BatchChanger],
) -> None:
    dtype, changer = batch_changer
    kept = []
    for count, size in ((1, 17), (20, 17), (8, 17), (9, 5), (0, 5), (33, 40)):
        pixels, operations = make_all(size)
        part = slice(len(pixels) - count, None)
        pixels, operations = pixels[part], operations.take(part)
        pixels.flags.writeable = False  # another library's
        found = changer.run(operations, pixels)
        wanted = as_asked(torch.from_numpy(run(pixels, operations, written_for(dtype))), dtype)
        assert found.shape == (count, size, size, 3)
        kept.append((found, wanted))
    for found, wanted in kept:  # no later batch has taken their memory
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)


def test_strided_batches_are_changed_alike() -> None:
    pixels, operations = make_all(9)
    changer = BatchChanger(None, workers=1)
    strided = np.stack((pixels, pixels), axis=1)[:, 1]
    assert not strided.flags.c_contiguous
    found = changer.run(operations, strided)
    changer.close()
    assert np.array_equal(found.numpy(), run(pixels, operations))


def test_bad_batches_are_refused() -> None:
    changer = BatchChanger(torch.float32, workers=2)
    operations = make_operations([[(ERASE + 1, 0.0)]] * 9, 7)
    with pytest.raises(ValueError, match="operations: "):
        changer.run(operations, make_pixels(9, 7))
    changer.close()
