"""Meshes of household things in look-alike pairs: the miniatures of ModelNet40 and ShapeNet-Part.

Eight classes, two and two the same but for a fine detail: a cup is a bowl with a handle, a stool a table with rungs
between its legs, a bench a chair with armrests, a vase a bottle with a flared lip. Sizes are drawn from the same
ranges for both of a pair, and bowls are squashed as much as a handle widens a cup, so that a bounding box tells
pairs apart, not what is in them. Every surface is cut into triangles of a random density: the vertices of a mesh are
no sample of its surface, points drawn by area are.

z is up; units are arbitrary (things are about 1 high). Each face knows the part it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Faces = NDArray[np.int64]
FINEST = 7
"""Most cells along the side of a surface."""


@dataclass
class Thing:
    """A mesh with parts: vertices [V, 3], faces [F, 3], part [F], names of the parts."""

    vertices: Array
    faces: Faces
    part: NDArray[np.int64]
    parts: tuple[str, ...]


Surface = tuple[Array, Faces]


def grid(points: Array) -> Surface:
    """Points [n, m, 3] of a surface -> its vertices [n m, 3] and triangles [2 (n - 1) (m - 1), 3]."""
    n, m, _ = points.shape
    index = np.arange(n * m).reshape(n, m)
    corners = [index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]]
    a, b, c, d = (corner.ravel() for corner in corners)
    return points.reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def box(size: Sequence[float], centre: Sequence[float], rng: np.random.Generator) -> list[Surface]:
    """The six sides of a box of full extents `size`, each cut into a random number of cells."""
    sides = []
    for axis in range(3):
        for sign in (-0.5, 0.5):
            n, m = rng.integers(2, FINEST + 1, 2)
            u, v = np.meshgrid(np.linspace(-0.5, 0.5, n), np.linspace(-0.5, 0.5, m), indexing="ij")
            unit = np.insert(np.stack([u, v], -1), axis, sign, axis=-1)
            sides.append(grid(unit * np.asarray(size) + np.asarray(centre)))
    return sides


def revolved(profile: Sequence[tuple[float, float]], squash: float, rng: np.random.Generator) -> Surface:
    """A surface of revolution about z: profile of (radius, height); x is stretched by `squash`."""
    outline = np.asarray(profile, dtype=np.float64)
    cuts = rng.integers(1, 4, len(outline) - 1)
    steps = [np.linspace(outline[i], outline[i + 1], cut, endpoint=False) for i, cut in enumerate(cuts)]
    outline = np.concatenate([*steps, outline[-1:]])
    angle = np.linspace(0, 2 * np.pi, int(rng.integers(14, 33)))
    ring = np.stack([squash * np.cos(angle), np.sin(angle)], -1)
    points = outline[:, None, :1] * ring
    return grid(
        np.concatenate([points, np.broadcast_to(outline[:, None, 1:], (*points.shape[:2], 1))], axis=-1)
    )


def handle(centre: Sequence[float], reach: float, height: float, thickness: float) -> Surface:
    """Half an elliptic ring in the x-z plane that bulges towards +x; thickness: of its round section."""
    turn = np.linspace(-np.pi / 2, np.pi / 2, 13)
    way = np.stack([reach * np.cos(turn), 0 * turn, height / 2 * np.sin(turn)], -1) + np.asarray(centre)
    outward = np.stack([np.cos(turn), 0 * turn, np.sin(turn)], -1)
    around = np.linspace(0, 2 * np.pi, 7)
    section = np.cos(around)[:, None] * outward[:, None] + np.sin(around)[:, None] * np.array([0, 1.0, 0])
    return grid(way[:, None] + thickness / 2 * section)


def joined(parts: Mapping[str, Sequence[Surface]]) -> Thing:
    """One mesh of the parts that have any surface, in their order."""
    names = tuple(name for name, surfaces in parts.items() if surfaces)
    vertices, faces, part, offset = [], [], [], 0
    for number, name in enumerate(names):
        for points, triangles in parts[name]:
            vertices.append(points)
            faces.append(triangles + offset)
            part.append(np.full(len(triangles), number))
            offset += len(points)
    return Thing(np.concatenate(vertices), np.concatenate(faces), np.concatenate(part), names)


def vessel(rng: np.random.Generator, *, handled: bool) -> Thing:
    """A cup (handled) or a bowl: parts handle, body."""
    foot, rim, height = rng.uniform(0.22, 0.34), rng.uniform(0.34, 0.48), rng.uniform(0.55, 0.9)
    belly = (foot + rim) / 2 * rng.uniform(1.0, 1.2)
    squash = 1.0 if handled else rng.uniform(1.0, 1.35)
    body = revolved(
        [(0.0, 0.0), (foot, 0.0), (belly, height / 2), (rim, height), (0.9 * rim, height)], squash, rng
    )
    ring = handle(
        (0.95 * belly, 0.0, height * rng.uniform(0.45, 0.6)),
        rng.uniform(0.14, 0.22),
        rng.uniform(0.3, 0.45) * height / 0.7,
        rng.uniform(0.04, 0.07),
    )
    return joined({"handle": [ring] if handled else [], "body": [body]})


def legs(
    width: float, depth: float, height: float, thickness: float, rng: np.random.Generator
) -> list[Surface]:
    """Four upright legs under the corners of a plate width x depth."""
    found: list[Surface] = []
    for x in (-1, 1):
        for y in (-1, 1):
            corner = (x * (width - thickness) / 2, y * (depth - thickness) / 2, height / 2)
            found += box((thickness, thickness, height), corner, rng)
    return found


def rungs(
    width: float, depth: float, height: float, thickness: float, rng: np.random.Generator
) -> list[Surface]:
    """Four bars between the legs, at one height."""
    found: list[Surface] = []
    for side in (-1, 1):
        found += box((width, thickness, thickness), (0, side * (depth - thickness) / 2, height), rng)
        found += box((thickness, depth, thickness), (side * (width - thickness) / 2, 0, height), rng)
    return found


def plate_on_legs(rng: np.random.Generator, *, with_rungs: bool) -> Thing:
    """A stool (with rungs) or a table: parts top, leg; the rungs belong to the legs."""
    width, depth, height = rng.uniform(0.6, 1.1), rng.uniform(0.55, 0.8), rng.uniform(0.55, 0.95)
    thickness, plate = rng.uniform(0.05, 0.08), rng.uniform(0.04, 0.08)
    stand = legs(width, depth, height, thickness, rng)
    bars = rungs(width, depth, rng.uniform(0.25, 0.5) * height, rng.uniform(0.03, 0.05), rng)
    top = box((width, depth, plate), (0, 0, height + plate / 2), rng)
    return joined({"top": top, "leg": stand + (bars if with_rungs else [])})


def seat_with_back(rng: np.random.Generator, *, with_arms: bool) -> Thing:
    """A bench (with arms) or a chair: parts back, seat, leg, arm."""
    width, depth, height = rng.uniform(0.5, 0.9), rng.uniform(0.45, 0.6), rng.uniform(0.4, 0.55)
    thickness, plate, back = rng.uniform(0.04, 0.07), rng.uniform(0.04, 0.07), rng.uniform(0.4, 0.6)
    seat = box((width, depth, plate), (0, 0, height + plate / 2), rng)
    rest = box((width, plate, back), (0, (depth - plate) / 2, height + plate + back / 2), rng)
    bar, lift = rng.uniform(0.03, 0.05), rng.uniform(0.35, 0.5) * back
    arms: list[Surface] = []
    for side in (-1, 1):
        x = side * (width - bar) / 2
        arms += box((bar, depth, bar), (x, 0, height + plate + lift), rng)
        arms += box((bar, bar, lift), (x, -(depth - bar) / 2, height + plate + lift / 2), rng)
    return joined(
        {
            "back": rest,
            "seat": seat,
            "leg": legs(width, depth, height, thickness, rng),
            "arm": arms if with_arms else [],
        }
    )


def flask(rng: np.random.Generator, *, flared: bool) -> Thing:
    """A vase (flared) or a bottle: part body."""
    foot, belly, neck = rng.uniform(0.16, 0.24), rng.uniform(0.22, 0.32), rng.uniform(0.07, 0.1)
    shoulder, throat = rng.uniform(0.45, 0.6), rng.uniform(0.65, 0.75)
    lip = rng.uniform(0.16, 0.2) if flared else neck
    outline = [(0.0, 0.0), (foot, 0.0), (belly, shoulder * 0.6), (belly * 0.9, shoulder), (neck, throat)]
    body = revolved([*outline, (neck, 0.9), (lip, 1.0)], rng.uniform(0.95, 1.05), rng)
    return joined({"body": [body]})


CLASSES: Mapping[str, Callable[[np.random.Generator], Thing]] = {
    "bench": lambda rng: seat_with_back(rng, with_arms=True),
    "bottle": lambda rng: flask(rng, flared=False),
    "bowl": lambda rng: vessel(rng, handled=False),
    "chair": lambda rng: seat_with_back(rng, with_arms=False),
    "cup": lambda rng: vessel(rng, handled=True),
    "stool": lambda rng: plate_on_legs(rng, with_rungs=True),
    "table": lambda rng: plate_on_legs(rng, with_rungs=False),
    "vase": lambda rng: flask(rng, flared=True),
}
"""A thing of each class, drawn from a generator."""


def thing(name: str, rng: np.random.Generator) -> Thing:
    """A thing of a class of `CLASSES`, turned by up to 15 degrees about z and scaled by 0.5 to 2."""
    made = CLASSES[name](rng)
    turn = np.radians(rng.uniform(-15, 15))
    about = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    made.vertices = made.vertices @ about.T * rng.uniform(0.5, 2.0)
    return made
