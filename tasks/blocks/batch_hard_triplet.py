"""Triplet loss with the hardest positive and negative of the batch (Hermans et al., 2017; ADTC, equation 6)."""

from __future__ import annotations

import torch
from torch import Tensor


def batch_hard_triplet(
    embedding: Tensor, label: Tensor, margin: float = 0.3, *, squared: bool = True
) -> Tensor:
    """Mean over anchors of max(0, |g - g+|^2 - |g - g-|^2 + margin), or of plain distances.

    g+ is the farthest of the anchor's label, g- the nearest of another.
    embedding: float [B, D]; label: int64 [B]. An anchor without a positive other than itself or without a negative
    is left out; 0 (with a gradient of 0) where none is left.

    >>> batch_hard_triplet(torch.tensor([[0.0], [1.0], [1.5]]), torch.tensor([0, 0, 1]), 0.3)
    tensor(0.5250)
    """
    if embedding.ndim != 2 or label.shape != (len(embedding),):
        raise ValueError(
            f"expected embedding [B, D] and label [B], got {tuple(embedding.shape)} and {tuple(label.shape)}"
        )
    embedding = embedding.float()  # squared distances of long features overflow 16 bits
    with torch.no_grad():
        distance = torch.cdist(embedding, embedding)
        same = label[:, None] == label
        other = ~torch.eye(len(label), dtype=torch.bool, device=label.device)
        positive = distance.masked_fill(~(same & other), -torch.inf).argmax(1)
        negative = distance.masked_fill(same, torch.inf).argmin(1)
        anchors = ((same & other).any(1) & (~same).any(1)).nonzero()[:, 0]
    anchor = embedding[anchors]
    # Taken from the two chosen points rather than the distance matrix: exact, and smooth at 0.
    to_positive = (anchor - embedding[positive[anchors]]).square().sum(1)
    to_negative = (anchor - embedding[negative[anchors]]).square().sum(1)
    if not squared:
        to_positive, to_negative = ((d + 1e-12).sqrt() for d in (to_positive, to_negative))
    return (to_positive - to_negative + margin).relu().sum() / max(1, len(anchors))
