"""Every odd image through conversion and every loader, by one table: `odd_images.py`."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import choose
from loader_kinds import LIBRARIES
from numpy.typing import NDArray
from odd_images import BROKEN, CHANGED, DATA, ODD, apart, is_here, write_odd
from PIL import Image, ImageOps
from rendered import LOADERS, TOLERANCE, make

from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError
from pipelines.formats.beton import Index, read_index
from pipelines.formats.layout import MODE_JPG, MODE_RAW
from pipelines.formats.source import Source, open_source
from pipelines.plan import VIEWS
from pipelines.reference import decode, render_batch

#: Source kind -> the views and sizes that are looked at; a training crop at two sizes, as its
#: filter differs where it enlarges.
CROPS: dict[str, list[tuple[str, int]]] = {
    "kept": [*((view, 64) for view in VIEWS), ("train", 91)],
    "raw": choose([("train", 64), ("eval", 64)], [(view, 91) for view in VIEWS]),
    "folder": choose([("train", 64)], [(view, 91) for view in VIEWS]),
}
EPOCHS = choose(1, 4)
#: Crop of a sample -> its pixels, by loader; what they are called in an error.
Shown = dict[str, list[tuple[str, str, NDArray[np.uint8], NDArray[np.uint8]]]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """The odd images as they are, converted, and converted to pixels turned upright."""
    root = tmp_path_factory.mktemp("odd")
    write_odd(root / "odd")
    convert(ConvertConfig(src=root / "odd", out=root / "kept.beton", max_bad="0"))
    turned = {"mode": "raw", "apply_exif": True}
    convert(ConvertConfig(src=root / "odd", out=root / "raw.beton", max_bad="0", **turned))
    paths = {"kept": root / "kept.beton", "raw": root / "raw.beton", "folder": root / "odd"}
    return {kind: open_source(path) for kind, path in paths.items()}


@pytest.fixture(scope="module")
def shown(sources: dict[str, Source]) -> Shown:
    """What every loader makes of every sample, beside the reference's."""
    found: Shown = {}
    usable = [name for name in LOADERS if find_spec(LIBRARIES.get(name, "torch"))]
    for kind, source in sources.items():
        loaders = [name for name in usable if name != "ffcv" or isinstance(source, Index)]
        for view, size in CROPS[kind]:
            for epoch in range(EPOCHS if view in ("train", "recordio") else 1):
                _look(found, source, loaders, f"{kind}, {view}, {size} px", view, size, epoch)
    return found


def _look(
    found: Shown, source: Source, loaders: list[str], what: str, view: str, size: int, epoch: int
) -> None:
    references: list[NDArray[np.uint8]] = []
    for loader in loaders:
        with make(loader, source, view=view, size=size, normalize=False) as batches:
            batches.set_epoch(epoch)
            rows_of = list(batches.plan.batches(8))
            if not references:
                for rows in rows_of:
                    stored = [source.stored(int(sample)) for sample in rows.samples]
                    references.append(render_batch(stored, rows))
            for (images, labels), rows, wanted in zip(batches, rows_of, references, strict=True):
                assert labels.tolist() == source.labels[rows.samples].tolist()
                pixels = images.permute(0, 2, 3, 1).numpy()
                for at, sample in enumerate(rows.samples.tolist()):
                    seen = (loader, f"{loader}, {what}", pixels[at], wanted[at])
                    found.setdefault(source.name(sample), []).append(seen)


@pytest.mark.parametrize("name", ODD)
def test_every_way_in_gives_the_references_pixels(
    name: str, sources: dict[str, Source], shown: Shown, tried: Callable[..., None]
) -> None:
    if not is_here(name):
        pytest.skip("this Pillow reads no AVIF")
    odd = ODD[name]
    kept, raw = sources["kept"], sources["raw"]
    assert isinstance(kept, Index)
    assert isinstance(raw, Index)
    sample = [kept.name(at) for at in range(len(kept))].index(name)
    file = sources["folder"].path / name
    with Image.open(file) as image:
        wanted = image.convert("RGB")
        upright = ImageOps.exif_transpose(image).convert("RGB")
    # As it is stored: nothing is lost, nothing is turned unasked, nothing else is shown.
    stored = kept.stored(sample)
    assert (stored.width, stored.height) == odd.size == wanted.size
    assert stored.mode == (MODE_JPG if odd.kept else MODE_RAW)
    assert bytes(stored.data) == (file.read_bytes() if odd.kept else wanted.tobytes())
    assert sample not in kept.doubtful
    pixels = np.asarray(decode(stored))
    assert pixels.tobytes() == wanted.tobytes()
    assert odd.shows is None or apart(name, pixels) < 21
    # Turned upright on request.
    turned = raw.stored(sample)
    assert (turned.width < turned.height) == (
        odd.size[0] < odd.size[1] if odd.orientation < 5 else odd.size[0] > odd.size[1]
    )
    assert bytes(turned.data) == upright.tobytes()
    # As loaders show it.
    assert len(shown[name]) >= len(CROPS["kept"])
    for loader, what, found, reference in shown[name]:
        mean, most = TOLERANCE[loader]
        distance = np.abs(found.astype(int) - reference)
        assert distance.max() <= most, what
        assert distance.mean() <= 8 * mean, what  # which is promised of a batch
    tried("odd images, rendered by every loader", len(shown[name]))


def test_the_table_names_every_file() -> None:
    files = {str(file.relative_to(DATA / "odd")) for file in (DATA / "odd").glob("*/*")}
    made = {"jpegs/65500x48.jpg", "jpegs/48x65500.jpg", "others/photo.avif", *CHANGED}
    assert files | made == ODD.keys()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_named(name: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    origin, spoil, reason, refused_unverified = BROKEN[name]
    folder = tmp_path / "odd" / "a"
    folder.mkdir(parents=True)
    whole = (DATA / "odd" / origin).read_bytes()
    (folder / f"whole{Path(origin).suffix}").write_bytes(whole)
    (folder / name).write_bytes(spoil(whole))
    out = tmp_path / "out.beton"

    def converted(**options: Any) -> list[tuple[str, str]]:
        (report,) = convert(ConvertConfig(src=folder.parent, out=out, max_bad="1", **options))
        return [(bad.name, bad.reason) for bad in report.quarantined]

    ((left_out, why),) = converted()
    assert left_out == f"a/{name}"
    assert reason in why
    assert len(read_index(out)) == 1
    unverified = [left_out for left_out, _ in converted(verify=False)]
    assert unverified == ([f"a/{name}"] if refused_unverified else [])
    # In an ordinary run each file meets two loaders, and each loader three files or more.
    for loader in choose(LOADERS[[*BROKEN].index(name) % 2 :: 2], LOADERS):
        if loader != "ffcv":
            _assert_named(loader, folder.parent, f"{folder}/{name}", f"{folder.parent}: a/{name}")
        if not refused_unverified:
            _assert_named(loader, out, f"{out}: a/{name}")
    tried("broken images", 1)


def _assert_named(loader: str, path: Path, *where: str) -> None:
    with pytest.raises(DataError) as caught, make(loader, path, view="eval") as batches:
        list(batches)
    assert caught.value.where in where, (loader, str(caught.value))
    assert "\n" not in str(caught.value)
