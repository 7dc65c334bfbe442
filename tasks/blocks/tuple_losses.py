"""Losses of descriptors of a query, a right answer and several wrong ones.

contrastive  1/2 d(q, p)^2 + sum_n 1/2 [tau - d(q, n)]_+^2      (Radenovic et al., TPAMI 2019)
triplet      sum_n 1/2 [m + d(q, p)^2 - d(q, n)^2]_+            (Gordo et al., IJCV 2017)
"""

from __future__ import annotations

import torch
from torch import Tensor


def _squared(query: Tensor, others: Tensor) -> Tensor:
    return (query - others).float().square().sum(-1)


def contrastive_tuple_loss(
    query: Tensor, positive: Tensor, negatives: Tensor, margin: float = 0.85, eps: float = 1e-6
) -> Tensor:
    """query, positive: [T, D]; negatives: [T, M, D], all of unit length. -> scalar, the mean over tuples of the sum
    over their pairs. eps keeps the slope of the distance finite at 0."""
    attracted = 0.5 * _squared(query, positive)
    distance = (_squared(query[:, None], negatives) + eps**2).sqrt()
    repelled = 0.5 * (margin - distance).clamp(min=0).square()
    return (attracted + repelled.sum(1)).mean()


def triplet_tuple_loss(query: Tensor, positive: Tensor, negatives: Tensor, margin: float = 0.1) -> Tensor:
    """As `contrastive_tuple_loss`, for the triplet ranking loss."""
    near, far = _squared(query, positive)[:, None], _squared(query[:, None], negatives)
    return (0.5 * (margin + near - far).clamp(min=0)).sum(1).mean()


def hardest_of_other_labels(similarity: Tensor, query_label: Tensor, label: Tensor, count: int) -> Tensor:
    """The pool pictures most similar to each query, of labels other than its own and one a label.

    similarity: [Q, P]; query_label: [Q]; label: int64 [P]. -> int64 [Q, count], positions in the pool, most similar
    first. Raises ValueError where the pool has fewer other labels than `count`.
    """
    kinds, kind = torch.unique(label, return_inverse=True)
    if len(kinds) <= count:
        raise ValueError(
            f"{count} negatives of different landmarks are asked for, but the pool has {len(kinds)}"
        )
    # The best picture of each label, then the best labels: [Q, kinds].
    spread = kind.expand(len(similarity), -1)
    best = similarity.new_full((len(similarity), len(kinds)), -torch.inf)
    best = best.scatter_reduce(1, spread, similarity, "amax")
    allowed = best.masked_fill(kinds == query_label[:, None], -torch.inf)
    chosen = allowed.topk(count, dim=1).indices
    among = kind[None, None] == chosen[:, :, None]
    return similarity[:, None].masked_fill(~among, -torch.inf).argmax(2)
