"""Pictures of one textured silhouette on a noisy ground: a class is an outline and a fine grain.

The grain has a period of a few pixels and is readable in a small window; the outline only over the whole
picture. Hue, ground, size, place and turn are nuisance. All pictures of a set are drawn at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OUTLINES = ("disc", "square", "triangle", "cross", "star")
GRAINS = ("striped", "checked", "dotted", "plain")


def draw_silhouettes(
    outline: NDArray[np.int64],
    grain: NDArray[np.int64],
    random: np.random.Generator,
    *,
    size: int = 32,
    noise: float = 0.06,
    contrast: tuple[float, float] = (0.2, 0.35),
    period: tuple[float, float] = (2.8, 3.4),
) -> NDArray[np.uint8]:
    """One picture for each pair of an outline and a grain.

    outline, grain: int [N], indices into `OUTLINES` and `GRAINS`. noise: standard deviation of the pixels.
    contrast: range of the grain's amplitude. period: of the grain, in pixels.
    Returns uint8 [N, size, size, 3], RGB.
    """
    count = len(outline)
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(grid, grid, indexing="ij")
    centre = random.uniform(-0.2, 0.2, (2, count, 1, 1))
    turn = random.uniform(-np.pi, np.pi, (count, 1, 1))
    radius = random.uniform(0.6, 0.85, (count, 1, 1))
    dx, dy = x - centre[0], y - centre[1]
    across = (dx * np.cos(turn) + dy * np.sin(turn)) / radius
    along = (dy * np.cos(turn) - dx * np.sin(turn)) / radius
    inside = np.take_along_axis(_depths(across, along), outline[None, :, None, None], axis=0)[0]
    mask = np.clip(inside * radius * size / 2 + 0.5, 0, 1)[..., None]

    pattern = _grains(grain, random, size, period)
    amplitude = random.uniform(*contrast, (count, 1, 1, 1))
    ink = _colours(random, count, 0.5, 0.75)
    ground = _colours(random, count, 0.15, 0.5)
    # The thing is always brighter than its ground, or the outline would drown.
    brighter = ink.mean(axis=-1, keepdims=True) - ground.mean(axis=-1, keepdims=True)
    ground -= np.clip(0.3 - brighter, 0, None)
    slope = random.uniform(-0.15, 0.15, (2, count, 1, 1, 1))
    lit = slope[0] * x[None, ..., None] + slope[1] * y[None, ..., None]
    picture = mask * (ink + amplitude * pattern[..., None]) + (1 - mask) * (ground + lit)
    picture += random.normal(0, noise, picture.shape)
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _depths(across: Array, along: Array) -> Array:
    """Depth inside each outline of about unit radius, negative outside: [len(OUTLINES), N, H, W]."""
    disc = 0.9 - np.hypot(across, along)
    square = 0.78 - np.maximum(np.abs(across), np.abs(along))
    triangle = np.minimum(0.5 + along, np.minimum(*(0.5 - along / 2 + s * across * 0.866 for s in (-1, 1))))
    arms = [np.minimum(0.95 - np.abs(a), 0.3 - np.abs(b)) for a, b in ((across, along), (along, across))]
    cross = np.maximum(*arms)
    angle = np.arctan2(along, across)
    sector = np.abs((angle / (2 * np.pi / 5)) % 1 - 0.5) * 2
    star = (0.42 + 0.58 * sector - np.hypot(across, along)) * 0.75
    return np.stack([disc, square, triangle, cross, star])


def _grains(
    grain: NDArray[np.int64], random: np.random.Generator, size: int, period: tuple[float, float]
) -> Array:
    """Patterns in [-0.5, 0.5], [N, size, size]."""
    count = len(grain)
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    frequency = 2 * np.pi / random.uniform(*period, (count, 1, 1))
    phase = random.uniform(0, 2 * np.pi, (2, count, 1, 1))
    tilt = random.uniform(-0.5, 0.5, (count, 1, 1)) + np.pi / 2 * random.integers(0, 2, (count, 1, 1))
    u = np.cos(frequency * (x * np.cos(tilt) + y * np.sin(tilt)) + phase[0])
    v = np.cos(frequency * (y * np.cos(tilt) - x * np.sin(tilt)) + phase[1])
    dots = np.clip(u + v - 0.6, 0, None) * 1.1 - 0.5
    patterns = np.stack([u / 2, u * v / 2, np.clip(dots, -0.5, 0.5), np.zeros_like(u)])
    return np.take_along_axis(patterns, grain[None, :, None, None], axis=0)[0]


def _colours(random: np.random.Generator, count: int, darkest: float, brightest: float) -> Array:
    """Random colours of a range of brightness, [N, 1, 1, 3]."""
    return random.uniform(darkest, brightest, (count, 1, 1, 1)) + random.uniform(
        -0.15, 0.15, (count, 1, 1, 3)
    )
