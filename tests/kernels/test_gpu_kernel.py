"""The Triton kernels against Pillow itself: compiled where there is a GPU, else interpreted.

Of every image, memory holds only what a row's taps touch, and noise around it.
"""

import ctypes
import io
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from effort import choose, rest
from PIL import Image

from pipelines.images.turbojpeg import load_turbojpeg
from pipelines.plan import VIEWS, Rows, make_plan
from pipelines.preprocessing import MEAN, STD, Preprocessing
from pipelines.reference import cut
from pipelines.rendering.geometry import _PILLOW, goes_down_first

#: Of `gpu`, which loads Triton.
SLACK_BYTES = 256
BILINEAR = Image.Resampling.BILINEAR
RANDOM = np.random.default_rng(11)
#: Height and width: tiny, thin, flat; then also shrinking in height alone.
TINY = [(1, 1), (2, 3), (1, 50), (50, 1), (7, 12)]
SHAPES = [*TINY, (23, 31), (40, 40), (52, 37), (70, 16)]
#: Of JPEGs with half as many lines and columns of color: planes of 1, 2, 3 and many.
HALVED = [(1, 1), (1, 5), (5, 1), (2, 4), (4, 4), (3, 6), (5, 5), (17, 23), (33, 31), (34, 40)]


def noise(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Waves beyond both ends of the scale."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = np.stack((np.sin(9 * y + 2 * x), np.cos(7 * x * y), y - x), axis=-1)
    return np.clip(127.5 + 140 * waves, 0, 255).astype(np.uint8)


def geometry_of(rows: Rows) -> np.ndarray:
    """int32[B, 2, 4]: the rows, as the loaders hand them to a kernel."""
    columns = (rows.crops[:, :2], rows.crops[:, 2:], rows.resized, rows.corners)
    return np.stack(columns, axis=-1)


def whole(images: Sequence[np.ndarray], size: int) -> np.ndarray:
    """int32[B, 2, 4]: all of each image."""
    rows = [[(0, side, size, 0) for side in image.shape[:2]] for image in images]
    return np.array(rows, np.int32).reshape(-1, 2, 4)


def pillows_order(geometry: np.ndarray) -> np.ndarray:
    """bool[B]: which rows the installed Pillow resizes downwards first."""
    return goes_down_first(geometry[..., 1], geometry[..., 2], _PILLOW)


def touched(geometry: np.ndarray, size: int, reach: int) -> list[slice]:
    """The source pixels that the taps of one row's int32[2, 4] touch, on each axis."""
    spans = []
    for start, length, resized, offset in geometry.tolist():
        scale = length / resized
        first, last = (offset + 0.5) * scale, (offset + size - 0.5) * scale
        low = max(int(first - reach * max(scale, 1.0) + 0.5), 0)
        high = min(int(last + reach * max(scale, 1.0) + 0.5), length)
        spans.append(slice(start + low, start + high))
    return spans


def halved(span: slice, side: int) -> slice:
    """The color samples that upsampling pixels of `span` needs, of `side` samples."""
    return slice(max((span.start - 1) >> 1, 0), min((span.stop >> 1) + 1, side))


def pack(
    images: Sequence[Sequence[np.ndarray]], geometry: np.ndarray, size: int, reach: int = 1
) -> list[np.ndarray]:
    """A kernel's Frames: of each row one RGB plane, or the three of Y, Cb, Cr."""
    parts, at, offsets, pitches = [], 0, [], []
    for planes, row in zip(images, geometry, strict=True):
        spans = touched(row, size, reach)
        if len(planes) == 3:
            color = [halved(*each) for each in zip(spans, planes[1].shape, strict=True)]
        gaps = RANDOM.integers(0, 7, 2).tolist()
        corner, pitch = [0, 0, 0], [0, 0]
        for number, plane in enumerate(planes):
            down, across = color if number else spans
            pixel, gap = plane[0, 0].size, gaps[min(number, 1)]
            width = (across.stop - across.start) * pixel
            lines = RANDOM.integers(0, 256, (down.stop - down.start, width + gap), np.uint8)
            lines[:, :width] = plane[down, across].reshape(len(lines), width)
            corner[number] = at - down.start * (width + gap) - across.start * pixel
            pitch[min(number, 1)] = width + gap
            parts.append(lines.ravel())
            at += lines.size
        offsets.append(corner)
        pitches.append(pitch)
    sides = [planes[0].shape[:2] for planes in images]
    numbers = (np.array(each, np.int64) for each in (offsets, pitches, sides))
    parts.append(RANDOM.integers(0, 256, SLACK_BYTES, np.uint8))
    return [np.concatenate(parts), *numbers]


def render(
    gpu: ModuleType,
    device: torch.device,
    images: Sequence[Sequence[np.ndarray]],
    geometry: np.ndarray,
    size: int,
    *,
    flips: np.ndarray | None = None,
    down_first: np.ndarray | None = None,
    dtype: torch.dtype = torch.uint8,
    spare_taps: int = 0,
    cubic: bool = False,
) -> torch.Tensor:
    """[B, S, S, 3] of `dtype`."""
    count, planar = len(images), len(images[0]) == 3
    flips = np.zeros(count, bool) if flips is None else flips
    down_first = pillows_order(geometry) if down_first is None else down_first
    windows = gpu.find_windows(geometry, flips, down_first, size, cubic=cubic)
    rows = (geometry, windows, *factors(size))
    packed = pack(images, geometry, size, 2 if cubic else 1)
    frames = [torch.from_numpy(each).to(device) for each in packed]
    on_device = [torch.from_numpy(each).to(device) for each in rows]
    needs = gpu.find_needs(windows, size, planar=planar, cubic=cubic)
    spare = needs._replace(taps=needs.taps + spare_taps)
    scratch = gpu.make_scratch(count + 1, size, spare, device)
    assert gpu.fits(scratch, count, needs)
    out = torch.zeros((count, size, size, 3), dtype=dtype, device=device)
    gpu.render_rows(gpu.Frames(*frames), planar, *on_device, needs, scratch, out)
    return out.cpu()


def factors(size: int) -> tuple[np.ndarray, np.ndarray]:
    scale, bias = 1 / (255 * np.array(STD)), -np.array(MEAN) / np.array(STD)
    return np.tile(scale.astype(np.float32), size), np.tile(bias.astype(np.float32), size)


def resized(image: np.ndarray, *sides: tuple[int, int]) -> np.ndarray:
    """Pillow's, to one height and width after the other."""
    picture = Image.fromarray(image)
    for height, width in sides:
        picture = picture.resize((width, height), BILINEAR)
    return np.asarray(picture)


#: Every view at one size, and every size in a view that clips at the box and one that does not;
#: every image in the first, and in some other.
CHOSEN = [(view, 17, slice(at and at % 3, None, (at and 3) or 1)) for at, view in enumerate(VIEWS)]
CHOSEN += [(view, 1, slice(at, None, 2)) for at, view in enumerate(("train", "eval-square"))]
CHOSEN += [(view, 50, slice(at + 3, None, 4)) for at, view in enumerate(("train", "eval-square"))]
ALL = [(view, size, slice(None)) for view in VIEWS for size in (1, 17, 50)]
#: The same by the other filter: every way of summing, and all sides that are thin.
CUBIC = [("train", 17, slice(2, None, 3)), ("eval", 50, slice(3, None, 4)), ("eval", 1, slice(2))]
EITHER = [
    *((*each, "bilinear") for each in choose(CHOSEN, ALL)),
    *((*each, "bicubic") for each in choose(CUBIC, ALL)),
]


@pytest.mark.parametrize(("view", "size", "some", "by"), EITHER)
def test_pixels_are_pillows(
    view: str,
    size: int,
    some: slice,
    by: Any,
    gpu: ModuleType,
    device: torch.device,
    tried: Callable[..., None],
) -> None:
    # Interpreted, all of an image in one pixel takes long.
    shapes = (TINY if size == 1 else SHAPES)[some]
    images = [(smooth if size == 17 else noise)(*shape) for shape in shapes]
    heights, widths = np.array(shapes, np.int32).T
    form = Preprocessing(filter=by)
    plan = make_plan(widths, heights, view=view, size=size, seed=size, preprocessing=form)
    rows = plan.rows(plan.order)
    flips = np.arange(len(rows)) % 2 == 0  # in views that do not flip, too
    chosen = [images[sample] for sample in rows.samples]
    geometry = geometry_of(rows)
    how = {"flips": flips, "cubic": by == "bicubic"}
    found = render(gpu, device, [[each] for each in chosen], geometry, size, **how).numpy()
    for row, (image, flip, pixels) in enumerate(zip(chosen, flips, found, strict=True)):
        wanted = np.asarray(cut(Image.fromarray(image), rows, row))
        assert np.array_equal(pixels, wanted[:, ::-1] if flip else wanted), (image.shape, row)
    tried("rows of interpreted kernels against Pillow", len(rows))


def test_shrunk_a_lot(gpu: ModuleType, device: torch.device) -> None:
    images = [noise(61, 5), noise(5, 61)]
    geometry = whole(images, 4)
    found = render(gpu, device, [[each] for each in images], geometry, 4)
    for image, pixels in zip(images, found.numpy(), strict=True):
        assert np.array_equal(pixels, resized(image, (4, 4)))


def needs_of(
    gpu: ModuleType, images: Sequence[np.ndarray], size: int, *, planar: bool = False
) -> Any:
    """Of whole images, those as high as wide or higher downwards first."""
    down_first = np.array([image.shape[0] >= image.shape[1] for image in images], bool)
    windows = gpu.find_windows(whole(images, size), ~down_first, down_first, size)
    return gpu.find_needs(windows, size, planar=planar)


def test_needs(gpu: ModuleType) -> None:
    wide, high = noise(31, 40), noise(40, 31)
    needs = needs_of(gpu, [wide, high], 9)
    assert (needs.taps, needs.lines, needs.columns) == (9 + 2, 40, 40)
    lines = -(-31 // gpu._ACROSS_LINES) * gpu._ACROSS_LINES
    assert needs.between_bytes == -(-max(lines, 31) * 9 * 3 // 16) * 16
    assert (needs.has_across_first, needs.has_down_first, needs.rgb_bytes) == (True, True, 0)
    assert needs_of(gpu, [wide, noise(9, 46)], 9).taps == 11 + 2
    assert needs_of(gpu, [wide], 90)[-3:-1] == (True, False)
    # The fewest that have code of their own.
    assert needs_of(gpu, [wide], 90).taps == needs_of(gpu, [], 9).taps == 4
    assert needs_of(gpu, [wide], 9, planar=True).rgb_bytes == -(-31 * 40 * 3 // 16) * 16


def test_scratch_of_more_taps_does_as_well(gpu: ModuleType, device: torch.device) -> None:
    image = noise(40, 31)
    found = render(gpu, device, [[image]], whole([image], 9), 9, spare_taps=6).numpy()
    assert np.array_equal(found[0], resized(image, (9, 9)))


def test_no_tap_is_left_out() -> None:
    """Twice the support, rounded up, are all that weigh anything, also where doubles round."""
    sizes = {1, 2, 7, 24, 224}
    sizes |= choose(set(), {3, 5, 9, 17, 40, 96, 100, 229, 255, 256, 384, 1000})
    lengths = [*range(1, 400), *range(401, 4000, 37), 65_500]
    for size in sorted(sizes):
        for length in (each for each in lengths if each <= 70 * size):
            weights = pillows_filter(length, size)
            needed = max(-(-2 * length // size), 2)
            assert not weights[:, needed:].any(), (length, size)


def pillows_filter(length: int, size: int) -> np.ndarray:
    """int64[S, K] weights, as `cpu` computes them."""
    scale = length / size
    support = max(scale, 1.0)
    center = (np.arange(size) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(int), 0)
    end = np.minimum((center + support + 0.5).astype(int), length)
    tap = first[:, None] + np.arange(2 * int(np.ceil(support)) + 1)
    part = np.maximum(1.0 - np.abs((tap - center[:, None] + 0.5) * (1.0 / support)), 0.0)
    part = np.where(tap < end[:, None], part, 0.0)
    return (0.5 + part / part.sum(1, keepdims=True) * (1 << 22)).astype(int)


@pytest.mark.parametrize("shape", [(35, 23), (10, 10), *rest(((23, 35),))])
def test_either_order_of_passes(shape: tuple[int, int], gpu: ModuleType, device: torch.device):
    """Whatever the order, pixels are rounded to bytes between the passes."""
    size, image = 16, noise(*shape)
    rows, geometry = [[image]] * 2, whole([image] * 2, size)
    found = render(gpu, device, rows, geometry, size, down_first=np.array([True, False])).numpy()
    assert np.array_equal(found[0], resized(image, (size, shape[1]), (size, size)))
    assert np.array_equal(found[1], resized(image, (shape[0], size), (size, size)))
    assert not np.array_equal(found[0], found[1])


def test_tiles_make_no_difference(
    gpu: ModuleType,
    device: torch.device,
    load_kernels: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = np.array([True, False])
    shipped = load_kernels("shipped_gpu")
    names = ("_ACROSS_LINES", "_ACROSS_COLUMNS", "_DOWN_LINES", "_DOWN_VALUES", "_FILTER_PX")
    # More columns than the one's tile, more of everything than the other's.
    for size, tile in ((33, [getattr(shipped, name) for name in names]), (18, (4, 16, 2, 32, 16))):
        image = noise(11, 17)
        rows, geometry = [[image]] * 2, whole([image] * 2, size)
        whole_batch = render(gpu, device, rows, geometry, size, down_first=order)
        with monkeypatch.context() as patch:
            for name, value in zip(names, tile, strict=True):
                patch.setattr(gpu, name, value)
            found = render(gpu, device, rows, geometry, size, down_first=order)
        assert found.equal(whole_batch)


@pytest.mark.parametrize("halved_colors", [True, *rest(False)])
def test_rows_take_turns(
    halved_colors: bool, gpu: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where scratch holds two of five rows, as of 65,536 and more."""
    image = decode(9, 14)[1] if halved_colors else [noise(9, 14)]
    geometry = np.array([[(at, 5, 6, 0), (2 * at, 6, 6, 0)] for at in range(5)], np.int32)
    order = np.array([False, True, False, False, True])
    at_once = render(gpu, device, [image] * 5, geometry, 6, down_first=order)
    needs = gpu.find_needs(gpu.find_windows(geometry, order, order, 6), 6, planar=halved_colors)
    monkeypatch.setattr(gpu, "_BETWEEN_BYTES", 2 * needs.between_bytes)
    monkeypatch.setattr(gpu, "_RGB_BYTES", 2 * needs.rgb_bytes)
    scratch = gpu.make_scratch(5, 6, needs, device)
    assert len(scratch.between) == 2 * needs.between_bytes + SLACK_BYTES
    assert render(gpu, device, [image] * 5, geometry, 6, down_first=order).equal(at_once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *rest(torch.float16)])
def test_normalized(dtype: torch.dtype, gpu: ModuleType, device: torch.device) -> None:
    """One rounding of float32's sum, and one to a narrower type."""
    images = [[smooth(9, 14)], [noise(19, 4)]]
    geometry = whole([each[0] for each in images], 16)
    pixels = render(gpu, device, images, geometry, 16).double()
    found = render(gpu, device, images, geometry, 16, dtype=dtype)
    assert found.dtype == dtype
    scale, bias = (torch.from_numpy(each[:3]).double() for each in factors(16))
    exact = pixels * scale + bias
    half_step = torch.finfo(dtype).eps / 2
    if dtype == torch.bfloat16 and device.type == "cpu":
        half_step *= 2  # the interpreter truncates
    assert ((found.double() - exact).abs() <= exact.abs() * half_step + 3e-7).all()


def test_memory_before_the_crop_need_not_be_there(gpu: ModuleType, device: torch.device) -> None:
    image = noise(90, 80)
    geometry = np.array([[[70, 20, 16, 0], [50, 30, 16, 0]]], np.int32)
    assert pack([[image]], geometry, 16)[1][0, 0] < 0
    found = render(gpu, device, [[image]], geometry, 16).numpy()
    assert np.array_equal(found[0], resized(image[70:, 50:], (16, 16)))


def decode(height: int, width: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """What Pillow makes of a JPEG with halved colors: uint8[height, width, 3]; Y, Cb, Cr."""
    library = load_turbojpeg() or pytest.skip("libturbojpeg is not installed")
    target = io.BytesIO()
    Image.fromarray(noise(height, width)).save(target, "JPEG", subsampling=2, quality=90)
    data = target.getvalue()
    even = (height + height % 2, width + width % 2)
    planes = [np.zeros((even[0] // part, even[1] // part), np.uint8) for part in (1, 2, 2)]
    addresses = (ctypes.c_void_p * 3)(*(plane.ctypes.data for plane in planes))
    handle = ctypes.c_void_p(library.tjInitDecompress())
    size = ctypes.c_ulong(len(data))
    status = library.tjDecompressToYUVPlanes(handle, data, size, addresses, width, None, height, 0)
    library.tjDestroy(handle)
    assert status == 0
    with Image.open(target) as image:
        return np.asarray(image.convert("RGB")), [planes[0][:height, :width], *planes[1:]]


@pytest.mark.parametrize("shape", HALVED)
def test_halved_colors_are_pillows(shape: tuple[int, int], gpu: ModuleType, device: torch.device):
    """Every pixel of a JPEG, by crops at its own scale, each with no more colors than it needs."""
    size = min(shape)
    tops, lefts = ([*range(0, side - size, size), side - size] for side in shape)
    corners = [(top, left) for top in tops for left in lefts]
    geometry = np.array([[(at, size, size, 0) for at in corner] for corner in corners], np.int32)
    wanted, planes = decode(*shape)
    found = render(gpu, device, [planes] * len(corners), geometry, size).numpy()
    for (top, left), pixels in zip(corners, found, strict=True):
        assert np.array_equal(pixels, wanted[top : top + size, left : left + size])


def test_halved_colors_are_resized_as_rgb(gpu: ModuleType, device: torch.device) -> None:
    decoded = [decode(*shape) for shape in HALVED[2::3]]
    images = [planes for _, planes in decoded]
    geometry, flips = whole([rgb for rgb, _ in decoded], 24), np.arange(len(images)) % 2 == 1
    for order in (False, True):
        orders = np.full(len(images), order)
        found = render(gpu, device, images, geometry, 24, flips=flips, down_first=orders)
        for (rgb, _), flip, pixels in zip(decoded, flips, found.numpy(), strict=True):
            between = (24, rgb.shape[1]) if order else (rgb.shape[0], 24)
            wanted = resized(rgb, between, (24, 24))
            assert np.array_equal(pixels, wanted[:, ::-1] if flip else wanted)
