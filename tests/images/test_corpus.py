"""Image files that nobody made for these tests: those that installed packages ship."""

import shutil
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from effort import choose, rest
from loader_kinds import LIBRARIES
from odd_images import write_odd
from PIL import Image
from rendered import LOADERS, check_pixels

from pipelines.conversion.run import ConvertConfig, convert
from pipelines.formats.beton import Index, read_index
from pipelines.formats.encode import decode
from pipelines.formats.folder import IMAGE_SUFFIXES
from pipelines.images.pillow import IMAGE_FORMATS

#: Larger files are left to another day: each is decoded a dozen times.
MOST_BYTES = 4 << 20
#: In an ordinary run each n-th is looked at.
STRIDE = choose(27, 1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of all packages as one class, and the odd ones as two more."""
    folder = tmp_path_factory.mktemp("corpus") / "photos"
    write_odd(folder)
    (folder / "shipped").mkdir()
    files = sorted(
        path
        for path in Path(sysconfig.get_path("purelib")).rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.stat().st_size <= MOST_BYTES
    )
    for number, path in enumerate(files[::STRIDE]):
        shutil.copy(path, folder / "shipped" / f"{number:04d}_{path.name}")
    if not files:  # a class must have an image
        shutil.copytree(folder / "jpegs", folder / "shipped", dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def index(corpus: Path) -> Index:
    out = corpus.parent / "corpus.beton"
    (report,) = convert(ConvertConfig(src=corpus, out=out, max_bad="100%"))
    for bad in report.quarantined:
        with pytest.raises((OSError, SyntaxError, ValueError)):
            _by_pillow(corpus / bad.name)
    return read_index(out)


def _by_pillow(path: Path) -> Image.Image:
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        return image.convert("RGB")


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_what_is_stored_is_what_pillow_sees(
    corpus: Path, index: Index, tried: Callable[..., None]
) -> None:
    assert len(index) > 50
    for sample in range(len(index)):
        wanted = _by_pillow(corpus / index.name(sample))
        pixels = np.asarray(decode(index.stored(sample), index.name(sample)))
        assert pixels.tobytes() == wanted.tobytes(), index.name(sample)
    tried("images that packages ship, converted", len(index))


@pytest.mark.parametrize("view", choose(["eval"], ["train", "recordio", "eval", "eval-square"]))
@pytest.mark.parametrize(
    "loader", ["resident", *rest(*(each for each in LOADERS if each != "resident"))]
)
def test_every_loader_gives_the_references_pixels(
    loader: str, view: str, index: Index, tried: Callable[..., None]
) -> None:
    if not find_spec(LIBRARIES.get(loader, "torch")):
        pytest.skip(f"{loader}'s library is not installed")
    # A single batch: odd images alone should not make the mean.
    check_pixels(loader, index, view, batch_size=len(index))
    tried("images that packages ship, rendered by every loader", len(index))
