"""Silhouettes for affine-invariant retrieval: star-like and polygonal outlines, holes, parts apart, and views.

A shape is a list of closed contours, filled by the even-odd rule. A view maps them by a random 2 x 2 matrix (ratio
of singular values down to 0.35, half of them reflecting) and a mild perspective, and fits them into the
picture. Filling is by area: a pixel belongs to the shape where at least half of it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

Contour = NDArray[np.float64]
"""Points [P, 2], (x, y), in order; the last joins the first."""
SIZE, OVERSAMPLING, POINTS = 128, 4, 240
RATIO, PERSPECTIVE = 0.35, 0.06


def figure(generator: np.random.Generator, number: int) -> list[Contour]:
    """An outline of about unit radius: star-like for even numbers, polygonal for odd ones."""
    return [_star(generator) if number % 2 == 0 else _polygon(generator)]


def holes(generator: np.random.Generator, outline: Sequence[Contour]) -> list[Contour]:
    """One to three holes inside an outline."""
    (rim,) = outline
    radius = np.hypot(*rim.T)
    count = int(generator.integers(1, 4))
    start = generator.uniform(0, 2 * np.pi)
    contours = []
    for hole in range(count):
        angle = start + 2 * np.pi * (hole + generator.uniform(-0.15, 0.15)) / count
        reach = radius[_nearest(rim, angle)]
        middle = generator.uniform(0.35, 0.5) * reach * np.array([np.cos(angle), np.sin(angle)])
        contours.append(_blob(generator, middle, generator.uniform(0.14, 0.28) * reach))
    return contours


def part_apart(generator: np.random.Generator, outline: Sequence[Contour]) -> list[Contour]:
    """A small part beside an outline."""
    (rim,) = outline
    angle = generator.uniform(0, 2 * np.pi)
    reach = np.hypot(*rim[_nearest(rim, angle)]) + generator.uniform(0.3, 0.5)
    middle = reach * np.array([np.cos(angle), np.sin(angle)])
    return [_blob(generator, middle, generator.uniform(0.1, 0.2))]


def bent(generator: np.random.Generator, shape: Sequence[Contour], amount: float) -> list[Contour]:
    """The shape under a smooth random bend of the plane, by about `amount` of the unit radius."""
    phase = generator.uniform(0, 2 * np.pi, (2, 2, 2))
    wave = generator.normal(0, 1.5, (2, 2, 2))
    moved = []
    for contour in shape:
        angle = np.einsum("pc,dkc->pdk", contour, wave) + phase[..., 0]
        moved.append(contour + amount * np.sin(angle).sum(-1))
    return moved


def affine(generator: np.random.Generator) -> NDArray[np.float64]:
    """A view as a homography [3, 3]: turn, stretch with a ratio down to `RATIO`, turn, perhaps a reflection, and
    projective terms up to `PERSPECTIVE` for shapes of unit size."""
    ratio = generator.uniform(RATIO, 1)
    matrix = _turn(generator) @ np.diag([1, ratio * generator.choice([-1, 1])]) @ _turn(generator)
    view = np.eye(3)
    view[:2, :2] = matrix
    view[2, :2] = generator.uniform(-PERSPECTIVE, PERSPECTIVE, 2)
    return view


def similarity(generator: np.random.Generator) -> NDArray[np.float64]:
    """A view as a homography [3, 3]: a turn, half of them with a reflection."""
    view = np.eye(3)
    view[:2, :2] = _turn(generator) @ np.diag([1, generator.choice([-1, 1])])
    return view


def drawn(
    shape: Sequence[Contour], view: NDArray[np.float64], generator: np.random.Generator, size: int = SIZE
) -> NDArray[np.bool_]:
    """A shape under a view, fitted into a square picture with a margin, at a random size: bool [size, size]."""
    mapped = [mapped_by(view, contour) for contour in shape]
    points = np.concatenate(mapped)
    extent = np.ptp(points, axis=0).max()
    factor = generator.uniform(0.8, 1) * (size - 8) / extent
    room = size - 8 - factor * np.ptp(points, axis=0)
    corner = 4 + generator.uniform(0, 1, 2) * room
    return fill([(contour - points.min(0)) * factor + corner for contour in mapped], size, size)


def mapped_by(view: NDArray[np.float64], contour: Contour) -> Contour:
    """Points under a homography [3, 3]: [P, 2] -> [P, 2]."""
    image = contour @ view[:, :2].T + view[:, 2]
    return image[:, :2] / image[:, 2:]


def fill(contours: Sequence[Contour], height: int, width: int) -> NDArray[np.bool_]:
    """The even-odd inside of closed contours in pixels: bool [height, width], true where half a pixel is inside."""
    fine = (width * OVERSAMPLING, height * OVERSAMPLING)
    ink = OVERSAMPLING**2  # so that the mean over a pixel's samples is the number of those inside
    inside = Image.new("L", fine)
    for number, contour in enumerate(contours):
        # A sample at index i lies at (i + 1/2) / OVERSAMPLING.
        points = [tuple(point) for point in (contour * OVERSAMPLING - 0.5).tolist()]
        if number == 0:
            ImageDraw.Draw(inside).polygon(points, fill=ink)
            continue
        layer = Image.new("L", fine)
        ImageDraw.Draw(layer).polygon(points, fill=ink)
        inside = ImageChops.difference(inside, layer)
    return np.asarray(inside.reduce(OVERSAMPLING)) * 2 >= ink


def save_silhouette(shape: NDArray[np.bool_], path: Path, look: str = "plain") -> None:
    """Write a silhouette as PNG. look: "plain" (255 on 0), "indexed" (1 on 0 with a colour map to 250 and 0) or
    "inverted" (0 on 255)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if look == "indexed":
        picture = Image.fromarray(shape.astype(np.uint8), mode="P")
        picture.putpalette([0, 0, 0, 250, 250, 250])
    else:
        picture = Image.fromarray(np.where(shape != (look == "inverted"), 255, 0).astype(np.uint8))
    picture.save(path)


def _turn(generator: np.random.Generator) -> NDArray[np.float64]:
    angle = generator.uniform(0, 2 * np.pi)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _star(generator: np.random.Generator) -> Contour:
    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    order = np.arange(2, 8)
    size = generator.normal(0, 1, order.shape) / order**0.7
    wave = (size * np.cos(np.outer(angle, order) + generator.uniform(0, 2 * np.pi, order.shape))).sum(1)
    radius = np.exp(0.55 * wave / np.abs(wave).max())
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _polygon(generator: np.random.Generator) -> Contour:
    count = int(generator.integers(5, 12))
    angle = 2 * np.pi * (np.arange(count) + generator.uniform(-0.35, 0.35, count)) / count
    radius = generator.uniform(0.35, 1.2, count)
    corner = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    part = np.linspace(0, 1, POINTS // count, endpoint=False)[:, None]
    return np.concatenate(
        [a * (1 - part) + b * part for a, b in zip(corner, np.roll(corner, -1, axis=0), strict=True)]
    )


def _blob(generator: np.random.Generator, middle: NDArray[np.float64], radius: float) -> Contour:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ripple = 1 + 0.25 * np.cos(generator.integers(2, 5) * angle + generator.uniform(0, 2 * np.pi))
    return middle + radius * ripple[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _nearest(rim: Contour, angle: float) -> int:
    """The point of a rim in the direction of an angle."""
    direction = np.arctan2(rim[:, 1], rim[:, 0])
    return int(np.abs(np.angle(np.exp(1j * (direction - angle)))).argmin())
