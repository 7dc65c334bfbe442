"""Small 3-D solids seen from any side: the miniatures of iLab-20M (vehicles) and of the RGB-D Object Dataset.

An object is a union of convex solids (prisms over a convex polygon), each a set of half-spaces. A ray through
each pixel of an orthographic camera enters a solid where it has entered the last half-space that faces it, and
the nearest solid shows: all pixels, faces and solids at once. Faces are shaded flatly by a light that stays
with the camera. Axes: x forwards, y to the left, z up; the object stands around the origin, about 2 long.

The ten vehicles come in pairs of a body plan: boat and train, car and pickup, semi and mil, tank and monster,
van and bus. The two of a pair differ in every view, but from the front and from behind a wheel's or a roof's
width only: who never saw one of them from there takes it for the other. Colours are an instance's, drawn
whatever the class.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Colour = tuple[float, float, float]
VIEW = 1.12
"""Half the width of what the camera sees."""
AMBIENT = 0.4
LIGHT = (-0.45, 0.7, 0.55)
"""Towards the light, in the camera's frame: right, up, towards the camera."""
DARK: Colour = (0.09, 0.09, 0.11)
GLASS: Colour = (0.16, 0.2, 0.26)
LAMP: Colour = (0.97, 0.93, 0.7)
PAINTS = (0.0, 0.14, 0.36, 0.6)
"""Hues: red, yellow, green, blue."""


class Solid(NamedTuple):
    """The points x with normals @ x <= offsets, and its corners.

    normals: [F, 3] of unit length; offsets: [F]; corners: [K, 3]; colour: RGB in [0, 1].
    """

    normals: Array
    offsets: Array
    corners: Array
    colour: Colour


class Shot(NamedTuple):
    """picture: float32 [H, W, 3] in [0, 1]; mask: bool [H, W], where an object is."""

    picture: Array
    mask: NDArray[np.bool_]


def prism(
    outline: Sequence[tuple[float, float]], axis: str, low: float, high: float, colour: Colour
) -> Solid:
    """A convex polygon, anticlockwise, extruded along an axis from `low` to `high`.

    outline: points in the other two axes in cyclic order: (y, z) for "x", (z, x) for "y", (x, y) for "z".
    """
    points = np.asarray(outline, dtype=np.float64)
    edges = np.roll(points, -1, axis=0) - points
    outward = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    along = "xyz".index(axis)
    normals = np.zeros((len(points) + 2, 3))
    normals[: len(points), (along + 1) % 3] = outward[:, 0]
    normals[: len(points), (along + 2) % 3] = outward[:, 1]
    normals[-2, along], normals[-1, along] = -1.0, 1.0
    offsets = np.concatenate([(outward * points).sum(1), [-low, high]])
    corners = np.zeros((2, len(points), 3))
    corners[..., (along + 1) % 3], corners[..., (along + 2) % 3] = points[:, 0], points[:, 1]
    corners[0, :, along], corners[1, :, along] = low, high
    return Solid(
        normals.astype(np.float32),
        offsets.astype(np.float32),
        corners.reshape(-1, 3).astype(np.float32),
        colour,
    )


def moved(solid: Solid, by: tuple[float, float, float]) -> Solid:
    """The solid elsewhere."""
    shift = np.asarray(by, dtype=np.float32)
    return solid._replace(offsets=solid.offsets + solid.normals @ shift, corners=solid.corners + shift)


def box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], colour: Colour) -> Solid:
    """A box between two bounds on each axis."""
    return prism([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])], "z", *z, colour)


def side_view(outline: Sequence[tuple[float, float]], half_width: float, colour: Colour) -> Solid:
    """What has this outline, (x, z) anticlockwise as seen from the right-hand side, and a width in y."""
    return prism([(z, x) for x, z in reversed(outline)], "y", -half_width, half_width, colour)


def disc(
    axis: str,
    centre: tuple[float, float],
    radius: float,
    low: float,
    high: float,
    colour: Colour,
    sides: int = 8,
) -> Solid:
    """A cylinder along an axis with `sides` sides; centre: in the other two axes in cyclic order."""
    angle = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    outline = [(centre[0] + radius * np.cos(a), centre[1] + radius * np.sin(a)) for a in angle]
    return prism(outline, axis, low, high, colour)


def camera(yaw: float, elevation: float) -> NDArray[np.float64]:
    """Right, up and towards the camera as rows [3, 3]; yaw 0 looks at the front, 90 at the left side; degrees."""
    a, e = np.radians(yaw), np.radians(elevation)
    return np.array(
        [
            [-np.sin(a), np.cos(a), 0.0],
            [-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)],
            [np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)],
        ]
    )


def shoot(solids: Sequence[Solid], yaw: float, elevation: float, size: int, backdrop: Array) -> Shot:
    """Render solids over a backdrop [size, size, 3] in [0, 1].

    yaw, elevation: of the camera, degrees, see `camera`.
    """
    axes = camera(yaw, elevation)
    faces = max(len(solid.offsets) for solid in solids)
    normals = np.zeros((len(solids), faces, 3))
    offsets = np.full((len(solids), faces), 1e3)  # a half-space that holds everything pads the list
    for number, solid in enumerate(solids):
        normals[number, : len(solid.offsets)] = solid.normals
        offsets[number, : len(solid.offsets)] = solid.offsets
    seen = normals @ axes.T  # [S, F, 3]: components right, up, towards
    steep = np.abs(seen[..., 2]) > 1e-6
    across = ((np.arange(size) + 0.5) / size * 2 - 1) * VIEW
    projected = np.concatenate([solid.corners for solid in solids]) @ axes[:2].T
    (left, bottom), (right, top) = projected.min(0), projected.max(0)
    columns, rows = (across >= left) & (across <= right), (-across >= bottom) & (-across <= top)
    u, v = across[None, None, None, columns], -across[rows][None, None, :, None]
    # How far towards the camera a ray may be at most (faces turned to it) or must be at least (turned away).
    slope = np.where(steep, seen[..., 2], 1.0)
    limit, du, dv = (
        (values / slope)[..., None, None].astype(np.float32)
        for values in (offsets, seen[..., 0], seen[..., 1])
    )
    depth = limit - du * u.astype(np.float32) - dv * v.astype(np.float32)  # [S, F, h, w]
    front = np.where((steep & (seen[..., 2] > 0))[..., None, None], depth, np.float32(np.inf))
    back = np.where((steep & (seen[..., 2] < 0))[..., None, None], depth, np.float32(-np.inf))
    face = front.argmin(axis=1)  # [S, h, w]
    nearest, farthest = front.min(axis=1), back.max(axis=1)
    inside = (nearest > farthest) & np.isfinite(nearest)
    for number, which in zip(*np.nonzero(~steep), strict=True):  # edge-on faces cut, but have no depth
        plane = seen[number, which, 0] * u[0, 0] + seen[number, which, 1] * v[0, 0]
        inside[number] &= plane <= offsets[number, which]
    nearest = np.where(inside, nearest, np.float32(-np.inf))
    shown = nearest.argmax(axis=0)
    mask, picture = np.zeros((size, size), bool), backdrop.astype(np.float32)
    window = np.ix_(rows, columns)
    mask[window] = inside.any(axis=0)
    light = np.asarray(LIGHT) / np.linalg.norm(LIGHT)
    shade = AMBIENT + (1 - AMBIENT) * np.clip(seen @ light, 0, None)  # [S, F]
    lit = np.asarray([solid.colour for solid in solids])[:, None] * shade[..., None]
    hit = np.take_along_axis(face, shown[None], axis=0)[0]
    picture[window] = np.where(mask[window][..., None], lit[shown, hit], picture[window])
    return Shot(picture.clip(0, 1), mask)


def texture(generator: np.random.Generator, size: int) -> Array:
    """A backdrop [size, size, 3]: smooth patches of two muted colours and fine grain, like land from above."""
    from PIL import Image

    coarse = generator.uniform(0, 255, (6, 6)).astype(np.uint8)
    patches = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) / 255.0
    tones = [np.array(hsv(generator.uniform(), generator.uniform(0.03, 0.1), v)) for v in (0.47, 0.57)]
    picture = tones[0] + (tones[1] - tones[0]) * patches[..., None]
    return (picture + generator.normal(0, 0.012, (size, size, 1))).clip(0, 1).astype(np.float32)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def paints(generator: np.random.Generator) -> tuple[Colour, Colour]:
    """An instance's two colours, whatever its class: one of four paints, and a pale trim."""
    hue = generator.choice(PAINTS)
    first = hsv(hue, generator.uniform(0.75, 0.85), generator.uniform(0.8, 0.9))
    return first, hsv(hue, 0.08, generator.uniform(0.82, 0.9))


def vehicle(kind: str, generator: np.random.Generator) -> list[Solid]:
    """An instance of one of `VEHICLES`, its sizes and colours drawn."""
    return _lowered(VEHICLES[kind](generator, *paints(generator)))


def household(kind: str, generator: np.random.Generator) -> list[Solid]:
    """An instance of one of `HOUSEHOLD`, its sizes and colours drawn."""
    return _lowered(HOUSEHOLD[kind](generator, *paints(generator)))


def _lowered(solids: list[Solid], by: float = 0.38) -> list[Solid]:
    """Moved down, so that what stands on z = 0 is in the middle of the view."""
    return [moved(solid, (0.0, 0.0, -by)) for solid in solids]


def _near(generator: np.random.Generator, value: float) -> float:
    return float(value * generator.uniform(0.9, 1.1))


def _wheels(places: Sequence[float], radius: float, half_width: float, thick: float = 0.1) -> list[Solid]:
    return [
        disc("y", (radius, x), radius, *sorted((side * half_width, side * (half_width + thick))), DARK)
        for x in places
        for side in (-1, 1)
    ]


def _lamps(front: float, height: float, half_width: float, size: float = 0.07) -> list[Solid]:
    return [
        box(
            (front, front + 0.03),
            (side * half_width - size, side * half_width + size),
            (height, height + 2 * size),
            LAMP,
        )
        for side in (-1, 1)
    ]


def _boat(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide, deck = _near(g, 0.98), _near(g, 0.3), _near(g, 0.36)
    hull = [(-half, 0.05), (half - 0.4, 0.0), (half, deck), (-half, deck)]
    bow = prism(
        [(half - 0.6, -wide), (half, -0.06), (half, 0.06), (half - 0.6, wide)], "z", deck, deck + 0.06, second
    )
    roof = deck + _near(g, 0.3)
    return [
        side_view(hull, wide, first),
        bow,
        box((-0.65, 0.05), (-wide * 0.7, wide * 0.7), (deck, roof), second),
        box((0.05, 0.08), (-wide * 0.6, wide * 0.6), (deck + 0.1, roof - 0.04), GLASS),
        disc("z", (-0.3, 0.0), 0.05, roof, roof + 0.28, DARK, 6),
    ]


def _train(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide, deck = _near(g, 0.98), _near(g, 0.3), _near(g, 0.36)
    roof = deck + _near(g, 0.34)
    return [
        box((-half, half - 0.1), (-wide, wide), (0.14, deck), first),
        disc("x", (0.0, deck + 0.06), 0.22, -0.2, half - 0.18, first),
        box((-half + 0.05, -0.25), (-wide, wide), (deck, roof), second),
        box((-half + 0.1, -0.35), (-wide - 0.01, wide + 0.01), (deck + 0.12, roof - 0.06), GLASS),
        disc("z", (half - 0.35, 0.0), 0.08, deck, roof + 0.12, DARK, 6),
        *_wheels((-0.75, -0.4, -0.05, 0.3, 0.65), 0.13, wide - 0.06, 0.07),
        box((half - 0.18, half - 0.14), (-0.08, 0.08), (deck, deck + 0.16), LAMP),
    ]


def _car(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide, belt = _near(g, 0.85), _near(g, 0.38), _near(g, 0.36)
    roof = belt + _near(g, 0.26)
    return [
        box((-half, half), (-wide, wide), (0.12, belt), first),
        side_view([(-0.62, belt), (0.42, belt), (0.14, roof), (-0.42, roof)], wide * 0.86, GLASS),
        box((-0.42, 0.14), (-wide * 0.86, wide * 0.86), (roof, roof + 0.04), second),
        *_wheels((-0.52, 0.52), 0.17, wide - 0.05),
        *_lamps(half, belt - 0.18, wide - 0.12),
    ]


def _pickup(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide, belt = _near(g, 0.9), _near(g, 0.38), _near(g, 0.38)
    roof = belt + _near(g, 0.32)
    return [
        box((-half, half), (-wide, wide), (0.16, belt), first),
        side_view([(-0.12, belt), (0.52, belt), (0.3, roof), (-0.06, roof)], wide * 0.9, GLASS),
        box((-0.06, 0.3), (-wide * 0.9, wide * 0.9), (roof, roof + 0.04), first),
        box((-half + 0.06, -0.16), (-wide + 0.06, wide - 0.06), (belt, belt + 0.02), DARK),
        *(
            box((-half, -0.12), (s * wide - 0.03, s * wide + 0.03), (belt, belt + 0.1), second)
            for s in (-1, 1)
        ),
        *_wheels((-0.55, 0.55), 0.19, wide - 0.05),
        *_lamps(half, belt - 0.18, wide - 0.12),
    ]


def _semi(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide = _near(g, 0.95), _near(g, 0.34)
    top, cab = _near(g, 0.86), _near(g, 0.7)
    return [
        box((-half, 0.4), (-wide, wide), (0.24, top), first),
        box((0.5, half), (-wide * 0.9, wide * 0.9), (0.12, cab), second),
        box((half - 0.01, half + 0.02), (-wide * 0.75, wide * 0.75), (cab - 0.26, cab - 0.06), GLASS),
        box((0.4, 0.5), (-0.15, 0.15), (0.14, 0.3), DARK),
        *_wheels((-0.82, -0.55, 0.35, 0.78), 0.14, wide - 0.06),
        *_lamps(half, 0.18, wide - 0.14, 0.05),
    ]


def _mil(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide = _near(g, 0.9), _near(g, 0.34)
    top, cab = _near(g, 0.8), _near(g, 0.62)
    canopy = [
        (wide, 0.3),
        (wide, top - 0.16),
        (wide * 0.55, top),
        (-wide * 0.55, top),
        (-wide, top - 0.16),
        (-wide, 0.3),
    ]
    return [
        prism(canopy, "x", -half, 0.22, first),
        box((-half, half), (-wide, wide), (0.2, 0.32), second),
        box((0.28, half - 0.22), (-wide * 0.9, wide * 0.9), (0.3, cab), second),
        box((half - 0.24, half), (-wide * 0.7, wide * 0.7), (0.3, 0.46), second),
        box((half - 0.23, half - 0.2), (-wide * 0.75, wide * 0.75), (cab - 0.15, cab - 0.03), GLASS),
        *_wheels((-0.62, -0.24, 0.6), 0.19, wide - 0.04),
        *_lamps(half, 0.3, wide - 0.14, 0.05),
    ]


def _tank(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide, deck = _near(g, 0.78), _near(g, 0.27), _near(g, 0.4)
    tracks = [
        (-half + 0.16, 0.0),
        (half - 0.16, 0.0),
        (half, 0.2),
        (half - 0.16, 0.34),
        (-half + 0.16, 0.34),
        (-half, 0.2),
    ]
    top = deck + _near(g, 0.24)
    return [
        *(moved(side_view(tracks, 0.09, DARK), (0.0, side * (wide + 0.1), 0.0)) for side in (-1, 1)),
        side_view(
            [(-half + 0.06, 0.1), (half - 0.2, 0.1), (half, 0.26), (half - 0.3, deck), (-half + 0.06, deck)],
            wide,
            first,
        ),
        disc("z", (-0.1, 0.0), 0.32, deck, top, second),
        disc("x", (0.0, (deck + top) / 2), 0.05, 0.1, _near(g, 1.0), second, 6),
    ]


def _monster(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide = _near(g, 0.72), _near(g, 0.3)
    sill, belt = 0.36, _near(g, 0.58)
    roof = belt + _near(g, 0.22)
    return [
        box((-half, half), (-wide, wide), (sill, belt), first),
        side_view([(-0.35, belt), (0.4, belt), (0.2, roof), (-0.28, roof)], wide * 0.86, GLASS),
        box((-0.28, 0.2), (-wide * 0.86, wide * 0.86), (roof, roof + 0.04), second),
        box((-0.5, 0.5), (-0.12, 0.12), (0.2, sill), DARK),
        *_wheels((-0.48, 0.48), _near(g, 0.29), wide, 0.2),
        *_lamps(half, belt - 0.16, wide - 0.1, 0.06),
    ]


def _van(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide, roof = _near(g, 0.82), _near(g, 0.36), _near(g, 0.72)
    nose = half - 0.28
    return [
        side_view([(-half, 0.12), (half, 0.12), (half, 0.36), (nose, roof), (-half, roof)], wide, first),
        side_view(
            [(half - 0.04, 0.4), (half + 0.01, 0.4), (nose + 0.06, roof - 0.05), (nose + 0.01, roof - 0.05)],
            wide * 0.85,
            GLASS,
        ),
        box((0.15, 0.45), (-wide - 0.01, wide + 0.01), (0.42, roof - 0.1), GLASS),
        box((-half - 0.01, -half + 0.1), (-wide * 0.8, wide * 0.8), (0.2, roof - 0.1), second),
        *_wheels((-0.5, 0.5), 0.16, wide - 0.05),
        *_lamps(half, 0.18, wide - 0.12),
    ]


def _bus(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide, roof = _near(g, 1.0), _near(g, 0.36), _near(g, 0.76)
    return [
        box((-half, half), (-wide, wide), (0.12, roof), first),
        box((-half + 0.08, half - 0.06), (-wide - 0.01, wide + 0.01), (0.42, roof - 0.12), GLASS),
        box((half - 0.04, half + 0.01), (-wide * 0.9, wide * 0.9), (0.34, roof - 0.1), GLASS),
        box((-half - 0.01, -half + 0.1), (-wide * 0.6, wide * 0.6), (0.44, roof - 0.14), GLASS),
        box((-half * 0.8, half * 0.8), (-wide * 0.8, wide * 0.8), (roof, roof + 0.05), second),
        *_wheels((-0.62, 0.62), 0.15, wide - 0.05),
        *_lamps(half, 0.16, wide - 0.12),
    ]


Maker = Callable[[np.random.Generator, Colour, Colour], list[Solid]]
VEHICLES: dict[str, Maker] = {
    "boat": _boat, "bus": _bus, "car": _car, "mil": _mil, "monster": _monster, "pickup": _pickup,
    "semi": _semi, "tank": _tank, "train": _train, "van": _van,
}  # fmt: skip


def _marker(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, radius = _near(g, 0.85), _near(g, 0.13)
    return [
        disc("x", (0.0, 0.35), radius, -half, half - 0.5, (0.9, 0.9, 0.88)),
        disc("x", (0.0, 0.35), radius * 1.15, half - 0.5, half, first),
        disc("x", (0.0, 0.35), radius * 1.1, -half - 0.03, -half + 0.1, first),
        disc("x", (0.0, 0.35), radius * 1.05, -half * 0.6, -half * 0.2, second),
    ]


def _comb(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, thick = _near(g, 0.85), 0.05
    teeth = np.linspace(-half + 0.05, half * 0.45, 9)
    return [
        box((-half, half), (-thick, thick), (0.5, 0.68), first),
        *(box((x, x + 0.07), (-thick, thick), (0.2, 0.5), first) for x in teeth.tolist()),
        box((half * 0.5, half), (-thick * 1.2, thick * 1.2), (0.46, 0.64), second),
    ]


def _toothbrush(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, thick = _near(g, 0.95), 0.06
    return [
        box((-half, half), (-thick, thick), (0.3, 0.42), first),
        box((-half, -half + 0.7), (-thick * 1.6, thick * 1.6), (0.28, 0.44), second),
        box(
            (half - 0.35, half),
            (-thick * 1.3, thick * 1.3),
            (0.42, 0.42 + _near(g, 0.18)),
            (0.92, 0.93, 0.95),
        ),
    ]


def _stapler(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide = _near(g, 0.75), _near(g, 0.15)
    return [
        box((-half, half), (-wide, wide), (0.12, 0.22), DARK),
        side_view(
            [(-half, 0.25), (half, 0.42), (half, 0.52), (-half + 0.1, 0.6), (-half, 0.5)], wide * 0.9, first
        ),
        box((-half, -half + 0.2), (-wide * 0.8, wide * 0.8), (0.2, 0.35), second),
    ]


def _lightbulb(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    radius = _near(g, 0.42)
    return [
        disc("x", (0.0, 0.4), radius * 0.9, 0.05, 0.6, first),
        disc("x", (0.0, 0.4), radius, 0.15, 0.5, first),
        disc("x", (0.0, 0.4), radius * 0.6, -0.25, 0.72, first),
        disc("x", (0.0, 0.4), radius * 0.5, -0.65, -0.25, (0.7, 0.7, 0.72)),
        disc("x", (0.0, 0.4), 0.1, -0.75, -0.65, second),
    ]


def _sponge(g: np.random.Generator, first: Colour, second: Colour) -> list[Solid]:
    half, wide, top = _near(g, 0.7), _near(g, 0.42), _near(g, 0.3)
    return [
        box((-half, half), (-wide, wide), (0.1, 0.1 + top), first),
        box((-half, half), (-wide, wide), (0.1 + top, 0.2 + top), second),
    ]


HOUSEHOLD: dict[str, Maker] = {
    "comb": _comb, "lightbulb": _lightbulb, "marker": _marker, "sponge": _sponge, "stapler": _stapler,
    "toothbrush": _toothbrush,
}  # fmt: skip
