"""Street scenes before a car's camera: scans, boxes and calibration of the KITTI object miniature.

The sensor is 1.73 m above a road along x; what the camera sees is a sector of 40 degrees to each side, up to 26 m.
In it stand the three classes, and beside each of them what resembles it from near by, on purpose:
- cars (a body and a narrower cabin): vans (one higher box, a neighbouring class), crates and hedges of a car's size;
- pedestrians (legs in stride, a torso, a head): poles, posts and bins of a person's height, sitting persons (a
  neighbouring class);
- cyclists (a bicycle, and a rider on it): bicycles without rider, pedestrians beside a bin.
Pedestrians' and cyclists' headings are any, cars' mostly along the street. Some cars stand beyond the range: they
are DontCare regions of the image, as KITTI's annotators left far objects.

Rays are those of `datamodules/miniature/lidar.py`, 32 beams from +3 to -25 degrees, at 0.4 degrees.
An object's occlusion is the share of the rays that would meet it alone but meet something else before: 0 below 0.3,
1 below 0.7, 2 below 0.92, 3 else; its truncation is the part of its image rectangle outside the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datamodules.miniature import lidar

Array = NDArray[np.float64]

REACH, HALF_VIEW = 26.0, np.radians(40.0)
BEAMS, AZIMUTHS = 32, 224
SENSOR_HEIGHT = 1.73
DROP_OUTS, RANGE_NOISE = 0.05, 0.015
IMAGE_SIZE = (1242, 375)

# The calibration of a KITTI drive, rounded: projection of the left colour camera, rectification, velodyne to camera.
P2 = np.array([[721.54, 0, 609.56, 44.857], [0, 721.54, 172.85, 0.21638], [0, 0, 1, 0.0027459]])
R0_RECT = np.array(
    [
        [0.9999239, 0.00983776, -0.00744505],
        [-0.0098698, 0.9999421, -0.00427846],
        [0.00740253, 0.00435161, 0.9999631],
    ]
)
VELO_TO_CAM = np.array(
    [
        [0.00753374, -0.9999714, -0.00061660, -0.0040698],
        [0.01480249, 0.00072807, -0.9998902, -0.0763162],
        [0.9998621, 0.00752379, 0.01480755, -0.2717806],
    ]
)

REMISSION = {"Car": 0.35, "Van": 0.35, "Pedestrian": 0.3, "Person_sitting": 0.3, "Cyclist": 0.32, "": 0.3}


@dataclass
class Thing:
    """An annotated object: its KITTI type and box (x, y, z of the centre, length, width, height, yaw), LiDAR axes."""

    type: str
    box: tuple[float, float, float, float, float, float, float]


@dataclass
class Street:
    """Solids as in `lidar.Scene`, each labelled by the index of its thing + 1, 0 for clutter; places that are taken."""

    solids: lidar.Scene = field(default_factory=lidar.Scene)
    things: list[Thing] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def place(self, rng: np.random.Generator, radius: float, near: float = 5.0) -> tuple[float, float] | None:
        """A free place for something of a radius, in view; None where 40 tries found none."""
        for _ in range(40):
            x = rng.uniform(near, REACH - 2.0)
            y = rng.uniform(-1.0, 1.0) * min(x * np.tan(HALF_VIEW * 0.92), 11.0)
            if all(np.hypot(x - a, y - b) > radius + other for a, b, other in self.taken):
                self.taken.append((x, y, radius))
                return x, y
        return None

    def add(self, type: str, x: float, y: float, size: tuple[float, float, float], yaw: float) -> int:
        """Annotate a thing that stands on the road; its label."""
        self.things.append(Thing(type, (x, y, size[2] / 2 - SENSOR_HEIGHT, *size, yaw)))
        return len(self.things)


@dataclass
class Frame:
    """One rendered frame. points: float32 [N, 4]; labels: lines of a label_2 file."""

    points: NDArray[np.float32]
    labels: list[str]


def render_frame(rng: np.random.Generator) -> Frame:
    """A new street, scanned and annotated."""
    street = _street(rng)
    direction = _rays(rng)
    origin = np.array([0.0, 0.0, SENSOR_HEIGHT])
    distances, labels = _cast(origin, direction, street.solids)
    with np.errstate(divide="ignore"):
        ground = np.where(direction[:, 2] < 0, -SENSOR_HEIGHT / direction[:, 2], np.inf)
    first = distances.argmin(axis=1)
    nearest = np.take_along_axis(distances, first[:, None], axis=1)[:, 0]
    distance = np.minimum(nearest, ground)
    hit_label = np.where(nearest < ground, labels[first], 0)

    count = len(street.things)
    alone = np.stack([(distances[:, labels == k] < ground[:, None]).any(axis=1) for k in range(1, count + 1)])
    seen = np.stack([(hit_label == k) & (nearest < ground) for k in range(1, count + 1)])
    hidden = 1 - seen.sum(axis=1) / np.maximum(alone.sum(axis=1), 1)

    kept = (distance < 45.0) & (rng.random(len(distance)) >= DROP_OUTS)
    noisy = distance[kept] + rng.normal(0.0, RANGE_NOISE, int(kept.sum()))
    means = np.array([REMISSION[""], *(REMISSION.get(thing.type, 0.3) for thing in street.things)])
    remission = np.clip(means[hit_label[kept]] + rng.normal(0.0, 0.09, len(noisy)), 0.0, 0.99)
    points = np.concatenate([direction[kept] * noisy[:, None], remission[:, None]], axis=1)
    lines = [_line(thing, share) for thing, share in zip(street.things, hidden, strict=True)]
    return Frame(points.astype(np.float32), [line for line in lines if line is not None])


def calibration_text() -> str:
    """A calib file as KITTI's: P0 to P3, R0_rect, Tr_velo_to_cam, Tr_imu_to_velo, a line each."""
    rows = {f"P{number}": P2 for number in range(4)} | {"R0_rect": R0_RECT, "Tr_velo_to_cam": VELO_TO_CAM}
    rows["Tr_imu_to_velo"] = np.eye(4)[:3]
    return "".join(
        f"{name}: {' '.join(f'{v:.12e}' for v in matrix.ravel())}\n" for name, matrix in rows.items()
    )


# Furnishing a street.


def _street(rng: np.random.Generator) -> Street:
    street = Street()
    for sign in (1, -1):
        x = -2.0
        while x < 44.0:  # walls and hedges with gaps, along both sides
            length = rng.uniform(5.0, 12.0)
            if rng.random() < 0.6:
                y = sign * rng.uniform(12.5, 14.0)
                street.solids.box(0, x + length / 2, y, 0.0, (length, 1.0, rng.uniform(1.2, 5.0)), 0.0)
            x += length
    makers = (
        [(_car, 2.6)] * 5
        + [(_van, 2.8), (_crate, 2.6), (_hedge, 2.4)]
        + [(_pedestrian, 0.7)] * 5
        + [(_cyclist, 1.2)] * 5
        + [(_sitting, 0.7), (_pole, 0.4), (_pole, 0.4), (_pole, 0.4), (_bin, 0.6), (_bin, 0.6)]
        + [(_bicycle, 1.1), (_bicycle, 1.1)]
    )
    for make, radius in makers:
        place = street.place(rng, radius, near=7.0 if radius > 2 else 5.0)
        if place is not None:
            make(street, *place, rng)
    for _ in range(2):  # beyond the range
        x = rng.uniform(34.0, 42.0)
        _car(street, x, rng.uniform(-9.0, 9.0), rng)
        street.things[-1].type = "DontCare"
    return street


def _along(rng: np.random.Generator) -> float:
    """A heading along the street, either way; one in four is any."""
    if rng.random() < 0.25:
        return rng.uniform(-np.pi, np.pi)
    return rng.choice([0.0, np.pi]) + rng.normal(0.0, 0.08)


def _car(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    """A body, and a cabin that sits towards the rear."""
    length, width, height = rng.normal((4.0, 1.65, 1.5), (0.25, 0.06, 0.06))
    yaw = _along(rng)
    label = street.add("Car", x, y, (length, width, height), yaw)
    street.solids.box(label, x, y, 0.2, (length, width, 0.65), yaw)
    back = 0.08 * length
    cabin = (length * 0.55, width * 0.88, height - 0.85)
    street.solids.box(label, x - back * np.cos(yaw), y - back * np.sin(yaw), 0.85, cabin, yaw)


def _van(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    size = tuple(rng.normal((4.8, 1.85, 2.1), (0.3, 0.06, 0.1)))
    yaw = _along(rng)
    label = street.add("Van", x, y, size, yaw)
    street.solids.box(label, x, y, 0.25, (size[0], size[1], size[2] - 0.25), yaw)


def _crate(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    size = tuple(rng.normal((3.4, 1.7, 1.2), (0.3, 0.1, 0.1)))
    street.solids.box(0, x, y, 0.0, size, _along(rng))


def _hedge(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    for step in (-1.2, 0.0, 1.2):
        street.solids.blob(0, x + step, y, 0.6, (0.9, 0.8, rng.uniform(0.7, 1.0)))


def _body(
    street: Street, label: int, x: float, y: float, yaw: float, low: float, high: float, sit: bool = False
) -> None:
    """A torso across the heading, from `low` up to a head that ends at `high`."""
    lean = 0.1 if sit else 0.0
    street.solids.box(
        label, x + lean * np.cos(yaw), y + lean * np.sin(yaw), low, (0.26, 0.46, high - 0.3 - low), yaw
    )
    street.solids.blob(label, x, y, high - 0.17, (0.12, 0.12, 0.17))


def _pedestrian(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    height, yaw, stride = rng.normal(1.73, 0.07), rng.uniform(-np.pi, np.pi), rng.uniform(0.2, 0.34)
    label = street.add("Pedestrian", x, y, (2 * stride + 0.2, 0.6, height), yaw)
    _body(street, label, x, y, yaw, 0.8, height)
    for way, side in ((stride, 0.12), (-stride, -0.12)):
        leg = (x + way * np.cos(yaw) - side * np.sin(yaw), y + way * np.sin(yaw) + side * np.cos(yaw))
        street.solids.cylinder(label, *leg, 0.09, 0.0, 0.85)


def _sitting(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    height, yaw = rng.normal(1.25, 0.05), rng.uniform(-np.pi, np.pi)
    label = street.add("Person_sitting", x, y, (0.8, 0.6, height), yaw)
    _body(street, label, x, y, yaw, 0.4, height, sit=True)
    street.solids.box(label, x + 0.2 * np.cos(yaw), y + 0.2 * np.sin(yaw), 0.0, (0.4, 0.4, 0.45), yaw)


def _cyclist(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    height, yaw = rng.normal(1.73, 0.06), _along(rng) if rng.random() < 0.5 else rng.uniform(-np.pi, np.pi)
    label = street.add("Cyclist", x, y, (1.76, 0.6, height), yaw)
    street.solids.box(label, x, y, 0.05, (1.72, 0.1, 0.85), yaw)
    _body(street, label, x, y, yaw, 0.8, height)


def _bicycle(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    street.solids.box(0, x, y, 0.05, (1.72, 0.1, 0.95), rng.uniform(-np.pi, np.pi))


def _pole(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    street.solids.cylinder(0, x, y, rng.uniform(0.08, 0.22), 0.0, rng.uniform(1.5, 2.2))


def _bin(street: Street, x: float, y: float, rng: np.random.Generator) -> None:
    size = tuple(rng.normal((0.55, 0.5, 1.5), (0.05, 0.05, 0.15)))
    street.solids.box(0, x, y, 0.0, size, rng.uniform(-np.pi, np.pi))


# The sensor.


def _rays(rng: np.random.Generator) -> Array:
    """Unit directions [BEAMS * AZIMUTHS, 3] of the camera's sector, beam by beam from the top."""
    spacing = (lidar.FOV_UP - lidar.FOV_DOWN) / BEAMS
    pitch = np.radians(lidar.FOV_UP - spacing * (np.arange(BEAMS) + 0.5))[:, None]
    pitch = pitch + np.radians(spacing / 6) * rng.normal(0.0, 1.0, (BEAMS, AZIMUTHS))
    yaw = (np.arange(AZIMUTHS) + rng.uniform(0.3, 0.7, (BEAMS, AZIMUTHS))) / AZIMUTHS
    yaw = HALF_VIEW * 1.1 * (2 * yaw - 1)
    direction = (np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch))
    return np.stack(direction, axis=-1).reshape(-1, 3)


def _cast(origin: Array, direction: Array, scene: lidar.Scene) -> tuple[Array, NDArray[np.int64]]:
    """Distance [R, K] of each ray to each solid, inf where missed, and the solids' labels [K]."""
    start, way = origin.astype(np.float32), direction.astype(np.float32)
    distances = [
        lidar._hit_boxes(start, way, np.array(scene.boxes, dtype=np.float32).reshape(-1, 7)),
        lidar._hit_cylinders(start, way, np.array(scene.cylinders, dtype=np.float32).reshape(-1, 5)),
        lidar._hit_blobs(start, way, np.array(scene.blobs, dtype=np.float32).reshape(-1, 6)),
    ]
    labels = np.array(scene.box_label + scene.cylinder_label + scene.blob_label, dtype=np.int64)
    return np.concatenate(distances, axis=1), labels


# Annotation.


def _line(thing: Thing, hidden: float) -> str | None:
    """The label_2 line of a thing, None where the camera doesn't see it."""
    x, y, z, length, width, height, yaw = thing.box
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) / 2
    along, across, up = (signs * (length, width, height)).T
    corner = np.stack(
        [
            x + np.cos(yaw) * along - np.sin(yaw) * across,
            y + np.sin(yaw) * along + np.cos(yaw) * across,
            z + up,
        ],
        1,
    )
    camera = _to_camera(corner)
    if camera[:, 2].min() < 0.5:
        return None
    pixel = camera @ P2[:, :3].T + P2[:, 3]
    pixel = pixel[:, :2] / pixel[:, 2:]
    limit = np.array(IMAGE_SIZE) - 1.0
    whole = np.concatenate([pixel.min(axis=0), pixel.max(axis=0)])
    left, top, right, bottom = np.concatenate([whole[:2].clip(0, limit), whole[2:].clip(0, limit)])
    if right - left < 2 or bottom - top < 2:
        return None
    rectangle = f"{left:.2f} {top:.2f} {right:.2f} {bottom:.2f}"
    if thing.type == "DontCare":
        return f"DontCare -1 -1 -10 {rectangle} -1 -1 -1 -1000 -1000 -1000 -10"
    truncation = 1 - (right - left) * (bottom - top) / (whole[2:] - whole[:2]).prod()
    occlusion = int(np.searchsorted((0.3, 0.7, 0.92), hidden, side="right"))
    foot = _to_camera(np.array([[x, y, z - height / 2]]))[0]
    rotation = _wrap(-yaw - np.pi / 2)
    alpha = _wrap(rotation - np.arctan2(foot[0], foot[2]))
    place = " ".join(f"{value:.2f}" for value in (height, width, length, *foot))
    return f"{thing.type} {truncation:.2f} {occlusion} {alpha:.2f} {rectangle} {place} {rotation:.2f}"


def _to_camera(points: Array) -> Array:
    """LiDAR [N, 3] -> rectified camera coordinates [N, 3]."""
    return (points @ VELO_TO_CAM[:, :3].T + VELO_TO_CAM[:, 3]) @ R0_RECT.T


def _wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
