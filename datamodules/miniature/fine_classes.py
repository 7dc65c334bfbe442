"""Rendered things whose classes differ in small ways: cars by body, windows and wheels, aircraft by wing, engines and
fin, animals and plants by a mark on one of a few bodies. Pictures are float64 [H, W, 3] in [0, 1]; see `objects.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.miniature.objects import (
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


@dataclass(frozen=True)
class Pictured:
    """picture [S, S, 3] and the box x, y, width, height of what it shows, in pixels."""

    picture: Array
    box: tuple[float, float, float, float]


def _box(covered: Array) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    x, y = float(columns[0]), float(rows[0])
    return x, y, float(columns[-1] + 1) - x, float(rows[-1] + 1) - y


def _ground(generator: np.random.Generator, size: int, hue: float, horizon: float | None = None) -> Array:
    x, y = plane(size)
    picture = two_tones(mottle(generator, x, y), hsv(hue, 0.25, 0.45), hsv(hue + 0.08, 0.2, 0.85))
    if horizon is not None:
        paint(picture, horizon - y, hsv(generator.uniform(), 0.08, generator.uniform(0.35, 0.55)))
    return picture


def car(generator: np.random.Generator, size: int, *, cabin: float, windows: int, spokes: int) -> Pictured:
    """A car from the side. cabin: where its cabin begins, 0.1 (van) to 0.5 (pickup); windows, spokes: how many."""
    x, y = plane(size)
    picture = _ground(generator, size, generator.uniform(), generator.uniform(0.15, 0.3))
    scale = generator.uniform(0.6, 0.8)
    facing = generator.choice((-1.0, 1.0))
    u, v = placed(x, y, (generator.uniform(-0.15, 0.15), generator.uniform(0.0, 0.2)), scale, 0.0)
    u = facing * u
    hue, bright = generator.uniform(), generator.uniform(0.4, 0.95)
    body = np.maximum(np.maximum(abs(u) - 0.95, abs(v - 0.08) - 0.22), abs(u) + 0.4 * v - 1.0)
    left, right = -0.9 + cabin, 0.55
    roof = np.maximum(
        np.maximum(left - u - 0.35 * (v + 0.15), u - right - 0.5 * (v + 0.15)), np.maximum(-0.5 - v, v)
    )
    colour = hsv(hue, generator.uniform(0.3, 0.9), bright)
    for part in (body, roof):
        paint(picture, part, colour, scale)
    for number in range(windows):
        middle = left + (right - left) * (number + 0.6) / (windows + 0.2)
        pane = np.maximum(abs(u - middle) - 0.38 * (right - left) / windows, abs(v + 0.3) - 0.12)
        paint(picture, pane, hsv(0.55, 0.25, 0.2), scale)
    covered = (body < 0) | (roof < 0)
    for centre in (-0.55, 0.55):
        radius, angle = np.hypot(u - centre, v - 0.32), np.arctan2(v - 0.32, u - centre)
        paint(picture, radius - 0.22, hsv(0, 0, 0.08), scale)
        rim = np.maximum(radius - 0.16, 0.05 - abs(np.sin(spokes * angle / 2)) * radius)
        paint(picture, rim, hsv(0, 0, 0.8), scale)
        covered |= radius < 0.22
    return Pictured(noisy(generator, picture), _box(covered))


BANNER = 20
"""Rows at the bottom of an aircraft picture that hold its copyright banner."""


def aircraft(
    generator: np.random.Generator, size: int, *, sweep: float, engines: int, high_tail: bool
) -> Array:
    """An aircraft in the sky over the published banner of 20 rows: [size + 20, size, 3].

    sweep: of the wing, 0 to 0.8; engines: on the wing, 0 to 4; high_tail: whether the tailplane sits on the fin.
    """
    x, y = plane(size)
    picture = two_tones(mottle(generator, x, y), hsv(0.58, 0.5, 0.7), hsv(0.58, 0.15, 0.95))
    scale = generator.uniform(0.65, 0.85)
    u, v = placed(x, y, tuple(generator.uniform(-0.12, 0.12, 2)), scale, generator.uniform(-0.2, 0.2))
    u = generator.choice((-1.0, 1.0)) * u
    paintwork = hsv(generator.uniform(), generator.uniform(0.1, 0.7), generator.uniform(0.5, 0.95))
    grey = hsv(0, 0, generator.uniform(0.25, 0.45))
    fin = np.maximum(np.maximum(v, -0.5 - v), abs(u + 0.72 - 0.4 * v) - 0.13)
    paint(picture, fin, paintwork, scale)
    paint(picture, np.hypot(u / 0.95, v / 0.13) - 1, paintwork, 0.13 * scale)
    tail = -0.45 if high_tail else -0.02
    paint(picture, np.maximum(abs(v - tail) - 0.035, abs(u + 0.82) - 0.2), grey, scale)
    wing = np.maximum(np.maximum(-v, v - 0.5), abs(u - 0.1 + sweep * v) - 0.2 + 0.2 * v)
    paint(picture, wing, grey, scale)
    for number in range(engines):
        along = 0.1 + 0.38 * (number + 0.5) / max(engines, 1)
        pod = np.hypot((u - 0.24 + sweep * along) / 0.11, (v - along) / 0.04) - 1
        paint(picture, pod, hsv(0, 0, 0.1), 0.04 * scale)
    strip = np.full((BANNER, size, 3), 0.95)
    strip[6:14, 4 : size // 2] = 0.2 + 0.6 * generator.random((8, size // 2 - 4, 1))
    return np.concatenate([noisy(generator, picture), strip])


def organism(generator: np.random.Generator, size: int, *, body: str, mark: str, pattern: str) -> Array:
    """A living thing: a body of one silhouette, that of its super class, with a species' mark and texture on it."""
    x, y = plane(size)
    picture = _ground(generator, size, generator.uniform(0.15, 0.45))
    scale = generator.uniform(0.55, 0.8)
    u, v = placed(x, y, tuple(generator.uniform(-0.2, 0.2, 2)), scale, generator.uniform(-0.5, 0.5))
    hue = generator.uniform()
    skin = two_tones(texture(pattern, u, v, 0.35), hsv(hue, 0.6, 0.35), hsv(hue + 0.05, 0.4, 0.8))
    paint(picture, silhouette(body, u, v), skin, scale)
    paint(picture, silhouette(mark, 3.2 * u, 3.2 * v), hsv(hue + 0.5, 0.9, 0.95), scale / 3.2)
    return noisy(generator, picture)
