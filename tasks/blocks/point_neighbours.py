"""Nearest neighbours in point clouds, and gathering what lies at them."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(queries: Tensor, cloud: Tensor, neighbours: int) -> Tensor:
    """Indices of the nearest points of `cloud` [B, m, 3] to each of `queries` [B, n, 3], nearest first.

    -> int64 [B, n, k], k = min(neighbours, m). A query that is in the cloud is its own first neighbour.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be positive, got {neighbours}")
    distance = pairwise_distance(queries, cloud)
    return distance.topk(min(neighbours, cloud.shape[1]), dim=-1, largest=False).indices


def pairwise_distance(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distances of [B, n, 3] to [B, m, 3] -> float32 [B, n, m], without gradient.

    By differences: |p|^2 + |q|^2 - 2 pq loses centimetres at the range of a LiDAR in single precision.
    """
    with torch.no_grad():
        return torch.cdist(first.float(), second.float(), compute_mode="donot_use_mm_for_euclid_dist")


def gather(values: Tensor, index: Tensor) -> Tensor:
    """values [B, C, m] at index int64 [B, n, k] -> [B, C, n, k]."""
    batch, channels, _ = values.shape
    flat = index.reshape(batch, 1, -1).expand(-1, channels, -1)
    return values.gather(2, flat).view(batch, channels, *index.shape[1:])
