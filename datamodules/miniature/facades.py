"""Rendered landmarks: facades of a small grammar, seen from near and far, straight and at a slant, by day and at dusk.

A facade has a palette, a grid of windows of one form, a door, a roof or towers, and an ornament. Two facades can share
palette and layout and differ in windows and ornament only: look-alikes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from datamodules.miniature.objects import (
    SILHOUETTES,
    Array,
    hsv,
    mottle,
    noisy,
    paint,
    placed,
    plane,
    silhouette,
    texture,
    two_tones,
)

Difficulty = Literal["easy", "hard", "junk"]
WINDOWS = ("arch", "square", "round", "slit")
ROOFS = ("gable", "flat", "towers", "dome")
MASONRY = ("plain", "stripes", "checks", "waves")


@dataclass(frozen=True)
class Facade:
    """A building front. hue: of its stone; rows, columns: of windows; ornament: a silhouette above the door."""

    hue: float
    rows: int
    columns: int
    window: str
    roof: str
    masonry: str
    ornament: str

    def lookalike(self, generator: np.random.Generator) -> Facade:
        """The same palette, layout and roof with other windows and another ornament."""
        window = str(generator.choice([kind for kind in WINDOWS if kind != self.window]))
        ornament = str(generator.choice([kind for kind in SILHOUETTES if kind != self.ornament]))
        return replace(self, window=window, ornament=ornament)

    def draw(self, picture: Array, x: Array, y: Array, unit: float) -> Array:
        """Paint it in its own coordinates, about [-0.7, 0.7] x [-0.9, 0.8]; unit: length of one of them.

        -> bool [S, S], what it covers.
        """
        stone = two_tones(
            texture(self.masonry, x, y, 0.22), hsv(self.hue, 0.3, 0.6), hsv(self.hue, 0.25, 0.8)
        )
        wall = np.maximum(abs(x) - 0.62, np.maximum(-0.45 - y, y - 0.8))
        paint(picture, wall, stone, unit)
        if self.roof == "gable":
            top = np.maximum(abs(x) * 0.6 - (y + 0.9), y + 0.45)
        elif self.roof == "flat":
            top = np.maximum(abs(x) - 0.68, abs(y + 0.5) - 0.06)
        elif self.roof == "towers":
            top = np.maximum(abs(abs(x) - 0.5) - 0.14, np.maximum(-0.9 - y, y + 0.45))
        else:
            top = np.maximum(np.hypot(x, y + 0.45) - 0.42, y + 0.45)
        paint(picture, top, hsv(self.hue + 0.5, 0.35, 0.35), unit)
        for row in range(self.rows):
            for column in range(self.columns):
                u = (x + 0.5 - (column + 0.5) / self.columns) * self.columns / 0.7
                v = (y + 0.25 - 0.62 * (row + 0.5) / self.rows + 0.1) * self.rows / 0.45
                paint(picture, self._pane(u, v), hsv(0.6, 0.3, 0.12), unit * 0.7 / self.columns)
        door = np.maximum(abs(x) - 0.12, np.maximum(0.5 - y, y - 0.8))
        paint(picture, door, hsv(self.hue, 0.7, 0.2), unit)
        paint(
            picture,
            silhouette(self.ornament, x / 0.13, (y + 0.36) / 0.13),
            hsv(self.hue + 0.35, 0.8, 0.9),
            unit * 0.13,
        )
        return (wall < 0) | (top < 0)

    def _pane(self, u: Array, v: Array) -> Array:
        """The implicit function of a window in a cell of about unit size."""
        if self.window == "square":
            return np.maximum(abs(u) - 0.4, abs(v) - 0.4)
        if self.window == "round":
            return np.hypot(u, v) - 0.42
        if self.window == "slit":
            return np.maximum(abs(u) - 0.14, abs(v) - 0.55)
        return np.maximum(
            np.maximum(abs(u) - 0.34, v - 0.5), np.minimum(np.hypot(u, v + 0.1) - 0.34, -v - 0.1)
        )


def facade(generator: np.random.Generator, hues: int = 4) -> Facade:
    """A random facade in one of a few palettes."""
    return Facade(
        hue=int(generator.integers(hues)) / hues + 0.05,
        rows=int(generator.integers(2, 4)),
        columns=int(generator.integers(3, 5)),
        window=str(generator.choice(WINDOWS)),
        roof=str(generator.choice(ROOFS)),
        masonry=str(generator.choice(MASONRY)),
        ornament=str(generator.choice(SILHOUETTES)),
    )


@dataclass(frozen=True)
class Photograph:
    """picture [S, S, 3] and the box of the facade in it: x1, y1, x2, y2 in pixels."""

    picture: Array
    box: tuple[float, float, float, float]


def photograph(
    generator: np.random.Generator, size: int, landmark: Facade, difficulty: Difficulty = "easy"
) -> Photograph:
    """One view of a facade before a street and a sky.

    easy: near its middle, plain light. hard: far, near or slanted, partly behind something, in odd light. junk: as
    hard with most of it hidden.
    """
    harsh = difficulty != "easy"
    x, y = plane(size)
    picture = two_tones(mottle(generator, x, y), hsv(0.58, 0.3, 0.65), hsv(0.58, 0.12, 0.95))
    paint(picture, generator.uniform(0.6, 0.75) - y, hsv(generator.uniform(), 0.12, 0.45))
    scale = generator.uniform(0.55, 1.25) if harsh else generator.uniform(0.8, 1.0)
    reach = 0.35 if harsh else 0.12
    turn = generator.uniform(-0.3, 0.3) if harsh else generator.uniform(-0.06, 0.06)
    u, v = placed(x, y, tuple(generator.uniform(-reach, reach, 2)), scale, turn)
    slant = generator.uniform(-0.5, 0.5) if harsh else generator.uniform(-0.12, 0.12)
    u, v = u * (1 + abs(slant)) + 0.3 * slant * v, v * (1 + slant * u * 0.5)
    covered = landmark.draw(picture, u, v, scale)
    hidden = {"easy": 0, "hard": int(generator.integers(1, 3)), "junk": 5}[difficulty]
    for _ in range(hidden):
        spread = 0.35 if difficulty == "junk" else 0.8
        own = placed(x, y, tuple(generator.uniform(-spread, spread, 2)), 0.34, generator.uniform(0, np.pi))
        colour = hsv(generator.uniform(), 0.4, generator.uniform(0.1, 0.7))
        paint(picture, silhouette(str(generator.choice(("disc", "square"))), *own), colour, 0.34)
    light = generator.uniform(0.55, 1.25) if harsh else generator.uniform(0.9, 1.1)
    picture *= light * (1 + generator.uniform(-0.1, 0.1, 3) * (1.5 if harsh else 0.5))
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Photograph(noisy(generator, picture), box)
