import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.images import damage
from pipelines.images.damage import Checker
from pipelines.images.jpeg import read_header


def checkers(monkeypatch: pytest.MonkeyPatch) -> list[Checker]:
    """One with libjpeg-turbo, one that has only Pillow."""
    first = Checker()
    monkeypatch.setattr(damage, "load_turbojpeg", lambda: None)
    return [first, Checker()]


def noise(width: int = 64, height: int = 48) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def test_header_agrees_with_pillow(odd: Path) -> None:
    files = sorted(odd.rglob("*.jpg"))
    assert len(files) > 10
    for file in files:
        header = read_header(file.read_bytes())
        with Image.open(file) as image:
            if image.format != "JPEG":
                assert header is None
                continue
            assert header is not None
            assert (header.width, header.height) == image.size, file
            assert header.components == len(image.getbands())
            assert (header.frame == 0xC2) == bool(image.info.get("progressive"))
            assert header.is_common == (image.mode != "CMYK" and file.stem != "arithmetic")


def test_header_of_every_prefix_is_none_or_right(odd: Path) -> None:
    data = (odd / "jpegs" / "exif6.jpg").read_bytes()
    whole = read_header(data)
    seen = {read_header(data[:end]) for end in range(len(data))}
    assert seen == {None, whole}


def test_whole_images_pass(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for checker in checkers(monkeypatch):
        for file in sorted((odd / "jpegs").iterdir()):
            data = file.read_bytes()
            header = read_header(data)
            assert header is not None
            assert checker.check(data, header).broken == "", file


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_file_cut_short_is_broken(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise()
    header = read_header(data)
    assert header is not None
    for checker in checkers(monkeypatch):
        assert checker.check(data[: int(len(data) * share)], header).broken


def test_damage_that_pillow_passes_over_is_found() -> None:
    if damage.load_turbojpeg() is None:
        pytest.skip("libturbojpeg is not installed")
    checker = Checker()
    data = noise(320, 240)
    header = read_header(data)
    assert header is not None
    broken = 0
    for at in range(1000, 1000 + 40 * 37, 37):
        damaged = data[:at] + b"\xff\xd0" + data[at + 2 :]
        broken += bool(checker.check(damaged, header).broken)
        Image.open(io.BytesIO(damaged)).load()
    assert broken > 30


def test_bytes_before_the_end_are_odd_not_broken() -> None:
    if damage.load_turbojpeg() is None:
        pytest.skip("libturbojpeg is not installed")
    data = noise()
    header = read_header(data)
    assert header is not None
    verdict = Checker().check(data[:-2] + b"\0" * 9 + data[-2:], header)
    assert verdict.broken == verdict.doubtful == ""
    assert "extraneous" in verdict.odd
