"""How tightly features of one class lie together against how far classes lie apart."""

from __future__ import annotations

import torch
from torch import Tensor


def class_compactness(features: Tensor, label: Tensor) -> float:
    """Mean distance of samples to the centre of their class over that between two centres; lower is tighter.

    features: [n, K]; label: int64 [n]. Doesn't depend on the scale of the features. NaN with a single class, or where
    all centres are one.

    >>> class_compactness(torch.tensor([[0.0], [2.0], [9.0], [11.0]]), torch.tensor([0, 0, 1, 1]))
    0.1111111111111111
    """
    if features.ndim != 2 or label.shape != features.shape[:1]:
        raise ValueError(
            f"features must be [n, K] and label [n], got {tuple(features.shape)}, {tuple(label.shape)}"
        )
    features = features.double()
    _, member, size = label.unique(return_inverse=True, return_counts=True)
    centres = features.new_zeros(len(size), features.shape[1]).index_add(0, member, features) / size[:, None]
    within = (features - centres[member]).norm(dim=1).mean()
    between = torch.pdist(centres)
    if len(between) == 0 or not bool(between.any()):
        return float("nan")
    return float(within / between.mean())
