"""The Triton kernels against Pillow itself: compiled where there is a GPU, else interpreted.

Of every image, memory holds only what a row's taps touch, and noise around it.
"""

import ctypes
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.loaders import rendering
from pipelines.plan import VIEWS, Plan, Rows, make_plan, resized_geometry
from pipelines.reference import MEAN, STD, cut
from pipelines.turbojpeg import load_turbojpeg

BILINEAR = Image.Resampling.BILINEAR
RANDOM = np.random.default_rng(11)
#: Height and width: tiny, thin, flat; then also shrinking in height alone.
TINY = [(1, 1), (2, 3), (1, 50), (50, 1), (7, 12)]
SHAPES = [*TINY, (23, 31), (40, 40), (52, 37), (70, 16)]
#: Of JPEGs with half as many lines and columns of color: planes of 1, 2, 3 and many.
HALVED = [(1, 1), (1, 5), (5, 1), (2, 4), (4, 4), (3, 6), (5, 5), (17, 23), (33, 31), (34, 40)]


@pytest.fixture(scope="module")
def gpu(triton_kernels: tuple[ModuleType, str]) -> ModuleType:
    return triton_kernels[0]


@pytest.fixture(scope="module")
def device(triton_kernels: tuple[ModuleType, str]) -> torch.device:
    return torch.device(triton_kernels[1])


def noise(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Waves beyond both ends of the scale."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = np.stack((np.sin(9 * y + 2 * x), np.cos(7 * x * y), y - x), axis=-1)
    return np.clip(127.5 + 140 * waves, 0, 255).astype(np.uint8)


def geometry_of(plan: Plan, rows: Rows) -> np.ndarray:
    """int32[B, 2, 4]: the boxes, as the loaders hand them to a kernel."""
    sides = np.stack((plan.heights[rows.samples], plan.widths[rows.samples]), axis=1)
    columns: tuple[np.ndarray, ...]
    if plan.clips_at_box:
        resized = np.full((len(rows), 2), plan.size)
        columns = (rows.boxes[:, :2], rows.boxes[:, 2:], resized, 0 * resized)
    else:
        columns = (0 * sides, sides, *resized_geometry(rows.boxes, sides, plan.size))
    return np.stack(columns, axis=-1).astype(np.int32)


def whole(images: Sequence[np.ndarray], size: int) -> np.ndarray:
    """int32[B, 2, 4]: all of each image."""
    rows = [[(0, side, size, 0) for side in image.shape[:2]] for image in images]
    return np.array(rows, np.int32)


def pillows_order(geometry: np.ndarray) -> np.ndarray:
    """bool[B]: which rows the installed Pillow resizes downwards first."""
    return rendering.goes_down_first(geometry[..., 1], geometry[..., 2], rendering._PILLOW)


def touched(geometry: np.ndarray, size: int) -> list[slice]:
    """The source pixels that the taps of one row's int32[2, 4] touch, on each axis."""
    spans = []
    for start, length, resized, offset in geometry.tolist():
        scale = length / resized
        first, last = (offset + 0.5) * scale, (offset + size - 0.5) * scale
        low = max(int(first - max(scale, 1.0) + 0.5), 0)
        high = min(int(last + max(scale, 1.0) + 0.5), length)
        spans.append(slice(start + low, start + high))
    return spans


def halved(span: slice, side: int) -> slice:
    """The color samples that upsampling pixels of `span` needs, of `side` samples."""
    return slice(max((span.start - 1) >> 1, 0), min((span.stop >> 1) + 1, side))


def pack(
    images: Sequence[Sequence[np.ndarray]], geometry: np.ndarray, size: int
) -> list[np.ndarray]:
    """A kernel's Frames: of each row one RGB plane, or the three of Y, Cb, Cr."""
    parts, at, offsets, pitches = [], 0, [], []
    for planes, row in zip(images, geometry, strict=True):
        spans = touched(row, size)
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
    return [np.concatenate(parts), *numbers]


def render(
    gpu: ModuleType, device: torch.device, images: Sequence[Sequence[np.ndarray]],
    geometry: np.ndarray, size: int, *, flips: np.ndarray | None = None,
    down_first: np.ndarray | None = None, dtype: torch.dtype = torch.uint8, spare_taps: int = 0,
) -> torch.Tensor:  # fmt: skip
    """[B, S, S, 3] of `dtype`."""
    count = len(images)
    flips = np.zeros(count, bool) if flips is None else flips
    down_first = pillows_order(geometry) if down_first is None else down_first
    rows = (geometry, flips, down_first, *factors(size))
    frames = [torch.from_numpy(each).to(device) for each in pack(images, geometry, size)]
    on_device = [torch.from_numpy(each).to(device) for each in rows]
    scratch = gpu.make_scratch(count + 1, size, gpu.tap_count(geometry) + spare_taps, device)
    out = torch.zeros((count, size, size, 3), dtype=dtype, device=device)
    gpu.render_rows(gpu.Frames(*frames), len(images[0]) == 3, *on_device, scratch, out)
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


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [1, 17, 50])
def test_pixels_are_pillows(view: str, size: int, gpu: ModuleType, device: torch.device) -> None:
    shapes = TINY if size == 1 else SHAPES  # interpreted, all of an image in one pixel takes long
    images = [(smooth if size == 17 else noise)(*shape) for shape in shapes]
    heights, widths = np.array(shapes, np.int32).T
    plan = make_plan(widths, heights, view=view, size=size, seed=size)
    rows = plan.rows(plan.order)
    flips = np.arange(len(rows)) % 2 == 0  # in views that do not flip, too
    chosen = [images[sample] for sample in rows.samples]
    geometry = geometry_of(plan, rows)
    found = render(gpu, device, [[each] for each in chosen], geometry, size, flips=flips).numpy()
    for image, box, flip, pixels in zip(chosen, rows.boxes, flips, found, strict=True):
        wanted = np.asarray(cut(Image.fromarray(image), box, size, plan.clips_at_box))
        assert np.array_equal(pixels, wanted[:, ::-1] if flip else wanted), (image.shape, box)


def test_shrunk_a_lot(gpu: ModuleType, device: torch.device) -> None:
    images = [noise(201, 9), noise(9, 201), smooth(40, 24)]
    geometry = whole(images, 7)
    found = render(gpu, device, [[each] for each in images], geometry, 7)
    for image, pixels in zip(images, found.numpy(), strict=True):
        assert np.array_equal(pixels, resized(image, (7, 7)))


def test_taps(gpu: ModuleType, device: torch.device) -> None:
    image = noise(40, 31)
    geometry = whole([image], 9)
    assert gpu.tap_count(geometry) == 2 * 5 + 1
    assert gpu.tap_count(whole([image, noise(9, 46)], 9)) == 2 * 6 + 1
    assert gpu.tap_count(geometry[:0]) == gpu.tap_count(whole([image], 90)) == 3
    for more in (0, 6):
        found = render(gpu, device, [[image]], geometry, 9, spare_taps=more).numpy()
        assert np.array_equal(found[0], resized(image, (9, 9)))


@pytest.mark.parametrize("shape", [(70, 45), (45, 70), (20, 20)])
def test_either_order_of_passes(shape: tuple[int, int], gpu: ModuleType, device: torch.device):
    """Whatever the order, pixels are rounded to bytes between the passes."""
    size, image = 32, noise(*shape)
    rows, geometry = [[image]] * 2, whole([image] * 2, size)
    found = render(gpu, device, rows, geometry, size, down_first=np.array([True, False])).numpy()
    assert np.array_equal(found[0], resized(image, (size, shape[1]), (size, size)))
    assert np.array_equal(found[1], resized(image, (shape[0], size), (size, size)))
    assert not np.array_equal(found[0], found[1])


def test_tiles_make_no_difference(
    gpu: ModuleType, device: torch.device, load_kernels: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    image = noise(21, 33)
    rows, geometry = [[image]] * 2, whole([image] * 2, 34)
    order = np.array([True, False])
    whole_batch = render(gpu, device, rows, geometry, 34, down_first=order)
    shipped = load_kernels("shipped_gpu")
    for lines, columns in ((shipped._TILE_LINES, shipped._TILE_COLUMNS), (64, 16)):
        monkeypatch.setattr(gpu, "_TILE_LINES", lines)
        monkeypatch.setattr(gpu, "_TILE_COLUMNS", columns)
        monkeypatch.setattr(gpu, "_FILTER_PX", columns)
        assert render(gpu, device, rows, geometry, 34, down_first=order).equal(whole_batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_normalized(dtype: torch.dtype, gpu: ModuleType, device: torch.device) -> None:
    """One rounding of float32's sum, and one to a narrower type."""
    images = [[smooth(40, 50)], [noise(60, 30)]]
    geometry = whole([each[0] for each in images], 33)
    pixels = render(gpu, device, images, geometry, 33).double()
    found = render(gpu, device, images, geometry, 33, dtype=dtype)
    assert found.dtype == dtype
    scale, bias = (torch.from_numpy(each[:3]).double() for each in factors(33))
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


def arguments(gpu: ModuleType, device: torch.device) -> dict[str, object]:
    """Of two rows of nothing."""
    long, empty = {"dtype": torch.int64, "device": device}, {"device": device}
    frames = gpu.Frames(
        torch.zeros(100, dtype=torch.uint8, **empty), torch.zeros((2, 3), **long),
        torch.zeros((2, 2), **long), torch.ones((2, 2), **long),
    )  # fmt: skip
    geometry = torch.tensor([[[0, 1, 8, 0]] * 2] * 2, dtype=torch.int32, device=device)
    flips = torch.zeros(2, dtype=torch.bool, device=device)
    return {
        "frames": frames, "planar": False, "geometry": geometry, "flips": flips,
        "down_first": flips, "scale": torch.ones(24, **empty), "bias": torch.ones(24, **empty),
        "scratch": gpu.make_scratch(2, 8, 3, device), "out": torch.zeros((2, 8, 8, 3), **empty),
    }  # fmt: skip


def test_no_rows(gpu: ModuleType, device: torch.device) -> None:
    given = arguments(gpu, device)
    gpu.render_rows(**given)
    assert (given["out"] == 1).all()
    none = {key: value[:0] for key, value in given.items() if key in ("geometry", "flips", "out")}
    frames = given["frames"]
    none["frames"] = frames._replace(
        **{key: getattr(frames, key)[:0] for key in frames._fields[1:]}
    )
    gpu.render_rows(**{**given, **none, "down_first": none["flips"]})


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
        ("flips", lambda flips: flips.int(), r"flips: torch\.int32"),
        ("scale", lambda scale: scale[:3], r"scale: .*\[3\].*expected torch.float32\[24\]"),
        ("bias", lambda bias: bias.to("meta"), "bias: .* on meta, expected"),
        ("scratch", lambda scratch: scratch._make(each[:1] for each in scratch), r"\[1, 2, 8\]"),
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


def test_compiles_for_an_h200(
    load_kernels: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the interpreter takes, the compiler may not; it needs no GPU."""
    triton = pytest.importorskip("triton")
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    gpu = load_kernels("uninterpreted_gpu")
    with pytest.raises(ValueError, match="out: on cpu, expected a GPU"):
        gpu.render_rows(**arguments(gpu, torch.device("cpu")))
    types = {
        "data": "*u8", "offsets": "*i64", "pitches": "*i64", "sides": "*i64", "geometry": "*i32",
        "down_first": "*u8", "flips": "*u8", "first": "*i32", "counts": "*i32", "weights": "*i32",
        "taps": "i32", "scale": "*fp32", "bias": "*fp32", "out": "*bf16",
    }  # fmt: skip
    tile = {"LINES": gpu._TILE_LINES, "COLUMNS": gpu._TILE_COLUMNS}

    def compile_for_h200(kernel: object, constants: dict[str, object], **options: object) -> str:
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert made.asm["cubin"]
        return made.asm["ptx"]

    for planar in (False, True):
        constants = {"SIZE": 224, "PLANAR": planar, "NORMALIZED": True, **tile}
        compile_for_h200(gpu._render, constants, num_warps=1)
    constants = {"SIZE": 224, "BLOCK": gpu._FILTER_PX}
    assembly = compile_for_h200(gpu._fill_taps, constants, enable_fp_fusion=False)
    assert "mul.rn.f64" in assembly
    assert "div.rn.f64" in assembly
    assert "fma" not in assembly
