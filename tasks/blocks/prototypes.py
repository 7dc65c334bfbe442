"""Class prototypes of an episode, distances to them, and the losses on these distances.

Shapes: B episodes, M classes, K supports a class, Q queries, D features. All in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Attentive(NamedTuple):
    """weights [B, Q, M, K] of the supports, summing to 1 over K; prototypes [B, Q, M, D]."""

    weights: Tensor
    prototypes: Tensor


def mean_prototypes(support: Tensor) -> Tensor:
    """Eq. 2: the mean of a class's supports, the same for all queries: [B, M, K, D] -> [B, M, D]."""
    return support.float().mean(dim=2)


def attentive_prototypes(support: Tensor, query: Tensor, sigma: float) -> Attentive:
    """Eqs. 4 and 5: for every pair of query and class, the mean of the class's supports weighted by a Gaussian
    of their distance to the query.

    support [B, M, K, D], query [B, Q, D]. Eq. 4 is printed without the minus sign that "Gaussian" needs.
    """
    support, query = support.float(), query.float()
    distance = squared_distances(query, support.flatten(1, 2)).unflatten(2, support.shape[1:3])
    weights = (-distance / (2 * sigma**2)).softmax(dim=3)
    return Attentive(weights, torch.einsum("bqmk,bmkd->bqmd", weights, support))


def squared_distances(query: Tensor, points: Tensor) -> Tensor:
    """||q - p||^2 for queries [B, Q, D] and points [B, P, D], or a point of its own for each query
    [B, Q, P, D] -> [B, Q, P].

    From differences, not from |q|^2 + |p|^2 - 2qp: a Gaussian of width 0.1 divides the rounding by 0.02.
    """
    points = points if points.ndim == 4 else points[:, None]
    return (query.float()[:, :, None] - points.float()).square().sum(dim=3)


def random_negatives(label: Tensor, ways: int, count: int) -> Tensor:
    """`count` different classes other than its own for each query: int64 [B, Q] -> int64 [B, Q, count]."""
    if not 1 <= count < ways:
        raise ValueError(f"{count} negative classes of {ways} ways: must be 1..{ways - 1}")
    order = torch.rand(*label.shape, ways, device=label.device)
    order = order.scatter(2, label[:, :, None], -1.0)
    return order.topk(count, dim=2).indices


def triplet_loss(
    distance: Tensor, label: Tensor, negatives: Tensor, margin: float, *, mining: bool = True
) -> Tensor:
    """Eq. 9: [d(q, true class) - d(q, negative class) + margin]_+ over queries and their E negative classes.

    distance: [B, Q, M], smaller is nearer; label: [B, Q]; negatives: [B, Q, E]. Eq. 9 sums over the queries
    and averages over the negatives; here both are averaged, which is Eq. 9 over Q. With mining, triplets that
    keep the margin are dropped, and the average of an episode is over those left: zero if none is.
    """
    positive = distance.gather(2, label[:, :, None])
    hinge = (positive - distance.gather(2, negatives) + margin).clamp(min=0)
    if not mining:
        return hinge.mean()
    left = (hinge > 0).sum(dim=(1, 2))
    return (hinge.sum(dim=(1, 2)) / left.clamp(min=1)).mean()


def episode_nll(logits: Tensor, label: Tensor) -> Tensor:
    """Eq. 3's loss: mean negative log-probability of the true class. logits [B, Q, M], label [B, Q]."""
    return F.cross_entropy(logits.flatten(0, 1).float(), label.flatten())


def score_mse(score: Tensor, label: Tensor) -> Tensor:
    """Relation Net's loss: mean squared error of relation scores [B, Q, M] in 0..1 to 1 for the true class."""
    return F.mse_loss(score.float(), F.one_hot(label, score.shape[2]).float())
