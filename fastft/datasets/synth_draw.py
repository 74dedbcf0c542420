"""Draws one synthetic photo: a motif of its class on a lit, noisy, cluttered surface.

Knows how a photo is made of a motif (which is `synth_motif`'s) and nothing of folders, splits or
seeds. Everything but the motif's outline (size, colours,
contrast, light, blur, noise, clutter, JPEG settings) is drawn from one distribution for all
classes, before the class is looked at, and motifs are scaled to equal area (shapes) or equal edge
length (weaves): what is left to tell classes apart is shape and texture.

The photo is composed as luma at full and chroma at half resolution, as a Bayer sensor sees it and
as a JPEG stores it: a third of the arithmetic of RGB.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fastft.datasets.synth_motif import (
    FAMILIES,
    Plane,
    Points,
    calibrate,
    perimeter,
    polar,
    texture_height,
    unit_outline,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything of a photo but its motif: one distribution for all classes."""

    width: int
    height: int
    angle: float
    pitch_px: float  # distance between motifs (shapes) or scale of the texture's period (weaves)
    fill: float  # share of the surface that the motif covers, 0 to 1
    relief: float  # signed: raised or engraved
    shadow: float
    light_angle: float
    blur_px: float


def draw_jpeg(
    rng: np.random.Generator, family: str, class_id: int, mean_size: tuple[int, int]
) -> bytes:
    """One photo of class `FAMILIES[family][class_id]`, as the bytes of a JPEG file.

    Args:
        rng: where all of the photo's randomness comes from.
        family: a key of `FAMILIES`.
        class_id: index into `FAMILIES[family]`.
        mean_size: width and height in px about which the photo's own vary.
    """
    scene = _draw_scene(rng, mean_size)
    look_rng, motif_rng = rng.spawn(2)
    name = FAMILIES[family][class_id]
    if family == "shapes":
        mask, tone = _scatter(motif_rng, name, scene)
    else:
        mask, tone = _weave(motif_rng, name, scene)
    return _encode(look_rng, *_compose(look_rng, scene, mask, tone))


def _draw_scene(rng: np.random.Generator, mean_size: tuple[int, int]) -> Scene:
    mean_w, mean_h = mean_size
    side = math.sqrt(mean_w * mean_h) * math.exp(float(np.clip(rng.normal(0, 0.13), -0.3, 0.3)))
    stretch = math.exp(rng.uniform(-0.22, 0.22)) * math.sqrt(mean_w / mean_h)
    width, height = max(16, round(side * stretch)), max(16, round(side / stretch))
    return Scene(
        width=width,
        height=height,
        # Mostly upright, raised, lit from above and light on dark, as photos of things are. With
        # no such habits a ResNet-18 needed over 12 epochs of 1,000 photos to begin to learn.
        angle=rng.normal(0, 0.25),
        # The least RandomResizedCrop, 8% of the area, is 0.28 of the side: it holds a motif.
        pitch_px=math.sqrt(width * height) * rng.uniform(0.14, 0.22),
        fill=rng.uniform(0.36, 0.64),
        relief=rng.uniform(0.15, 0.5) * (-1 if rng.random() < 0.15 else 1),
        shadow=rng.uniform(0.1, 0.5),
        light_angle=rng.normal(math.pi / 2, 0.6),
        blur_px=max(0.0, rng.normal(0.2, 0.5)) * side / 200,
    )


# --- the motif, laid out ------------------------------------------------------------------------


def _scatter(rng: np.random.Generator, name: str, scene: Scene) -> tuple[Plane, Plane]:
    """The class's shape, strewn: mask float32[H,W] 0 to 1, tone float32[H,W] -1 to 1."""
    w, h, pitch = scene.width, scene.height, scene.pitch_px
    mask, tone = Image.new("L", (2 * w, 2 * h)), Image.new("L", (w // 4 + 1, h // 4 + 1), 128)
    draw, draw_tone = ImageDraw.Draw(mask), ImageDraw.Draw(tone)
    reach = math.ceil(math.hypot(w, h) / pitch / 2) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), axis=-1).reshape(-1, 2)
    cells = grid + rng.uniform(-0.62, -0.38, 2) + rng.uniform(-0.1, 0.1, grid.shape)
    centres = cells @ _rotation(scene.angle) * pitch + (w / 2, h / 2)
    inside = (np.abs(centres / (w, h) - 0.5) < 0.5 + pitch / 2 / np.array([w, h])).all(axis=1)
    for x, y in centres[inside]:
        size = 2 * pitch * (0.41 + 0.2 * scene.fill) * math.exp(rng.uniform(-0.12, 0.12))
        # One in twelve is a pebble of no particular form, in every class alike.
        if rng.random() < 0.08:
            t = np.linspace(0, 2 * math.pi, 24, endpoint=False)
            waves = sum(rng.uniform(0, 0.1) * np.cos(k * t + rng.uniform(0, 7)) for k in (2, 3, 4))
            parts: tuple[Points, ...] = (polar(0.56 * (1 + waves)),)
        else:
            parts = unit_outline(name)
        # Pillow's polygons grow by 0.32 px along their edges (measured at 16 and 40 px): without
        # the correction a thin ring would cover visibly less than a disk.
        grown = 0.16 * sum(map(math.copysign, map(perimeter, parts), (1, -1)))
        size = math.hypot(size, grown) - grown
        turn = _rotation(scene.angle + rng.normal(0, 0.35))
        squeeze = rng.normal(1, 0.06)
        warp = turn @ np.array([[squeeze, rng.normal(0, 0.08)], [0, 1 / squeeze]]) * size
        r = 0.5 * pitch
        level = int(rng.integers(28, 229))
        draw_tone.ellipse([(x - r) / 4, (y - r) / 4, (x + r) / 4, (y + r) / 4], fill=level)
        for part, ink in zip(parts, (255, 0), strict=False):
            draw.polygon((part @ warp + (2 * x, 2 * y)).ravel().tolist(), fill=ink)
    wide = np.asarray(tone.resize(_half_size(w, h), Image.Resampling.BILINEAR), dtype=np.float32)
    return _blur(mask.reduce(2), scene.blur_px), (wide - np.float32(128)) / np.float32(100)


def _rotation(angle: float) -> Points:
    """Turns row vectors, points[N,2] @ rotation, by `angle` radians."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s], [-s, c]])


def _weave(rng: np.random.Generator, name: str, scene: Scene) -> tuple[Plane, Plane]:
    """The class's texture over the whole surface: mask and tone as in `_scatter`."""
    w, h = scene.width, scene.height
    levels, edge = calibrate(name)
    # Equal length of edge per area for every class: that of stripes 0.57 of the pitch wide.
    period = scene.pitch_px * 0.57 * edge / 2
    step = max(w, h) / 48
    grid_w, grid_h = math.ceil(w / step) + 3, math.ceil(h / step) + 3
    x, y = np.meshgrid((np.arange(grid_w) - 1.5) * step, (np.arange(grid_h) - 1.5) * step)
    bend = rng.uniform(0.05, 0.3)
    c, s = math.cos(scene.angle) / period, math.sin(scene.angle) / period
    squeeze = math.exp(rng.uniform(-0.12, 0.12))
    coords = []
    for a, b, k in ((c, s, squeeze), (-s, c, 1 / squeeze)):
        drift = Image.fromarray(rng.normal(0, bend, (4, 4)).astype(np.float32))
        soft = np.asarray(drift.resize((grid_w, grid_h), Image.Resampling.BICUBIC))
        straight = (a * x + b * y) * k + rng.uniform(0, 64)
        plane = Image.fromarray((straight + soft).astype(np.float32))
        box = (2, 2, 2 + w / step, 2 + h / step)
        coords.append(np.asarray(plane.resize((w, h), Image.Resampling.BILINEAR, box=box)))
    f = texture_height(name, *coords)
    level = np.float32(np.interp(scene.fill, np.linspace(0, 1, 101), levels))
    steep = np.clip((f - level) * np.float32(period * 255) + np.float32(127.5), 0, 255)
    # Some textures jump (a basket's blocks): a slope alone would leave stairs there.
    mask = _blur(Image.fromarray(steep.astype(np.uint8)), max(0.4, scene.blur_px))
    tone = Image.fromarray(rng.uniform(-1, 1, (6, 6)).astype(np.float32))
    return mask, np.asarray(tone.resize(_half_size(w, h), Image.Resampling.BICUBIC))


# --- the photo ---------------------------------------------------------------------------------


def _grain(rng: np.random.Generator, width: int, height: int) -> Plane:
    """Several octaves of noise, about -1 to 1: float32[height,width]."""
    finest = rng.uniform(1.5, 3.0)
    persistence = rng.uniform(0.55, 0.95)
    stretch = math.exp(rng.uniform(-0.9, 0.9))
    noise = np.zeros((2, 2), dtype=np.float32)
    for octave in range(5, -1, -1):
        cell = finest * 2**octave
        grid = (max(2, round(width / cell * stretch)), max(2, round(height / cell / stretch)))
        layer = rng.random(grid[::-1], dtype=np.float32) - np.float32(0.5)
        layer *= np.float32(persistence ** (5 - octave))
        noise = layer + np.asarray(Image.fromarray(noise).resize(grid, Image.Resampling.BICUBIC))
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR))


def _clutter(rng: np.random.Generator, scene: Scene) -> Plane | None:
    """Wires and crumbs that lie on any photo, whatever its class: mask float32[H,W], or none."""
    w, h, side = scene.width, scene.height, math.hypot(scene.width, scene.height)
    n_wires, n_crumbs = int(rng.integers(0, 3)), int(rng.integers(0, 9))
    if n_wires + n_crumbs == 0:
        return None
    mask = Image.new("L", (2 * w, 2 * h))
    draw = ImageDraw.Draw(mask)
    for _ in range(n_wires):
        p = rng.uniform(-0.2, 1.2, (3, 2)) * (2 * w, 2 * h)
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * p[0] + 2 * t * (1 - t) * p[1] + t**2 * p[2]
        thick = max(1, round(rng.uniform(0.006, 0.02) * side))
        draw.line(curve.ravel().tolist(), fill=255, width=thick)
    for _ in range(n_crumbs):
        t = np.sort(rng.uniform(0, 2 * math.pi, 7))
        r = rng.uniform(0.008, 0.03) * side
        p = np.stack([np.cos(t), np.sin(t)], axis=1) * r + rng.uniform(0, 1, 2) * (2 * w, 2 * h)
        draw.polygon(p.ravel().tolist(), fill=255)
    return _blur(mask.reduce(2), 0)


def _blur(image: Image.Image, radius_px: float) -> Plane:
    """An 8-bit image as float32[H,W], 0 to 1, blurred."""
    soft = image.filter(ImageFilter.BoxBlur(radius_px)) if radius_px > 0 else image
    return np.asarray(soft, dtype=np.float32) / np.float32(255)


def _half_size(width: int, height: int) -> tuple[int, int]:
    return (width + 1) // 2, (height + 1) // 2


def _half(plane: Plane) -> Plane:
    return np.asarray(Image.fromarray(plane).reduce(2))


def _slide(plane: Plane, dx: int, dy: int) -> Plane:
    """The plane moved right and down, its edges repeated: a wrap would light the far side."""
    h, w = plane.shape
    moved = plane.take(np.arange(-dy, h - dy), axis=0, mode="clip")
    return moved.take(np.arange(-dx, w - dx), axis=1, mode="clip")


def _light(rng: np.random.Generator, scene: Scene, mask: Plane) -> Plane:
    """Brightness of the lit, embossed surface and its shadows: float32 at the mask's size, ~1."""
    h, w = mask.shape
    x, y = np.meshgrid(*[np.linspace(-1, 1, 9)] * 2)
    gx, gy = rng.normal(0, 0.16, 2)
    lamp = 1 + gx * x + gy * y - rng.uniform(0, 0.18) * (x * x + y * y - 0.6)
    lamp_image = Image.fromarray(np.clip(lamp, 0.55, 1.45).astype(np.float32))
    light = np.array(lamp_image.resize((w, h), Image.Resampling.BICUBIC))
    thick = scene.pitch_px / 2 * 0.09
    image = Image.fromarray((mask * 255).astype(np.uint8))
    height = _blur(image, max(0.5, thick / 2))
    c, s = math.cos(scene.light_angle), math.sin(scene.light_angle)
    near = max(1, round(thick / 2))
    dx, dy = round(c * near), round(s * near)
    light *= 1 + np.float32(scene.relief) * (_slide(height, -dx, -dy) - _slide(height, dx, dy))
    dx, dy = round(c * thick * 1.6), round(s * thick * 1.6)
    cast = np.clip(_slide(height, dx, dy) - mask, 0, 1)
    light *= 1 - np.float32(scene.shadow) * cast
    return light


def _compose(
    rng: np.random.Generator, scene: Scene, mask: Plane, tone: Plane
) -> tuple[Plane, Plane, Plane]:
    """Luma float32[H,W] and the two chroma planes at half size, 0 to 255 but not clipped."""
    w, h = scene.width, scene.height
    half_size = _half_size(w, h)
    polarity = -1 if rng.random() < 0.15 else 1
    contrast = rng.uniform(70, 130)
    middle = rng.uniform(80, 165)
    under, over = middle - polarity * contrast / 2, middle + polarity * contrast / 2
    grain = _grain(rng, w, h)
    rough = rng.uniform(5, 18, 2) * (1, -1)
    low_mask = _half(mask)
    light = _light(rng, scene, low_mask)
    light *= 1 + np.float32(0.12) * tone * low_mask
    luma = mask * np.float32(rough[1] - rough[0])
    luma += np.float32(rough[0])
    luma *= grain
    luma += mask * np.float32(over - under)
    luma += np.float32(under)
    specks = _clutter(rng, scene)
    hues = _draw_hues(rng)
    chroma = [
        low_mask * np.float32(hues[1, i] - hues[0, i]) + np.float32(hues[0, i]) for i in (0, 1)
    ]
    if specks is not None:
        luma += specks * (np.float32(rng.uniform(40, 210)) - luma)
        low_specks = _half(specks)
        for plane, hue in zip(chroma, hues[2], strict=True):
            plane += low_specks * (np.float32(hue) - plane)
    luma *= np.asarray(Image.fromarray(light).resize((w, h), Image.Resampling.BILINEAR))
    # Two bytes summed have a spread of 104 and nearly a bell's shape, at a tenth of its cost;
    # the second is the first of a pixel some rows below, too far to be seen.
    noise = np.frombuffer(rng.bytes((h + 7) * w), np.int8).reshape(h + 7, w)
    speckle = np.add(noise[:-7], noise[7:], dtype=np.float32)
    speckle *= np.float32(rng.uniform(0.5, 5.5) / 104)
    luma += speckle
    drift = rng.normal(0, 5, (2, 5, 5)).astype(np.float32)
    for plane, bend in zip(chroma, drift, strict=True):
        plane += np.asarray(Image.fromarray(bend).resize(half_size, Image.Resampling.BICUBIC))
        plane *= light
        plane += np.float32(128)
    return luma, chroma[0], chroma[1]


def _draw_hues(rng: np.random.Generator) -> Points:
    """Chroma of ground, motif and clutter about 0: float64[3,2].

    Spread along the axis from orange to blue, as the colours of lit things are.
    """
    warmth, tint = rng.normal(0, 18, 3), rng.normal(0, 7, 3)
    cb, cr = 0.77 * warmth + 0.64 * tint, -0.64 * warmth + 0.77 * tint
    return np.clip(np.stack([cb, cr], axis=1), -48, 48)


def _encode(rng: np.random.Generator, luma: Plane, cb: Plane, cr: Plane) -> bytes:
    grey, progressive, full_chroma = rng.random(3) < (0.04, 0.04, 0.1)
    quality = int(rng.integers(75, 96))
    y = Image.fromarray(np.clip(luma, 0, 255).astype(np.uint8))
    if not grey:
        # The encoder averages 2 x 2 px for 4:2:0: of copies, it gives back the half plane itself.
        how = Image.Resampling.BILINEAR if full_chroma else Image.Resampling.NEAREST
        low = (Image.fromarray(np.clip(p, 0, 255).astype(np.uint8)) for p in (cb, cr))
        y = Image.merge("YCbCr", (y, *(p.resize(y.size, how) for p in low)))
    buffer = io.BytesIO()
    y.save(
        buffer,
        "JPEG",
        quality=quality,
        subsampling="4:4:4" if full_chroma else "4:2:0",
        progressive=bool(progressive),
    )
    return buffer.getvalue()
