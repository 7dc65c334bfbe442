"""Pictures whose class stands in them three times: in an outline, in a texture and in the place of a mark.

The outline lies in the centre, the texture fills it, and a mark lies in the surroundings where only its class
has it. Any one of the last two tells the class, and the outline the pair of look-alike classes it belongs to,
so that two networks that both answer right may look at different regions. Hue, ground, size and place are
nuisance. Pictures differ in strength: in one the codes stand out clearly, in the next faintly, so that a
bound on noise is much for some and little for others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.miniature.objects import Array, mottle, noisy, paint, placed, plane, silhouette, texture

OUTLINES = ("disc", "square", "triangle", "star", "cross")
GRAINS = (
    ("stripes", 0.0),
    ("dots", 0.0),
    ("stripes", np.pi / 2),
    ("checks", np.pi / 4),
    ("stripes", np.pi / 4),
    ("waves", 0.0),
    ("checks", 0.0),
    ("stripes", -np.pi / 4),
    ("dots", np.pi / 4),
    ("waves", np.pi / 2),
)
"""Kind and turn of the texture of each class."""
CLASSES = tuple(f"{OUTLINES[c // 2]}_{'ab'[c % 2]}" for c in range(len(GRAINS)))


@dataclass(frozen=True)
class Contrast:
    """How far apart in brightness, in [0, 1], each of the three codes stands from what surrounds it.

    faintest: the least of a picture's strength, which is uniform up to 1 and multiplies all three. noise: the
    standard deviation of each pixel's own.
    """

    outline: float = 0.24
    grain: float = 0.48
    mark: float = 0.44
    faintest: float = 0.55
    noise: float = 0.03


def redundant_picture(
    generator: np.random.Generator, label: int, *, size: int = 48, contrast: Contrast | None = None
) -> Array:
    """One picture of a class 0..9, float64 [size, size, 3] in about [0, 1]."""
    contrast = Contrast() if contrast is None else contrast
    strength = generator.uniform(contrast.faintest, 1)
    x, y = plane(size)
    tint = generator.uniform(-0.08, 0.08, 3)
    ground = generator.uniform(0.35, 0.55) + 0.12 * (mottle(generator, x, y) - 0.5)
    picture = ground[..., None] + tint

    angle = 2 * np.pi * label / len(GRAINS) + generator.normal(0, 0.05)
    radius = 0.82 + generator.normal(0, 0.02)
    spot = placed(x, y, (radius * np.cos(angle), radius * np.sin(angle)), 0.15, 0.0)
    paint(picture, np.hypot(*spot) - 1, picture + strength * contrast.mark, 0.15)

    scale = generator.uniform(0.5, 0.62)
    centre = generator.uniform(-0.07, 0.07, 2)
    own = placed(x, y, (float(centre[0]), float(centre[1])), scale, generator.normal(0, 0.06))
    kind, turn = GRAINS[label]
    offset = generator.uniform(-0.5, 0.5, 2)
    along = placed(x, y, (float(offset[0]), float(offset[1])), 1.0, turn + generator.normal(0, 0.06))
    grain = texture(kind, *along, period=generator.uniform(0.24, 0.3)) - 0.5
    code = contrast.outline + contrast.grain * grain[..., None]
    lit = picture + strength * code + generator.uniform(-0.05, 0.05, 3)
    paint(picture, silhouette(OUTLINES[label // 2], *own), lit, scale)
    return noisy(generator, picture, contrast.noise)
