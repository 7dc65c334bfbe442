"""Rendered faces: people told apart by details that vanish when the picture is shrunk eight times.

Each person has fine traits (iris colour, brow shape, wrinkles, moles, beard stipple, lip outline, earrings,
strands of hair) and shares skin, hair colour and width of face with every eighth other person, a look-alike.
Each picture of a person adds nuisances (shift, yaw, light, expression, clothes, ground) and may hide a
region: eyes behind sunglasses, the mouth behind a hand, one brow under hair. All pictures of a set are drawn
at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.base import random_generator

Array = NDArray[np.float32]

LOOKS = 8
REGIONS = ("eyes", "mouth", "left brow", "right brow")
HIDDEN = (0.4, 0.35, 0.25)
"""Shares of pictures with none, one and two hidden regions."""
EYES, BROWS, MOUTH = (0.27, -0.1), (0.27, -0.31), (0.0, 0.42)
CHUNK = 10


@dataclass(frozen=True)
class People:
    """Traits by name, each [people, ...]; index with `of` for the person of each picture."""

    traits: dict[str, Array]

    def of(self, person: NDArray[np.int64]) -> dict[str, Array]:
        """The traits of the person on each picture: numbers [N, 1, 1], colours and places [N, 1, 1, K]."""
        return {name: values[person][:, None, None] for name, values in self.traits.items()}


def people(count: int, *seed: int | str) -> People:
    """`count` persons; person i looks like i + 8, i + 16 ... from far away."""
    random = random_generator("faces", "people", *seed)
    look = np.arange(count) % LOOKS
    coarse = random_generator("faces", "looks")
    skin = np.array([[0.94, 0.78, 0.66], [0.80, 0.60, 0.46], [0.60, 0.42, 0.31], [0.88, 0.68, 0.52]])
    hair = np.array([[0.16, 0.11, 0.09], [0.42, 0.27, 0.15], [0.74, 0.58, 0.32], [0.52, 0.50, 0.50]])
    irises = np.array(
        [[0.10, 0.42, 0.85], [0.14, 0.62, 0.26], [0.42, 0.22, 0.06], [0.72, 0.52, 0.08], [0.5, 0.6, 0.68]]
    )
    jewels = np.array([[0.95, 0.85, 0.2], [0.2, 0.8, 0.85], [0.85, 0.15, 0.5], [0.95, 0.95, 0.98]])
    lips = np.array([[0.72, 0.16, 0.22], [0.82, 0.45, 0.42], [0.45, 0.12, 0.30], [0.66, 0.34, 0.28]])

    def between(low: float, high: float, *shape: int) -> Array:
        return random.uniform(low, high, (count, *shape)).astype(np.float32)

    def pick(colours: NDArray[np.float64]) -> Array:
        return colours[random.integers(len(colours), size=count)].astype(np.float32)

    traits = {
        "skin": skin[look % 4].astype(np.float32),
        "hair": hair[(look + look // 4) % 4].astype(np.float32),
        "width": coarse.uniform(0.56, 0.66, LOOKS)[look].astype(np.float32),
        "iris": pick(irises),
        "iris_size": between(0.065, 0.095),
        "eye_height": between(0.07, 0.12),
        "brow_arch": between(-2.5, 4.0),
        "brow_slant": between(-0.45, 0.45),
        "brow_thickness": between(0.022, 0.06),
        "wrinkles": between(0.0, 0.3),
        "wrinkle_period": between(0.13, 0.22),
        "wrinkle_bend": between(-1.0, 1.0),
        "beard": (between(0.0, 1.0) > 0.5) * between(0.25, 0.5),
        "beard_period": between(0.15, 0.24),
        "beard_angle": between(0.0, np.pi / 2),
        "moles": np.stack([between(-0.45, 0.45, 4), between(0.05, 0.62, 4)], axis=-1),
        "mole_size": between(0.025, 0.055, 4),
        "lip": pick(lips),
        "lip_height": between(0.06, 0.13),
        "lip_width": between(0.18, 0.27),
        "liner": (between(0.0, 1.0) > 0.5) * between(0.4, 0.9),
        "jewel": pick(jewels),
        "jewel_size": (between(0.0, 1.0) > 0.35) * between(0.05, 0.085),
        "strands": between(0.15, 0.3),
        "strand_period": between(0.14, 0.24),
        "fringe": between(-0.62, -0.48),
        "fringe_slant": between(-0.25, 0.25),
    }
    return People(traits)


def draw_faces(
    traits: People, person: NDArray[np.int64], height: int, width: int, *seed: int | str
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One picture for each entry of `person`, each with its own nuisances.

    Returns RGB uint8 [N, height, width, 3] and the pixels of a hidden region, bool [N, height, width].
    """
    pictures, masks = [], []
    for start in range(0, len(person), CHUNK):
        some = person[start : start + CHUNK]
        random = random_generator("faces", "pictures", *seed, start)
        picture, mask = _draw(traits.of(some), len(some), height, width, random)
        pictures.append(picture)
        masks.append(mask)
    return np.concatenate(pictures), np.concatenate(masks)


def _draw(
    who: dict[str, Array], count: int, height: int, width: int, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    def between(low: float, high: float, *shape: int) -> Array:
        return random.uniform(low, high, (count, 1, 1, *shape)).astype(np.float32)

    pixel = width / 2
    x = ((np.arange(width, dtype=np.float32) + 0.5) / pixel - 1)[None, None, :]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / pixel - height / width)[None, :, None]
    across, down = x - between(-0.06, 0.06), y - between(-0.06, 0.06)
    u = across - between(-0.065, 0.065) * np.clip(1 - (across / 0.8) ** 2, 0, 1)  # yaw: the middle moves most
    v = down

    def cover(inside: Array) -> Array:
        """1 where `inside` < 0, with edges one pixel soft."""
        return np.clip(0.5 - inside * pixel, 0, 1)

    def blend(coverage: Array, colour: Array | float) -> None:
        """Lay `colour` over the canvas, in the rectangle that is covered at all."""
        touched = coverage.any(axis=0)
        rows, columns = (np.flatnonzero(touched.any(axis=axis)) for axis in (1, 0))
        if len(rows) == 0:
            return
        part = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if isinstance(colour, np.ndarray) and colour.shape[2] > 1:
            colour = colour[part]
        canvas[part] += coverage[part][..., None] * (colour - canvas[part])

    def ellipse(
        cx: Array | float, cy: Array | float, rx: Array | float, ry: Array | float, shear: Array | float = 0.0
    ) -> Array:
        """Below 0 inside, in about units of the plane."""
        du, dv = u - cx, v - cy
        return (np.sqrt((du / rx) ** 2 + ((dv - shear * du) / ry) ** 2) - 1) * np.minimum(rx, ry)

    ground = between(0.25, 0.75, 3) + between(-0.12, 0.12, 3) * x[..., None] + 0 * y[..., None]
    canvas = ground.astype(np.float32)
    dark_hair = who["hair"] * 0.55
    strands = 1 + who["strands"] * np.sin(2 * np.pi / who["strand_period"] * (u + 0.25 * v))

    # Body, hair behind, ears with their jewels, face.
    blend(cover(ellipse(0.0, 1.45, 0.95, 0.55)), between(0.1, 0.8, 3))
    blend(cover(ellipse(0.0, -0.2, who["width"] + 0.2, 0.95)), who["hair"] * strands[..., None])
    blend(cover(ellipse(0.0, 0.8, 0.28, 0.45)), who["skin"] * 0.82)
    face = cover(ellipse(0.0, 0.05, who["width"], 0.82))
    for side in (-1, 1):
        blend(cover(ellipse(side * who["width"], 0.02, 0.08, 0.15)), who["skin"] * 0.9)
    blend(face, who["skin"])
    for side in (-1, 1):
        jewel = ellipse(
            side * (who["width"] + 0.03), 0.24, who["jewel_size"] + 1e-3, who["jewel_size"] + 1e-3
        )
        blend(cover(jewel), who["jewel"])

    # Skin: wrinkles on the forehead, moles, beard stipple.
    forehead = cover(ellipse(0.0, -0.42, 0.4, 0.16)) * face
    waves = np.sin(2 * np.pi / who["wrinkle_period"] * (v + who["wrinkle_bend"] * u**2))
    blend(forehead * who["wrinkles"] * (0.5 + 0.5 * waves), 0.0)
    for number in range(4):
        place, size = who["moles"][..., number, :], who["mole_size"][..., number]
        blend(cover(ellipse(place[..., 0], place[..., 1], size, size)) * face, who["skin"] * 0.3)
    turned = u * np.cos(who["beard_angle"]) + v * np.sin(who["beard_angle"])
    crossed = v * np.cos(who["beard_angle"]) - u * np.sin(who["beard_angle"])
    wave_number = 2 * np.pi / who["beard_period"]
    stipple = np.clip(2 * np.sin(wave_number * turned) * np.sin(wave_number * crossed), 0, 1)
    jaw = face * np.clip((v - 0.2) * 8, 0, 1)
    blend(jaw * who["beard"] * (0.3 + 1.4 * stipple).clip(0, 1), dark_hair)

    # Nose, mouth, eyes, brows: with the expression of the picture.
    smile, gape, raised, lids = (
        between(-0.9, 0.9),
        between(0.0, 0.05),
        between(-0.03, 0.03),
        between(0.65, 1.0),
    )
    blend(cover(np.abs(u - 0.05) - 0.02) * cover(np.abs(v - 0.08) - 0.13) * 0.6, who["skin"] * 0.65)
    blend(cover(ellipse(0.0, 0.22, 0.1, 0.035)) * 0.6, who["skin"] * 0.6)
    lip_width, lip_height = who["lip_width"], who["lip_height"] + gape
    bent = v - MOUTH[1] + smile * u**2
    mouth = (np.sqrt((u / lip_width) ** 2 + (bent / lip_height) ** 2) - 1) * lip_height
    blend(cover(mouth - 0.03) * who["liner"], who["lip"] * 0.3)
    blend(cover(mouth), who["lip"])
    opening = gape + 0.012
    inner = (np.sqrt((u / (0.8 * lip_width)) ** 2 + (bent / opening) ** 2) - 1) * opening
    blend(cover(inner), 0.12)
    gaze = between(-0.03, 0.03)
    for side in (-1, 1):
        cx, eye_height = side * EYES[0], who["eye_height"] * lids
        eye = cover(ellipse(cx, EYES[1], 0.16, eye_height))
        blend(cover(ellipse(cx, EYES[1], 0.175, eye_height + 0.02)), who["skin"] * 0.45)
        blend(eye, 0.96)
        blend(eye * cover(ellipse(cx + gaze, EYES[1], who["iris_size"], who["iris_size"])), who["iris"])
        blend(eye * cover(ellipse(cx + gaze, EYES[1], 0.03, 0.03)), 0.03)
        outward = side * u - EYES[0]
        ridge = BROWS[1] - raised + who["brow_slant"] * outward + who["brow_arch"] * outward**2
        brow = np.maximum(np.abs(v - ridge) - who["brow_thickness"], np.abs(outward) - 0.19)
        blend(cover(brow), dark_hair)
    fringe = cover(v - who["fringe"] - who["fringe_slant"] * u) * cover(
        ellipse(0.0, -0.2, who["width"] + 0.2, 0.95)
    )
    blend(fringe, who["hair"] * strands[..., None])

    # What hides a region.
    hidden = _hidden(count, random)
    covers = {
        "eyes": np.maximum(
            np.maximum(
                cover(ellipse(-EYES[0], EYES[1], 0.25, 0.2)), cover(ellipse(EYES[0], EYES[1], 0.25, 0.2))
            ),
            cover(np.abs(v - EYES[1] + 0.08) - 0.03) * cover(np.abs(u) - who["width"]),
        ),
        "mouth": cover(ellipse(between(-0.05, 0.05), 0.5, 0.42, 0.24, between(-0.4, 0.4))),
        "left brow": cover(ellipse(-0.38, -0.42, 0.3, 0.36, between(-0.5, 0.2))),
        "right brow": cover(ellipse(0.38, -0.42, 0.3, 0.36, between(-0.2, 0.5))),
    }
    fingers = 0.85 + 0.15 * np.sin(2 * np.pi / 0.17 * (v + 0.3 * u))
    colours = {
        "eyes": between(0.02, 0.25, 3),
        "mouth": who["skin"] * between(0.75, 1.0, 1) * fingers[..., None],
        "left brow": who["hair"] * strands[..., None],
        "right brow": who["hair"] * strands[..., None],
    }
    mask = np.zeros((count, height, width), dtype=np.float32)
    for number, region in enumerate(REGIONS):
        coverage = covers[region] * hidden[:, number, None, None]
        blend(coverage, colours[region])
        mask = np.maximum(mask, coverage)

    light = between(0.85, 1.1) + between(-0.15, 0.15) * x + between(-0.1, 0.1) * y
    canvas = canvas * light[..., None] + 0.01 * random.standard_normal(canvas.shape, dtype=np.float32)
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8), mask > 0.5


def _hidden(count: int, random: np.random.Generator) -> Array:
    """Which regions each picture hides, 0 or 1, [N, regions]."""
    number = random.choice(len(HIDDEN), size=count, p=HIDDEN)
    rank = random.permuted(np.tile(np.arange(len(REGIONS)), (count, 1)), axis=1)
    return (rank < number[:, None]).astype(np.float32)
