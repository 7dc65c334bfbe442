"""Scenes of rigid solids that move, as pairs of point clouds: the miniatures of FlyingThings3D and KITTI scene flow.

Coordinates are the readers': x to the side, y up, z forwards, metres, the sensor at the origin. Four to seven
solids (boxes, cylinders, cones, L-shapes) of 0.6 to 2 m float between 5 and 30 m, before two static walls. Each
turns by up to 15 degrees and moves by 0.3 to 1.5 m, about twice the spacing of 256 points drawn: even with the
very same points in both clouds the nearest one is wrong for two of three. The sensor moves as well. Two solids of
each scene are alike, stand close together and move differently: who may send the mass of both to one of them errs.

Street scenes have other shapes (cars, poles, ellipsoids that turn about the vertical alone), a ground that the
published filter removes, and a density that falls with distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shape = Literal["box", "cylinder", "cone", "ell", "car", "pole", "ellipsoid", "wall", "ground"]
FLYING: tuple[Shape, ...] = ("box", "cylinder", "cone", "ell")
STREET: tuple[Shape, ...] = ("car", "car", "pole", "ellipsoid")
GROUND = -1.7
NEARER = 0.35
"""Metres by which a point hides what lies behind it in the same direction."""
CELL = 0.02
"""Radians of a cell of directions."""


class Motion(NamedTuple):
    """x -> rotation (x - centre) + centre + shift; rotation [3, 3], centre and shift [3]."""

    rotation: Array
    centre: Array
    shift: Array

    def move(self, points: Array) -> Array:
        return (points - self.centre) @ self.rotation.T + self.centre + self.shift


@dataclass
class Solid:
    """A shape of a size, standing somewhere, and how it moves.

    size: (3,) full extents. turn: [3, 3] from its own axes to the scene's. leaves: not there at t + 1.
    """

    shape: Shape
    size: Array
    turn: Array
    centre: Array
    motion: Motion
    leaves: bool = False

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Points of the surface, uniformly, and outward normals, in the scene: [count, 3] each."""
        points, normals = surface(self.shape, self.size, count, rng)
        return points @ self.turn.T + self.centre, normals @ self.turn.T


class Pair(NamedTuple):
    """first [N, 3], second [M, 3], flow [N, 3], visible bool [N]: whether a point of `first` is seen at t + 1."""

    first: Array
    second: Array
    flow: Array
    visible: NDArray[np.bool_]


def surface(shape: Shape, size: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points on the surface of a shape of full extents `size` about the origin, and outward normals, [count, 3]."""
    w, h, d = size
    if shape == "ell":
        upright = (np.array([w / 3, h, d]), np.array([-w / 3, 0.0, 0.0]))
        foot = (np.array([2 * w / 3, h / 3, d]), np.array([w / 6, -h / 3, 0.0]))
        return _joined([("box", *upright), ("box", *foot)], count, rng)
    if shape == "car":
        body = (np.array([w, 0.55 * h, d]), np.array([0.0, -0.225 * h, 0.0]))
        cabin = (np.array([0.85 * w, 0.45 * h, 0.5 * d]), np.array([0.0, 0.275 * h, -0.08 * d]))
        return _joined([("box", *body), ("box", *cabin)], count, rng)
    if shape in ("box", "wall", "ground"):
        return _box(size, count, rng)
    if shape == "ellipsoid":
        unit = rng.normal(size=(count, 3))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        normals = unit / size
        return unit * size / 2, normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return _round(w, h, count, rng, narrows=shape == "cone")


def _joined(
    parts: list[tuple[Shape, Array, Array]], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    areas = np.array([_area(size) for _, size, _ in parts])
    shares = rng.multinomial(count, areas / areas.sum())
    sampled = [surface(part, size, int(n), rng) for (part, size, _), n in zip(parts, shares, strict=True)]
    points = np.concatenate([p + at for (p, _), (_, _, at) in zip(sampled, parts, strict=True)])
    return points, np.concatenate([normals for _, normals in sampled])


def _area(size: Array) -> float:
    w, h, d = size
    return float(2 * (w * h + h * d + w * d))


def _box(size: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    w, h, d = size
    axis = rng.choice(3, size=count, p=np.array([h * d, w * d, w * h]) / (h * d + w * d + w * h))
    side = rng.choice([-1.0, 1.0], size=count)
    points = rng.uniform(-0.5, 0.5, (count, 3)) * size
    normals = np.zeros((count, 3))
    row = np.arange(count)
    points[row, axis] = side * size[axis] / 2
    normals[row, axis] = side
    return points, normals


def _round(
    width: float, height: float, count: int, rng: np.random.Generator, narrows: bool
) -> tuple[Array, Array]:
    """A cylinder, or a cone that narrows upwards, about the y axis."""
    radius = width / 2
    slant = float(np.hypot(radius, height)) if narrows else height
    mantle = np.pi * radius * slant if narrows else 2 * np.pi * radius * height
    caps = (1 if narrows else 2) * np.pi * radius**2
    on_mantle = rng.random(count) < mantle / (mantle + caps)
    angle = rng.uniform(0, 2 * np.pi, count)
    way = rng.random(count)
    out = np.stack([np.cos(angle), np.zeros(count), np.sin(angle)], axis=1)
    reach = radius * np.sqrt(way)  # uniform on a disc, and on a cone seen from its tip
    y = height * (0.5 - np.sqrt(way)) if narrows else height * (way - 0.5)
    mantle_points = out * (reach if narrows else np.full(count, radius))[:, None]
    mantle_points[:, 1] = y
    mantle_normals = out * (height / slant) if narrows else out.copy()
    mantle_normals[:, 1] = radius / slant if narrows else 0.0
    top = np.zeros(count, bool) if narrows else rng.random(count) < 0.5
    cap_points = out * reach[:, None]
    cap_points[:, 1] = np.where(top, height / 2, -height / 2)
    cap_normals = np.zeros((count, 3))
    cap_normals[:, 1] = np.where(top, 1.0, -1.0)
    chosen = on_mantle[:, None]
    return np.where(chosen, mantle_points, cap_points), np.where(chosen, mantle_normals, cap_normals)


def rotation(axis: Array, degrees: float) -> Array:
    """The rotation [3, 3] about an axis (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


UPRIGHT = np.array([0.0, 1.0, 0.0])


def _motion(rng: np.random.Generator, centre: Array, street: bool) -> Motion:
    axis = UPRIGHT if street else rng.normal(size=3)
    shift = rng.normal(size=3) * ([1.0, 0.0, 1.0] if street else [1.0, 0.6, 1.0])
    shift *= rng.uniform(0.3, 1.5) / np.linalg.norm(shift)
    return Motion(rotation(axis, rng.uniform(-15, 15)), centre, shift)


def flying_scene(rng: np.random.Generator, leaving: bool = False) -> list[Solid]:
    """Solids in the air before walls; two are twins. leaving: one of them is gone at t + 1 in every other scene."""
    solids: list[Solid] = []
    places: list[Array] = []
    for _ in range(int(rng.integers(3, 7))):
        centre = _free_place(rng, places)
        shape = FLYING[int(rng.integers(len(FLYING)))]
        turn = rotation(rng.normal(size=3), rng.uniform(0, 180))
        size = rng.uniform(0.6, 2.0, 3)
        solids.append(Solid(shape, size, turn, centre, _motion(rng, centre, street=False)))
    twin = solids[0]
    beside = rng.normal(size=3) * [1.0, 0.3, 1.0]
    beside *= (np.linalg.norm(twin.size) / 2 + rng.uniform(0.6, 1.2)) / np.linalg.norm(beside)
    centre = twin.centre + beside
    solids.append(Solid(twin.shape, twin.size, twin.turn, centre, _motion(rng, centre, street=False)))
    if leaving and rng.random() < 0.5:
        solids[int(rng.integers(len(solids)))].leaves = True
    still = Motion(np.eye(3), np.zeros(3), np.zeros(3))
    for side in (-1.0, 1.0):
        centre = np.array([side * rng.uniform(4, 9), rng.uniform(-1, 2), rng.uniform(14, 29)])
        turn = rotation(UPRIGHT, rng.uniform(-50, 50))
        size = np.array([rng.uniform(4, 8), rng.uniform(2, 4), 0.3])
        solids.append(Solid("wall", size, turn, centre, still))
    return solids


def street_scene(rng: np.random.Generator) -> list[Solid]:
    """Cars, poles and ellipsoids that stand on the ground, before walls along the street, and the ground."""
    solids: list[Solid] = []
    places: list[Array] = []
    for _ in range(int(rng.integers(5, 9))):
        shape = STREET[int(rng.integers(len(STREET)))]
        low, high = {
            "car": ((1.6, 1.4, 3.6), (2.0, 1.8, 4.8)),
            "pole": ((0.2, 2.0, 0.2), (0.4, 3.5, 0.4)),
            "ellipsoid": ((1.0, 1.0, 1.0), (2.5, 2.5, 2.5)),
        }[shape]
        size = rng.uniform(low, high)
        centre = _free_place(rng, places)
        centre[1] = (
            GROUND + size[1] / 2 + 0.35
        )  # what is lower than 0.3 m over the ground is filtered as ground
        moves = _motion(rng, centre, street=True)
        if shape == "pole":
            moves = Motion(np.eye(3), np.zeros(3), np.zeros(3))
        turn = rotation(UPRIGHT, rng.uniform(0, 180))
        solids.append(Solid(shape, size, turn, centre, moves))
    still = Motion(np.eye(3), np.zeros(3), np.zeros(3))
    for side in (-1.0, 1.0):
        size = np.array([0.3, rng.uniform(2, 4), rng.uniform(8, 20)])
        centre = np.array(
            [side * rng.uniform(8, 11), GROUND + size[1] / 2 + 0.35, rng.uniform(12, 34)]
        )  # reaches beyond 35 m, where the filter cuts
        solids.append(Solid("wall", size, np.eye(3), centre, still))
    ground = np.array([0.0, GROUND - 0.05, 20.0])
    solids.append(Solid("ground", np.array([16.0, 0.05, 40.0]), np.eye(3), ground, still))
    return solids


def _free_place(rng: np.random.Generator, places: list[Array]) -> Array:
    """A centre between 5 and 28 m ahead, 3.5 m away from the others where there is room."""
    for _ in range(50):
        depth = rng.uniform(6, 26)
        centre = np.array([rng.uniform(-0.45, 0.45) * depth, rng.uniform(-1.5, 2.5), depth])
        if all(np.linalg.norm(centre - other) > 3.5 for other in places):
            break
    places.append(centre)
    return centre


def ego_motion(rng: np.random.Generator) -> Motion:
    """How still things move against a sensor that drives forwards and turns a little."""
    shift = np.array([rng.normal(0, 0.05), rng.normal(0, 0.02), -rng.uniform(0.1, 0.6)])
    return Motion(rotation(UPRIGHT, rng.uniform(-1.0, 1.0)), np.zeros(3), shift)


def aligned_pair(solids: list[Solid], ego: Motion, count: int, rng: np.random.Generator) -> Pair:
    """The same `count` surface points at both instants: second[i] is first[i] moved, nothing is hidden."""
    sampled = _sampled(solids, count, rng)
    first = np.concatenate([points for points, _, _ in sampled])
    second = np.concatenate([ego.move(solid.motion.move(points)) for points, _, solid in sampled])
    order = rng.permutation(len(first))
    first, second = first[order], second[order]
    return Pair(first, second, second - first, np.ones(len(first), bool))


def occluded_pair(solids: list[Solid], ego: Motion, count: int, rng: np.random.Generator) -> Pair:
    """What a sensor sees: `count` points each of the sides that face it at t and, sampled anew, at t + 1.

    Solids hide each other and themselves; those that leave are not there at t + 1.
    """
    dense = 8 * count
    now = _sampled(solids, dense, rng)
    points = np.concatenate([p for p, _, _ in now])
    normals = np.concatenate([n for _, n, _ in now])
    moved = np.concatenate([ego.move(solid.motion.move(p)) for p, _, solid in now])
    moved_normals = np.concatenate([n @ solid.motion.rotation.T @ ego.rotation.T for _, n, solid in now])
    stays = np.concatenate([np.full(len(p), not solid.leaves) for p, _, solid in now])

    later = [item for item in _sampled(solids, dense, rng) if not item[2].leaves]
    next_points = np.concatenate([ego.move(solid.motion.move(p)) for p, _, solid in later])
    next_normals = np.concatenate([n @ solid.motion.rotation.T @ ego.rotation.T for _, n, solid in later])

    seen = np.flatnonzero(in_sight(points, normals, points))
    next_seen = np.flatnonzero(in_sight(next_points, next_normals, next_points))
    chosen = rng.permutation(seen)[:count]
    others = rng.permutation(next_seen)[:count]
    visible = stays[chosen] & in_sight(moved[chosen], moved_normals[chosen], next_points)
    return Pair(points[chosen], next_points[others], moved[chosen] - points[chosen], visible)


def in_sight(points: Array, normals: Array, obstacles: Array) -> NDArray[np.bool_]:
    """Which points [N, 3] face the sensor at the origin and have no obstacle [M, 3] before them -> bool [N]."""
    faces = (normals * points).sum(1) < 0
    cell, distance = _direction(points)
    other_cell, other_distance = _direction(obstacles)
    cells = int(max(cell.max(initial=0), other_cell.max(initial=0))) + 1
    nearest = np.full(cells, np.inf)
    np.minimum.at(nearest, other_cell, other_distance)
    return faces & (distance < nearest[cell] + NEARER)


def _direction(points: Array) -> tuple[NDArray[np.int64], Array]:
    """The number of a point's cell of directions, and its distance from the origin."""
    distance = np.linalg.norm(points, axis=1)
    azimuth = np.arctan2(points[:, 0], points[:, 2]) + np.pi
    elevation = np.arcsin(np.clip(points[:, 1] / np.maximum(distance, 1e-9), -1, 1)) + np.pi / 2
    columns = int(2 * np.pi / CELL) + 1
    return (elevation / CELL).astype(np.int64) * columns + (azimuth / CELL).astype(np.int64), distance


def _sampled(solids: list[Solid], count: int, rng: np.random.Generator) -> list[tuple[Array, Array, Solid]]:
    """Points and normals of each solid, `count` in all: by area and, in streets, nearer ones more densely.

    Walls and the ground count a quarter of their area, so that they don't drown the rest.
    """
    weight = np.array([_area(solid.size) for solid in solids])
    weight *= [0.25 if solid.shape in ("wall", "ground") else 1.0 for solid in solids]
    if any(solid.shape == "ground" for solid in solids):
        weight *= [(10 / np.linalg.norm(solid.centre)) ** 1.0 for solid in solids]
    shares = rng.multinomial(count, weight / weight.sum())
    return [(*solid.sample(int(share), rng), solid) for solid, share in zip(solids, shares, strict=True)]
