"""Street scenes and a spinning LiDAR: the scans of the SemanticKITTI miniature, by vectorised ray casting.

A scene is a street seen from its right lane: a road with lane markings, on each side perhaps a parking strip,
a sidewalk, a strip of terrain, and behind it building walls, fences or hedges. On it stand cars, trucks and
vans (boxes), poles, signs and trunks (thin cylinders), persons and riders (two-part solids), and two-wheelers
without riders.

What a method has to tell apart looks alike from near by, on purpose:
- road, parking, sidewalk, terrain and traffic islands are flat planes 0 to 15 cm apart in height and alike in
  remission; what differs is where they are, sideways and in height;
- a fence is a wall that ends lower, a hedge a rough one;
- pole, trunk and a person's trunk are vertical cylinders that differ in width and height alone;
- thin things stand 1 to 4 cm from a wall, a fence or each other: two fifths of the points on poles and a tenth
  of those on all small things are less than a voxel of 0.2 m away from another class (ground left aside).

The sensor: 32 beams from +3 to -25 degrees x 512 azimuths, 1.73 m above the road. Beams are jittered
vertically and a scan has about 14,400 points, so that many collide in an image of 32 x 256 pixels; 5 % of
returns drop out; ranges carry noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.uint32]

BEAMS, AZIMUTHS = 32, 512
FOV_UP, FOV_DOWN = 3.0, -25.0
SENSOR_HEIGHT = 1.73
REACH = 60.0
DROP_OUTS = 0.05
RANGE_NOISE = 0.02

ROAD, PARKING, SIDEWALK, ISLAND, BUILDING, FENCE, LANE_MARKING = 40, 44, 48, 49, 50, 51, 60
VEGETATION, TRUNK, TERRAIN, POLE, SIGN, OTHER_OBJECT = 70, 71, 72, 80, 81, 99
CAR, BICYCLE, MOTORCYCLE, TRUCK, OTHER_VEHICLE = 10, 11, 15, 18, 20
PERSON, BICYCLIST, MOTORCYCLIST = 30, 31, 32
MOVING = {
    CAR: 252,
    BICYCLIST: 253,
    PERSON: 254,
    MOTORCYCLIST: 255,
    TRUCK: 258,
    OTHER_VEHICLE: 259,
}

# Mean remission of a surface; the noise on it is wide, so that it hints at a class and no more.
REMISSION = {
    ROAD: 0.27, PARKING: 0.28, SIDEWALK: 0.31, ISLAND: 0.31, TERRAIN: 0.33, LANE_MARKING: 0.5,
    BUILDING: 0.32, FENCE: 0.32, VEGETATION: 0.28, TRUNK: 0.30, POLE: 0.36, SIGN: 0.6, OTHER_OBJECT: 0.35,
}  # fmt: skip
REMISSION_NOISE = 0.09

BODY = 0.2  # radius of a person's body in metres
TWO_WHEELERS = {BICYCLE: (1.7, 0.1, 1.0), MOTORCYCLE: (2.0, 0.3, 1.05)}  # length, width, height


@dataclass
class Scene:
    """What rays can hit; the street runs along x, the sensor stands above (0, 0), heights are over the road.

    boxes: rows of (centre x, y, z, half length, width, height, yaw).
    cylinders: rows of (x, y, radius, bottom, top), vertical and without caps.
    blobs: rows of (x, y, z, radius x, y, z), ellipsoids.
    *_label: the raw label of each row, instance id in the high 16 bits.
    """

    boxes: list[tuple[float, ...]] = field(default_factory=list)
    cylinders: list[tuple[float, ...]] = field(default_factory=list)
    blobs: list[tuple[float, ...]] = field(default_factory=list)
    box_label: list[int] = field(default_factory=list)
    cylinder_label: list[int] = field(default_factory=list)
    blob_label: list[int] = field(default_factory=list)
    instances: int = 0

    def box(
        self, label: int, x: float, y: float, z: float, size: tuple[float, float, float], yaw: float
    ) -> None:
        """A box of `size` (length, width, height) whose bottom is at z."""
        length, width, height = size
        self.boxes.append((x, y, z + height / 2, length / 2, width / 2, height / 2, yaw))
        self.box_label.append(label)

    def cylinder(self, label: int, x: float, y: float, radius: float, bottom: float, top: float) -> None:
        self.cylinders.append((x, y, radius, bottom, top))
        self.cylinder_label.append(label)

    def blob(self, label: int, x: float, y: float, z: float, radii: tuple[float, float, float]) -> None:
        self.blobs.append((x, y, z, *radii))
        self.blob_label.append(label)

    def thing(self, raw: int, rng: np.random.Generator, moving: float = 0.0) -> int:
        """The label of a new instance of a raw class; with probability `moving` its moving twin."""
        self.instances += 1
        if raw in MOVING and rng.random() < moving:
            raw = MOVING[raw]
        return raw | self.instances << 16


@dataclass
class Side:
    """One side of the street, outwards: the ends of its bands in metres from the road's middle.

    parked: intervals along x in which the first metres of the sidewalk are a parking strip.
    """

    sign: int
    road: float
    parking: float
    sidewalk: float
    terrain: float
    parked: list[tuple[float, float]]

    def edge(self, x: float) -> float:
        """Where the sidewalk begins at x."""
        return self.parking if any(start < x < end for start, end in self.parked) else self.road


@dataclass
class Street:
    """The ground: bands on both sides, the sensor's place across, an island, and the planes' heights."""

    sides: tuple[Side, Side]
    lane: float
    island: tuple[float, float, float] | None
    heights: dict[int, float]


def render_scan(rng: np.random.Generator) -> tuple[NDArray[np.float32], Labels]:
    """One scan of a new scene: float32 [N, 4] (x, y, z in metres, remission) and raw uint32 labels [N].

    Points come beam by beam from the top, each beam from azimuth -180 to 180 degrees.
    """
    street = _street(rng)
    scene = _furnish(street, rng)
    heading = rng.normal(0.0, np.radians(5.0))
    direction = _rays(rng)
    turned = _rotate(direction, heading)
    distance, label = _cast(turned, street, scene, rng)

    hit = np.isfinite(distance) & (distance < REACH) & (rng.random(len(distance)) >= DROP_OUTS)
    rough = np.isin(label & 0xFFFF, (VEGETATION, TERRAIN))
    noise = rng.normal(0.0, 1.0, len(distance)) * np.where(rough, 3 * RANGE_NOISE, RANGE_NOISE)
    points = direction * (distance + noise)[:, None]
    remission = _remission(label & 0xFFFF, distance, rng)
    scan = np.concatenate([points, remission[:, None]], axis=1)[hit].astype(np.float32)
    return scan, label[hit].astype(np.uint32)


def _rays(rng: np.random.Generator) -> Array:
    """Unit directions [BEAMS * AZIMUTHS, 3]; a third of a beam's spacing of vertical jitter."""
    spacing = (FOV_UP - FOV_DOWN) / BEAMS
    pitch = np.radians(FOV_UP - spacing * (np.arange(BEAMS) + 0.5))[:, None]
    pitch = pitch + np.radians(spacing / 3) * rng.normal(0.0, 1.0, (BEAMS, AZIMUTHS))
    yaw = (np.arange(AZIMUTHS) + rng.uniform(0.2, 0.8, (BEAMS, AZIMUTHS))) / AZIMUTHS
    yaw = 2 * np.pi * yaw - np.pi
    direction = (np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch))
    return np.stack(direction, axis=-1).reshape(-1, 3)


def _rotate(direction: Array, angle: float) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = direction.T
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=1)


# Building a scene.


def _street(rng: np.random.Generator) -> Street:
    sides = []
    for sign in (1, -1):
        road = rng.uniform(4.6, 6.6)
        parking = road + 2.3
        parked = []
        if rng.random() < 0.6:
            start = rng.uniform(-28.0, 4.0)
            parked.append((start, start + rng.uniform(14.0, 26.0)))
        sidewalk = parking + rng.uniform(0.6, 1.8)
        terrain = sidewalk + rng.choice([0.4, rng.uniform(2.0, 6.0)], p=[0.3, 0.7])
        sides.append(Side(sign, road, parking, sidewalk, terrain, parked))
    island = None
    if rng.random() < 0.4:
        near = rng.uniform(6.0, 9.0)
        island = (near, near + rng.uniform(6.0, 12.0), rng.uniform(0.7, 1.0))
    heights = {
        ROAD: 0.0,
        PARKING: 0.0,
        SIDEWALK: rng.uniform(0.10, 0.15),
        TERRAIN: rng.uniform(0.04, 0.08),
        ISLAND: 0.13,
    }
    return Street((sides[0], sides[1]), -rng.uniform(1.2, 2.2), island, heights)


def _furnish(street: Street, rng: np.random.Generator) -> Scene:
    """Stand the objects on the street."""
    scene = Scene()
    for side in street.sides:
        _backdrop(scene, side, rng)
        _parked(scene, side, rng)
        _pavement(scene, side, street.heights, rng)
    _traffic(scene, street, rng)
    if street.island is not None:
        near, far, _ = street.island
        _sign_post(scene, rng.uniform(near, far), 0.0, 0.13, rng)
    return scene


def _backdrop(scene: Scene, side: Side, rng: np.random.Generator) -> None:
    """Walls, fences and hedges behind the terrain, piece by piece along x, with thin things before them."""
    x = -45.0
    while x < 45.0:
        length = rng.uniform(8.0, 16.0)
        middle = x + length / 2
        kind = rng.choice(["wall", "fence", "hedge", "open"], p=[0.4, 0.28, 0.2, 0.12])
        front = side.terrain + rng.uniform(0.0, 1.0)
        if kind == "wall":
            centre = side.sign * (front + 3.0)
            scene.box(BUILDING, middle, centre, 0.0, (length, 6.0, rng.uniform(4.0, 9.0)), 0.0)
        elif kind == "fence":
            centre = side.sign * (front + 0.05)
            scene.box(FENCE, middle, centre, 0.0, (length, 0.1, rng.uniform(1.1, 1.7)), 0.0)
            if rng.random() < 0.5:  # a wall that shows above the fence
                height = rng.uniform(4.0, 8.0)
                scene.box(BUILDING, middle, side.sign * (front + 7.0), 0.0, (length * 0.7, 6.0, height), 0.0)
        elif kind == "hedge":
            for place in np.arange(x, x + length, 1.1):
                radii = (rng.uniform(0.7, 1.1), rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.6))
                scene.blob(VEGETATION, place, side.sign * (front + 1.0), 0.5, radii)
        if kind in ("wall", "fence"):
            for place in rng.uniform(x + 0.5, x + length - 0.5, rng.integers(1, 4)):
                _thin(scene, place, side.sign, front, rng)
        x += length


def _thin(scene: Scene, x: float, sign: int, front: float, rng: np.random.Generator) -> None:
    """A pole, trunk, person or leaning two-wheeler, a finger's breadth before a vertical face at `front`."""
    gap = _gap(rng)
    kind = rng.choice(["pole", "trunk", "person", "bicycle", "motorcycle"], p=[0.2, 0.2, 0.25, 0.2, 0.15])
    if kind == "pole":
        radius = rng.uniform(0.05, 0.08)
        scene.cylinder(POLE, x, sign * (front - gap - radius), radius, 0.0, rng.uniform(4.0, 6.0))
    elif kind == "trunk":
        radius = rng.uniform(0.12, 0.2)
        _tree(scene, x, sign * (front - gap - radius), radius, rng)
    elif kind == "person":
        _person(scene, x, sign * (front - gap - BODY), 0.1, rng)
    else:
        raw = BICYCLE if kind == "bicycle" else MOTORCYCLE
        _two_wheeler(scene, raw, x, sign * (front - gap - TWO_WHEELERS[raw][1] / 2), rng)


def _gap(rng: np.random.Generator) -> float:
    return rng.uniform(0.01, 0.04)


def _tree(scene: Scene, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    height = rng.uniform(1.9, 2.6)
    scene.cylinder(TRUNK, x, y, radius, 0.0, height)
    crown = rng.uniform(1.0, 1.6)
    scene.blob(VEGETATION, x, y, height + 0.7 * crown, (crown, crown, crown))


def _sign_post(scene: Scene, x: float, y: float, ground: float, rng: np.random.Generator) -> None:
    """A pole with a plate across the street at eye height."""
    top = rng.uniform(2.1, 2.6)
    scene.cylinder(POLE, x, y, 0.06, ground, top)
    scene.box(SIGN, x - 0.1, y, top - 0.75, (0.05, 0.7, 0.75), rng.normal(0.0, 0.2))


def _person(scene: Scene, x: float, y: float, ground: float, rng: np.random.Generator) -> None:
    """Body and head."""
    label = scene.thing(PERSON, rng, moving=0.5)
    height = rng.uniform(1.55, 1.85)
    scene.cylinder(label, x, y, BODY, ground, ground + height - 0.3)
    scene.blob(label, x, y, ground + height - 0.17, (0.13, 0.13, 0.17))


def _two_wheeler(scene: Scene, raw: int, x: float, y: float, rng: np.random.Generator) -> None:
    """A bicycle or motorcycle without a rider, along x."""
    scene.box(scene.thing(raw, rng), x, y, 0.1, TWO_WHEELERS[raw], rng.normal(0.0, 0.005))


def _rider(scene: Scene, raw: int, x: float, y: float, yaw: float, rng: np.random.Generator) -> None:
    """A bicyclist or motorcyclist with the machine: both carry the rider's class, as in the annotation."""
    label = scene.thing(raw, rng, moving=0.8)
    size = (1.7, 0.15, 0.9) if raw == BICYCLIST else (2.0, 0.55, 0.9)
    scene.box(label, x, y, 0.05, size, yaw)
    scene.cylinder(label, x, y, 0.24 if raw == BICYCLIST else 0.3, 0.8, 1.5)
    scene.blob(label, x, y, 1.65, (0.14, 0.14, 0.17))


def _parked(scene: Scene, side: Side, rng: np.random.Generator) -> None:
    """Cars, now and then a van, in the parking strips; some places stay free, so that the strip shows."""
    for start, end in side.parked:
        place = start + 3.0
        while place < end - 2.0:
            if rng.random() < 0.5:
                raw = OTHER_VEHICLE if rng.random() < 0.2 else CAR
                middle = side.sign * (side.road + 1.2)
                _vehicle(scene, raw, place, middle, rng.normal(0.0, 0.03), 0.0, rng)
            place += rng.uniform(5.5, 7.0)


def _vehicle(
    scene: Scene, raw: int, x: float, y: float, yaw: float, moving: float, rng: np.random.Generator
) -> None:
    """A car (body and cabin), a truck (cab and a high load) or a van (one box)."""
    label = scene.thing(raw, rng, moving)
    along = np.array([np.cos(yaw), np.sin(yaw)])
    if raw == CAR:
        length = rng.uniform(3.8, 4.6)
        scene.box(label, x, y, 0.25, (length, 1.75, 0.6), yaw)
        scene.box(label, x, y, 0.85, (length * 0.55, 1.55, rng.uniform(0.5, 0.65)), yaw)
    elif raw == TRUCK:
        length = rng.uniform(6.0, 8.5)
        scene.box(label, x, y, 0.5, (length, 2.3, rng.uniform(2.3, 3.0)), yaw)
        cab_x, cab_y = np.array([x, y]) + along * (length / 2 + 1.1)
        scene.box(label, cab_x, cab_y, 0.4, (1.8, 2.2, 1.9), yaw)
    else:
        scene.box(label, x, y, 0.3, (rng.uniform(4.6, 5.6), 1.9, rng.uniform(1.8, 2.1)), yaw)


def _pavement(scene: Scene, side: Side, heights: dict[int, float], rng: np.random.Generator) -> None:
    """What stands along the sidewalk: pairs of thin things, posts, trees, bushes, a bin."""
    ground = heights[SIDEWALK]
    for x in rng.uniform(-11.0, 11.0, rng.integers(3, 6)):
        kerb = side.sign * (side.edge(x) + 0.35)
        kind = rng.choice(["pole and person", "persons", "trunk and person", "sign", "person"])
        if kind in ("pole and person", "trunk and person"):
            radius = rng.uniform(0.05, 0.08) if kind == "pole and person" else rng.uniform(0.12, 0.18)
            if kind == "pole and person":
                scene.cylinder(POLE, x, kerb, radius, 0.0, rng.uniform(4.0, 6.0))
            else:
                _tree(scene, x, kerb, radius, rng)
            # The person leans on it: from behind it, as the sensor sees it, to beside it.
            apart, angle = radius + BODY + _gap(rng), rng.uniform(0.0, np.pi)
            place = (x + apart * np.cos(angle), kerb + side.sign * apart * np.sin(angle))
            _person(scene, *place, ground, rng)
        elif kind == "sign":
            _sign_post(scene, x, kerb, 0.0, rng)
        else:
            _person(scene, x, kerb, ground, rng)
            if kind == "persons":
                _person(scene, x + 0.6, kerb + rng.uniform(-0.05, 0.05), ground, rng)
    if side.terrain - side.sidewalk > 1.5:
        for x in rng.uniform(-22.0, 22.0, rng.integers(2, 6)):
            y = side.sign * rng.uniform(side.sidewalk + 0.4, side.terrain - 0.4)
            if rng.random() < 0.5:
                _tree(scene, x, y, rng.uniform(0.15, 0.28), rng)
            else:
                radius = rng.uniform(0.4, 0.9)
                scene.blob(VEGETATION, x, y, 0.2, (radius, radius, rng.uniform(0.5, 1.2)))
    if rng.random() < 0.5:
        x = rng.uniform(-15.0, 15.0)
        scene.box(OTHER_OBJECT, x, side.sign * (side.edge(x) + 0.35), ground, (0.6, 0.6, 1.1), 0.0)


def _traffic(scene: Scene, street: Street, rng: np.random.Generator) -> None:
    """Vehicles and riders on the road; none abreast of the sensor, where it would hide half the street."""
    left, right = street.sides
    lanes = (street.lane, 1.9)
    places = [(rng.choice([-1, 1]) * rng.uniform(9.0, 30.0), lanes[0])]
    places += [(rng.choice([-1, 1]) * rng.uniform(9.0, 30.0), lanes[1]) for _ in range(2)]
    for x, y in places:
        if street.island is not None and street.island[0] - 5 < x < street.island[1] + 5 and y > 0:
            continue
        raw = int(rng.choice([CAR, TRUCK, OTHER_VEHICLE], p=[0.45, 0.35, 0.2]))
        _vehicle(scene, raw, x, y, 0.0 if y < 0 else np.pi, 0.7, rng)
    for raw, count in ((BICYCLIST, rng.integers(1, 3)), (MOTORCYCLIST, rng.integers(0, 3))):
        for _ in range(count):
            side = left if rng.random() < 0.5 else right
            x = rng.choice([-1, 1]) * rng.uniform(4.0, 14.0)
            y = side.sign * (side.road - rng.uniform(0.5, 1.0))
            _rider(scene, raw, x, y, rng.normal(0.0, 0.1), rng)


# Casting rays. The sensor is at (0, lane, SENSOR_HEIGHT) in the street's frame.


def _cast(
    direction: Array, street: Street, scene: Scene, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64]]:
    """The nearest hit of each ray [R, 3]: distance [R] in metres (inf: none) and label with instance [R]."""
    origin = np.array([0.0, street.lane, SENSOR_HEIGHT])
    ground, ground_label = _hit_ground(origin, direction, street)
    # Single precision halves the time and is exact to micrometres here.
    start, way = origin.astype(np.float32), direction.astype(np.float32)
    objects = [
        _hit_boxes(start, way, np.array(scene.boxes, dtype=np.float32).reshape(-1, 7)),
        _hit_cylinders(start, way, np.array(scene.cylinders, dtype=np.float32).reshape(-1, 5)),
        _hit_blobs(start, way, np.array(scene.blobs, dtype=np.float32).reshape(-1, 6)),
    ]
    # One ray in six slips through the leaves.
    leaves = np.array(scene.blob_label, dtype=np.int64) == VEGETATION
    objects[2][(rng.random(len(direction)) < 1 / 6)[:, None] & leaves] = np.inf
    labels = np.array(scene.box_label + scene.cylinder_label + scene.blob_label, dtype=np.int64)
    distances = np.concatenate(objects, axis=1)
    first = distances.argmin(axis=1)
    nearest = np.take_along_axis(distances, first[:, None], axis=1)[:, 0]
    on_object = nearest < ground
    return np.where(on_object, nearest, ground), np.where(on_object, labels[first], ground_label)


def _hit_ground(origin: Array, direction: Array, street: Street) -> tuple[Array, NDArray[np.int64]]:
    """The first plane a ray meets inside its own band; a ray into a kerb's face meets none and is lost."""
    with np.errstate(divide="ignore"):
        down = np.where(direction[:, 2] < 0, -1.0 / direction[:, 2], np.inf)
    distance = np.full(len(direction), np.inf)
    label = np.zeros(len(direction), dtype=np.int64)
    for raw, height in street.heights.items():
        plane = (origin[2] - height) * down
        reach = np.where(plane < REACH, plane, 0.0)
        x = origin[0] + reach * direction[:, 0]
        y = origin[1] + reach * direction[:, 1]
        nearer = (plane < REACH) & (plane < distance) & (_band(x, y, street) == raw)
        distance[nearer] = plane[nearer]
        label[nearer] = raw
        if raw == ROAD:
            dashed = (np.abs(y) < 0.12) & (x % 6.0 < 3.5)
            label[nearer & dashed] = LANE_MARKING
    return distance, label


def _band(x: Array, y: Array, street: Street) -> NDArray[np.int64]:
    """The raw class of the ground at places [R]."""
    band = np.full(len(x), TERRAIN)
    for side in street.sides:
        outwards = side.sign * y
        mine = outwards >= 0
        band[mine & (outwards < side.sidewalk)] = SIDEWALK
        for start, end in side.parked:
            band[mine & (outwards < side.parking) & (x > start) & (x < end)] = PARKING
        band[mine & (outwards < side.road)] = ROAD
    if street.island is not None:
        near, far, half = street.island
        band[(x > near) & (x < far) & (np.abs(y) < half)] = ISLAND
    return band


def _hit_boxes(origin: Array, direction: Array, boxes: Array) -> Array:
    """Slab test: rays [R, 3] against boxes [K, 7] -> distances [R, K], inf where missed."""
    centre, half, yaw = boxes[:, :3], boxes[:, 3:6], boxes[:, 6]
    cos, sin = np.cos(yaw), np.sin(yaw)
    start = origin - centre
    starts = (cos * start[:, 0] + sin * start[:, 1], -sin * start[:, 0] + cos * start[:, 1], start[:, 2])
    x, y, z = direction[:, :1], direction[:, 1:2], direction[:, 2:]
    enter = np.zeros((len(direction), len(boxes)), dtype=direction.dtype)
    leave = np.full_like(enter, np.inf)
    for axis, heading in enumerate((x * cos + y * sin, y * cos - x * sin, z)):
        inverse = 1.0 / np.where(np.abs(heading) < 1e-12, 1e-12, heading)
        middle = -starts[axis] * inverse
        reach = half[:, axis] * np.abs(inverse)
        np.maximum(enter, middle - reach, out=enter)
        np.minimum(leave, middle + reach, out=leave)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def _hit_cylinders(origin: Array, direction: Array, cylinders: Array) -> Array:
    """Rays [R, 3] against vertical cylinders [K, 5] from outside -> distances [R, K], inf where missed."""
    start = origin[:2] - cylinders[:, :2]
    radius, bottom, top = cylinders[:, 2:].T
    flat = (direction[:, :2] ** 2).sum(axis=1, keepdims=True)
    half_slope = direction[:, :1] * start[:, 0] + direction[:, 1:2] * start[:, 1]
    root = half_slope**2 - flat * ((start**2).sum(axis=1) - radius**2)
    distance = (-half_slope - np.sqrt(np.maximum(root, 0.0))) / flat
    height = origin[2] + distance * direction[:, 2:]
    hit = (root > 0) & (distance > 0) & (height > bottom) & (height < top)
    return np.where(hit, distance, np.inf)


def _hit_blobs(origin: Array, direction: Array, blobs: Array) -> Array:
    """Rays [R, 3] against ellipsoids [K, 6] -> distances [R, K], inf where missed."""
    inverse = 1.0 / blobs[:, 3:]
    start = (origin - blobs[:, :3]) * inverse
    x, y, z = (direction[:, axis, None] * inverse[:, axis] for axis in range(3))
    square = x * x + y * y + z * z
    half_slope = x * start[:, 0] + y * start[:, 1] + z * start[:, 2]
    root = half_slope**2 - square * ((start**2).sum(axis=1) - 1.0)
    distance = (-half_slope - np.sqrt(np.maximum(root, 0.0))) / square
    return np.where((root > 0) & (distance > 0), distance, np.inf)


def _remission(raw: NDArray[np.int64], distance: Array, rng: np.random.Generator) -> Array:
    """Remission 0..0.99 of each ray, a little weaker from far away."""
    means = np.full(1 << 16, 0.35)
    means[list(REMISSION)] = list(REMISSION.values())
    faded = means[raw] - 0.002 * np.where(np.isfinite(distance), distance, 0.0)
    return np.clip(faded + rng.normal(0.0, REMISSION_NOISE, len(raw)), 0.0, 0.99)
