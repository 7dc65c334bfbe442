"""Average precision of rankings, as the Holidays evaluation computes it, and UKBench's N-S score.

Average precision is the area under the precision-recall curve by trapezoids, as in the evaluation script that
INRIA publishes with Holidays (Oxford and Paris buildings are evaluated alike): with R relevant pictures, the
j-th of them (from 0) at rank r (from 0),

    AP = 1/R sum_j (p0 + p1) / 2,   p0 = j / r (1 if r = 0),   p1 = (j + 1) / (r + 1).

It is at most the plain mean of p1, which scikit-learn and torchmetrics compute, and so the two don't compare.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

CHUNK = 512
"""Queries ranked at once: bounds the memory to CHUNK x N similarities."""


def average_precision(relevant: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Trapezoidal average precision of rankings.

    relevant: bool [Q, N], whether the picture at each rank is a right answer, best rank first.
    ignored: bool [Q, N], pictures to take out of the ranking (the query itself, junk); None: none.
    -> float64 [Q] in [0, 1]; NaN for a query with no right answer.

    >>> average_precision(torch.tensor([[True, False, True]]))
    tensor([0.7917], dtype=torch.float64)
    """
    if relevant.ndim != 2 or (ignored is not None and ignored.shape != relevant.shape):
        shapes = [tuple(mask.shape) for mask in (relevant, ignored) if mask is not None]
        raise ValueError(f"rankings must be [Q, N], all of one shape, got {shapes}")
    if ignored is None:
        kept = torch.ones_like(relevant, dtype=torch.bool)
    else:
        kept, relevant = ~ignored, relevant & ~ignored
    rank = kept.cumsum(1).double() - 1  # from 0, not counting what is ignored
    found = relevant.cumsum(1).double()  # right answers up to and including this rank
    before = torch.where(rank > 0, (found - 1) / rank.clamp(min=1), torch.ones_like(rank))
    here = found / (rank + 1).clamp(min=1)
    area = torch.where(relevant, (before + here) / 2, torch.zeros_like(rank)).sum(1)
    return area / relevant.sum(1)  # 0 / 0 is NaN


def n_s(relevant: Tensor, top: int = 4) -> Tensor:
    """Number of right answers among the first `top` ranks: bool [Q, N], best first -> float64 [Q].

    With the query itself counted as a right answer and four pictures an object, this is UKBench's N-S, 0 to
    4.

    >>> n_s(torch.tensor([[True, False, True, True, True]]))
    tensor([3.], dtype=torch.float64)
    """
    if relevant.ndim != 2:
        raise ValueError(f"rankings must be [Q, N], got {tuple(relevant.shape)}")
    return relevant[:, :top].double().sum(1)


def retrieval_scores(similarity: Tensor, queries: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Rank all pictures for each query and judge the rankings.

    similarity: float [Q, N], larger is nearer; equal ones are ranked in the order of the pictures.
    queries: int64 [Q], which of the N pictures each query is. group: int64 [N].
    -> average precision with the query taken out of its ranking, N-S with the query in it: float64 [Q] each.
    """
    if similarity.shape != (len(queries), len(group)):
        raise ValueError(f"similarity must be {(len(queries), len(group))}, got {tuple(similarity.shape)}")
    order = similarity.argsort(dim=1, descending=True, stable=True)
    relevant = group[order] == group[queries][:, None]
    itself = order == queries[:, None]
    return average_precision(relevant, itself), n_s(relevant)


class CosineRetrieval(Metric):
    """Mean average precision and mean N-S of rankings by cosine similarity over everything taken in.

    Pictures are known by their index: one that comes twice (a distributed sampler pads with repeats) counts
    once, and the order of arrival doesn't matter.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for state in ("features", "groups", "queries", "indices"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.features: list[Tensor]
        self.groups: list[Tensor]
        self.queries: list[Tensor]
        self.indices: list[Tensor]

    def update(self, feature: Tensor, group: Tensor, is_query: Tensor, index: Tensor) -> None:
        """feature float [B, D], group int64 [B], is_query bool [B], index int64 [B]."""
        count = len(group)
        if feature.ndim != 2 or {len(feature), len(is_query), len(index)} != {count}:
            raise ValueError(
                f"expected feature [B, D] with group, is_query and index [B], got {tuple(feature.shape)}, "
                f"{tuple(group.shape)}, {tuple(is_query.shape)}, {tuple(index.shape)}"
            )
        feature = feature.detach().float()
        if not feature.isfinite().all():
            raise ValueError("features hold NaN or infinity")
        self.features.append(torch.nn.functional.normalize(feature, dim=1))
        self.groups.append(group.long())
        self.queries.append(is_query.bool())
        self.indices.append(index.long())

    def compute(self) -> tuple[Tensor, Tensor]:
        """(mean average precision, mean N-S) over the queries with a right answer; NaN where none has one."""
        features, groups, queries, indices = (
            torch.cat(list(state)) if isinstance(state, list) else state
            for state in (self.features, self.groups, self.queries, self.indices)
        )
        order = indices.argsort(stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = indices[order][1:] != indices[order][:-1]
        order = order[first]
        features, groups, queries = features[order], groups[order], queries[order]
        asking = queries.nonzero()[:, 0]
        judged = [
            retrieval_scores(features[chunk] @ features.T, chunk, groups) for chunk in asking.split(CHUNK)
        ]
        precision = torch.cat([scores[0] for scores in judged])
        counts = torch.cat([scores[1] for scores in judged])
        answered = ~precision.isnan()
        return precision[answered].mean(), counts[answered].mean()
