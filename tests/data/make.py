"""Makes the odd images in tests/data/odd: `python tests/data/make.py`.

The files are kept in the repository, since encoders change and a test's input must not. What Pillow
cannot write, libjpeg-turbo does.
"""

import ctypes
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

OUT = Path(__file__).parent / "odd"
#: Source: turbojpeg.h of libjpeg-turbo 2.1.
_PIXELS = {"RGB": 0, "CMYK": 11}
_SAMPLING = {"4:4:4": 0, "4:4:0": 4, "4:1:1": 5}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Waves, an edge and some noise: every frequency that a decoder or a filter may get wrong."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / (3 + 5 * c) + seed) * np.cos(y / (4 + 3 * c)) for c in range(3)]
    pixels = 128 + 70 * np.stack(waves, axis=2) + rng.normal(0, 12, (height, width, 3))
    pixels[(x * height > y * width) & (x % 16 < 8)] += 40
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def turbojpeg(image: Image.Image, sampling: str = "4:4:4", *, arithmetic: bool = False) -> bytes:
    """A JPEG by libjpeg-turbo; of CMYK pixels it makes YCCK."""
    library = ctypes.CDLL("libturbojpeg.so.0")
    library.tjInitCompress.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library.tjInitCompress())
    pixels = image.tobytes()
    buffer, size = ctypes.POINTER(ctypes.c_ubyte)(), ctypes.c_ulong()
    os.environ["TJ_ARITHMETIC"] = str(int(arithmetic))
    failed = library.tjCompress2(
        handle,
        pixels,
        image.width,
        0,
        image.height,
        _PIXELS[image.mode],
        ctypes.byref(buffer),
        ctypes.byref(size),
        _SAMPLING[sampling],
        85,
        0,
    )
    assert not failed
    return bytes(buffer[: size.value])


def main() -> None:
    """Write all files."""
    jpegs = OUT / "jpegs"
    others = OUT / "others"
    for folder in (jpegs, others):
        folder.mkdir(parents=True, exist_ok=True)
    photo = picture(97, 61)
    photo.convert("L").save(jpegs / "gray.jpg", quality=85)
    photo.save(jpegs / "progressive.jpg", quality=85, progressive=True)
    photo.save(jpegs / "s444.jpg", quality=90, subsampling=0)
    photo.save(jpegs / "s420.jpg", quality=90, subsampling=2)
    photo.save(jpegs / "s422.jpg", quality=90, subsampling=1)
    photo.save(jpegs / "restart.jpg", quality=85, restart_marker_rows=1)
    picture(1, 1).save(jpegs / "1x1.jpg", quality=95)
    picture(1, 37, 3).save(jpegs / "1x37.jpg", quality=90)
    picture(37, 1, 4).save(jpegs / "37x1.jpg", quality=90)
    picture(5000, 20, 1).save(jpegs / "5000x20.jpg", quality=30)
    picture(19, 1200, 2).save(jpegs / "19x1200.jpg", quality=40)
    photo.save(jpegs / "rgb.jpg", quality=85, keep_rgb=True)
    for sampling in ("4:4:0", "4:1:1"):
        (jpegs / f"s{sampling.replace(':', '')}.jpg").write_bytes(turbojpeg(photo, sampling))
    small = io.BytesIO()
    photo.resize((40, 24)).save(small, "JPEG")  # with a frame header of its own, before the photo's
    segment = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + small.getvalue()
    photo.save(jpegs / "thumbnail.jpg", quality=85, exif=segment)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo.save(jpegs / f"exif{orientation}.jpg", quality=85, exif=exif)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    (jpegs / "garbage_after.jpg").write_bytes(buffer.getvalue() + b"\0" * 100 + b"trailing")
    photo.convert("CMYK").save(others / "cmyk.jpg", quality=85)
    # Inverted, as Adobe's programs write them and Pillow expects; Pillow's own writer inverts, too.
    inverted = ImageChops.invert(photo.convert("CMYK"))
    (others / "ycck.jpg").write_bytes(turbojpeg(inverted))
    (others / "arithmetic.jpg").write_bytes(turbojpeg(photo, arithmetic=True))
    photo.save(others / "photo.tif", compression="tiff_lzw")
    photo.convert("L").save(others / "gray.pgm")
    photo.convert("1").save(others / "bilevel.png")
    alpha = np.tile(np.linspace(0, 255, 97).astype(np.uint8), (61, 1))
    rgba = photo.copy()
    rgba.putalpha(Image.fromarray(alpha))
    rgba.save(others / "rgba.png")
    rgba.convert("LA").save(others / "gray_alpha.png")
    exif[0x0112] = 6
    photo.save(others / "exif6.png", exif=exif)
    photo.quantize(16).save(others / "palette.png", transparency=3)
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(
        others / "gray16.png"
    )
    photo.save(others / "photo.bmp")
    photo.save(others / "photo.webp", quality=80)
    frames = [picture(40, 30, seed).quantize(32) for seed in range(3)]
    frames[0].save(others / "animated.gif", save_all=True, append_images=frames[1:])
    photo.save(others / "png_named.jpg", "PNG")


if __name__ == "__main__":
    main()
