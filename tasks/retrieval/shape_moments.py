"""Affine moment invariants (Flusser & Suk, Pattern Recognition 1993), and a trivial descriptor.

`shape_moments`: the four classical invariants of a region's central moments of second and third order, of degree
2, 4, 3 and 5. Each is brought to degree 1 by a root that keeps its sign, and divided by its spread over the
gallery before the L1 distance. Moments are integrals over the pixels' areas, not sums over their centres.

`shape_size`: the logarithm of the area and the eccentricity of the ellipse of the same second moments. What a method
scores above it, it has seen in the shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.base import Paper
from tasks.blocks.shape_projections import Corners, grouped
from tasks.retrieval.shape_retrieval import ShapeMethod, standardised_l1

DEGREES = (2, 4, 3, 5)


def affine_moment_invariants(moments: Tensor) -> Tensor:
    """I1 to I4 of central moments of shapes of unit area: [B, 4, 4] by (p, q) -> [B, 4]."""
    m20, m11, m02 = moments[:, 2, 0], moments[:, 1, 1], moments[:, 0, 2]
    m30, m21, m12, m03 = moments[:, 3, 0], moments[:, 2, 1], moments[:, 1, 2], moments[:, 0, 3]
    i1 = m20 * m02 - m11**2
    i2 = (
        m30**2 * m03**2
        - 6 * m30 * m21 * m12 * m03
        + 4 * m30 * m12**3
        + 4 * m21**3 * m03
        - 3 * m21**2 * m12**2
    )
    i3 = m20 * (m21 * m03 - m12**2) - m11 * (m30 * m03 - m21 * m12) + m02 * (m30 * m12 - m21**2)
    i4 = (
        m20**3 * m03**2
        - 6 * m20**2 * m11 * m12 * m03
        - 6 * m20**2 * m02 * m21 * m03
        + 9 * m20**2 * m02 * m12**2
        + 12 * m20 * m11**2 * m21 * m03
        + 6 * m20 * m11 * m02 * m30 * m03
        - 18 * m20 * m11 * m02 * m21 * m12
        - 8 * m11**3 * m30 * m03
        - 6 * m20 * m02**2 * m30 * m12
        + 9 * m20 * m02**2 * m21**2
        + 12 * m11**2 * m02 * m30 * m12
        - 6 * m11 * m02**2 * m30 * m21
        + m02**3 * m30**2
    )
    return torch.stack([i1, i2, i3, i4], dim=1)


def signed_root(value: Tensor, degree: Tensor) -> Tensor:
    """sign(v) |v|^(1 / degree)."""
    return value.sign() * value.abs().pow(1 / degree)


def size_and_eccentricity(corners: Corners) -> Tensor:
    """Log of the area in pixels, and the eccentricity in [0, 1): [B, 2]."""
    second = corners.centred().moments(2)
    matrix = torch.stack([second[:, 2, 0], second[:, 1, 1], second[:, 1, 1], second[:, 0, 2]], dim=1)
    axes = torch.linalg.eigvalsh(matrix.view(-1, 2, 2))  # ascending
    eccentricity = (1 - axes[:, 0] / axes[:, 1]).clamp(min=0).sqrt()
    return torch.stack([corners.moments(0)[:, 0, 0].log(), eccentricity], dim=1)


class ShapeMoments(ShapeMethod):
    """See the module's docstring."""

    name = "shape_moments"
    paper = Paper(
        title="Pattern Recognition by Affine Moment Invariants",
        venue="Pattern Recognition 1993",
        url="https://doi.org/10.1016/0031-3203(93)90098-H",
    )

    def describe(self, shapes: Sequence[Tensor]) -> Tensor:
        device = shapes[0].device
        degree = torch.tensor(DEGREES, dtype=torch.float64, device=device)
        descriptor = torch.empty(len(shapes), len(DEGREES), dtype=torch.float64, device=device)
        for places, corners in grouped(shapes):
            invariants = affine_moment_invariants(corners.centred().moments(3))
            descriptor[places] = signed_root(invariants, degree)
        return descriptor

    def distance(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return standardised_l1(queries, gallery)


class ShapeSize(ShapeMethod):
    """See the module's docstring."""

    name = "shape_size"
    paper = Paper(title="Area and eccentricity (trivial descriptor)", venue="none")

    def describe(self, shapes: Sequence[Tensor]) -> Tensor:
        descriptor = torch.empty(len(shapes), 2, dtype=torch.float64, device=shapes[0].device)
        for places, corners in grouped(shapes):
            descriptor[places] = size_and_eccentricity(corners)
        return descriptor

    def distance(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return standardised_l1(queries, gallery)
