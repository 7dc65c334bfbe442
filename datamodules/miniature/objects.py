"""Rendered things of distinct shape, texture and colour: scenes, flowers, birds, objects in several views.

Every shape is an implicit function f(x, y) on the plane [-1, 1]^2, negative inside; a picture is painted back
to front by blending colours with the shape's anti-aliased coverage. Pictures are float64 [S, S, 3] in [0, 1].
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.base import random_generator

Array = np.ndarray
SILHOUETTES = ("disc", "square", "triangle", "star", "cross", "ring")
TEXTURES = ("plain", "stripes", "checks", "dots", "waves")


def save_jpeg(picture: Array, path: Path, *, quality: int = 92) -> None:
    """Write a picture [H, W, 3] (or [H, W], greyscale) in [0, 1] as JPEG, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(path, quality=quality)


def plane(size: int) -> tuple[Array, Array]:
    """Pixel centres in [-1, 1]: x to the right, y down, each [S, S]."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    return x, y


def placed(
    x: Array, y: Array, centre: tuple[float, float], scale: float, angle: float
) -> tuple[Array, Array]:
    """The plane in an object's own coordinates: origin `centre`, unit `scale`, turned by `angle` radians."""
    dx, dy = x - centre[0], y - centre[1]
    cos, sin = np.cos(angle), np.sin(angle)
    return (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale


def hsv(hue: float, saturation: float, value: float) -> Array:
    """One RGB colour [3]."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def silhouette(kind: str, x: Array, y: Array) -> Array:
    """The implicit function of a shape of about unit size, negative inside."""
    if kind == "disc":
        return np.hypot(x, y) - 0.85
    if kind == "square":
        return np.maximum(abs(x), abs(y)) - 0.75
    if kind == "triangle":
        return np.maximum(abs(x) * 0.87 + y * 0.5, -y) - 0.5
    if kind == "star":
        radius, angle = np.hypot(x, y), np.arctan2(y, x)
        return radius - (0.62 + 0.36 * np.cos(5 * angle))
    if kind == "cross":
        return np.minimum(np.maximum(abs(x) - 0.28, abs(y) - 0.9), np.maximum(abs(y) - 0.28, abs(x) - 0.9))
    if kind == "ring":
        return abs(np.hypot(x, y) - 0.65) - 0.22
    raise ValueError(f"silhouette {kind!r} is none of {', '.join(SILHOUETTES)}")


def texture(kind: str, x: Array, y: Array, period: float) -> Array:
    """A pattern in [0, 1] with the given period in the units of x and y."""
    u, v = x * 2 * np.pi / period, y * 2 * np.pi / period
    if kind == "plain":
        return np.full_like(x, 0.5)
    if kind == "stripes":
        return 0.5 + 0.5 * np.tanh(3 * np.sin(u))
    if kind == "checks":
        return 0.5 + 0.5 * np.tanh(4 * np.sin(u) * np.sin(v))
    if kind == "dots":
        return 0.5 + 0.5 * np.tanh(4 * (np.cos(u) + np.cos(v) - 0.9))
    if kind == "waves":
        return 0.5 + 0.5 * np.sin(u + 1.8 * np.sin(v / 2))
    raise ValueError(f"texture {kind!r} is none of {', '.join(TEXTURES)}")


def paint(picture: Array, inside: Array, colour: Array, unit: float = 1.0) -> None:
    """Blend `colour` ([3] or [S, S, 3]) over `picture` where `inside` < 0, in place.

    unit: length, in the plane, of one unit of `inside`; edges are one pixel soft.
    """
    coverage = np.clip(0.5 - inside * unit * picture.shape[0] / 2, 0, 1)[..., None]
    picture += coverage * (colour - picture)


def mottle(generator: np.random.Generator, x: Array, y: Array, waves: int = 6) -> Array:
    """Smooth clutter in about [0, 1] that is defined on the whole plane: a sum of random sinusoids."""
    frequency = generator.normal(0, 4, (2, waves))
    phase = generator.uniform(0, 2 * np.pi, waves)
    total = sum(np.sin(frequency[0, i] * x + frequency[1, i] * y + phase[i]) for i in range(waves))
    return 0.5 + total / (2.5 * np.sqrt(waves))


def two_tones(pattern: Array, first: Array, second: Array) -> Array:
    """Mix two RGB colours by a pattern in [0, 1]: [S, S] -> [S, S, 3]."""
    return first + np.clip(pattern, 0, 1)[..., None] * (second - first)


def noisy(generator: np.random.Generator, picture: Array, level: float = 0.02) -> Array:
    """The picture with sensor noise."""
    return picture + generator.normal(0, level, picture.shape)


def scene(
    generator: np.random.Generator,
    size: int,
    *,
    ground: str,
    things: tuple[str, ...],
) -> Array:
    """A room or street: textured ground below a horizon, mottled wall above, and two to four `things` on it.

    Ground texture and the things' silhouettes make the class; colours, places and sizes are random.
    """
    x, y = plane(size)
    hue = generator.uniform()
    picture = two_tones(mottle(generator, x, y), hsv(hue, 0.2, 0.55), hsv(hue + 0.1, 0.3, 0.85))
    horizon = generator.uniform(-0.2, 0.2)
    turned, depth = placed(x, y, (generator.uniform(-1, 1), 0.0), 1.0, generator.uniform(-0.4, 0.4))
    pattern = texture(ground, turned, depth, generator.uniform(0.22, 0.3))
    hue = generator.uniform()
    paint(picture, horizon - y, two_tones(pattern, hsv(hue, 0.5, 0.25), hsv(hue, 0.35, 0.8)))
    for kind in generator.choice(things, generator.integers(2, 5)):
        scale = generator.uniform(0.24, 0.4)
        centre = (generator.uniform(-0.75, 0.75), horizon - scale * generator.uniform(0.2, 1.1))
        own = placed(x, y, centre, scale, generator.uniform(-0.25, 0.25))
        paint(
            picture,
            silhouette(kind, *own),
            hsv(generator.uniform(), 0.6, generator.uniform(0.1, 0.95)),
            scale,
        )
    return noisy(generator, picture)


def flower(
    generator: np.random.Generator,
    size: int,
    *,
    petals: int,
    petal_hue: float,
    centre_hue: float,
    pointed: bool,
) -> Array:
    """One flower before leaves; place, scale, turn, light and leaves are random."""
    x, y = plane(size)
    picture = two_tones(
        mottle(generator, x, y), hsv(0.3, 0.5, 0.15), hsv(generator.uniform(0.2, 0.4), 0.5, 0.55)
    )
    for _ in range(3):
        leaf = placed(x, y, tuple(generator.uniform(-1, 1, 2)), 0.5, generator.uniform(0, np.pi))
        paint(
            picture,
            np.hypot(leaf[0], 2.5 * leaf[1]) - 1,
            hsv(generator.uniform(0.25, 0.38), 0.6, generator.uniform(0.25, 0.6)),
            0.4,
        )
    scale = generator.uniform(0.55, 0.85)
    u, v = placed(x, y, tuple(generator.uniform(-0.2, 0.2, 2)), scale, generator.uniform(0, 2 * np.pi))
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    lobe = abs(np.cos(petals * angle / 2)) ** (1.6 if pointed else 0.45)
    light = generator.uniform(0.75, 1.0)
    shade = two_tones(radius, hsv(petal_hue, 0.85, 0.65 * light), hsv(petal_hue, 0.6, light))
    paint(picture, radius - (0.3 + 0.68 * lobe), shade, 0.7 * scale)
    grain = 0.5 + 0.5 * np.sin(40 * u) * np.sin(40 * v)
    paint(
        picture, radius - 0.28, two_tones(grain, hsv(centre_hue, 0.9, 0.5), hsv(centre_hue, 0.7, 0.9)), scale
    )
    return noisy(generator, picture)


@dataclass(frozen=True)
class Bird:
    """A rendered bird: picture [S, S, 3]; in pixels: box (x, y, width, height), centres of its parts."""

    picture: Array
    box: tuple[float, float, float, float]
    parts: dict[str, tuple[float, float]]


def bird(generator: np.random.Generator, size: int, *, mark: str, stripes: int) -> Bird:
    """A bird whose head carries a `mark` (a silhouette) and whose wing has so many `stripes`.

    Body, head and wing have each its own offset, scale and turn, so that no single affine map aligns two
    birds; decoy marks and stripes lie about in the background.
    """
    x, y = plane(size)
    picture = two_tones(
        mottle(generator, x, y), hsv(generator.uniform(), 0.3, 0.35), hsv(generator.uniform(), 0.3, 0.8)
    )
    for _ in range(3):
        decoy = placed(x, y, tuple(generator.uniform(-0.95, 0.95, 2)), 0.12, generator.uniform(0, np.pi))
        colour = hsv(generator.uniform(), 0.7, 0.9)
        paint(picture, silhouette(str(generator.choice(SILHOUETTES)), *decoy), colour, 0.12)
    side = generator.choice((-1.0, 1.0))
    scale = generator.uniform(0.75, 1.05)
    centre = generator.uniform(-0.15, 0.15, 2)
    hue, covered = generator.uniform(), np.zeros((size, size), dtype=bool)

    def part(dx: float, dy: float, reach: float, squash: float, turn: float) -> tuple[Array, Array, float]:
        """An elliptic part's own coordinates and its scale; marks what it covers."""
        nonlocal covered
        jitter = generator.normal(0, 0.04, 2)
        place = (centre[0] + side * scale * (dx + jitter[0]), centre[1] + scale * (dy + jitter[1]))
        own = scale * reach * generator.uniform(0.9, 1.15)
        u, v = placed(x, y, place, own, side * (turn + generator.normal(0, 0.15)))
        covered |= np.hypot(u, v / squash) < 1
        parts.append(place)
        return u, v / squash, own

    parts: list[tuple[float, float]] = []
    u, v, own = part(-0.62, 0.12, 0.3, 0.35, -0.2)
    paint(picture, np.hypot(u, v) - 1, hsv(hue, 0.5, 0.3), own * 0.35)
    u, v, own = part(0.0, 0.0, 0.5, 0.6, -0.35)
    paint(picture, np.hypot(u, v) - 1, hsv(hue, 0.45, 0.6), own * 0.6)
    u, v, own = part(-0.08, 0.02, 0.36, 0.55, 0.1)
    wing = 0.5 + 0.5 * np.tanh(4 * np.sin(np.pi * stripes * u))
    paint(
        picture,
        np.hypot(u, v) - 1,
        two_tones(wing, hsv(hue + 0.1, 0.6, 0.15), hsv(hue, 0.2, 0.95)),
        own * 0.55,
    )
    u, v, own = part(0.42, -0.36, 0.27, 0.95, 0.0)
    paint(picture, np.hypot(u, v) - 1, hsv(hue, 0.35, 0.75), own)
    paint(picture, silhouette(mark, u / 0.62, v / 0.62), hsv(hue + 0.5, 0.9, 0.25), own * 0.62)
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    pixels = [((px + 1) * size / 2, (py + 1) * size / 2) for px, py in parts]
    return Bird(
        noisy(generator, picture),
        tuple(float(value) for value in box),
        dict(zip(("tail", "body", "wing", "head"), pixels, strict=True)),
    )


@dataclass(frozen=True)
class Thing:
    """An object of the vocabulary: silhouette, texture and two colours, the same in every view."""

    kind: str
    pattern: str
    hue: float

    def draw(self, picture: Array, x: Array, y: Array, scale: float) -> None:
        """Paint it in its own coordinates x, y, one unit of which is `scale` long."""
        tones = two_tones(
            texture(self.pattern, x, y, 0.55), hsv(self.hue, 0.85, 0.4), hsv(self.hue + 0.08, 0.5, 0.95)
        )
        paint(picture, silhouette(self.kind, x, y), tones, scale)


def vocabulary(count: int, *seed: int | str, alike: int = 2) -> list[Thing]:
    """`count` different things; `alike` neighbours in the list share their colours, and so a histogram."""
    kinds = [(kind, pattern) for kind in SILHOUETTES for pattern in TEXTURES]
    order = random_generator("vocabulary", *seed).permutation(len(kinds))
    return [Thing(*kinds[order[i % len(kinds)]], hue=0.618 * (i // alike)) for i in range(count)]


class World:
    """What the views of one rendered group show: a mottled background and things at places on it.

    background: seed of the background. things: with the (x, y, scale) of each, painted in this order.
    """

    def __init__(
        self, background: tuple[int | str, ...], things: list[tuple[Thing, tuple[float, float, float]]]
    ) -> None:
        self.background = background
        self.things = things

    def __call__(self, picture: Array, x: Array, y: Array) -> None:
        """Paint over `picture` [S, S, 3] where its pixels see the world's coordinates x, y."""
        generator = random_generator(*self.background)
        hue = generator.uniform()
        ground = mottle(generator, x, y, waves=9)
        picture[:] = two_tones(
            ground, hsv(hue, 0.35, 0.3), hsv(hue + generator.uniform(0.1, 0.4), 0.35, 0.85)
        )
        for thing, (px, py, scale) in self.things:
            thing.draw(picture, (x - px) / scale, (y - py) / scale, scale)


def places(count: int, *seed: int | str) -> list[tuple[float, float, float]]:
    """`count` places (x, y, scale) that hardly overlap: random cells of a jittered 3 x 2 grid."""
    generator = random_generator("places", *seed)
    cells = generator.permutation([(x, y) for x in (-0.55, 0.0, 0.55) for y in (-0.35, 0.35)])[:count]
    jitter = generator.uniform(-0.08, 0.08, (count, 2))
    scales = generator.uniform(0.26, 0.42, count)
    return [
        (float(x), float(y), float(s)) for (x, y), s in zip(np.asarray(cells) + jitter, scales, strict=True)
    ]


Painter = Callable[[Array, Array, Array], None]


def view(
    generator: np.random.Generator, size: int, painter: Painter, *, strength: float = 1.0, turn: float = 0.25
) -> Array:
    """One photograph of a world that `painter(picture, x, y)` paints.

    strength: 0 is the front view in plain light; 1 moves by up to 15 %, zooms by up to 20 %, foreshortens by
    up to 15 %, changes the light by up to 20 % and each colour by 10 % more; every third view is partly
    occluded. turn: largest turn in radians.
    """
    x, y = plane(size)
    u, v = placed(
        x,
        y,
        tuple(strength * generator.uniform(-0.15, 0.15, 2)),
        1 + strength * generator.uniform(-0.2, 0.2),
        turn * generator.uniform(-1, 1),
    )
    picture = np.zeros((size, size, 3))
    painter(picture, u * (1 + strength * generator.uniform(0, 0.15)), v)
    if strength > 0 and generator.uniform() < 1 / 3:
        occluder = placed(x, y, tuple(generator.uniform(-1, 1, 2)), 0.3, generator.uniform(0, np.pi))
        paint(
            picture,
            silhouette("square", *occluder),
            hsv(generator.uniform(), 0.2, generator.uniform(0.1, 0.9)),
            0.3,
        )
    picture *= 1 + strength * (generator.uniform(-0.2, 0.2) + generator.uniform(-0.1, 0.1, 3))
    return noisy(generator, picture)
