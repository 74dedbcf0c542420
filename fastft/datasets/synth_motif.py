"""The motifs of the two synthetic families' classes: an outline, or a texture.

Shapes come centred and of unit area, textures with the length of their edges: who draws them can
make all classes cover as much and have as many edges, so that neither tells them apart.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The first four of each are the easiest to tell apart: a small default task stays a quick one.
FAMILIES: dict[str, tuple[str, ...]] = {
    "shapes": tuple("disk ring cross bar star triangle crescent heart arrow hourglass".split()),
    "weaves": tuple(
        "stripes dots bricks ripples zigzag checker hexagons basket triangles scales".split()
    ),
}

Plane = NDArray[np.floating[Any]]
Points = NDArray[np.float64]


# --- shapes: outlines as polygons --------------------------------------------------------------


def polar(radius: Points | float, start: float = 0.0, stop: float = 2 * math.pi) -> Points:
    """Points at one radius each, or 40 at the same one, from angle start up to stop, exclusive."""
    n = np.size(radius) if np.size(radius) > 1 else 40
    t = np.linspace(start, stop, n, endpoint=False)
    return np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1)


def _area(p: Points) -> float:
    x, y = p[:, 0], p[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def perimeter(p: Points) -> float:
    """Length of a closed polygon."""
    return float(np.hypot(*(p - np.roll(p, 1, axis=0)).T).sum())


@cache
def unit_outline(name: str) -> tuple[Points, ...]:
    """The outer polygon of a shape, then its hole if it has one, centred, of unit area."""
    hole: list[Points] = []
    if name == "disk":
        outer = polar(1.0)
    elif name == "ring":
        outer, hole = polar(1.0), [polar(0.5)]
    elif name == "cross":
        a = 0.25
        arm = np.array([(1, -a), (1, a), (a, a)])
        outer = np.concatenate([arm, arm[:, ::-1] * (-1, 1), -arm, arm[:, ::-1] * (1, -1)])
    elif name == "triangle":
        outer = polar(np.ones(3))
    elif name == "star":
        outer = polar(np.tile([1.0, 0.42], 5))
    elif name == "crescent":
        outer = np.concatenate([polar(1.0, 1.0, 2 * math.pi - 1.0), _bite()])
    elif name == "heart":
        t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        outer = np.stack([16 * np.sin(t) ** 3, -y], axis=1)
    elif name == "arrow":
        outer = np.array(
            [(1, 0), (0.1, 0.85), (0.1, 0.3), (-0.9, 0.3), (-0.9, -0.3), (0.1, -0.3), (0.1, -0.85)]
        )
    elif name == "hourglass":
        outer = np.array([(-1, -0.75), (0, -0.14), (1, -0.75), (1, 0.75), (0, 0.14), (-1, 0.75)])
    else:
        outer = np.array([(-1, -0.36), (1, -0.36), (1, 0.36), (-1, 0.36)])
    outer = outer - (outer.min(axis=0) + outer.max(axis=0)) / 2
    scale = math.sqrt(_area(outer) - sum(map(_area, hole)))
    return tuple(p / scale for p in (outer, *hole))


def _bite() -> Points:
    """The inner arc of the crescent, from its lower to its upper tip."""
    tip, centre = np.array([math.cos(1.0), math.sin(1.0)]), 0.55
    radius = math.hypot(tip[0] - centre, tip[1])
    t = math.atan2(tip[1], tip[0] - centre)
    arc: Points = polar(radius, -t, t - 2 * math.pi) + np.array([centre, 0.0])
    return arc


# --- weaves: textures as functions of the plane ------------------------------------------------


def _tri(x: Plane) -> Plane:
    """Triangle wave of period 1, from -0.25 to 0.25: a distance to the nearest edge, signed."""
    wave: Plane = np.abs(x - np.floor(x) - np.float32(0.5)) - np.float32(0.25)
    return wave


def _frac(x: Plane) -> Plane:
    """Distance past the nearest whole number, -0.5 to 0.5."""
    return x - np.rint(x)


def _hex_edge(u: Plane, v: Plane) -> Plane:
    """Hexagonal norm of the way to the nearest point of a hexagonal lattice."""
    root3 = np.float32(math.sqrt(3))
    norms = []
    for shift in (np.float32(0), np.float32(0.5)):
        x, y = np.abs(_frac(u - shift)), np.abs(_frac(v / root3 - shift)) * root3
        norms.append(np.maximum(x, x / 2 + y * root3 / 2))
    return np.minimum(*norms)


def texture_height(name: str, u: Plane, v: Plane) -> Plane:
    """The texture as a height over the plane, about one unit of height per unit of way."""
    half, quarter = np.float32(0.5), np.float32(0.25)
    height: Plane
    if name == "stripes":
        height = _tri(u)
    elif name == "checker":
        a, b = _tri(u), _tri(v)
        height = np.copysign(np.minimum(np.abs(a), np.abs(b)), a * b)
    elif name == "dots":
        height = np.hypot(_frac(u), _frac(v))
    elif name == "bricks":
        height = np.minimum(np.abs(_frac((u + np.floor(v)) / 2)) * 2, np.abs(_frac(v)))
    elif name == "zigzag":
        height = _tri(u + 2 * _tri(v * half))
    elif name == "hexagons":
        height = _hex_edge(u, v)
    elif name == "ripples":
        height = _tri(np.hypot(_frac(u / 4), _frac(v / 4)) * 4)
    elif name == "basket":
        across = np.floor(u / 2) + np.floor(v / 2)
        odd = across - 2 * np.floor(across / 2) > half
        height = np.where(odd, _tri(u), _tri(v))
    elif name == "scales":
        row = np.floor(v * 2)
        x, y = u + row / 2, v - row / 2
        upper = np.hypot(_frac(x + half), half - y)
        height = np.where(upper < half, upper, np.hypot(_frac(x), y))
    else:
        # A quarter period moves the edges to where those of all three directions meet in points.
        down, across = quarter - v * half, u * np.float32(math.sqrt(0.75))
        sides = np.stack([_tri(v + quarter), _tri(down + across), _tri(down - across)])
        height = np.copysign(np.abs(sides).min(axis=0), sides.prod(axis=0))
    return height


@cache
def calibrate(name: str) -> tuple[Plane, float]:
    """A texture's height at 101 shares of area, and its length of edge per unit of area."""
    rng, n, step = np.random.default_rng(0), 200_000, 0.02
    u, v = rng.uniform(0, 16, (2, n)).astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi, n).astype(np.float32)
    f = texture_height(name, u, v)
    levels = np.quantile(f, np.linspace(0, 1, 101)).astype(np.float32)
    near = texture_height(name, u + step * np.cos(angle), v + step * np.sin(angle))
    crossed = np.mean((f > levels[50]) != (near > levels[50]))
    # Buffon's needle: a short needle crosses an edge with probability 2 / pi * length * density.
    return levels, float(crossed) / step * math.pi / 2
