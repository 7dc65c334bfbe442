"""Creatures of six parts, each with one of four looks, before clutter in the same colours.

A class is a combination of looks, so that a class nobody has seen is made of parts that everybody has. A look is a
shape with a colour; all parts share the four colours, and so do the blobs of the background: what tells classes
apart is which colour and shape is where on the body. Pose, size, body colour and light are random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.miniature.objects import hsv, mottle, noisy, paint, placed, plane, silhouette, two_tones

Array = np.ndarray

PARTS = ("head", "beak", "wing", "tail", "belly", "leg")
LOOKS = 4
COLOURS = ("red", "yellow", "green", "blue")
SHAPES = {
    "head": ("round", "square"),
    "beak": ("pointed", "blunt"),
    "wing": ("round", "crossed"),
    "tail": ("pointed", "forked"),
    "belly": ("oval", "ringed"),
    "leg": ("straight", "footed"),
}
_HUES = (0.0, 0.15, 0.36, 0.62)
# Centre in the creature's own coordinates (it looks to the right, y down) and half the length of each part.
_PLACES = {
    "tail": ((-0.78, -0.06), 0.3),
    "leg": ((-0.05, 0.66), 0.28),
    "belly": ((0.08, 0.2), 0.3),
    "wing": ((-0.16, -0.22), 0.34),
    "head": ((0.6, -0.42), 0.3),
    "beak": ((0.98, -0.38), 0.22),
}
HIDDEN = 0.1
"""Chance of a part to lie behind a blob."""


@dataclass(frozen=True)
class Creature:
    """A rendered creature: picture [H, W, 3]; in its pixels the box (x, y, width, height) and the centres of its parts;
    the parts that cannot be seen."""

    picture: Array
    box: tuple[float, float, float, float]
    parts: dict[str, tuple[float, float]]
    hidden: frozenset[str]


def attribute_names() -> tuple[str, ...]:
    """`has_<part>::<colour>_<shape>` of all looks, part by part."""
    return tuple(
        f"has_{part}::{COLOURS[_colour(part, look)]}_{SHAPES[part][look % 2]}"
        for part in PARTS
        for look in range(LOOKS)
    )


def combinations(count: int, random: np.random.Generator, *, apart: int = 3) -> list[tuple[int, ...]]:
    """That many classes: a look 0..3 for each part, any two different in at least `apart` parts, and every colour
    at most twice in one class, so that a picture's colours tell little."""
    found: list[tuple[int, ...]] = []
    while len(found) < count:
        looks = tuple(random.integers(0, LOOKS, len(PARTS)).tolist())
        colours = [_colour(part, look) for part, look in zip(PARTS, looks, strict=True)]
        if max(np.bincount(colours)) <= 2 and all(
            sum(a != b for a, b in zip(looks, other, strict=True)) >= apart for other in found
        ):
            found.append(looks)
    return found


def indicators(looks: tuple[int, ...]) -> Array:
    """The binary attributes of a class, bool [24], in the order of `attribute_names`."""
    return (np.arange(LOOKS) == np.array(looks)[:, None]).reshape(-1)


def creature(
    generator: np.random.Generator,
    looks: tuple[int, ...],
    *,
    size: tuple[int, int] = (64, 80),
    clutter: int = 7,
) -> Creature:
    """Draw one creature of a class.

    looks: of the parts in order. size: (height, width), wider than high. clutter: blobs of the background.
    Its body and limbs cover a square of 25 to 50 % of the picture's area.
    """
    height, width = size
    if height > width:
        raise ValueError(f"a creature's picture is at least as wide as high, not {size}")
    side, above = width, (width - height) // 2
    x, y = (axis[above : above + height] for axis in plane(side))
    half = height / side
    tone = generator.uniform(0, 1, 2)
    picture = two_tones(
        mottle(generator, x, y), hsv(tone[0], 0.25, 0.25), hsv(tone[0] + 0.3 * tone[1], 0.25, 0.75)
    )
    for _ in range(clutter):
        _blob(generator, picture, x, y)
    # A square of share s of the area height x width has half the side sqrt(s height width) / 2 pixels.
    reach = np.sqrt(generator.uniform(0.25, 0.5) * height * width) / side
    room = np.maximum(np.array([1.0, half]) - reach, 0.05)
    centre = tuple(generator.uniform(-room, room))
    look_left, turn = generator.uniform() < 0.5, generator.uniform(-0.35, 0.35)
    u, v = placed(x, y, centre, reach, turn)
    u = -u if look_left else u
    light = generator.uniform(0.8, 1.1)
    body = hsv(generator.uniform(), 0.15, generator.uniform(0.35, 0.9))
    trunk = np.hypot(u / 0.62, (v + 0.02) / 0.42) - 1
    paint(picture, trunk, body * light, 0.42 * reach)
    hidden = frozenset(part for part in PARTS if generator.uniform() < HIDDEN)
    centres, cover = {}, trunk < 0
    for part, (place, length) in _PLACES.items():
        look = looks[PARTS.index(part)]
        own_x, own_y = np.array(place) + generator.normal(0, 0.03, 2)
        dx = -own_x if look_left else own_x
        cos, sin = np.cos(turn), np.sin(turn)
        px, py = centre[0] + reach * (cos * dx - sin * own_y), centre[1] + reach * (sin * dx + cos * own_y)
        centres[part] = (float((px + 1) * side / 2), float((py + 1) * side / 2 - above))
        near = _window(x, y, px, py, 1.6 * length * reach)
        shape = _shape(part, look % 2, (u[near] - own_x) / length, (v[near] - own_y) / length)
        colour = hsv(
            _HUES[_colour(part, look)] + generator.normal(0, 0.015), 0.85, generator.uniform(0.75, 0.95)
        )
        _paint(picture, near, shape - 0.12, 0.15 * colour, length * reach)
        _paint(picture, near, shape, colour * light, length * reach)
        cover[near] |= shape < 0
    for part in sorted(hidden):
        px, py = 2 * centres[part][0] / side - 1, 2 * (centres[part][1] + above) / side - 1
        size_here = 1.25 * _PLACES[part][1] * reach
        near = _window(x, y, px, py, 1.2 * size_here)
        grey = hsv(generator.uniform(), 0.2, generator.uniform(0.2, 0.8))
        own = placed(x[near], y[near], (px, py), size_here, 0.0)
        _paint(picture, near, silhouette("disc", *own), grey, size_here)
    rows, columns = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
    box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    outside = {part for part, (px, py) in centres.items() if not (0 <= px < width and 0 <= py < height)}
    return Creature(
        noisy(generator, picture),
        tuple(float(value) for value in box),  # type: ignore[arg-type]
        {part: centres[part] for part in PARTS},
        hidden | outside,
    )


def worker_clicks(
    generator: np.random.Generator, drawn: Creature, *, workers: int = 5, spread: float = 1.2
) -> list[tuple[int, float, float, int]]:
    """What noisy workers clicked: (part from 0, x, y, visible) by part and worker; 0, 0, 0 where a worker saw none.

    A hidden part is seen by nobody, a visible one overlooked once in twenty times. spread: in pixels.
    """
    height, width = drawn.picture.shape[:2]
    clicks = []
    for part, (px, py) in enumerate(drawn.parts.values()):
        places = np.array([px, py]) + generator.normal(0, spread, (workers, 2))
        seen = (generator.uniform(0, 1, workers) >= 0.05) & (PARTS[part] not in drawn.hidden)
        for (cx, cy), visible in zip(
            places.clip(0, [width - 1, height - 1]).tolist(), seen.tolist(), strict=True
        ):
            clicks.append((part, cx, cy, 1) if visible else (part, 0.0, 0.0, 0))
    return clicks


def _colour(part: str, look: int) -> int:
    """Which of the four colours a look has: every part has each of them once, in an order of its own."""
    return (look + PARTS.index(part)) % LOOKS


def _window(x: Array, y: Array, px: float, py: float, reach: float) -> tuple[slice, slice]:
    """The rows and columns of the plane within `reach` of a place; at least one of each."""
    column = np.searchsorted(x[0], (px - reach, px + reach)).tolist()
    row = np.searchsorted(y[:, 0], (py - reach, py + reach)).tolist()
    first_row, first_column = min(row[0], len(y) - 1), min(column[0], x.shape[1] - 1)
    return slice(first_row, max(row[1], first_row + 1)), slice(first_column, max(column[1], first_column + 1))


def _paint(picture: Array, near: tuple[slice, slice], inside: Array, colour: Array, unit: float) -> None:
    """`paint` in a window of the picture only; `inside`: of the window's size."""
    part = picture[near]
    paint(part, inside, colour, unit * len(picture) / len(part))


def _blob(generator: np.random.Generator, picture: Array, x: Array, y: Array) -> None:
    """Clutter: a small silhouette in one of the parts' colours, anywhere."""
    px, py = generator.uniform(-1, 1), generator.uniform(y[0, 0], y[-1, 0])
    reach = generator.uniform(0.06, 0.13)
    near = _window(x, y, px, py, 1.5 * reach)
    kind = str(generator.choice(("disc", "square", "cross", "ring", "triangle")))
    own = placed(x[near], y[near], (px, py), reach, generator.uniform(0, np.pi))
    hue = _HUES[generator.integers(LOOKS)] + generator.normal(0, 0.02)
    _paint(picture, near, silhouette(kind, *own), hsv(hue, 0.85, generator.uniform(0.6, 0.95)), reach)


def _shape(part: str, variant: int, u: Array, v: Array) -> Array:
    """The implicit function of a part in coordinates in which it is about one unit long each way."""
    if part == "head":
        return silhouette("square" if variant else "disc", u, v)
    if part == "beak":
        return (
            np.maximum(abs(u) - 0.8, abs(v) - 0.5)
            if variant
            else np.maximum(abs(v) * 1.4 + u * 0.6, -u - 0.9) - 0.5
        )
    if part == "wing":
        return silhouette("cross", u, v) if variant else np.hypot(u, v / 0.65) - 0.9
    if part == "tail":
        if variant:
            return np.minimum(np.hypot(u, (v - 0.5) / 0.35) - 0.95, np.hypot(u, (v + 0.5) / 0.35) - 0.95)
        return np.maximum(abs(v) * 1.2 - u * 0.6, u - 0.9) - 0.5
    if part == "belly":
        return silhouette("ring", u, v) if variant else np.hypot(u, v / 0.75) - 0.9
    if part == "leg":
        stem = np.maximum(abs(u) - 0.25, abs(v) - 0.95)
        return np.minimum(stem, np.maximum(abs(u - 0.35) - 0.6, abs(v - 0.7) - 0.28)) if variant else stem
    raise ValueError(f"part {part!r} is none of {', '.join(PARTS)}")
