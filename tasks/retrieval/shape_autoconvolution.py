"""Multi-scale autoconvolution (Rahtu, Salo & Heikkila, TPAMI 2005), a region baseline.

F(a, b) = E[f(x0 + a (x1 - x0) + b (x2 - x0))], with three points drawn alike from the shape: the chance that a point
with affine coordinates (a, b) in a random triangle of the shape lies in the shape. An affine map of the shape maps
the triangles with it, so F doesn't change.

With c = 1 - a - b the point is c x0 + a x1 + b x2, and so F is symmetric in (a, b, c): each set of three is
taken once, on a grid of eighths in [-1, 1] (29 sets), without (0, 0, 1), whose F is 1. The paper evaluates F by FFT;
here the expectation is a quasi-random (Sobol) mean over 8,192 triangles. Numbers of unlike spread are divided by
it over the gallery before the L1 distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.specs import Spec
from tasks.base import Paper
from tasks.retrieval.shape_retrieval import ShapeMethod, standardised_l1


def coordinates(steps: int = 8) -> Tensor:
    """Affine coordinates (c, a, b), c <= a <= b, multiples of 1 / steps in [-1, 1] that sum to 1: [P, 3]."""
    whole = range(-steps, steps + 1)
    triples = [
        (steps - a - b, a, b)
        for a in whole
        for b in whole
        if -steps <= steps - a - b <= a <= b and (a, b) != (0, steps)
    ]
    return torch.tensor(triples, dtype=torch.float64) / steps


def sample_points(shape: Tensor, where: Tensor) -> Tensor:
    """Points of a shape, in pixels: bool [H, W], uniform numbers where [S, 3] -> (row, column) [S, 2].

    The first number picks a pixel in reading order, the others a place in it.
    """
    pixels = shape.nonzero()
    chosen = (where[:, 0] * len(pixels)).long().clamp(max=len(pixels) - 1)
    return pixels[chosen] + where[:, 1:]


def autoconvolution(shape: Tensor, triples: Tensor, where: Tensor) -> Tensor:
    """F at affine coordinates [P, 3], from uniform numbers [S, 3, 3] (a row of three for each corner) -> [P]."""
    corner = torch.stack([sample_points(shape, where[:, i]) for i in range(3)], dim=1)  # [S, 3, 2]
    point = torch.einsum("pc,scx->psx", triples, corner).floor().long()
    size = torch.tensor(shape.shape, device=shape.device)
    inside = ((point >= 0) & (point < size)).all(-1)
    point = torch.where(inside[..., None], point, 0)
    return (shape[point[..., 0], point[..., 1]] & inside).double().mean(1)


class ShapeAutoconvolution(ShapeMethod):
    """See the module's docstring. samples: triangles drawn of each shape."""

    name = "shape_autoconvolution"
    paper = Paper(
        title="Affine Invariant Pattern Recognition Using Multiscale Autoconvolution",
        venue="TPAMI 2005",
        url="https://doi.org/10.1109/TPAMI.2005.111",
    )
    triples: Tensor
    where: Tensor

    def __init__(self, spec: Spec, *, samples: int = 8192) -> None:
        super().__init__(spec)
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        self.register_buffer("triples", coordinates(), persistent=False)
        engine = torch.quasirandom.SobolEngine(9, scramble=True, seed=0)
        where = engine.draw(samples, dtype=torch.float64).view(samples, 3, 3)
        self.register_buffer("where", where, persistent=False)

    def describe(self, shapes: Sequence[Tensor]) -> Tensor:
        return torch.stack([autoconvolution(shape, self.triples, self.where) for shape in shapes])

    def distance(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return standardised_l1(queries, gallery)
