"""Unbalanced entropic optimal transport between point clouds, unrolled so that gradients flow through it.

FLOT (Puy et al., ECCV 2020), Eqs. 1-6 and Algorithm 1; the algorithm is of Chizat et al., "Scaling algorithms for
unbalanced optimal transport problems", Math. Comput. 2018. Everything is single precision, also under
autocast: exp(-C / eps) reaches 1e-29.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.blocks.point_neighbours import pairwise_distance

TINY = 1e-8
"""Added to every denominator, and to squared norms under the root."""


def cosine_cost(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine of features [B, C, n] and [B, C, m] (Eq. 3) -> float32 [B, n, m] in 0..2."""
    with torch.autocast(first.device.type, enabled=False):
        first, second = _unit(first.float()), _unit(second.float())
        return 1 - first.transpose(1, 2) @ second


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + TINY).sqrt()


def within(first: Tensor, second: Tensor, distance: float) -> Tensor:
    """Which pairs of [B, n, 3] and [B, m, 3] may exchange mass: bool [B, n, m], nearer than `distance` (Eq. 4)."""
    return pairwise_distance(first, second) < distance


def transport_plan(
    cost: Tensor, support: Tensor, epsilon: Tensor, power: Tensor | float, iterations: int
) -> Tensor:
    """Algorithm 1 on cost [B, n, m] with uniform masses 1/n and 1/m -> T, float32 [B, n, m].

    support: bool [B, n, m]; elsewhere the cost is infinite: U is 0 there, which no product turns into NaN.
    epsilon: entropic regularisation. power: lambda / (lambda + epsilon); 1 is balanced transport.
    iterations: 0 answers U = exp(-C / epsilon) itself (FLOT_0, Eq. 5).
    """
    if cost.shape != support.shape or cost.ndim != 3:
        raise ValueError(
            f"cost {tuple(cost.shape)} and support {tuple(support.shape)} must be equal, [B, n, m]"
        )
    with torch.autocast(cost.device.type, enabled=False):
        plan = torch.exp(-cost.float() / epsilon) * support
        if iterations == 0:
            return plan
        batch, n, m = plan.shape
        a = plan.new_full((batch, n, 1), 1 / n)
        for _ in range(iterations):
            b = (1 / m / (plan.transpose(1, 2) @ a + TINY)) ** power
            a = (1 / n / (plan @ b + TINY)) ** power
        return a * plan * b.transpose(1, 2)


def barycentric_flow(plan: Tensor, first: Tensor, second: Tensor, supported: Tensor) -> tuple[Tensor, Tensor]:
    """From each point to the barycentre of where its mass goes (Eq. 6) -> flow [B, n, 3], row mass [B, n].

    plan: [B, n, m]; first, second: [B, n, 3], [B, m, 3]; supported: bool [B, n]. A point that may send its mass
    nowhere gets no flow: Eq. 6 would send it to the origin.
    """
    with torch.autocast(plan.device.type, enabled=False):
        mass = plan.sum(-1)
        target = plan @ second.float() / (mass[..., None] + TINY)
        return torch.where(supported[..., None], target - first.float(), 0.0), mass
