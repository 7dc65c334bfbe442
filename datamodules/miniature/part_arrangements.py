"""Pictures of four parts in a class's own arrangement: ring, bar, cross and wedge on a grid of places.

All classes hold the same parts, so a bag of local features tells nothing; only where the parts lie relative to
each other does. Shift, turn, size and colours are nuisance. A class has two visual modes (light outlines on
dark, or dark bold parts on light), and a fifth of its pictures are outliers: occluded, drowned in noise, or
with a texture where the parts should be.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = tuple[tuple[int, int], ...]

PARTS = ("ring", "bar", "cross", "wedge")
GRID = 3
OUTLIER_SHARE = 0.2
OUTLIERS = ("none", "occluded", "noise", "texture")


def arrangements(count: int, random: np.random.Generator) -> list[Places]:
    """That many arrangements, no two of them shifts of each other: a (row, column) of the 3×3 grid for each
    part, centred around zero in `draw_class`."""
    cells = list(itertools.product(range(GRID), repeat=2))
    # Those that touch the upper and the left border are one representative of all their shifts.
    settled = [
        places
        for places in itertools.permutations(cells, len(PARTS))
        if min(row for row, _ in places) == 0 and min(column for _, column in places) == 0
    ]
    if count > len(settled):
        raise ValueError(f"there are {len(settled)} arrangements, not {count}")
    return [settled[i] for i in random.permutation(len(settled))[:count]]


def draw_class(
    places: Places, count: int, random: np.random.Generator, *, size: int = 84, outliers: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pictures of one class: uint8 [count, size, size, 3] and which of them are outliers [count].

    Both modes are equally frequent; of `count` pictures a fifth (rounded) are outliers, at random positions.
    """
    mode = random.permutation(np.arange(count) % 2)
    odd = random.permutation(np.arange(count) < round(OUTLIER_SHARE * count)) & outliers
    kind = np.where(odd, random.integers(1, len(OUTLIERS), count), 0)

    centres = np.array(places, dtype=float)
    centres = (centres - (centres.min(0) + centres.max(0)) / 2) * 0.52  # [4, (row, column)]
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(grid, grid, indexing="ij")
    turn = np.deg2rad(random.uniform(-12, 12, (count, 1, 1)))
    scale = random.uniform(0.9, 1.1, (count, 1, 1))
    shift = random.uniform(-0.16, 0.16, (2, count, 1, 1))
    dx, dy = (x - shift[0]) / scale, (y - shift[1]) / scale
    across, along = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)

    bold = np.where(mode == 0, 0.0, 0.12)[:, None, None]
    depth = np.full((count, size, size), -np.inf)
    for part, (row, column) in zip(PARTS, centres, strict=True):
        u, v = (across - column) / 0.24, (along - row) / 0.24
        depth = np.maximum(depth, _depth(part, u, v) + bold)
    mask = np.clip(depth * 0.24 * size / 2 + 0.5, 0, 1)

    texture = random.normal(0, 1, (count, size, size))
    texture = texture > 0.4  # a grain without any part
    mask = np.where((kind == 3)[:, None, None], texture, mask)[..., None]

    light, dark = random.uniform(0.65, 0.95, (count, 1, 1, 3)), random.uniform(0.05, 0.35, (count, 1, 1, 3))
    lit = (mode == 0)[:, None, None, None]
    ink, ground = np.where(lit, light, dark), np.where(lit, dark, light)
    picture = mask * ink + (1 - mask) * ground
    top, left = random.uniform(-0.85, -0.45, (2, count, 1, 1))
    covered = (y > top) & (y < top + 1.3) & (x > left) & (x < left + 1.3) & (kind == 1)[:, None, None]
    picture = np.where(covered[..., None], random.uniform(0.1, 0.9, (count, 1, 1, 3)), picture)
    noise = np.where(kind == 2, 1.2, 0.04)[:, None, None, None]
    picture = picture + noise * random.normal(0, 1, picture.shape)
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8), odd


def _depth(part: str, u: Array, v: Array) -> Array:
    """Depth inside a part of about unit radius, negative outside."""
    if part == "ring":
        return 0.22 - np.abs(0.72 - np.hypot(u, v))
    if part == "bar":
        return np.minimum(0.95 - np.abs(u), 0.24 - np.abs(v))
    if part == "cross":
        arms = [np.minimum(0.9 - np.abs(a), 0.2 - np.abs(b)) for a, b in ((u, v), (v, u))]
        return np.maximum(*arms)
    return np.minimum(0.6 - v, (v + 0.8) / 2.2 - np.abs(u) * 0.8)
