"""The line integral descriptor of a few shapes against its definition evaluated directly.

The direct one follows the paper line by line: for each relative offset and each angle over the full turn it sums
the exact chord of every pixel of the shape (over a strip of one pixel), with NumPy, then normalises and
transforms the row.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from datamodules.base import random_generator
from datamodules.miniature.affine_shapes import affine, drawn, figure
from datamodules.specs import ShapesSpec
from perf.ratio import Ratio, alternate
from tasks.retrieval.line_integral_shape import LineIntegralShape

SHAPES, SIDE, OFFSETS, ANGLES = 3, 128, 18, 180


def strip_chord(distance: np.ndarray, angle: float) -> np.ndarray:
    """Area of a unit pixel within half a pixel of lines at a distance from its centre, exactly.

    A pixel's footprint is the density of two uniform numbers' sum, of half widths |cos| / 2 and |sin| / 2.
    """
    long, short = sorted((abs(math.cos(angle)) / 2, abs(math.sin(angle)) / 2), reverse=True)

    def below(offset: np.ndarray) -> np.ndarray:
        if short < 1e-12:
            return np.clip((offset + long) / (2 * long), 0, 1)
        ends = ((long + short, 1), (long - short, -1), (short - long, -1), (-long - short, 1))
        return sum(sign * np.maximum(offset + end, 0) ** 2 for end, sign in ends) / (8 * long * short)

    return below(distance + 0.5) - below(distance - 0.5)


def direct_descriptor(shape: np.ndarray) -> np.ndarray:
    """bool [H, W] -> [OFFSETS, ANGLES / 2 + 1]."""
    rows, columns = np.nonzero(shape)
    x, y = columns + 0.5 - shape.shape[1] / 2, rows + 0.5 - shape.shape[0] / 2
    theta = 2 * np.pi * np.arange(ANGLES) / ANGLES
    u = np.stack([np.cos(theta), np.sin(theta)])
    matrix = np.empty((OFFSETS, ANGLES // 2 + 1))
    for place in range(OFFSETS):
        psi = np.empty(ANGLES)
        for n, angle in enumerate(theta):
            along = x * u[0, n] + y * u[1, n]
            half = np.abs(u[:, n]).sum() / 2
            low, high = along.min() - half, along.max() + half
            gamma = (low + high) / 2 - place / OFFSETS * (high - low) / 2
            psi[n] = strip_chord(gamma - along, angle).sum()
        delta = _root((psi**4 * u) @ u.T * (2 * np.pi / ANGLES) / 4)
        mapped = delta @ u
        at = np.arctan2(mapped[1], mapped[0]) % (2 * np.pi)
        normalised = np.interp(at, theta, psi, period=2 * np.pi) / np.linalg.norm(mapped, axis=0)
        magnitude = np.abs(np.fft.rfft(normalised))
        matrix[place] = magnitude / magnitude[0]
    return matrix


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def pictures() -> list[np.ndarray]:
    """Silhouettes bool [SIDE, SIDE] under affine maps, the same each time."""
    found = []
    for number in range(SHAPES):
        generator = random_generator("perf", "shape", number)
        found.append(drawn(figure(generator, number), affine(generator), generator, SIDE))
    return found


def measure() -> list[Ratio]:
    """The descriptors that both must agree on are compared on the way."""
    shapes = pictures()
    tensors = [torch.from_numpy(shape) for shape in shapes]
    method = LineIntegralShape(ShapesSpec(dataset="perf", classes=("shape",)))
    fast = method.describe(tensors).view(SHAPES, OFFSETS, -1).numpy()
    slow = np.stack([direct_descriptor(shape) for shape in shapes])
    if not np.allclose(fast, slow, atol=1e-7):
        raise RuntimeError("the two implementations disagree")
    best = alternate(
        {"fast": lambda: method.describe(tensors), "direct": lambda: [direct_descriptor(s) for s in shapes]},
        rounds=1,
    )
    what = f"line integral descriptor, {SHAPES} shapes of {SIDE} x {SIDE}, {OFFSETS} x {ANGLES} lines"
    note = f"{1000 * best['fast'] / SHAPES:.1f} ms a shape"
    return [Ratio(what, "every pixel's chord, line by line", best["fast"], best["direct"], note)]
