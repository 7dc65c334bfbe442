"""Digits drawn with strokes of a pen, in the manner of MNIST: grey on black, in a 28x28 picture.

A digit is one to three curves through a few control points; some digits have two ways of being written. A picture's
control points are moved a little each, then the whole is slanted, turned, stretched and shifted, and the pen is thick
or thin. A nine with an open loop is nearly a four, one with a small loop nearly a seven, as in handwriting. All
pictures of a way of writing are drawn at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Stroke = tuple[tuple[float, float], ...]

SIDE = 28
STEPS = 4
"""Straight pieces between two control points of a curve."""
CHUNK = 32
"""Pictures drawn at once."""

# Points (x to the right, y down) in [-1, 1]; a curve passes through all of its points. A corner is a point that
# stands there twice.
WAYS: tuple[tuple[tuple[Stroke, ...], ...], ...] = (
    (
        ((
            (0.0, -0.9), (-0.55, -0.5), (-0.6, 0.3), (0.0, 0.9), (0.55, 0.4), (0.6, -0.4), (0.05, -0.9),
        ),),
    ),
    (
        (((0.05, -0.9), (0.0, 0.9)),),
        (((-0.4, -0.45), (0.05, -0.9), (0.05, -0.9), (0.0, 0.9)),),
    ),
    (
        ((
            (-0.55, -0.5), (-0.1, -0.9), (0.5, -0.5), (0.1, 0.2), (-0.6, 0.85), (-0.6, 0.85), (0.6, 0.8),
        ),),
        ((
            (-0.5, -0.55), (0.0, -0.9), (0.45, -0.5), (0.0, 0.3), (-0.5, 0.75), (-0.4, 0.5), (0.1, 0.7), (0.65, 0.7),
        ),),
    ),
    (
        ((
            (-0.5, -0.7), (0.1, -0.9), (0.45, -0.5), (-0.1, -0.05), (-0.1, -0.05), (0.5, 0.35), (0.1, 0.9),
            (-0.55, 0.7),
        ),),
    ),
    (
        (((-0.35, -0.85), (-0.55, 0.1), (-0.55, 0.1), (0.6, 0.1)), ((0.35, -0.8), (0.3, 0.9))),
        (((0.35, -0.85), (-0.55, 0.15), (-0.55, 0.15), (0.65, 0.1)), ((0.35, -0.85), (0.3, 0.9))),
    ),
    (
        (
            ((-0.35, -0.8), (-0.4, -0.1), (-0.4, -0.1), (0.2, -0.25), (0.5, 0.3), (0.05, 0.85), (-0.5, 0.7)),
            ((-0.35, -0.8), (0.5, -0.85)),
        ),
    ),
    (
        ((
            (0.3, -0.9), (-0.3, -0.3), (-0.5, 0.4), (0.0, 0.9), (0.5, 0.5), (0.1, 0.05), (-0.45, 0.45),
        ),),
    ),
    (
        (((-0.55, -0.8), (0.5, -0.8), (0.5, -0.8), (0.0, 0.1), (-0.15, 0.9)),),
        (
            ((-0.55, -0.75), (0.5, -0.8), (0.5, -0.8), (0.0, 0.1), (-0.1, 0.9)),
            ((-0.35, 0.05), (0.35, 0.0)),
        ),
    ),
    (
        ((
            (0.4, -0.65), (0.0, -0.9), (-0.4, -0.55), (0.0, -0.05), (0.45, 0.45), (0.0, 0.9), (-0.45, 0.45),
            (0.0, -0.05), (0.4, -0.6),
        ),),
    ),
    (
        ((
            (0.45, -0.6), (0.0, -0.85), (-0.45, -0.5), (-0.15, -0.05), (0.4, -0.35), (0.45, -0.6), (0.35, 0.2),
            (0.2, 0.9),
        ),),
        ((  # the loop stays open: nearly a four
            (-0.2, -0.8), (-0.5, -0.35), (-0.1, 0.0), (0.45, -0.3), (0.4, -0.8), (0.4, -0.8), (0.3, 0.9),
        ),),
        ((  # a small, flat loop: nearly a seven
            (-0.1, -0.45), (-0.5, -0.7), (0.0, -0.85), (0.5, -0.75), (0.2, -0.4), (-0.15, -0.45), (-0.15, -0.45),
            (0.5, -0.7), (0.5, -0.7), (0.1, 0.1), (-0.05, 0.9),
        ),),
    ),
)  # fmt: skip
"""The ways to write each digit 0..9."""


def draw_digits(label: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of each digit. label: int [N] in 0..9. -> uint8 [N, 28, 28], ink 255 on 0."""
    pictures = np.zeros((len(label), SIDE, SIDE), np.uint8)
    way = random.integers(0, 2**16, len(label))
    for digit, ways in enumerate(WAYS):
        for number, strokes in enumerate(ways):
            where = np.flatnonzero((label == digit) & (way % len(ways) == number))
            for chunk in np.split(where, range(CHUNK, len(where), CHUNK)):
                pictures[chunk] = _draw(strokes, len(chunk), random)
    return pictures


def _draw(strokes: tuple[Stroke, ...], count: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """So many pictures of one way to write a digit, uint8 [count, SIDE, SIDE]."""
    slant, turn = random.normal(0.15, 0.2, (count, 1)), random.normal(0, 0.1, (count, 1))
    wide, high = random.uniform(8, 11, (2, count, 1))  # pixels a unit
    shift = SIDE / 2 + random.uniform(-1.5, 1.5, (2, count, 1))
    starts, ends = [], []
    for stroke in strokes:
        points = np.array(stroke)
        control = points + random.normal(0, 0.07, (count, len(points), 2))
        corner = np.flatnonzero((np.diff(points, axis=0) == 0).all(1))
        control[:, corner + 1] = control[:, corner]  # a corner stays one
        y = control[..., 1] * high
        x = control[..., 0] * wide - slant * y
        placed = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)]) + shift
        curve = (placed @ _through(len(points)).T).astype(np.float32)  # [2, count, 1 + pieces]
        starts.append(curve[..., :-1])
        ends.append(curve[..., 1:])
    start = np.concatenate(starts, axis=-1)[..., None]  # [2, count, pieces, 1]
    step = np.concatenate(ends, axis=-1)[..., None] - start
    length = np.maximum(step[0] ** 2 + step[1] ** 2, np.float32(1e-6))
    grid = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
    down, right = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    away_x, away_y = right - start[0], down - start[1]  # [count, pieces, pixels]
    along = np.clip((away_x * step[0] + away_y * step[1]) / length, 0, 1)
    away_x -= along * step[0]
    away_y -= along * step[1]
    distance = np.sqrt((away_x**2 + away_y**2).min(axis=1))  # to the nearest piece, [count, pixels]
    thickness = random.uniform(0.8, 1.7, (count, 1))  # half the pen's width in pixels
    ink = np.clip(thickness + 0.5 - distance, 0, 1)
    return np.round(255 * ink).astype(np.uint8).reshape(count, SIDE, SIDE)


def _through(points: int) -> Array:
    """The matrix [1 + STEPS (points - 1), points] that turns control points into a Catmull-Rom curve through them."""
    identity = np.eye(points)
    rows = [identity[0]]
    for piece in range(points - 1):
        before, here = identity[max(piece - 1, 0)], identity[piece]
        there, after = identity[piece + 1], identity[min(piece + 2, points - 1)]
        for step in range(1, STEPS + 1):
            t = step / STEPS
            rows.append(
                here
                + 0.5 * t * (there - before)
                + t**2 * (before - 2.5 * here + 2 * there - 0.5 * after)
                + t**3 * (1.5 * (here - there) + 0.5 * (after - before))
            )
    return np.array(rows)
