"""Affine invariant features from the trace transform (Petrou & Kadyrov, TPAMI 2004), the direct baseline.

A trace transform takes a functional T along each line of an image; a diametrical functional P over the lines of
one direction makes of it a function of angle (the circus function), and a circus functional makes that a number.
With T the line integral, as for the line integral transform,

    h_q(theta) = (int R(lambda, theta)^q dlambda)^(1 / (q - 1)),    h_inf(theta) = max over lambda of R,

each changes under an affine map as the line integral transform's rows do, up to a constant, and is normalised by
the second moments of the region it bounds, as in the paper. The circus functionals are taken of the normalised
function divided by its mean: mean square, mean fourth power, total variation, maximum. Five functions times
four numbers make a descriptor of 20.

The paper that compares with this method (Wang & Gao, ECCV 2020) doesn't say which functionals it took, so q in
{2, 3, 4, 6, inf} and the four above are a choice. Numbers of unlike size are divided by their spread over the gallery
before the L1 distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.specs import Spec
from tasks.base import Paper
from tasks.blocks.polar_normalisation import normalise_profile, turn
from tasks.blocks.shape_projections import Corners, Projections, grouped
from tasks.retrieval.shape_retrieval import ShapeMethod, standardised_l1

POWERS = (2, 3, 4, 6)


def circus_functions(corners: Corners, angles: int, lines: int) -> Tensor:
    """h_q for q in `POWERS` and infinity, over the full turn: float64 [B, 5, angles].

    lines: between the supporting lines; each is the mean over its strip, so that none of the shape is missed.
    """
    half = turn(angles, corners.weight.device)[: angles // 2]
    projections = Projections(corners, half)
    edge = torch.linspace(0, 1, lines + 1, dtype=torch.float64, device=half.device)
    width = projections.high - projections.low  # [B, angles / 2]
    area = projections.areas(projections.low[..., None] + width[..., None] * edge).diff(dim=-1)
    step = width / lines
    chord = (area / step[..., None]).clamp(min=0)
    functions = [((chord**power).sum(-1) * step).pow(1 / (power - 1)) for power in POWERS]
    function = torch.stack([*functions, chord.amax(-1)], dim=1)
    return torch.cat([function, function], dim=-1)  # theta + pi is the same set of lines


def circus_numbers(function: Tensor) -> Tensor:
    """Mean square, mean fourth power, total variation and maximum over the turn, after division by the mean.

    [..., N] -> [..., 4].
    """
    function = function / function.mean(-1, keepdim=True)
    variation = (function - function.roll(1, -1)).abs().sum(-1)
    return torch.stack(
        [function.square().mean(-1), function.pow(4).mean(-1), variation, function.amax(-1)], dim=-1
    )


class ShapeTraces(ShapeMethod):
    """See the module's docstring. angles: over the full turn; lines: of each direction."""

    name = "shape_traces"
    paper = Paper(
        title="Affine Invariant Features from the Trace Transform",
        venue="TPAMI 2004",
        url="https://doi.org/10.1109/TPAMI.2004.1261077",
    )

    def __init__(self, spec: Spec, *, angles: int = 180, lines: int = 128) -> None:
        super().__init__(spec)
        if angles < 4 or angles % 2 or lines < 2:
            raise ValueError(f"angles must be even and at least 4, lines at least 2, got {angles}, {lines}")
        self.angles, self.lines = angles, lines

    def describe(self, shapes: Sequence[Tensor]) -> Tensor:
        device = shapes[0].device
        descriptor = torch.empty(len(shapes), 4 * (len(POWERS) + 1), dtype=torch.float64, device=device)
        for places, corners in grouped(shapes):
            function = circus_functions(corners, self.angles, self.lines)
            descriptor[places] = circus_numbers(normalise_profile(function, self.angles)).flatten(1)
        return descriptor

    def distance(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return standardised_l1(queries, gallery)
