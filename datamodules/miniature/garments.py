"""Pictures of garments: laid flat before white for a catalogue, and worn by somebody in some pose before a wall.

A garment is a cut (length, sleeves, flare), a pattern and two colours. Only those are its own: pose, scale, place,
wearer, wall and light of a worn picture are drawn anew for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIZE = 48
PATTERNS = ("plain", "hoops", "stripes", "checks", "dots", "yoke")
LENGTHS, SLEEVES, FLARES = (0.15, 0.5, 0.85), (0.0, 0.3, 0.65), (0.0, 0.3)
HUES = (
    (0.8, 0.15, 0.15),
    (0.9, 0.55, 0.15),
    (0.85, 0.8, 0.25),
    (0.2, 0.6, 0.25),
    (0.15, 0.35, 0.75),
    (0.5, 0.2, 0.6),
    (0.2, 0.2, 0.22),
    (0.6, 0.6, 0.62),
)


@dataclass(frozen=True)
class Garment:
    """length, sleeve, flare: of the cut, in units of half a picture's side; colours: RGB of ground and pattern."""

    length: float
    sleeve: float
    flare: float
    pattern: str
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]


def draw_garments(count: int, random: np.random.Generator) -> list[Garment]:
    """So many different garments."""
    kinds = [
        (length, sleeve, flare, pattern, ground, print_)
        for length in LENGTHS
        for sleeve in SLEEVES
        for flare in FLARES
        for pattern in PATTERNS
        for ground in range(len(HUES))
        for print_ in (range(len(HUES)) if pattern != "plain" else (ground,))
        if pattern == "plain" or print_ != ground
    ]
    chosen = random.choice(len(kinds), count, replace=False)
    return [Garment(*kinds[k][:4], (HUES[kinds[k][4]], HUES[kinds[k][5]])) for k in chosen.tolist()]


def laid_flat(garment: Garment, random: np.random.Generator) -> NDArray[np.uint8]:
    """The catalogue picture, uint8 [SIZE, SIZE, 3]."""
    u, v = _grid()
    cover, colour = _cloth(garment, u / 0.95, (v + 0.05) / 0.95)
    picture = np.ones((SIZE, SIZE, 3)) * 0.97
    return _finished(_over(picture, cover, colour), random, noise=0.01)


def worn(garment: Garment, random: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of somebody who wears it, uint8 [SIZE, SIZE, 3]."""
    u, v = _grid()
    wall, floor = random.uniform(0.25, 0.85, (2, 3))
    edge = random.uniform(-0.6, 0.9)
    lean = random.uniform(-0.4, 0.4)
    picture = (
        np.where((v + lean * u > edge)[..., None], floor, wall) + 0.15 * random.uniform(-1, 1) * u[..., None]
    )
    scale, turn = random.uniform(0.62, 0.85), random.normal(0, 0.15)
    across, down = u - random.uniform(-0.2, 0.2), v - random.uniform(-0.1, 0.15)
    x = (across * np.cos(turn) + down * np.sin(turn)) / scale
    y = (down * np.cos(turn) - across * np.sin(turn)) / scale
    x = x + random.normal(0, 0.15) * y**2  # a bent hip
    if random.random() < 0.5:
        x = -x
    skin = np.array(((0.95, 0.78, 0.65), (0.75, 0.55, 0.4), (0.45, 0.3, 0.2)))[random.integers(3)]
    hair = random.uniform(0.05, 0.5) * np.array((1.0, 0.8, 0.6))
    picture = _over(picture, _soft(0.2 - np.hypot(x, y + 1.05)), skin)
    picture = _over(picture, _soft(np.minimum(0.23 - np.hypot(x, y + 1.1), -1.08 - y)), hair)
    for side in (-1, 1):
        stride = random.uniform(0.1, 0.3)
        leg = np.minimum(0.11 - np.abs(x - side * (0.1 + stride * (y + 0.1) / 1.3)), y + 0.1)
        picture = _over(picture, _soft(leg), skin * 0.9)
        arm = np.minimum(0.09 - np.abs(x - side * (0.42 + 0.3 * (y + 0.75))), np.minimum(y + 0.8, 0.2 - y))
        picture = _over(picture, _soft(arm), skin)
    cover, colour = _cloth(garment, x, y)
    fold = 1 + 0.12 * np.sin(x * random.uniform(4, 9) + y * random.uniform(2, 6) + random.uniform(0, 6))
    picture = _over(picture, cover, colour * fold[..., None])
    tint = random.uniform(0.75, 1.15) * random.normal(1, 0.04, 3)
    return _finished(picture * tint, random, noise=0.02)


def _cloth(garment: Garment, x: Array, y: Array) -> tuple[Array, Array]:
    """How much of each place is cloth, in [0, 1], and its colour; x, y: places in the garment's own units."""
    half = 0.38 + garment.flare * np.clip((y + 0.3) / 1.2, 0, 1)
    body = np.minimum(half - np.abs(x), np.minimum(y + 0.8, garment.length - y))
    neck = np.hypot(x, (y + 0.85) * 1.2) - 0.18
    depth = np.minimum(body, neck)
    if garment.sleeve:
        along = np.abs(x) - 0.3  # sleeves hang outwards and down
        middle = -0.68 + 0.9 * along
        reach = 0.05 + garment.sleeve
        sleeve = np.minimum(0.17 - np.abs(y - middle), np.minimum(along + 0.05, reach - along))
        depth = np.maximum(depth, sleeve)
    waves = {
        "plain": np.full_like(x, -1.0),
        "hoops": np.sin(y * 16),
        "stripes": np.sin(x * 16),
        "checks": np.sin(x * 12) * np.sin(y * 12) * 3,
        "dots": (np.cos(x * 17) + np.cos(y * 17) - 0.9) * 2,
        "yoke": (-0.35 - y) * 20,
    }
    print_ = np.clip(0.5 + 1.5 * waves[garment.pattern], 0, 1)[..., None]
    ground, mark = (np.array(colour) for colour in garment.colours)
    return _soft(depth), ground * (1 - print_) + mark * print_


def _grid() -> tuple[Array, Array]:
    """Places of the pixels in [-1, 1]: to the right, down."""
    line = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    down, right = np.meshgrid(line, line, indexing="ij")
    return right, down


def _soft(depth: Array) -> Array:
    return np.clip(depth * SIZE / 2 + 0.5, 0, 1)


def _over(picture: Array, cover: Array, colour: Array) -> Array:
    return picture * (1 - cover[..., None]) + colour * cover[..., None]


def _finished(picture: Array, random: np.random.Generator, noise: float) -> NDArray[np.uint8]:
    noisy = picture + random.normal(0, noise, picture.shape)
    return np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
