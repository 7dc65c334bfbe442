"""Crops of walking persons under fixed cameras.

A person keeps the colours and patterns of the clothes, hair and bag; pose, mirroring, place and size change from
crop to crop. A camera has a strong background of its own, nearly the same in all its crops, a colour cast and
a blur: crops of one camera look alike before anything of the person does. Two styles differ in palette, grounds,
casts and blur, so that what is learnt on one is worth less on the other.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.floating]
Style = Literal["summer", "winter"]

PATTERNS = ("plain", "hoops", "pinstripes", "checks", "band")
BAGS = ("none", "satchel", "backpack")
JOINTS = (
    "head",
    *(
        f"{side} {joint}"
        for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
)
"""In the order in which `Crops.joints` holds them."""
CHUNK = 64
"""Crops painted at once."""

# Clothes in RGB; a person's are one of these, a little changed.
SHIRTS = {
    "summer": [
        (0.85, 0.2, 0.2),
        (0.95, 0.85, 0.3),
        (0.3, 0.6, 0.9),
        (0.95, 0.95, 0.92),
        (0.35, 0.75, 0.4),
        (0.9, 0.55, 0.7),
    ],
    "winter": [
        (0.15, 0.16, 0.2),
        (0.2, 0.25, 0.45),
        (0.45, 0.2, 0.22),
        (0.4, 0.42, 0.38),
        (0.55, 0.45, 0.3),
        (0.3, 0.4, 0.35),
    ],
}
TROUSERS = {
    "summer": [
        (0.25, 0.35, 0.6),
        (0.75, 0.68, 0.5),
        (0.15, 0.15, 0.18),
        (0.85, 0.85, 0.85),
        (0.5, 0.3, 0.25),
    ],
    "winter": [(0.12, 0.12, 0.16), (0.2, 0.26, 0.42), (0.4, 0.34, 0.28), (0.3, 0.3, 0.32), (0.2, 0.28, 0.22)],
}
HAIR = [(0.12, 0.09, 0.08), (0.4, 0.26, 0.15), (0.8, 0.66, 0.4), (0.55, 0.55, 0.55)]
BLUR = {"summer": (0.3, 0.8), "winter": (0.8, 1.2)}


@dataclass(frozen=True)
class Persons:
    """What P persons wear: colours float [P, 3], patterns and bags int [P], indices into `PATTERNS` and `BAGS`;
    shorts: bool [P]."""

    shirt: Array
    print: Array
    trousers: Array
    hair: Array
    skin: Array
    bag_colour: Array
    pattern: NDArray[np.int64]
    bag: NDArray[np.int64]
    shorts: NDArray[np.bool_]

    def __getitem__(self, index: NDArray[np.int64]) -> Persons:
        return Persons(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass(frozen=True)
class Cameras:
    """What C cameras see without a person: backgrounds float [C, H + 2 MARGIN, W + 2 MARGIN, 3], colour gains [C, 3]
    and blur (pixels of a 128-pixel crop) [C]."""

    ground: Array
    gain: Array
    blur: Array


MARGIN = 4


@dataclass(frozen=True)
class Crops:
    """pictures uint8 [N, H, W, 3]; masks bool [N, H, W], True on the person; joints float [N, 13, 2], (x, y) in
    pixels in the order of `JOINTS`."""

    pictures: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    joints: Array


def draw_persons(count: int, style: Style, random: np.random.Generator) -> Persons:
    """Clothes of so many persons. Every fourth is its neighbour's double but for pattern and bag."""

    def dyed(palette: list[tuple[float, float, float]], spread: float) -> Array:
        chosen = np.array(palette)[random.integers(len(palette), size=count)]
        return np.clip(chosen + random.normal(0, spread, (count, 3)), 0.03, 1)

    shirt = dyed(SHIRTS[style], 0.08)
    # The print is the shirt's own colour, a bit lighter or darker: of small contrast.
    lighter = np.where(shirt.mean(1, keepdims=True) < 0.5, 1.0, -1.0)
    persons = {
        "shirt": shirt,
        "print": np.clip(
            shirt + lighter * random.uniform(0.2, 0.4, (count, 1)) + random.normal(0, 0.08, (count, 3)), 0, 1
        ),
        "trousers": dyed(TROUSERS[style], 0.06),
        "hair": dyed(HAIR, 0.04),
        "skin": np.array([0.85, 0.66, 0.54]) * random.uniform(0.6, 1.1, (count, 1)),
        "bag_colour": random.uniform(0.05, 0.9, (count, 3)),
        "pattern": random.integers(len(PATTERNS), size=count),
        "bag": random.integers(len(BAGS), size=count),
        "shorts": random.random(count) < (0.4 if style == "summer" else 0.05),
    }
    for double in range(3, count, 4):
        for name in ("shirt", "print", "trousers", "hair", "skin", "shorts"):
            persons[name][double] = persons[name][double - 1]
        persons["pattern"][double] = (persons["pattern"][double - 1] + 2) % len(PATTERNS)
        persons["bag"][double] = (persons["bag"][double - 1] + 1) % len(BAGS)
    return Persons(**persons)


def draw_cameras(count: int, style: Style, size: tuple[int, int], random: np.random.Generator) -> Cameras:
    """So many cameras; size: (height, width) of their crops."""
    height, width = size[0] + 2 * MARGIN, size[1] + 2 * MARGIN
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    ground = np.empty((count, height, width, 3))
    hue = (np.arange(count) / count + random.uniform(0, 1)) % 1
    vivid = 0.3 if style == "summer" else 0.2
    for camera in range(count):
        wall, floor, thing = (_vivid(hue[camera] + turn, vivid, random.uniform(*light)) for turn, light in
                              ((0, (0.45, 0.75)), (0.12, (0.3, 0.6)), (0.45, (0.3, 0.8))))  # fmt: skip
        horizon = random.uniform(0.45, 0.7)
        picture = np.where((y < horizon)[..., None], wall, floor)
        bars = (
            np.sin(2 * np.pi * (x * random.uniform(2, 5) + y * random.uniform(-2, 2)) + random.uniform(0, 6))
            > 0.3
        )
        picture = np.where((bars & (y < horizon))[..., None], picture * 0.7, picture)
        tiles = (np.floor(x * random.integers(3, 6)) + np.floor(y * random.integers(6, 12))) % 2
        picture = np.where(((tiles > 0) & (y >= horizon))[..., None], picture * 1.25, picture)
        left, top = random.uniform(-0.05, 0.75), random.uniform(0.1, 0.7)
        box = (abs(x - left - 0.15) < 0.15) & (abs(y - top - 0.12) < 0.12)
        ground[camera] = np.where(box[..., None], thing, picture)
    return Cameras(
        ground=np.clip(ground, 0, 1).astype(np.float32),
        gain=random.uniform(0.88, 1.12, (count, 3)),
        blur=random.uniform(*BLUR[style], count),
    )


def draw_crops(
    persons: Persons,
    cameras: Cameras,
    person: NDArray[np.int64],
    camera: NDArray[np.int64],
    size: tuple[int, int],
    random: np.random.Generator,
) -> Crops:
    """One crop for each pair of a person and a camera: int [N] each, indices into `persons` and `cameras`."""
    parts = [
        _paint(persons[person[i : i + CHUNK]], cameras, camera[i : i + CHUNK], size, random)
        for i in range(0, len(person), CHUNK)
    ]
    return Crops(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Crops)))


def draw_grounds(
    cameras: Cameras, camera: NDArray[np.int64], size: tuple[int, int], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Crops without a person: what a detector takes for one. -> uint8 [N, H, W, 3]"""
    return _develop(_grounds(cameras, camera, size, random), cameras, camera, random)


def _paint(
    who: Persons,
    cameras: Cameras,
    camera: NDArray[np.int64],
    size: tuple[int, int],
    random: np.random.Generator,
) -> Crops:
    joints, width, mirrored = _pose(len(camera), size, random)
    canvas = _Canvas(_grounds(cameras, camera, size, random), size)
    at = {name: joints[:, number] for number, name in enumerate(JOINTS)}
    half = width * 0.19
    chest = (at["left shoulder"] + at["right shoulder"]) / 2
    waist = (at["left hip"] + at["right hip"]) / 2
    down = np.array([0.0, 0.05])

    if (who.bag == 2).any():  # a backpack shows beside the back
        aside = np.where(mirrored, -0.16, 0.16)[:, None] * width[:, None] * np.array([1.0, 0])
        canvas.capsule(chest + aside + 2 * down, chest + aside + 7 * down, 0.13, who.bag_colour, who.bag == 2)
    for side in ("right", "left"):
        lower = np.where(who.shorts[:, None], who.skin, who.trousers)
        canvas.capsule(at[f"{side} knee"], at[f"{side} ankle"], 0.065, lower)
        canvas.capsule(at[f"{side} hip"], at[f"{side} knee"], 0.095, who.trousers)
        canvas.capsule(
            at[f"{side} ankle"], at[f"{side} ankle"] + np.array([0.06, 0.02]), 0.05, who.hair * 0.6
        )
    canvas.capsule(at["right shoulder"], at["right elbow"], 0.065, who.shirt * 0.9)
    canvas.capsule(at["right elbow"], at["right wrist"], 0.05, who.skin * 0.9)
    canvas.torso(chest, waist, half, who)
    canvas.capsule(at["left shoulder"], at["left elbow"], 0.065, who.shirt * 0.95)
    canvas.capsule(at["left elbow"], at["left wrist"], 0.05, who.skin)
    canvas.capsule(at["head"] + 3 * down, chest, 0.05, who.skin)
    canvas.capsule(at["head"], at["head"] + down, 0.12, who.skin)
    canvas.capsule(at["head"] - 1.2 * down, at["head"] - 0.6 * down, 0.125, who.hair)
    hip = at["left hip"] + np.where(mirrored, -0.1, 0.1)[:, None] * np.array([1.0, 0])
    canvas.capsule(hip, hip + 3 * down, 0.11, who.bag_colour, who.bag == 1)
    canvas.capsule(at["right shoulder"], hip, 0.02, who.bag_colour, who.bag == 1)

    pixels = size[0] / 2
    return Crops(_develop(canvas.colour, cameras, camera, random), canvas.mask > 0.5, joints * pixels)


class _Canvas:
    """N pictures that parts are painted on, in units of half a crop's height."""

    def __init__(self, ground: Array, size: tuple[int, int]) -> None:
        self.colour = ground
        self.mask = np.zeros(ground.shape[:3], np.float32)
        self.pixels = size[0] / 2
        grid = [((np.arange(length) + 0.5) / self.pixels).astype(np.float32) for length in size]
        self.y, self.x = np.meshgrid(*grid, indexing="ij")

    def capsule(
        self, start: Array, end: Array, radius: float, colour: Array, shown: NDArray[np.bool_] | None = None
    ) -> None:
        """A thick line: start, end [N, 2]; colour [N, 3]; shown: bool [N]."""
        rows = self._rows(start[:, 1], end[:, 1], radius)
        along = (end - start).astype(np.float32)
        dx, dy = self.x[rows] - _column(start[:, 0]), self.y[rows] - _column(start[:, 1])
        length = np.maximum((along**2).sum(1), 1e-6)
        t = np.clip((dx * _column(along[:, 0] / length) + dy * _column(along[:, 1] / length)), 0, 1)
        distance = np.hypot(dx - t * _column(along[:, 0]), dy - t * _column(along[:, 1]))
        self._cover(rows, (radius - distance) * self.pixels, _plain(colour), shown)

    def torso(self, chest: Array, waist: Array, half: Array, who: Persons) -> None:
        """A rounded box from chest to waist with the shirt's pattern on it; half: half its width [N]."""
        rows = self._rows(chest[:, 1], waist[:, 1], 0.1)
        length = _column((waist - chest)[:, 1])
        dy = (self.y[rows] - _column(chest[:, 1])) / length
        middle = _column(chest[:, 0]) + np.clip(dy, 0, 1) * _column((waist - chest)[:, 0])
        dx = (self.x[rows] - middle) / _column(half)
        inside = np.minimum((1 - abs(dx)) * _column(half), (0.54 - abs(dy - 0.45)) * length)
        painted = np.stack(
            [
                np.zeros_like(dx),
                np.sin(2 * np.pi * 3.5 * dy) > 0,
                np.sin(2 * np.pi * 1.6 * dx) > 0.1,
                (np.sin(2 * np.pi * 2.2 * dy) > 0) ^ (np.sin(2 * np.pi * 1.0 * dx) > 0),
                abs(dy - 0.35) < 0.16,
            ]
        )[who.pattern, np.arange(len(dx))][..., None]
        colour = painted * _plain(who.print) + (1 - painted) * _plain(who.shirt)
        self._cover(rows, inside * self.pixels, colour)

    def _rows(self, first: Array, last: Array, beyond: float) -> slice:
        """The rows that a part can reach in any of the pictures: all others are left alone."""
        top, bottom = min(first.min(), last.min()) - beyond, max(first.max(), last.max()) + beyond
        return slice(max(0, int(top * self.pixels) - 1), max(1, int(bottom * self.pixels) + 2))

    def _cover(
        self, rows: slice, depth: Array, colour: Array, shown: NDArray[np.bool_] | None = None
    ) -> None:
        """depth: pixels inside the part's outline [N, rows, W]."""
        cover = np.clip(depth + 0.5, 0, 1)
        if shown is not None:
            cover = cover * shown[:, None, None]
        self.mask[:, rows] = np.maximum(self.mask[:, rows], cover)
        self.colour[:, rows] += cover[..., None] * (colour - self.colour[:, rows])


def _column(values: Array) -> Array:
    """[N] -> float32 [N, 1, 1]"""
    return values.astype(np.float32)[:, None, None]


def _plain(colour: Array) -> Array:
    """[N, 3] -> float32 [N, 1, 1, 3]"""
    return colour.astype(np.float32)[:, None, None]


def _pose(
    count: int, size: tuple[int, int], random: np.random.Generator
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Joints [N, 13, 2] as (x, y) in units of half the height, the body's relative width [N], and whether it is
    mirrored [N]."""
    swing = 0.16 * np.sin(random.uniform(0, 2 * np.pi, count))
    width = random.uniform(0.9, 1.2, count)
    lean = random.normal(0, 0.02, count)
    zero = np.zeros(count)
    table = [(lean, zero + 0.2)]
    for joint, aside, height, swung in (
        ("shoulder", 0.17, 0.42, 0.0),
        ("elbow", 0.21, 0.7, -0.6),
        ("wrist", 0.2, 0.95, -1.3),
        ("hip", 0.1, 0.98, 0.0),
        ("knee", 0.1, 1.38, 0.7),
        ("ankle", 0.09, 1.78, 1.3),
    ):
        for sign in (1, -1):  # the wearer's left is on the right of the picture
            offset = sign * (aside * width + swung * swing) + (lean if joint == "shoulder" else zero)
            table.append((offset, zero + height - (0.05 * abs(swing) if joint == "ankle" else zero)))
    joints = np.stack([np.stack(pair, axis=1) for pair in table], axis=1)
    mirrored = random.random(count) < 0.5
    scale = random.uniform(0.88, 1.06, count)[:, None, None]
    place = np.stack(
        [size[1] / size[0] + random.normal(0, 0.04, count), 1.0 + random.normal(0, 0.03, count)], axis=1
    )
    return (joints - [0.0, 1.0]) * scale + place[:, None], width, mirrored


def _grounds(
    cameras: Cameras, camera: NDArray[np.int64], size: tuple[int, int], random: np.random.Generator
) -> Array:
    """Backgrounds [N, H, W, 3], shifted by up to `MARGIN` pixels."""
    shift = random.integers(0, 2 * MARGIN + 1, (2, len(camera)))
    rows = shift[0][:, None] + np.arange(size[0])
    columns = shift[1][:, None] + np.arange(size[1])
    return cameras.ground[camera[:, None, None], rows[:, :, None], columns[:, None, :]]


def _develop(
    colour: Array, cameras: Cameras, camera: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.uint8]:
    """What the camera makes of a scene: blur, cast, exposure, noise."""
    factor = colour.shape[1] / 128
    blurred = np.stack(
        [
            gaussian_filter(picture, (s * factor, s * factor, 0))
            for picture, s in zip(colour, cameras.blur[camera], strict=True)
        ]
    )
    exposure = random.uniform(0.92, 1.08, (len(camera), 1))
    lit = blurred * _plain(cameras.gain[camera] * exposure)
    return np.round(np.clip(lit + 0.02 * random.standard_normal(lit.shape, np.float32), 0, 1) * 255).astype(
        np.uint8
    )


def _vivid(hue: float, saturation: float, value: float) -> Array:
    """A colour [3] by hue (turns), saturation and value."""
    import colorsys

    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))
