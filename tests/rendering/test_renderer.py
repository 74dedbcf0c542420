"""The compiled kernel against Pillow itself, and what its callers promise it."""

import io
import threading
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from effort import rest
from PIL import Image

from pipelines.errors import DataError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.layout import MODE_JPG, MODE_RAW, About, Stored
from pipelines.plan import Plan, Rows, make_plan
from pipelines.reference import render_batch
from pipelines.rendering import geometry, row_worker
from pipelines.rendering.crops import CropRenderer
from pipelines.rendering.geometry import make_geometry
from pipelines.rendering.renderer import Renderer
from pipelines.rendering.row_worker import Piece, Worker

RANDOM = np.random.default_rng(7)
#: Longer than anything takes: what waits so long has failed.
LONG_S = 60
#: Height and width: odd, tiny, thin, flat, larger than a group of lines, shrinking in height alone.
SHAPES = [
    (1, 1),
    (2, 3),
    (3, 2),
    (1, 400),
    (400, 1),
    (5, 900),
    (900, 5),
    (61, 97),
    (97, 61),
    (64, 64),
    (63, 65),
    (200, 300),
    (300, 200),
    (640, 90),
    (331, 127),
    (130, 64),
    (1031, 513),
]


def raw(height: int, width: int) -> Stored:
    pixels = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    return Stored(MODE_RAW, width, height, pixels.tobytes())


def jpeg(height: int, width: int, **options: object) -> Stored:
    pixels = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", **options)
    return Stored(MODE_JPG, width, height, target.getvalue())


def write(path: Path, samples: list[Stored]) -> Index:
    with BetonWriter(path, len(samples)) as writer:
        for number, stored in enumerate(samples):
            writer.append(stored, 0, f"{number}.jpg", zlib.crc32(stored.data))
        writer.finish(About(classes=("all",)))
        writer.publish()
    return read_index(path)


def renderer_of(index: Index, size: int, rows: int, workers: int = 2) -> Renderer:
    return CropRenderer(index, size, None, batch=rows, workers=workers)


def render(index: Index, plan: Plan, rows: Rows) -> torch.Tensor:
    renderer = renderer_of(index, plan.size, len(rows))
    try:
        return renderer.submit(rows, plan).result()
    finally:
        renderer.close()


def rows_of(boxes: Sequence[Sequence[int]], size: int, flip: bool = False) -> Rows:
    """Rows of the only sample, which crop these boxes of it."""
    count = len(boxes)
    resized, corners = np.full((count, 2), size, np.int32), np.zeros((count, 2), np.int32)
    crops, flips = np.array(boxes, np.int32), np.full(count, flip)
    shrinks = np.ones(count, np.int32)
    return Rows(np.zeros(count, np.int64), crops, resized, corners, flips, shrinks, size)


def wanted(index: Index, plan: Plan, rows: Rows) -> np.ndarray:
    return render_batch([index.stored(int(sample)) for sample in rows.samples], rows)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Index:
    path = tmp_path_factory.mktemp("shapes") / "shapes.beton"
    kinds = [raw, jpeg]
    return write(path, [kind(*shape) for shape in SHAPES for kind in kinds])


@pytest.mark.parametrize(
    ("view", "size"),
    [
        *product(("train", "recordio", "eval", "eval-square", "native"), (1, 17, 64)),
        *product(("train", "eval-square", "native"), (224,)),
        *rest(("recordio", 224), ("eval", 224)),  # Pillow enlarges flat images a lot
    ],
)
def test_pixels_are_pillows(view: str, size: int, shapes: Index) -> None:
    for epoch in range(3 if size == 17 and view in ("train", "recordio") else 1):
        plan = make_plan(shapes.widths, shapes.heights, view=view, size=size, epoch=epoch)
        rows = plan.rows(plan.order)
        found = render(shapes, plan, rows).numpy()
        assert np.array_equal(found, wanted(shapes, plan, rows))


def test_either_order_of_passes(shapes: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """One level apart, and not the same: both are there, and Pillow's is the one taken."""
    plan = make_plan(shapes.widths, shapes.heights, view="train", size=64)
    rows = plan.rows(plan.order)
    found = []
    for pillow in ((12, 0), (13, 0)):
        monkeypatch.setattr(geometry, "_PILLOW", pillow)
        found.append(render(shapes, plan, rows).numpy().astype(int))
    assert np.abs(found[0] - found[1]).max() == 1
    exact = [np.array_equal(each, wanted(shapes, plan, rows)) for each in found]
    assert exact.count(True) == 1


def test_every_crop_of_an_image(tmp_path: Path) -> None:
    """Boxes at all edges, enlarged and shrunk, mirrored and not."""
    index = write(tmp_path / "one.beton", [raw(23, 31)])
    plan = make_plan(index.widths, index.heights, view="train", size=16)
    boxes = [
        (top, left, height, width)
        for top in (0, 1, 20)
        for left in (0, 2, 30)
        for height in (1, 2, 23 - top)
        for width in (1, 7, 31 - left)
        if top + height <= 23 and left + width <= 31
    ]
    for flip in (False, True):
        rows = rows_of(boxes, 16, flip)
        assert np.array_equal(render(index, plan, rows).numpy(), wanted(index, plan, rows))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 90])
def test_every_kind_of_jpeg(
    subsampling: int, progressive: bool, quality: int, tmp_path: Path
) -> None:
    options = {"subsampling": subsampling, "progressive": progressive, "quality": quality}
    samples = [jpeg(*shape, **options) for shape in ((1, 1), (17, 33), (61, 97), (200, 131))]
    index = write(tmp_path / "jpegs.beton", samples)
    plan = make_plan(index.widths, index.heights, view="train", size=40)
    rows = plan.rows(plan.order)
    assert np.array_equal(render(index, plan, rows).numpy(), wanted(index, plan, rows))


def test_a_harmless_warning_is_not_an_error(tmp_path: Path) -> None:
    """Bytes between the scan and the marker after it: all pixels are there."""
    whole = jpeg(40, 50)
    assert whole.data[-2:] == b"\xff\xd9"
    odd = Stored(MODE_JPG, 50, 40, whole.data[:-2] + b"\x11\x22" + whole.data[-2:])
    index = write(tmp_path / "odd.beton", [whole, odd, odd, whole])
    plan = make_plan(index.widths, index.heights, view="eval", size=32)
    rows = plan.rows(plan.order)
    assert np.array_equal(render(index, plan, rows).numpy(), wanted(index, plan, rows))


@pytest.mark.parametrize("half", ["first", "second"])
def test_a_damaged_jpeg_is_named(half: str, tmp_path: Path) -> None:
    whole = jpeg(64, 64)
    middle = len(whole.data) // 2
    data = whole.data[:middle] if half == "first" else b"\xff\xd8" + whole.data[middle:]
    index = write(tmp_path / "cut.beton", [whole, whole, Stored(MODE_JPG, 64, 64, data), whole])
    plan = make_plan(index.widths, index.heights, view="eval", size=32)
    with pytest.raises(DataError, match=r"cut\.beton: 2\.jpg: .*expected a whole JPEG"):
        render(index, plan, plan.rows(plan.order))


@pytest.mark.parametrize("stored_as", [(32, 32), (64, 128), (63, 64)])
def test_a_jpeg_of_another_size_is_refused(stored_as: tuple[int, int], tmp_path: Path) -> None:
    """libjpeg-turbo would scale it, or write past the buffer."""
    height, width = stored_as
    wrong = Stored(MODE_JPG, width, height, jpeg(64, 64).data)
    index = write(tmp_path / "wrong.beton", [wrong])
    plan = make_plan(index.widths, index.heights, view="eval", size=32)
    with pytest.raises(DataError, match=rf"another size .* {width} x {height} px"):
        render(index, plan, plan.rows(plan.order))


def test_outside_boxes_never_reach_compiled_code(shapes: Index) -> None:
    plan = make_plan(shapes.widths, shapes.heights, view="train", size=32)
    for box in ((-1, 0, 1, 1), (0, 0, 2, 1), (0, 0, 1, 2), (0, 0, 0, 1), (1, 0, 1, 1)):
        rows = rows_of([box], 32)
        with pytest.raises(ValueError, match="reaches out of its image"):
            make_geometry(rows, plan)


def test_scratch_of_a_large_image_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_worker, "_KEEP_BYTES", 10_000)
    monkeypatch.setattr("pipelines.kernels.libjpeg.find_libjpeg", lambda: None)  # so whole images
    index = write(tmp_path / "mixed.beton", [jpeg(20, 20), jpeg(200, 100), jpeg(30, 20)])
    plan = make_plan(index.widths, index.heights, view="eval", size=16)
    renderer = renderer_of(index, 16, 3, workers=1)
    rows = plan.rows(plan.order)
    for _ in range(2):
        found = renderer.submit(rows, plan).result().numpy()
        assert np.array_equal(found, wanted(index, plan, rows))
    held = renderer.threads.submit(lambda: renderer.worker().pixels.nbytes).result()
    renderer.close()
    assert held < 10_000


def test_it_is_known_whether_rows_wait_for_a_thread(
    shapes: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once the last of them is being rendered; nor where they are cancelled."""
    reached, goes_on = threading.Semaphore(0), threading.Semaphore(0)
    draw = CropRenderer._draw

    def wait(renderer: CropRenderer, piece: Piece, worker: Worker, out: np.ndarray) -> None:
        reached.release()
        assert goes_on.acquire(timeout=LONG_S)
        draw(renderer, piece, worker, out)

    monkeypatch.setattr(CropRenderer, "_draw", wait)
    plan = make_plan(shapes.widths, shapes.heights, view="eval", size=9, seed=0, epoch=0)
    renderer = renderer_of(shapes, 9, 2, workers=1)
    try:
        renderer._compiled.result()
        assert not renderer.has_waiting
        first = renderer.submit(plan.rows(plan.order[:2]), plan)  # of two pieces
        assert reached.acquire(timeout=LONG_S)
        assert renderer.has_waiting
        goes_on.release()
        assert reached.acquire(timeout=LONG_S)
        assert not renderer.has_waiting  # though it is at work
        second = renderer.submit(plan.rows(plan.order[2:4]), plan)
        assert renderer.has_waiting
        second.cancel()
        assert not renderer.has_waiting
        goes_on.release()
        assert len(first.result()) == 2
    finally:
        renderer.close()
